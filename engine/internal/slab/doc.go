// Package slab keeps the large values of pages in anonymous memory outside the Go heap, and releases them by epoch.
//
// A Pool belongs to one store. Its memory is made of chunks of 2 MiB, which all stores of the process share and reuse.
// A chunk is divided into spans, and a span into slots of one size.
//
//	        Alloc              Retire                Collect
//	free ─────────▶ live ─────────────────▶ retired ─────────▶ free
//	  ▲               │ Free (never published)                   │
//	  └───────────────┴──────────────────────────────────────────┘
//
// Guarantees:
//
//	H1  A goroutine may look at a value only if it has allocated it and published it nowhere yet, or if it was inside
//	    the epoch when it found the value in an entry of a page, and has been inside ever since.
//	H2  A slot is used again once no goroutine may look at its value: at once if the value was never published (Free),
//	    else after it was retired (Retire), that is, after the last entry that refers to it was replaced, and after
//	    every goroutine that was inside at that moment has left (epoch, E1).
//	H3  Memory of a chunk is given back to the system, but its addresses are never unmapped, not even after Close.
//	    They serve as slabs of other stores. So a slice that its owner kept too long never points into the Go heap.
//	H4  Resident counts the memory that was touched and not given back. Slots are at most an eighth longer than their
//	    values. The memory that was released last is used first: it needs no page fault. Once the free part of huge
//	    pages exceeds a sixteenth of the slots in use, it is given back (split).
//	H5  Nothing waits and nothing fails: without memory, above the limit, or while many values are retired and not yet
//	    released, Alloc returns nil, and the caller takes memory from the Go heap.
//
// # Traps of slab memory in Go
//
//   - It must not contain pointers to Go memory: the collector does not look at it, and would free what they point to.
//     So only bytes lie here.
//   - A slice of it keeps nothing in memory. A value may be overwritten as soon as H1 ends, and then the slice shows
//     another value. Nothing reports that, except that builds with the tag invariants overwrite released values.
//   - A slice of it is legal Go as long as its address never becomes part of the Go heap: the collector takes a pointer
//     into its heap for a reference, and stops the program if it points to free memory there. Hence H3.
//   - The limit GOMEMLIMIT and the collector's pace do not include it. Options.CacheCapacity does.
//   - The race detector does not see it. In race builds the chunks lie on the Go heap, and are kept for good. There the
//     race detector reports a goroutine that looks at a value for too long, once the memory is used again.
//   - Addresses are kept as uintptr in the lists of retired values: they keep nothing alive, and the collector does not
//     scan them. They are never converted back to pointers. All bytes are reached by slicing the chunk.
//
// (The Slab Allocator: Bonwick, USENIX 1994. Epoch-based reclamation: see package epoch.)
package slab
