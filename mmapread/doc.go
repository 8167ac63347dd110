// Package mmapread reads a growing file through read-only memory maps: views without copying, messages verified in
// place, and faults that the kernel cannot serve turned into errors.
//
// The file is mapped in large windows that are made on first use and are never moved or unmapped before Close, so a
// view stays valid until then. A page fault on a block that is not in the page cache would hold up the thread and its P: Warm brings such blocks in by
// way of a Fetcher beforehand, and knows at the cost of some nanoseconds which are there. Only ranges that nobody writes any more (sealed segments) are to be viewed.
package mmapread

import "errors"

// Errors of this package, found by errors.Is.
var (
	// ErrFault says that mapped memory could not be read: the file was cut short under the map, or the disk failed.
	ErrFault = errors.New("mapped memory could not be read (file cut short, or a disk read error)")
	// ErrBounds says that a range does not lie within the file.
	ErrBounds = errors.New("range outside the file")
	// ErrClosed says that the map was closed.
	ErrClosed = errors.New("map is closed")
	// ErrUnsupported says that this platform has no maps.
	ErrUnsupported = errors.New("memory maps are supported on Linux only")
)

// Viewer gives views of a file's bytes. *Map is one; a simulated disk may bring its own.
type Viewer interface {
	// View returns bytes [off, off+n) of the file.
	View(off int64, n int) ([]byte, error)
}
