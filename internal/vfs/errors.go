package vfs

// The errors of the seam, found by errors.Is.
var (
	// ErrLocked reports that another process, or another opening of the file in this one, holds the lock.
	ErrLocked error = sentinel("file is locked by another opening")
	// ErrInFlight reports that writes are still outstanding: the kernel may still read their buffers, and the data may
	// reach the disk later.
	ErrInFlight error = sentinel("writes did not end")
	// ErrFault reports that mapped memory could not be read: the file was truncated under the map, or the disk failed.
	ErrFault error = sentinel("mapped memory could not be read (file truncated, or a disk read error)")
	// ErrUnsupported reports that the operating system is not Linux.
	ErrUnsupported error = sentinel("pagecache works on Linux only")
	// ErrBounds reports that a range does not lie within the file.
	ErrBounds error = sentinel("range outside the file")
)

// sentinel is an error that errors.Is matches with every error of the same text. The packages below the seam cannot
// import it, so they declare errors of the same text (iouring.ErrInFlight, iouring.ErrLinuxOnly, mmapread.ErrFault,
// mmapread.ErrBounds), and either finds the other.
type sentinel string

func (s sentinel) Error() string { return string(s) }

// Is implements errors.Is.
func (s sentinel) Is(target error) bool { return target.Error() == string(s) }
