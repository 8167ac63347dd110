// Package vfs is the seam between the store and the file system: the operations the store needs of
// directories and files, with one implementation on Linux (OS) and one that is simulated (internal/simdisk).
package vfs

import (
	"errors"
	"io"
	"time"

	"pagecache/iouring"
	"pagecache/mmapread"
)

// Flag says how to open a file.
type Flag int

// The ways of opening a file. Read is always included.
const (
	Read   Flag = 0         // reading only
	Write  Flag = 1 << iota // reading and writing
	Create                  // made if it does not exist (with Write)
	Trunc                   // emptied (with Write)
)

// FS is a file system. Names are whole paths. Safe for concurrent use.
type FS interface {
	// MkdirAll makes a directory and its missing parents, durably (each new entry's parent directory is synced).
	MkdirAll(dir string) error
	// Open opens a regular file. Anything else under that name (symbolic link, directory, FIFO, device) is refused with an
	// error and never blocks. A missing file is an error that wraps fs.ErrNotExist.
	Open(name string, flag Flag) (File, error)
	// Rename replaces newname with oldname. Durable after SyncDir of the directory.
	Rename(oldname, newname string) error
	// Remove removes a file or an empty directory. Durable after SyncDir of the directory.
	Remove(name string) error
	// ReadDir returns the names in a directory, sorted.
	ReadDir(dir string) ([]string, error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(dir string) error
	// OpenReader returns a reader for maps of this file system's files. It costs nothing until it is first used.
	OpenReader(opts iouring.Options) Reader
}

// File is an open regular file. ReadAt and WriteAt go through the page cache.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Name() string
	Size() (int64, error)
	Truncate(size int64) error
	// Allocate reserves space for the range and grows the file over it, zeros (fallocate). Out of space or past a limit:
	// an error that wraps syscall.ENOSPC, EFBIG or EDQUOT, and nothing is changed.
	Allocate(off, n int64) error
	// Sync makes contents and size durable (fsync).
	Sync() error
	// Lock takes the advisory lock on the open file, without waiting; ErrLocked if another holds it.
	Lock(exclusive bool) error
	// DropCache asks the kernel to forget cached pages of the range (fadvise DONTNEED), so that they are read anew.
	DropCache(off, n int64) error
	// OpenDevice opens the device for durable writes of this file.
	OpenDevice(opts iouring.Options) (iouring.Device, iouring.Report, error)
	// OpenMap maps the file for reading: whole, from beginning to end; else here and there, while it grows. What is cold comes in through the
	// reader, which is of the same file system, and is closed after the maps; nil: by touching it.
	OpenMap(whole bool, r Reader) (Map, error)
	// Advise says how the file will be read from now on, other than through maps. A hint.
	Advise(p Pattern) error
	// OpenBulk returns what reads large pieces of the file fast from the disk. The file must stay open until its Close.
	OpenBulk() Bulk
}

// Bulk reads large pieces of a file that are looked at once, past the page cache where that works (O_DIRECT). Safe for concurrent use.
type Bulk interface {
	// ReadAt is fast into memory of Buffer, in whole blocks.
	io.ReaderAt
	// Buffer returns n bytes to read into, which are the caller's until free.
	Buffer(n int) (buf []byte, free func(), err error)
	io.Closer
}

// Pattern is a way of reading a file.
type Pattern int

// The patterns: Sequential is read far ahead of; of Random nothing is read but what is asked for.
const (
	Sequential Pattern = iota + 1
	Random
)

// Range is bytes [Off, Off+Len) of a file.
type Range = mmapread.Range

// MapCounts is what a Map has done about cold blocks.
type MapCounts = mmapread.Counts

// Reader brings blocks of files into the page cache without holding up a thread or a P. A store has one for all its maps. Safe for
// concurrent use. Not used after Close, it is opened when something is first read.
type Reader interface {
	// Report says what is used for reading, and what was done; the zero values if nothing was read yet.
	Report() (iouring.Report, iouring.ReaderCounts)
	// Settle waits, for limit at most, until nothing is being read any more that Ahead began before the call.
	Settle(limit time.Duration) error
	// Close waits for what is being read, in bounded time, and wakes everybody who waits.
	Close() error
}

// Map gives views of a file's bytes. Safe for concurrent use.
type Map interface {
	// View returns bytes [off, off+n) of the file, without copying where the platform can. They stay valid until
	// Close and do not change until that range of the file is written again. Out of bounds: an error.
	View(off int64, n int) ([]byte, error)
	// Holds reports whether b, not empty, is a view, or a part of one.
	Holds(b []byte) bool
	// Drop forgets what the map shows of a range, in multiples of 4096 bytes, before that is written again.
	Drop(off, n int64) error
	// Warm returns once the ranges can be read without waiting for the disk, all of them read at once where they are cold, and says how many
	// were. The goroutine is parked meanwhile. The system may take them back at any time; an error says that something could not be read, which
	// reading the view of it will tell.
	Warm(ranges []Range) (cold int, err error)
	// IsWarm reports whether Warm of a range would do nothing.
	IsWarm(r Range) bool
	// Ahead begins what Warm does and does not wait. A hint.
	Ahead(ranges []Range)
	// Protect makes reading views of a range a fault, and Unprotect undoes that: an aid to find views that outlive what they show.
	Protect(off, n int64) error
	Unprotect(off, n int64) error
	// Counts returns what was done about cold blocks.
	Counts() MapCounts
	Close() error
}

// ErrLocked says that another process, or another open file of this one, holds the lock.
var ErrLocked = errors.New("file is locked by another opening")
