package vfs

import "time"

// Map gives views of a file's bytes. Safe for concurrent use, but for Close.
type Map interface {
	// View returns bytes [off, off+n) of the file, without copying if the platform supports that. They stay valid until
	// Close, and do not change until that range of the file is written again. Out of bounds: ErrBounds. Reading the
	// view may fault if the file is truncated or the disk fails: see mmapread.Guard.
	View(off int64, n int) ([]byte, error)
	// Holds reports whether b, which is not empty, begins in a view of the file at off, and is not a copy. off is the
	// beginning of the range that View was called for, or of any part of it.
	Holds(off int64, b []byte) bool
	// Drop unmaps what the map shows of a range, so that later views read it anew. The caller does that before the
	// range is written again. off and n are multiples of 4096 bytes.
	Drop(off, n int64) error
	// Warm returns once the ranges can be read without waiting for the disk, and says how many of them were cold. It
	// reads all cold ranges at once and parks the goroutine meanwhile. The kernel may evict them again at any time. An
	// error says that some range could not be read; reading its view shows the cause.
	Warm(ranges []Range) (cold int, err error)
	// IsWarm reports whether Warm of the range would do nothing.
	IsWarm(r Range) bool
	// Cached appends to dst whether each block of 4 KiB of the range is in the kernel's page cache. It asks the kernel,
	// where IsWarm only says what is known. The range begins and ends with a block, and lies in the file. If the kernel
	// does not say, only blocks count that are known to be warm.
	Cached(dst []bool, r Range) []bool
	// ReadAhead starts what Warm does and does not wait. It is a hint.
	ReadAhead(ranges []Range)
	// Protect makes reading views of a range a fault, and Unprotect undoes that: a debugging aid that finds views which
	// outlive their contents.
	Protect(off, n int64) error
	Unprotect(off, n int64) error
	// Counts returns what the map has done about cold blocks.
	Counts() MapCounts
	Close() error
}

// Range is bytes [Off, Off+Len) of a file.
type Range = struct {
	Off int64
	Len int
}

// MapCounts is what a Map has done about cold blocks. Ranges that were known to be warm are not counted.
type MapCounts = struct {
	Warm     int64 // ranges that were found in the page cache by asking the kernel
	Cold     int64 // ranges of which at least one block was fetched, or assumed to be missing
	Fetched  int64 // bytes of the blocks fetched
	Ahead    int64 // ranges whose read ahead was started
	Mincores int64 // questions to the kernel
	Doubts   int64 // times that blocks known to be warm were found evicted
}

// Reader reads blocks of files into the page cache without blocking a thread or a P. A store has one for all its maps.
// It is opened by its first read. Safe for concurrent use; not used after Close.
type Reader interface {
	// Report says what the Reader uses for reading and what it has done; the zero values if it has not read yet.
	Report() (ReaderReport, ReaderCounts)
	// Settle waits, for limit at most, until every read ahead that was started before the call has ended.
	Settle(limit time.Duration) error
	// Close waits for the reads in flight, in bounded time, and wakes all waiters.
	Close() error
}

// ReaderReport says how a Reader reads.
type ReaderReport struct {
	Ring   bool   // io_uring; if false, system calls
	Reason string // one line: why there is no ring; empty with one
}

// ReaderCounts is what a Reader has done.
type ReaderCounts = struct {
	Reads       int64 // through the ring: pieces of ranges
	Started     int64 // ranges read ahead
	Calls       int64 // system calls instead of the ring
	Submissions int64 // system calls that submitted reads, each for all that were queued
	Bytes       int64 // copied, which is less than was read into the page cache
}
