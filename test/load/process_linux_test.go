package main

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// rusage is the CPU time of this process by another way, in microseconds.
func rusage(t *testing.T) int64 {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return (usage.Utime.Nano() + usage.Stime.Nano()) / 1000
}

func TestCPUTimeIsThatOfTheProcess(t *testing.T) {
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	start := rusage(t)
	for rusage(t) < start+100_000 { // works
	}
	after, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	used := (after - before).Microseconds()
	if known := rusage(t) - start; used < 90_000 || used > known+50_000 {
		t.Errorf("%d µs by the process's clock, %d by its usage", used, known)
	}
}

func TestPeakMemoryStays(t *testing.T) {
	const size = 64 << 20
	before, err := peakMemory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	mapped, err := unix.Mmap(-1, 0, int(before)+size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Munmap(mapped); err != nil {
		t.Fatal(err)
	}
	if after, err := peakMemory(os.Getpid()); err != nil || after < before+size {
		t.Errorf("a peak of %d bytes became %d, %v", before, after, err)
	}
}

func TestAProcessThatHasEndedIsAnError(t *testing.T) {
	const none = 1<<22 + 1 // above the largest id that Linux gives
	if _, err := cpuTime(none); err == nil {
		t.Error("a process that does not exist has CPU time")
	}
	if _, err := peakMemory(none); err == nil {
		t.Error("a process that does not exist has memory")
	}
}
