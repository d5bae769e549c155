//go:build !linux

package main

import (
	"errors"
	"time"
)

var errOnlyLinux = errors.New("measuring processes needs Linux")

func cpuTime(int) (time.Duration, error) { return 0, errOnlyLinux }
func peakMemory(int) (int64, error)      { return 0, errOnlyLinux }
func processorModel() string             { return "unknown" }
