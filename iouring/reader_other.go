//go:build !linux

package iouring

import "time"

// Reader is not available on this platform.
type Reader struct{}

// OpenReader fails with ErrLinuxOnly.
func OpenReader(ReaderOptions) (*Reader, error) { return nil, ErrLinuxOnly }

// Report returns the zero report.
func (*Reader) Report() ReaderReport { return ReaderReport{} }

// Counts returns zeros.
func (*Reader) Counts() ReaderCounts { return ReaderCounts{} }

// Submitting returns false.
func (*Reader) Submitting() bool { return false }

// Fetch fails with ErrLinuxOnly.
func (*Reader) Fetch(int, []Range) error { return ErrLinuxOnly }

// ReadAhead returns 0.
func (*Reader) ReadAhead(int, []Range) int { return 0 }

// Settle does nothing.
func (*Reader) Settle(time.Duration) error { return nil }

// Close does nothing.
func (*Reader) Close() error { return nil }
