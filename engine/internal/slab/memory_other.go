//go:build !linux

package slab

import "errors"

// supported returns false: values live on the Go heap.
func supported() bool { return false }

func reserve(int) ([]byte, error) { return nil, errors.ErrUnsupported }

func useHugePages([]byte, bool) {}

func giveBack([]byte) error { return errors.ErrUnsupported }
