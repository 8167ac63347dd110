// Package large keeps the large values of pages of byte strings outside the Go heap (package slab), and is the one
// place that decides who owns such a value, and when its memory is released.
//
//	         Alloc               compare-and-swap             Replaced
//	(none) ─────────▶ unpublished ─────────────▶ of one page ──────────▶ retired, then released by epoch
//	                       │ Drop                                                  ▲
//	                       └───────────────────────────────────────────────────────┘
//
// Guarantees:
//
//	D1  A value is of one page at most. Values that callers give are copied, also those that are, or share memory with,
//	    the value of a page, even of the same one. So two pages never share a value; several entries of one page may,
//	    one after the other.
//	D2  A value is retired once: by the goroutine whose swap of a page's head replaced a chain of entries that has the
//	    value by one that has it no more (Replaced), or by the goroutine that made it and did not publish it (Drop). No
//	    value comes back into a chain that it has left: the swap that would bring it back was prepared from a head that
//	    is no longer there, so it fails.
//	D3  A goroutine that looks at a value is inside the epoch, also in the store's own work. A transaction's value that
//	    is dropped may have been returned by a Get of the transaction, which is inside until it ends: so Drop retires,
//	    and never releases at once.
//	D4  Live is the bytes of the values that are neither retired nor released. What the slabs take beyond that counts
//	    against the capacity as well (Beside).
package large

import (
	"sync/atomic"
	"unsafe"

	"pagecache/engine/internal/epoch"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/slab"
)

// Least is the length in bytes from which on a value lies outside the Go heap. Shorter ones are as fast on the heap,
// which takes them from pages that are in use already; longer ones take fresh pages there, which fault one by one:
// BenchmarkCopy compares the two.
const Least = 16 << 10

// pinnedShare is the part of the limit that retired values may take without counting against the capacity: calls that
// evict are inside the epoch themselves, so what they evict is not released before they end.
const pinnedShare = 16

// Values are the large values of a store. The zero Values keeps all values on the Go heap. Its methods are safe for
// concurrent use, except for Open.
type Values struct {
	pool *slab.Pool // nil: there are no slabs
	// limit is the capacity of the store's cache in bytes. Written by SetLimit; publishes nothing.
	limit atomic.Int64
	_     [48]byte // keeps what every writer reads out of the cache line of live
	// live is the bytes of the values that were allocated and not retired. Written by Alloc, Replaced and Drop;
	// publishes nothing. A stale value counts a value too much, or too little, for a moment.
	live atomic.Int64
	_    [56]byte
}

// Open makes Values use slabs, of at most limit bytes, whose values are released by the epochs of the domain. To be
// called before the Values are shared. The pages of the store are byte strings.
func (v *Values) Open(d *epoch.Domain, limit int64) {
	v.pool = slab.New(d, limit)
	v.limit.Store(limit)
}

// Pool returns the slabs; nil if there are none.
func (v *Values) Pool() *slab.Pool { return v.pool }

// SetLimit sets the most bytes of slabs.
func (v *Values) SetLimit(limit int64) {
	if v.pool != nil {
		v.limit.Store(limit)
		v.pool.SetLimit(limit)
	}
}

// Close gives the slabs back when the goroutines that are inside the epoch have left. Values may be retired after Close
// and must not be looked at by goroutines that enter later.
func (v *Values) Close() {
	if v.pool != nil {
		v.pool.Close()
	}
}

// Alloc returns memory in slabs for a value of n bytes, which is unpublished; nil if the value belongs on the Go heap.
func (v *Values) Alloc(lane uint32, n int) []byte {
	if n < Least || v.pool == nil {
		return nil
	}
	b := v.pool.Alloc(lane, n)
	v.live.Add(int64(len(b)))
	return b
}

// Drop retires a value that is not published and never will be. It does nothing for a value on the Go heap.
func (v *Values) Drop(lane uint32, b []byte) {
	if len(b) >= Least && v.pool != nil && v.pool.Retire(lane, b) {
		v.live.Add(-int64(len(b)))
	}
}

// Replaced retires the values of the chain old, which may be nil, that the chain now does not have. The caller is
// inside the epoch, and has just replaced the head old of a page by now.
func (v *Values) Replaced(lane uint32, old, now *pagestack.Head) {
	if v.pool == nil || old == nil || now.Kind() == pagestack.KindDelta && now.Next() == old {
		return
	}
	for h := old; hasValue(h); h = h.Next() {
		if b := valueOf(h); len(b) >= Least && !has(now, b) {
			v.Drop(lane, b)
		}
		if h.Kind() != pagestack.KindDelta {
			return
		}
	}
}

// hasValue reports whether the entry of a head has a resident value.
func hasValue(h *pagestack.Head) bool {
	switch h.Kind() {
	case pagestack.KindBase, pagestack.KindDelta, pagestack.KindMerged:
		return true
	}
	return false
}

func valueOf(h *pagestack.Head) []byte { return pagestack.EntryOf[[]byte](h).Frag }

// has reports whether an entry of the chain h has the value b.
func has(h *pagestack.Head, b []byte) bool {
	for ; hasValue(h); h = h.Next() {
		if unsafe.SliceData(valueOf(h)) == unsafe.SliceData(b) {
			return true
		}
		if h.Kind() != pagestack.KindDelta {
			break
		}
	}
	return false
}

// Beside returns the bytes that slabs take beside their live values, which a page's size does not include: slots that
// are longer than their values, free ones, and retired values, once these are many. If a Tx pins more than half of the
// capacity, the rest does not count: the pages that are current keep the other half.
func (v *Values) Beside() int64 {
	if v.pool == nil {
		return 0
	}
	all, pinned := v.pool.Resident()
	limit := v.limit.Load()
	free := max(0, all-pinned-v.live.Load())
	return min(free+max(0, pinned-limit/pinnedShare), limit/2)
}

// Stats are the bytes of slabs.
type Stats struct {
	Resident int64 // all that they take
	Pinned   int64 // of Resident: retired values, which Txs that are open may look at
	Live     int64 // of the values that are not retired
}

// Stats returns the bytes of the slabs. Values that change meanwhile may be counted twice, or not at all.
func (v *Values) Stats() (st Stats) {
	if v.pool != nil {
		st.Resident, st.Pinned = v.pool.Resident()
		st.Live = v.live.Load()
	}
	return st
}
