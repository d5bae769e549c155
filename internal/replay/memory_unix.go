//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package replay

import "syscall"

// mapMemory gets memory of the system, in whole pages.
func mapMemory(size int) ([]byte, error) {
	return syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
}

// unmapMemory gives back what mapMemory has returned. It stays mapped if the system can't have more mappings than there
// are.
func unmapMemory(mapped []byte) { _ = syscall.Munmap(mapped) }
