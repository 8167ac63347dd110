package engine

import (
	"fmt"

	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/pagestack"
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// Link appends a delta to the page, if the page is still in the state old. It returns the new state and true; where
// another writer got there first, the current state and false, which is zero if the page does not exist (any more).
// An error means that nothing was done: ErrNoSpace, ErrFailed, ErrTooLarge, ErrClosed, ErrTxEnded, ErrUnsupported for pages 0 and
// 1. The write is in memory when Link returns; MakeStable(ptr.LastLSN()) makes it durable. The delta is the store's from
// then on. Safe for concurrent use.
func (pc *PageCache[P]) Link(tx *Tx, pid PageID, old PagePtr[P], delta P) (PagePtr[P], bool, error) {
	s, err := pc.writable(tx, "link", pid)
	if err != nil || s == nil {
		return PagePtr[P]{}, false, err
	}
	delta, err = pc.own(pid, delta)
	if err != nil {
		return PagePtr[P]{}, false, fmt.Errorf("link page %d: %w", pid, err)
	}
	p, err := pc.encode(tx, delta)
	if err != nil {
		return PagePtr[P]{}, false, logError(fmt.Sprintf("link page %d", pid), err)
	}
	pc.pace(tx, len(p.body))
	for {
		h, same := current(s, pid, old)
		if !same {
			pc.discard(&p)
			return ptrTo[P](pid, h), false, nil
		}
		r, err := pc.put(format.KindAppend, pid, &p, false)
		if err != nil {
			pc.discard(&p)
			return PagePtr[P]{}, false, logError(fmt.Sprintf("link page %d", pid), err)
		}
		e := pagestack.NewDelta(h, delta, r.LSN(), r.Ptr())
		if !pc.install(tx, pid, s, h, &e.Head, &r, p.blob) {
			e.Discard()
			continue // the head moved: either housekeeping, or current finds that the state is gone
		}
		ptr := ptrTo[P](pid, &e.Head)
		if e.Depth() > pc.limit {
			// Nothing depends on it: the page is whole without, and the next Link or Get tries again.
			_, _ = pc.consolidate(tx, pid, s, &e.Head)
		}
		pc.relieve(tx, pid)
		return ptr, true, nil
	}
}

// Replace puts frag in the place of the whole page, if the page is still in the state old. Results as for Link.
func (pc *PageCache[P]) Replace(tx *Tx, pid PageID, old PagePtr[P], frag P) (PagePtr[P], bool, error) {
	s, err := pc.writable(tx, "replace", pid)
	if err != nil || s == nil {
		return PagePtr[P]{}, false, err
	}
	frag, err = pc.own(pid, frag)
	if err != nil {
		return PagePtr[P]{}, false, fmt.Errorf("replace page %d: %w", pid, err)
	}
	p, err := pc.encode(tx, frag)
	if err != nil {
		return PagePtr[P]{}, false, logError(fmt.Sprintf("replace page %d", pid), err)
	}
	pc.pace(tx, len(p.body))
	for {
		h, same := current(s, pid, old)
		if !same {
			pc.discard(&p)
			return ptrTo[P](pid, h), false, nil
		}
		e, err := pc.rewrite(tx, pid, s, h, &p, frag, h.TS()+1)
		if err != nil {
			pc.discard(&p)
			return PagePtr[P]{}, false, logError(fmt.Sprintf("replace page %d", pid), err)
		}
		if e != nil {
			pc.relieve(tx, pid)
			return ptrTo[P](pid, &e.Head), true, nil
		}
	}
}

// rewrite writes the whole page and puts it in the place of h; nil if the head has moved. h nil is a page that was
// never allocated.
func (pc *PageCache[P]) rewrite(tx *Tx, pid PageID, s *slot, h *head, p *payload, frag P, ts uint64) (*entry[P], error) {
	r, err := pc.put(format.KindCompact, pid, p, false)
	if err != nil {
		return nil, err
	}
	e := pagestack.New[P](pagestack.KindBase, ts, 1, r.LSN(), r.Ptr())
	e.Frag = frag
	if !pc.install(tx, pid, s, h, &e.Head, &r, p.blob) {
		return nil, nil
	}
	return e, nil
}

// consolidate rewrites the page as one message, in the same state: the timestamp stays (rule 6). nil if the head has moved.
func (pc *PageCache[P]) consolidate(tx *Tx, pid PageID, s *slot, h *head) (*entry[P], error) {
	whole, _, err := pc.whole(pid, h) // several messages, so that it was merged, and is no view (rule 3)
	if err != nil {
		return nil, err
	}
	p, err := pc.encode(tx, whole)
	if err != nil {
		return nil, err
	}
	e, err := pc.rewrite(tx, pid, s, h, &p, whole, h.TS())
	if e == nil {
		pc.discard(&p)
		return nil, err
	}
	pc.counts.consolidations.Add(1)
	pc.counts.rewritten.Add(int64(format.HeaderSize + len(p.body)))
	return e, nil
}

// install swings the head from h to e, accounts for it and completes the reservation, or aborts that and reports false. blob is the one that e's own
// message points to, if it does. h was loaded before r was reserved, so that e's LSN is above h's (pagestack, K1).
func (pc *PageCache[P]) install(tx *Tx, pid PageID, s *slot, h, e *head, r *iobuf.Reservation, blob format.BlobID) bool {
	if invariants.Enabled && h != nil && h.LSN >= e.LSN {
		panic(fmt.Sprintf("pagecache: entry at LSN %d above one at %d", e.LSN, h.LSN))
	}
	invariants.Jitter()
	if !s.CompareAndSwap(h, e) {
		r.Abort()
		return false
	}
	// Rule 7: the accounts know before the reservation completes. What it replaces counts as alive a little longer, which keeps it where it is: a message that points to
	// a blob is read from the disk, and nothing that is stable is to wait for that.
	pc.space.Live(e.Ptr())
	r.Complete()
	if e.Kind() != pagestack.KindDelta && h != nil {
		h.Refs(func(old pagestack.Ref) {
			if old.Ptr.Blob {
				pc.doomBlob(old, blob)
			}
			pc.space.Dead(old.Ptr)
		})
	}
	pc.swapped(tx, pid, h, e)
	return true
}

// doomBlob has the blob that a dead message points to removed, unless the page keeps it. The message's segment is not recycled yet, as the message
// still counts as live.
func (pc *PageCache[P]) doomBlob(old pagestack.Ref, keep format.BlobID) {
	ptr, err := pc.blobAt(old)
	if err != nil {
		pc.opts.Logger.Warn("blob not removed before the next opening", "dir", pc.dir, "err", err)
		return
	}
	if ptr.ID != keep {
		pc.blobs.doom(ptr.ID, pc.log.Tail(), pc.txs.domain.Retire())
	}
}

// current returns the page's head and whether it is in the state old. The head is nil where the page does not exist.
func current[P any](s *slot, pid PageID, old PagePtr[P]) (*head, bool) {
	invariants.Jitter()
	h := s.Load()
	if h == nil || h.Kind() == pagestack.KindFree {
		return nil, false
	}
	return h, h.TS() == old.ts && pid == old.pid && !old.IsZero()
}

// writable returns the slot of a page that a caller wants to change, nil if it was never allocated.
func (pc *PageCache[P]) writable(tx *Tx, doing string, pid PageID) (*slot, error) {
	if err := pc.check(tx, doing, pid); err != nil {
		return nil, err
	}
	if pc.opts.ReadOnly {
		return nil, fmt.Errorf("%s page %d: %w", doing, pid, ErrReadOnly)
	}
	if pid < FirstUserPage {
		return nil, fmt.Errorf("%s page %d: %w: it is the store's own", doing, pid, ErrUnsupported)
	}
	s, h, err := pc.head(pid)
	if err != nil {
		return nil, fmt.Errorf("%s page %d: %w", doing, pid, err)
	}
	if h == nil {
		return nil, nil
	}
	return s, nil
}

// nextTS is the timestamp of the state after h, which may be nil (rule 6).
func nextTS(h *head) uint64 {
	if h == nil {
		return 1
	}
	return h.TS() + 1
}
