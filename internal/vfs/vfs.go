// Package vfs is the seam between the store and the machine below it. It declares the operations that the store needs
// of directories, files, devices and maps, and imports nothing of this module. Two packages implement it: internal/osfs
// (the operating system, over iouring and mmapread) and internal/simdisk (a simulated disk that can crash).
//
// iouring and mmapread are packages for others to use, so they do not import this one. The struct types that cross the
// seam for each read or write (Range, Write, Completion and the counts) are therefore aliases of unnamed struct types
// that those packages declare in the same words: the types are identical, and nothing is copied or converted.
// internal/osfs asserts that at compile time.
package vfs

import "io"

// FS is a file system. Names are whole paths. Safe for concurrent use.
type FS interface {
	// Abs returns the absolute form of a path.
	Abs(name string) (string, error)
	// MkdirAll makes a directory and its missing parents, durably: it syncs the parent directory of each new entry.
	MkdirAll(dir string) error
	// Open opens a regular file. It refuses anything else under that name (symbolic link, directory, FIFO, device) with
	// an error, and never blocks. The error for a missing file wraps fs.ErrNotExist.
	Open(name string, flag Flag) (File, error)
	// Rename replaces newname with oldname. It is durable after SyncDir of the directory.
	Rename(oldname, newname string) error
	// Remove removes a file or an empty directory. It is durable after SyncDir of the directory.
	Remove(name string) error
	// ReadDir returns the names in a directory, sorted.
	ReadDir(dir string) ([]string, error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(dir string) error
	// OpenReader returns a Reader for maps of this file system's files. ring says whether it reads through io_uring.
	// The Reader takes no descriptor and no memory of the kernel before its first read.
	OpenReader(ring Mode) Reader
}

// File is an open regular file. ReadAt and WriteAt go through the page cache. Safe for concurrent use, but for Close.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Name returns the path that the file was opened with.
	Name() string
	// Size returns the size of the file in bytes.
	Size() (int64, error)
	// Truncate sets the size of the file.
	Truncate(size int64) error
	// Allocate reserves disk space for bytes [off, off+n) and extends the file over them with zeros (fallocate). If the
	// disk is full, or a quota or size limit is reached, the error wraps syscall.ENOSPC, EDQUOT or EFBIG, and the file
	// is unchanged.
	Allocate(off, n int64) error
	// Sync makes contents and size durable (fsync).
	Sync() error
	// Lock takes the advisory lock on the open file. It does not wait: if another opening holds the lock it returns
	// ErrLocked. Close releases it.
	Lock(kind LockKind) error
	// DropCache asks the kernel to evict the cached pages of a range (fadvise DONTNEED), so that later reads fetch them
	// from the disk.
	DropCache(off, n int64) error
	// OpenDevice opens the Device for durable writes to this file, and reports which ways of writing it uses.
	OpenDevice(opts DeviceOptions) (Device, DeviceReport, error)
	// OpenMap maps the file for reading. PatternSequential is for a file that does not grow and is read from beginning
	// to end, PatternRandom for one that is read in any order while it grows. The map reads cold blocks through r,
	// which is of the same file system and must be closed after the map. If r is nil, the goroutine that touches a cold
	// block reads it by a page fault.
	OpenMap(p Pattern, r Reader) (Map, error)
	// Advise says in which pattern the file will be read from now on, other than through maps. It is a hint.
	Advise(p Pattern) error
	// OpenBulk returns a Bulk of the file. The file must stay open until that is closed.
	OpenBulk() Bulk
}

// Bulk reads large pieces of a file once, past the page cache if the file system supports that (O_DIRECT). Safe for
// concurrent use.
type Bulk interface {
	// ReadAt is fastest in whole blocks, into memory from Buffer.
	io.ReaderAt
	// Buffer returns n bytes of memory to read into. They belong to the caller until it calls free.
	Buffer(n int) (buf []byte, free func(), err error)
	io.Closer
}
