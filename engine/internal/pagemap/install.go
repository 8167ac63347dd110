package pagemap

import (
	"fmt"

	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/txn"
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// Install replaces the head h of a slot by e, accounts for both, and completes the reservation of e's message. If the
// head is no longer h, it aborts the reservation and returns false. keep is the blob that e's own message points to, if
// any. The caller loaded h with Claim or Load of m.Clock before it reserved r, so e's LSN is above h's (pagestack, K1).
func (m *Map) Install(s *Slot, h, e *Head, r *iobuf.Reservation, keep format.BlobID) bool {
	if invariants.Enabled && h != nil && h.LSN >= e.LSN {
		panic(fmt.Sprintf("pagecache: entry at LSN %d above one at %d", e.LSN, h.LSN))
	}
	invariants.Jitter()
	won := false
	if txn.VersionOf(h) == txn.VersionOf(e) {
		won = m.Clock.Move(s, h, e)
	} else {
		won = m.Clock.Swap(s, h, e)
	}
	if !won {
		r.Abort()
		return false
	}
	// Rule 7: the accounts include the message before the reservation completes. The replaced messages count as live a
	// little longer, which keeps them where they are: a message that points to a blob is read from the disk, and no
	// stable message waits for that.
	m.store.Space.Live(e.Ptr())
	r.Complete()
	if e.Kind() != pagestack.KindDelta {
		m.dead(h, keep)
	}
	return true
}

// dead counts the messages of a page with head h, which may be nil, as dead, after they were replaced.
func (m *Map) dead(h *Head, keep format.BlobID) {
	h.Refs(func(old pagestack.Ref) {
		if old.Ptr.Blob {
			m.retireBlob(old, keep)
		}
		m.store.Space.Dead(old.Ptr)
	})
}

// retireBlob schedules the blob that a dead message points to for deletion, unless the page keeps it. The message still
// counts as live, so its segment is not recycled yet.
func (m *Map) retireBlob(old pagestack.Ref, keep format.BlobID) {
	ptr, err := m.store.Blob(old.LSN, old.Ptr)
	if err != nil {
		m.store.Reporter().Corruption("blob not removed before the next opening", err)
		return
	}
	if ptr.ID == keep {
		return
	}
	lsn := m.store.Log.Tail()
	if m.Clock.Open() == 0 || !m.pins.keep(keptBlob{ptr.ID, m.Clock.Moment(), lsn}) {
		m.blobs.Retire(ptr.ID, lsn, m.readers.Retire())
	}
}

// NextTS returns the timestamp of the state after h, which may be nil (rule 6).
func NextTS(h *Head) uint64 {
	if h == nil {
		return 1
	}
	return h.TS() + 1
}
