// Package lru keeps the resident bytes of a store within a capacity, and keeps the pages that are used most. It knows
// keys and their costs in bytes, not pages. It serves this module and promises no compatibility to others.
//
//	U1  Each byte is counted when it becomes resident (trap 8), heap and mapped bytes apart (trap 21). All accounts
//	    together hold back at most 9/8 of capacity/64, idle accounts included: Register settles them as shares shrink.
//	U2  The policy enforces the capacity, not the adviser. The adviser may drop, reject or undercount keys, and hits
//	    may be lost: bytes above the capacity are still evicted as soon as possible (trap 22).
//	U3  Recording a hit never waits and allocates nothing. While half of the capacity is free, hits are not recorded.
//	U4  A page whose writes are not stable is skipped and retried; nothing waits for it.
//	U5  Pages of low value, such as those of a scan, do not evict valuable ones.
//	U6  A policy with nothing to do sleeps: it has no ticks. Above the capacity, with nothing evictable, it retries
//	    every few milliseconds.
//	U7  Evictions write at most a share of the bytes that callers write (trap 52). While callers write next to
//	    nothing, each page is written at most once.
//
// It has four parts, each usable alone:
//
//	Budget   counts the resident bytes against the capacity and tells callers when there are too many
//	Hits     a lossy record of the keys that one goroutine has used
//	Allowance
//	         limits the bytes that evictions write
//	Policy   one goroutine that feeds the records to the adviser and evicts the pages that the adviser evicts or
//	         rejects; if that is not enough it evicts by clock
//
//	              more than half full                  Close
//	    idle ──────── start ─────────▶ active ────────▶ closed
//	      ▲    less than a quarter      │ │ ▲              hits are only counted
//	      └──────── stopAdviser ────────┘ └─┘
//	      hits are only counted          start: the adviser has far too few counters for its keys
//
// The adviser is ristretto: TinyLFU admits keys, and the least frequent key of a sample is evicted. (Einziger,
// Friedman, Manes, TinyLFU, 2017.) The policy does not rely on it for the capacity: it drops and rejects keys, lets
// known keys grow beyond its limit, and knows nothing of pages that cannot be evicted yet.
package lru
