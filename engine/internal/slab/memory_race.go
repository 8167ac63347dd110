//go:build linux && race

package slab

import "errors"

// supported returns true: chunks lie on the Go heap, for good. The race detector observes that a value is not looked at
// when its memory is used again.
func supported() bool { return true }

func reserve(n int) ([]byte, error) {
	if n > chunkSize { // the heap is not as cheap as addresses
		return nil, errors.ErrUnsupported
	}
	b := make([]byte, n+chunkSize)
	skip := -int(address(b)) & (chunkSize - 1)
	return b[skip : skip+n : skip+n], nil
}

func useHugePages([]byte, bool) {}

// giveBack makes memory read as zeros.
func giveBack(b []byte) error {
	clear(b)
	return nil
}
