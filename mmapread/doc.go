// Package mmapread reads a growing file through read-only memory maps: views without copying, and faults that the kernel cannot serve turned into errors.
//
// The file is mapped in large windows that are made on first use and are never moved or unmapped before Close, so a
// view stays valid until then. A page fault on a block that is not in the page cache would hold up the thread and its P: Warm brings such blocks in by
// way of a Fetcher beforehand, and knows at the cost of some nanoseconds which are there. Only ranges that nobody writes any more (sealed segments) are to be viewed.
package mmapread
