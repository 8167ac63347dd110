//go:build !linux

package iouring

import (
	"errors"
	"time"
)

// ErrLinuxOnly is what everything here returns on other systems.
var ErrLinuxOnly = errors.New("pagecache works on Linux only")

// Writer is not available on this platform.
type Writer struct{}

// OpenWriter fails with ErrLinuxOnly.
func OpenWriter(int, Options) (*Writer, Report, error) { return nil, Report{}, ErrLinuxOnly }

// Do fails with ErrLinuxOnly.
func (*Writer) Do(_ []Write, _ int, dst []Completion) ([]Completion, error) { return dst, ErrLinuxOnly }

// Depth returns 0.
func (*Writer) Depth() int { return 0 }

// Block returns 0.
func (*Writer) Block() int { return 0 }

// Close does nothing.
func (*Writer) Close() error { return nil }

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

// ReadAhead does nothing.
func (*Reader) ReadAhead(int, []Range) int { return 0 }

// Settle does nothing.
func (*Reader) Settle(time.Duration) error { return nil }

// Close does nothing.
func (*Reader) Close() error { return nil }
