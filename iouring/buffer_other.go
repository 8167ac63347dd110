//go:build !linux

package iouring

// AllocBuffer fails with ErrLinuxOnly.
func AllocBuffer(int) ([]byte, error) { return nil, ErrLinuxOnly }

// FreeBuffer does nothing.
func FreeBuffer([]byte) {}

// UseHugePages does nothing.
func UseHugePages([]byte) {}
