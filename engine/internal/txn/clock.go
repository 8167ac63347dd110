package txn

import (
	"sync/atomic"

	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// A Clock tells which pages have not changed since a moment. Only readers move it. The zero Clock is ready for use. It
// must not be copied. Safe for concurrent use.
type Clock struct {
	Views
	_ [64]byte
	// now counts the moments. Its writers are the readers that take one (Tick). It only rises. A stale value that a
	// change is stamped with is lower than the current one, and still one that the clock showed after the change.
	now     atomic.Uint64
	_       [56]byte // readers write now; changes read it, and write stripes
	stripes [stripeCount]stripe
}

const (
	stripeBits  = 12
	stripeCount = 1 << stripeBits
)

// stripe stands for the pages with the same hash.
type stripe struct {
	// changing counts the changes that have begun and not ended. Written by Begin and End. *Edge: a change stores its
	// stamp, then lowers changing; a reader loads changing, then stamp.* So a reader that finds 0 finds the stamps of
	// all changes that it could have seen.
	changing atomic.Int64
	// stamp is the highest moment that a change was stamped with. Written by Stamp; it only rises.
	stamp atomic.Uint64
}

// of returns the stripe of a page. Adjacent pages, which are often changed together, have stripes in other cache lines.
func (c *Clock) of(page format.PageID) *stripe { return &c.stripes[stripeOf(page)] }

func stripeOf(page format.PageID) uint64 {
	return uint64(page) * 0x9e3779b97f4a7c15 >> (64 - stripeBits)
}

// Begin announces that a page may change. It precedes the moment of the change: the swap of a head, or Decide. If the
// page has changed, Stamp follows. End is the last of these calls.
func (c *Clock) Begin(page format.PageID) { c.of(page).changing.Add(1) }

// Stamp records that a page has changed.
func (c *Clock) Stamp(page format.PageID) {
	s := c.of(page)
	invariants.Jitter()
	now := c.now.Load()
	for { // ends: each turn but the last means that the stamp has risen, and it is soon as high as now
		old := s.stamp.Load()
		if old >= now || s.stamp.CompareAndSwap(old, now) {
			return
		}
	}
}

// End ends the change of a page.
func (c *Clock) End(page format.PageID) { c.of(page).changing.Add(-1) }

// tick returns a moment, which is now, and begins the next.
func (c *Clock) tick() uint64 { return c.now.Add(1) - 1 }

// unchanged reports whether the version of a page that the caller has just loaded was current at a moment, too. False
// means that this is not known.
func (c *Clock) unchanged(page format.PageID, moment uint64) bool {
	s := c.of(page)
	return s.changing.Load() == 0 && s.stamp.Load() <= moment
}
