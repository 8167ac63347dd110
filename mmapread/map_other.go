//go:build !linux

package mmapread

import "os"

// Map is not available on this platform.
type Map struct{}

// Open returns ErrUnsupported.
func Open(*os.File) (*Map, error) { return nil, ErrUnsupported }

// OpenWhole fails with ErrUnsupported.
func OpenWhole(*os.File) (*Map, error) { return nil, ErrUnsupported }

// View returns ErrUnsupported.
func (*Map) View(int64, int) ([]byte, error) { return nil, ErrUnsupported }

// Holds reports false.
func (*Map) Holds([]byte) bool { return false }

// Drop returns ErrUnsupported.
func (*Map) Drop(int64, int64) error { return ErrUnsupported }

// Close does nothing.
func (*Map) Close() error { return nil }
