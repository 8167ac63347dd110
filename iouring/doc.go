// Package iouring is the log device, durable writes, and the Reader, which brings ranges of files into the page cache: through io_uring, or through
// system calls where that cannot be had. Of the device:
//
//	D1  A completion without an error means that all of the write is on stable storage: every write carries RWF_DSYNC,
//	    so data and durability are one request and cannot be reordered (trap 12).
//	D2  Short and interrupted writes are finished before they complete; every other failure is reported, once.
//	D3  Nothing is allocated for a write.
//	D4  Whatever of io_uring, registration or O_DIRECT the machine refuses is done without, and the Report says why
//	    (traps 18 and 20).
//
// What the Reader promises is at its type.
//
// The ring is our own, on the system call layer of github.com/iceber/iouring-go. The design follows io_uring(7) and
// Jens Axboe's liburing.
package iouring
