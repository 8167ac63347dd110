// Package vfs is the seam between the store and the machine below it. It declares the operations that the store needs
// of directories, files, devices and maps, and imports nothing of this module. Two packages implement it: internal/osfs
// (the operating system, over iouring and mmapread) and internal/simdisk (a simulated disk that can crash).
//
// iouring and mmapread are packages for others to use, so they do not import this one. The struct types that cross the
// seam for each read or write (Range, Write, Completion and the counts) are therefore aliases of unnamed struct types
// that those packages declare in the same words: the types are identical, and nothing is copied or converted.
// internal/osfs asserts that at compile time.
package vfs

import (
	"errors"
	"fmt"
	"io"
)

// SetFS makes an *engine.Options use a file system. Package engine defines it, for tests of pcbench, which cannot
// import the engine's other seams.
var SetFS func(options any, fs FS)

// FS is a file system. Its methods are those that take a path. A path may name another directory at each call, so
// everything else is done in a directory that was opened (rule 15). Safe for concurrent use.
type FS interface {
	// Abs returns the absolute form of a path.
	Abs(name string) (string, error)
	// MkdirAll makes a directory and its missing parents, durably: it syncs the parent directory of each new entry.
	MkdirAll(dir string) error
	// OpenDir opens a directory. The path may be a symbolic link to it. The error for a missing directory wraps
	// fs.ErrNotExist.
	OpenDir(dir string) (Dir, error)
	// OpenReader returns a Reader for maps of this file system's files. ring says whether it reads through io_uring.
	// The Reader takes no descriptor and no memory of the kernel before its first read.
	OpenReader(ring Mode) Reader
}

// Dir is an open directory. It stays the same directory when it is renamed, or when its path comes to mean another one.
// Names are single elements of a path: CheckName refuses all others. Errors name the path by which the directory was
// opened. If the directory was removed, it is empty, nothing can be made in it, and each call that needs an entry fails
// with an error that wraps fs.ErrNotExist. Safe for concurrent use.
type Dir interface {
	// Name returns the path by which the directory was opened.
	Name() string
	// Open opens a regular file. It refuses anything else under that name (symbolic link, directory, FIFO, device) with
	// an error, and never blocks. The error for a missing file wraps fs.ErrNotExist.
	Open(name string, flag Flag) (File, error)
	// OpenDir opens a directory in this one. It refuses anything else under that name, such as a symbolic link.
	OpenDir(name string) (Dir, error)
	// Mkdir makes a directory in this one. It is durable after Sync. If the name exists the error wraps fs.ErrExist.
	Mkdir(name string) error
	// Rename replaces newname with oldname. It is durable after Sync.
	Rename(oldname, newname string) error
	// Remove removes a file. It is durable after Sync.
	Remove(name string) error
	// Unlink removes this directory if it is empty, and if the path or name by which it was opened still means it. If
	// it was opened through another Dir, that one must be open.
	Unlink() error
	// ReadDir returns the names in the directory, sorted. If the directory was removed the error wraps fs.ErrNotExist.
	ReadDir() ([]string, error)
	// Identify returns the identity of the file or directory with this name. It does not follow symbolic links.
	Identify(name string) (Identity, error)
	// Sync makes the entries of the directory durable (fsync).
	Sync() error
	io.Closer
}

// Identity tells the files and directories of a file system apart, whatever their names are. While one of them is open,
// no other has its identity.
type Identity struct {
	Device, Inode uint64
}

// File is an open regular file. ReadAt and WriteAt go through the page cache. Safe for concurrent use, but for Close.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Name returns the path of the directory that the file was opened in, joined with the file's name in it.
	Name() string
	// Identity returns the identity of the file.
	Identity() (Identity, error)
	// Size returns the size of the file in bytes.
	Size() (int64, error)
	// Truncate sets the size of the file.
	Truncate(size int64) error
	// Allocate reserves disk space for bytes [off, off+n) and extends the file over them with zeros (fallocate). If the
	// disk is full, or a quota or size limit is reached, the error wraps syscall.ENOSPC, EDQUOT or EFBIG, and the file
	// is unchanged.
	Allocate(off, n int64) error
	// Punch gives the disk space of bytes [off, off+n) back and keeps the size of the file (FALLOC_FL_PUNCH_HOLE). The
	// bytes read as zeros; until Sync, a crash may bring back the old bytes of any part of the range. off and n are
	// multiples of 4096 bytes. If the file system has no such call, the error wraps errors.ErrUnsupported.
	Punch(off, n int64) error
	// Occupied returns how many bytes of disk space the file occupies, without those that were punched.
	Occupied() (int64, error)
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

// A Cloner is a File that can share the bytes of others, where the file system supports that (reflink).
type Cloner interface {
	// Clone makes bytes [off, off+n) of the file those of from at the same place. Both share their disk space until one
	// of them is written there. It is durable after Sync. off and n are multiples of the file system's block. If the
	// file system cannot do that with both files, the error wraps errors.ErrUnsupported, and nothing has changed.
	Clone(from File, off, n int64) error
}

// Clone is to.Clone, if to is a Cloner.
func Clone(to, from File, off, n int64) error {
	if c, ok := to.(Cloner); ok {
		return c.Clone(from, off, n)
	}
	return fmt.Errorf("clone %s: %w", from.Name(), errors.ErrUnsupported)
}

// BulkAlign is the alignment in bytes, of memory and of offsets, with which a Bulk reads past the page cache.
const BulkAlign = 4096

// Bulk reads large pieces of a file once, past the page cache if the file system supports that (O_DIRECT). Safe for
// concurrent use.
type Bulk interface {
	// ReadAt is fastest in whole blocks, into memory from Buffer.
	io.ReaderAt
	// Direct reports whether ReadAt reads whole blocks into memory from Buffer, or into other memory that is as well
	// aligned, past the page cache for certain.
	Direct() bool
	// Buffer returns n bytes of memory to read into. They belong to the caller until it calls free.
	Buffer(n int) (buf []byte, free func(), err error)
	io.Closer
}
