//go:build !linux

package mmapread

import "os"

// Map is not available on this platform.
type Map struct{}

// Open fails with ErrUnsupported.
func Open(*os.File, Fetcher) (*Map, error) { return nil, ErrUnsupported }

// OpenWhole fails with ErrUnsupported.
func OpenWhole(*os.File, Fetcher) (*Map, error) { return nil, ErrUnsupported }

// View fails with ErrUnsupported.
func (*Map) View(int64, int) ([]byte, error) { return nil, ErrUnsupported }

// Holds returns false.
func (*Map) Holds(int64, []byte) bool { return false }

// Drop fails with ErrUnsupported.
func (*Map) Drop(int64, int64) error { return ErrUnsupported }

// Close does nothing.
func (*Map) Close() error { return nil }

// Warm fails with ErrUnsupported.
func (*Map) Warm([]Range) (int, error) { return 0, ErrUnsupported }

// IsWarm returns true.
func (*Map) IsWarm(Range) bool { return true }

// Cached appends true for each block of 4 KiB.
func (*Map) Cached(dst []bool, r Range) []bool {
	for range (r.Len + 4095) / 4096 {
		dst = append(dst, true)
	}
	return dst
}

// ReadAhead does nothing.
func (*Map) ReadAhead([]Range) {}

// Doubt returns false.
func (*Map) Doubt() bool { return false }

// Counts returns zeros.
func (*Map) Counts() Counts { return Counts{} }

// Protect fails with ErrUnsupported.
func (*Map) Protect(int64, int64) error { return ErrUnsupported }

// Unprotect fails with ErrUnsupported.
func (*Map) Unprotect(int64, int64) error { return ErrUnsupported }
