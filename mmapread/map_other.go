//go:build !linux

package mmapread

import "os"

// Map is not available on this platform.
type Map struct{}

// Open returns ErrUnsupported.
func Open(*os.File, Fetcher) (*Map, error) { return nil, ErrUnsupported }

// OpenWhole fails with ErrUnsupported.
func OpenWhole(*os.File, Fetcher) (*Map, error) { return nil, ErrUnsupported }

// View returns ErrUnsupported.
func (*Map) View(int64, int) ([]byte, error) { return nil, ErrUnsupported }

// Holds reports false.
func (*Map) Holds([]byte) bool { return false }

// Drop returns ErrUnsupported.
func (*Map) Drop(int64, int64) error { return ErrUnsupported }

// Close does nothing.
func (*Map) Close() error { return nil }

// Warm returns ErrUnsupported.
func (*Map) Warm([]Range) (int, error) { return 0, ErrUnsupported }

// IsWarm reports true.
func (*Map) IsWarm(Range) bool { return true }

// ReadAhead does nothing.
func (*Map) ReadAhead([]Range) {}

// Doubt reports false.
func (*Map) Doubt() bool { return false }

// Counts says nothing.
func (*Map) Counts() Counts { return Counts{} }

// Protect returns ErrUnsupported.
func (*Map) Protect(int64, int64) error { return ErrUnsupported }

// Unprotect returns ErrUnsupported.
func (*Map) Unprotect(int64, int64) error { return ErrUnsupported }
