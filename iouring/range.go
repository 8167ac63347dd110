package iouring

// Range is bytes [Off, Off+Len) of a file. It is an alias so that mmapread, which does not know this package, can name the same type.
type Range = struct {
	Off int64
	Len int
}

// ReaderCounts is what a Reader has done.
type ReaderCounts = struct {
	Reads       int64 // through the ring: pieces of ranges
	Started     int64 // ranges read ahead, which nobody waited for
	Calls       int64 // system calls instead of the ring
	Submissions int64 // system calls that submitted reads, each for as many as had been queued
	Bytes       int64 // copied, which is less than was brought in
}
