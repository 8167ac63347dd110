// Package iouring moves data between files and memory through io_uring, or through system calls where io_uring is not
// available. It has two halves over one kind of ring:
//
//   - A Writer (OpenWriter) makes durable writes to one file, for a log: each write is on stable storage when it
//     completes.
//   - A Reader (OpenReader) reads ranges of files into the page cache, so that a memory map of them can be read without
//     page faults.
//
// Both find out when they are opened what the machine supports, use the best of it, and report what they use. The
// guarantees of the Writer:
//
//	W1  A completion without an error means that all of the write is on stable storage: every write carries RWF_DSYNC,
//	    so the data and its durability are one request and cannot be reordered (trap 12).
//	W2  Short and interrupted writes are finished before they complete; every other failure is reported, once.
//	W3  Nothing is allocated for a write.
//	W4  If the machine refuses io_uring, registration or O_DIRECT, the Writer works without it, and the report says
//	    why (traps 18 and 20).
//
// The guarantees of the Reader:
//
//	R1  Fetch returns once every range has been in the page cache, is known to be unreadable, or the Reader is closed.
//	R2  After Fetch or ReadAhead has returned, the Reader does not use the descriptor again: the caller may close it,
//	    and its number may be given to another file.
//	R3  Nothing is allocated for a read.
//	R4  Long ranges are read in pieces. Several pieces are in flight, and they leave room for short reads.
//	R5  Close ends in bounded time and wakes every waiter.
//	R6  Neither short nor long reads starve: requests of a kind go in turn, and a piece of a long one goes after at
//	    most 32 short ones.
//
// The package works on Linux only. On other platforms it compiles, and opening fails with ErrLinuxOnly.
package iouring
