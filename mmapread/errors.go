package mmapread

import (
	"errors"
	"fmt"
	"io/fs"
)

// Errors of this package, found by errors.Is.
var (
	// ErrFault reports that mapped memory could not be read: the file was truncated under the map, or the disk failed.
	ErrFault error = sentinel("mapped memory could not be read (file truncated, or a disk read error)")
	// ErrBounds reports that a range does not lie within the file.
	ErrBounds error = sentinel("range outside the file")
	// ErrClosed reports that the map is closed.
	ErrClosed = fmt.Errorf("map: %w", fs.ErrClosed)
	// ErrUnsupported reports that this platform has no maps.
	ErrUnsupported = errors.New("memory maps are supported on Linux only")
)

// sentinel is an error that errors.Is matches with every error of the same text, so that a package which does not
// import this one can declare an equal error.
type sentinel string

func (s sentinel) Error() string { return string(s) }

// Is implements errors.Is.
func (s sentinel) Is(target error) bool { return target.Error() == string(s) }
