//go:build !linux

package iouring

import (
	"errors"
	"time"
)

// ErrLinuxOnly is what everything here returns on other systems.
var ErrLinuxOnly = errors.New("pagecache works on Linux only")

// Open fails with ErrLinuxOnly.
func Open(int, Options) (Device, Report, error) { return nil, Report{}, ErrLinuxOnly }

// AllocBuffer fails with ErrLinuxOnly.
func AllocBuffer(int) ([]byte, error) { return nil, ErrLinuxOnly }

// FreeBuffer does nothing.
func FreeBuffer([]byte) {}

// Reader is not available on this platform.
type Reader struct{}

// OpenReader fails with ErrLinuxOnly.
func OpenReader(Options) (*Reader, error) { return nil, ErrLinuxOnly }

// Report says nothing.
func (*Reader) Report() Report { return Report{} }

// Counts says nothing.
func (*Reader) Counts() ReaderCounts { return ReaderCounts{} }

// Submitting is false.
func (*Reader) Submitting() bool { return false }

// Fetch fails with ErrLinuxOnly.
func (*Reader) Fetch(int, []Range) error { return ErrLinuxOnly }

// Start does nothing.
func (*Reader) Start(int, []Range) int { return 0 }

// Settle does nothing.
func (*Reader) Settle(time.Duration) error { return nil }

// Close does nothing.
func (*Reader) Close() error { return nil }
