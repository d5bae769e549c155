//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package replay

import "errors"

// mapMemory fails, and the heap is used instead.
func mapMemory(int) ([]byte, error) { return nil, errors.ErrUnsupported }

func unmapMemory([]byte) {}
