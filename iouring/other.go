//go:build !linux

package iouring

import "errors"

// ErrLinuxOnly is what everything here returns on other systems.
var ErrLinuxOnly = errors.New("pagecache works on Linux only")

// Open fails with ErrLinuxOnly.
func Open(int, Options) (Device, Report, error) { return nil, Report{}, ErrLinuxOnly }

// AllocBuffer fails with ErrLinuxOnly.
func AllocBuffer(int) ([]byte, error) { return nil, ErrLinuxOnly }

// FreeBuffer does nothing.
func FreeBuffer([]byte) {}
