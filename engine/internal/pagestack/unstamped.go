package pagestack

import (
	"sync/atomic"
	"unsafe"

	"pagecache/internal/invariants"
)

// The highest bits of Head.stamp say whether it is settled which Views see the entry (package txn). An entry that
// replaces another one as a new state of its page begins unstamped, and refers to the one that it has replaced:
//
//	           BeginStamping           EndStamping
//	unstamped ───────────────▶ stamping ──────────▶ settled
//	    └──────────────────────────────────────────────▲
//	                          Settle
//
// Every goroutine that finds the entry takes these steps. All other entries are settled from the beginning.
const (
	unstampedBit = 1 << 63
	stampingBit  = 1 << 62 // only together with unstampedBit
)

// CanRefer reports whether an entry has room to refer to the one that it replaces.
func (h *Head) CanRefer() bool {
	k := h.Kind()
	return k == KindBase || k == KindDelta || k == KindCounter
}

// SetUnstamped makes an entry unstamped that is not published and that CanRefer. replaced, which may be nil, is the
// entry that it will replace; of a Delta it is the next older one.
func (h *Head) SetUnstamped(replaced *Head) {
	if h.Kind() != KindDelta {
		h.chain().Next = replaced
	}
	stamp := h.stamp.Load() | unstampedBit
	if h.place.index() == 0 {
		h.setStamp(stamp)
	} else {
		h.stamp.Store(stamp) // others try to take the entry (NewDelta)
	}
}

// IsUnstamped reports whether the entry is unstamped or stamping.
func (h *Head) IsUnstamped() bool { return h.stamp.Load()&unstampedBit != 0 }

// SettledTS returns the write timestamp, and whether the entry is settled; if not, the timestamp means nothing. It
// costs less than IsUnstamped and TS together.
func (h *Head) SettledTS() (ts uint64, settled bool) {
	stamp := h.stamp.Load()
	return stamp >> depthBits, stamp&unstampedBit == 0
}

// Replaced returns the entry that this one has replaced. It is that if the entry is not settled afterwards.
func (h *Head) Replaced() *Head {
	if h.Kind() == KindDelta {
		return h.Next()
	}
	return h.replaced().Load()
}

// replaced returns where an entry that is no Delta refers to the one that it has replaced.
func (h *Head) replaced() *atomic.Pointer[Head] {
	return (*atomic.Pointer[Head])(unsafe.Pointer(&h.chain().Next)) // which is a pointer, and nothing else
}

// Settle settles the entry, unless it is stamping, and reports whether it is settled.
func (h *Head) Settle() bool {
	for { // ends: the state goes forward only
		old := h.stamp.Load()
		switch {
		case old&unstampedBit == 0:
			return true
		case old&stampingBit != 0:
			return false
		}
		invariants.Jitter()
		if h.stamp.CompareAndSwap(old, old&^unstampedBit) {
			h.forget()
			return true
		}
	}
}

// BeginStamping makes the entry stamping, unless it is settled, and reports whether it is stamping.
func (h *Head) BeginStamping() bool {
	for { // ends: as in Settle
		old := h.stamp.Load()
		switch {
		case old&unstampedBit == 0:
			return false
		case old&stampingBit != 0, h.stamp.CompareAndSwap(old, old|stampingBit):
			return true
		}
	}
}

// IsStamping reports whether the entry is stamping.
func (h *Head) IsStamping() bool { return h.stamp.Load()&stampingBit != 0 }

// EndStamping settles an entry that is stamping, or settled.
func (h *Head) EndStamping() {
	old := h.stamp.Load()
	invariants.Jitter()
	if old&stampingBit != 0 && h.stamp.CompareAndSwap(old, old&^(unstampedBit|stampingBit)) {
		h.forget()
	}
}

// forget drops the reference of a settled entry that is no Delta, so that it keeps nothing alive.
func (h *Head) forget() {
	if h.Kind() != KindDelta {
		h.replaced().Store(nil)
	}
}
