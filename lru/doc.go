// Package lru keeps what a store holds in memory within its capacity, and keeps there what is worth it. It knows keys
// and their costs in bytes, not pages.
//
//	L1  Every byte made resident is counted when it is made resident (trap 8), heap and mapped bytes apart (trap 21). What
//	    all accounts together have not told is at most capacity/64 and an eighth of that, idle ones included: as their shares
//	    shrink they are settled.
//	L2  The bound is ours: whatever the adviser drops, rejects or lets grow, and whatever hits are lost, bytes above the
//	    capacity are paged out as soon as they can be (trap 22).
//	L3  Recording never waits, allocates nothing, and while half of the capacity is left nothing is recorded.
//	L4  A page whose writes are not stable is passed over, not waited for, and tried again.
//	L5  A page that is not worth its place, as in a scan, pages out no page that is.
//	L6  With nothing to do the policy sleeps: no ticks. Over the bound, with nothing that can be paged out, it looks again every few milliseconds.
//
// Three parts, each of which stands alone:
//
//	Budget   counts the bytes and says when there are too many: the hard bound
//	Hits     a goroutine's own record of the keys it met, lossy
//	Policy   one goroutine that feeds what was recorded to the adviser and pages out what that gives up; what is still too
//	         much it sweeps out by clock
//
//	              more than half full                  Close
//	    idle ──────── start ─────────▶ active ────────▶ closed
//	      ▲    less than a quarter      │ │ ▲              hits are counted, no more
//	      └────────── stop ─────────────┘ └─┘
//	      hits are counted, no more       start: far more keys than it has counters for
//
// The adviser is ristretto: TinyLFU decides who gets in, the least frequent of a sample goes out. (Einziger, Friedman,
// Manes, TinyLFU, 2017.) It is not relied on for the bound: it drops and rejects, lets known keys grow beyond its limit, and
// knows nothing of pages that cannot be paged out yet.
package lru
