package main

import (
	"net"
	"os"
	"os/exec"
)

// firstInherited is the file descriptor of the first listener that a process inherits.
const firstInherited = 3

// startWithListeners starts a process that inherits listeners on ports of the system's choice.
func startWithListeners(process *exec.Cmd, n int) (addrs []string, err error) {
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		// Only the process shall listen: when it has ended, connections are refused.
		defer listener.Close()
		file, err := listener.(*net.TCPListener).File()
		if err != nil {
			return nil, err
		}
		defer file.Close()
		process.ExtraFiles = append(process.ExtraFiles, file)
		addrs = append(addrs, listener.Addr().String())
	}
	return addrs, process.Start()
}

// inheritedListeners are those that startWithListeners has given to this process.
func inheritedListeners(n int) (listeners []net.Listener, err error) {
	for i := range n {
		file := os.NewFile(uintptr(firstInherited+i), "listener")
		listener, err := net.FileListener(file)
		if err != nil {
			return nil, err
		}
		_ = file.Close() // the listener has a copy
		listeners = append(listeners, listener)
	}
	return listeners, nil
}
