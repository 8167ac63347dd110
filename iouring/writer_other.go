//go:build !linux

package iouring

// Writer is not available on this platform.
type Writer struct{}

// OpenWriter fails with ErrLinuxOnly.
func OpenWriter(int, WriterOptions) (*Writer, WriterReport, error) {
	return nil, WriterReport{}, ErrLinuxOnly
}

// Do fails with ErrLinuxOnly.
func (*Writer) Do(_ []Write, _ int, dst []Completion) ([]Completion, error) { return dst, ErrLinuxOnly }

// Park returns false.
func (*Writer) Park() bool { return false }

// Unpark does nothing.
func (*Writer) Unpark() {}

// Depth returns 0.
func (*Writer) Depth() int { return 0 }

// Block returns 0.
func (*Writer) Block() int { return 0 }

// Close does nothing.
func (*Writer) Close() error { return nil }
