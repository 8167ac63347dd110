// Package mmapread reads a growing file through read-only memory maps. It gives views of the file without copying,
// reads cold blocks from the disk without blocking threads, and turns faults that the kernel cannot serve into errors.
// Its guarantees:
//
//	X1  A view stays valid until Close: the file is mapped in large windows, which are made on first use and never
//	    moved or unmapped before.
//	X2  A fault while reading a view under Guard is an error and not the end of the process.
//	X3  Warm returns once every block of its ranges has been in the page cache, if the kernel says which blocks are.
//	X4  Warm of ranges that are known to be warm allocates nothing and asks the kernel nothing, but for a few blocks
//	    about once a second (Doubt). While the kernel evicts quickly, no range counts as known to be warm.
//
// A page fault on a block that is not in the page cache blocks the thread and its P. Warm reads such blocks beforehand,
// through a Fetcher, and parks the goroutine meanwhile; iouring.Reader is a Fetcher. Without a Fetcher, page faults
// read them.
//
// View only ranges that are no longer written, such as those of sealed log segments: a view shows later writes to its
// range.
package mmapread
