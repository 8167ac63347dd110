package iouring

// The types below are aliases of unnamed struct types, so that a package which does not import this one can declare
// identical ones.

// Write is one durable write of a Writer.
type Write = struct {
	Off int64  // file offset in bytes, a multiple of the writer's block
	Buf []byte // whole blocks, aligned to a block in memory; the caller must not touch it until the completion
	Tag uint64 // returned in the completion
}

// Completion says how a Write ended. If Err is nil, all of it is durable.
type Completion = struct {
	Tag uint64
	Err error
}

// Range is bytes [Off, Off+Len) of a file.
type Range = struct {
	Off int64
	Len int
}

// ReaderCounts is what a Reader has done.
type ReaderCounts = struct {
	Reads       int64 // through the ring: pieces of ranges
	Started     int64 // ranges read ahead
	Calls       int64 // system calls instead of the ring
	Submissions int64 // system calls that submitted reads, each for all that were queued
	Bytes       int64 // copied, which is less than was read into the page cache
}
