package engine

import (
	"bytes"
	"fmt"

	"pagecache/engine/internal/clean"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagemap"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/scope"
	"pagecache/engine/internal/values"
	"pagecache/internal/invariants"
	"pagecache/lru"
	"pagecache/segments"
	"pagecache/segments/format"
)

// mover moves pages for the cleaner: it implements clean.Pages. Its methods run under the cleaner's mutex.
type mover[P any] struct {
	pc *PageCache[P]
	// tx is scratch memory for encoding. It is never inside the epoch: only the cleaner itself recycles what it looks
	// at.
	tx scope.Scope
	// The change that Move makes. It is kept, so that a move allocates nothing beside the new entry.
	c      change[P]
	pid    PageID
	extent clean.Extent
	cold   bool // messages of the page had to be read
	warm   bool // its messages in the extent were in the kernel's page cache
	warmth clean.Warmth
	look   [atOnce]looked // scratch memory of In
}

// inside reports whether any message of the page lies in the extent.
func inside(h *head, e clean.Extent) bool {
	l := looked{next: h}
	for l.next != nil { // ends: a chain does
		l.step(e)
	}
	return l.inside
}

const atOnce = 64 // pages whose entries In looks at together

// In implements clean.Pages. Most of the pages of a victim have left it, and neither their slots nor their entries are
// in the processor's caches. So it goes down the chains of many pages together, in short loops in which the processor
// waits for several entries at a time, before it visits the pages that are left.
func (v *mover[P]) In(list segments.PageList, e clean.Extent, visit func(PageID) bool) {
	v.warmth.Look(e)
	n := 0
	for pid := range list.All() {
		if v.look[n].pid = pid; n+1 < atOnce {
			n++
			continue
		}
		if n = 0; !v.visitInside(v.look[:], e, visit) {
			return
		}
	}
	v.visitInside(v.look[:n], e, visit)
}

// looked is a page that In looks at.
type looked struct {
	pid    PageID
	slot   *slot // nil if there is no need to look at it
	next   *head // the entry to look at next; nil: it is known whether the page has a message in the extent
	inside bool  // it has one, or may have one
}

// step looks at an entry of a page. LSNs fall from each entry to the next (pagestack, K1).
func (l *looked) step(e clean.Extent) {
	h := l.next
	l.next = nil
	switch {
	case h.LSN < e.Base || h.Lowest() >= e.End(): // all messages of the page are older, or newer
	case h.Kind() != pagestack.KindDelta:
		h.Refs(func(r pagestack.Ref) { l.inside = l.inside || e.Contains(r.Ptr.Off) })
	default:
		if l.inside = e.Contains(h.Ptr().Off); !l.inside {
			l.next = h.Next()
		}
	}
}

// visitInside visits the pages that may have a message in the extent. It returns false as soon as visit does.
func (v *mover[P]) visitInside(look []looked, e clean.Extent, visit func(PageID) bool) bool {
	for i := range look { // the slots
		l := &look[i]
		l.slot, l.next, l.inside = v.pc.pages.Table.Get(l.pid), nil, true
		if l.slot != nil {
			if off, ok := l.slot.Place(); ok { // which needs no look at an entry
				l.slot, l.inside = nil, e.Contains(off)
			}
		}
	}
	for i := range look { // the heads
		if l := &look[i]; l.slot != nil {
			l.next = v.pc.pages.Clock.Load(l.slot)
			l.inside = l.next == nil // which is left to visit
		}
	}
	for left := true; left; { // ends: a chain does
		left = false
		for i := range look {
			if l := &look[i]; l.next != nil {
				l.step(e)
				left = true
			}
		}
	}
	for _, l := range look {
		if l.inside && !visit(l.pid) {
			return false
		}
	}
	return true
}

// Cost implements clean.Pages. Errors cost nothing here; Move reports them.
func (v *mover[P]) Cost(pid PageID, e clean.Extent) (n int64, blob bool) {
	pc := v.pc
	_, h, err := pc.pages.FindNow(pid)
	if err != nil || h == nil || !inside(h, e) {
		return 0, false
	}
	if h.Depth() == 1 { // it is copied as it is, or a pointer to the same blob is written
		return int64(format.AlignUp(int(h.Ptr().Len))), false
	}
	value, _, err := pc.value(pid, h) // often shorter than its fragments
	if err != nil {
		return 0, false
	}
	defer v.tx.Release()
	b, err := pc.appended(&v.tx, pid, value)
	if err != nil {
		return 0, false
	}
	if z := pc.values.Compressed(&v.tx, b); z != nil {
		b = z
	}
	return int64(format.AlignUp(format.HeaderSize + len(b))), len(b) > pc.values.Inline
}

// Move implements clean.Pages. The page's state stays, and so do its resident values, unless they may be views of the
// old place.
func (v *mover[P]) Move(pid PageID, e clean.Extent) (n int64, cold bool, err error) {
	pc := v.pc
	s, h, err := pc.pages.FindNow(pid)
	if pagemap.IsPending(err) {
		return 0, false, clean.ErrUnknown
	}
	if err != nil || h == nil {
		return 0, false, err
	}
	if v.c.prepare == nil {
		v.c = change[P]{on: ifOwned, sameState: true, urgent: true, prepare: v.prepare, make: v.make}
	}
	v.pid, v.extent, v.cold = pid, e, false
	defer v.forget()
	h, moved, err := pc.apply(&v.tx, page{id: pid, slot: s, head: h}, &v.c)
	if !moved {
		return 0, v.cold, err
	}
	if v.warm {
		v.warmth.Moved(h.LSN, h.Ptr())
	}
	if st := v.tx.S(); st.Pressure != lru.PressureNone { // from copies of views; the callers of the store evict
		st.Pressure = lru.PressureNone
		pc.mem.policy.Kick()
	}
	return int64(format.AlignUp(format.HeaderSize + len(v.c.payload.Body))), v.cold, nil
}

// containedMover is a mover for the store's own goroutine: a panic of the Materializer is an event, and the page's
// error.
type containedMover[P any] struct{ *mover[P] }

// Cost implements clean.Pages.
func (v containedMover[P]) Cost(pid PageID, e clean.Extent) (n int64, blob bool) {
	_ = contain(v.pc.core.opts.report, "measuring", pid, func() error {
		n, blob = v.mover.Cost(pid, e)
		return nil
	})
	return n, blob
}

// Move implements clean.Pages.
func (v containedMover[P]) Move(pid PageID, e clean.Extent) (n int64, cold bool, err error) {
	err = contain(v.pc.core.opts.report, "moving", pid, func() (err error) {
		n, cold, err = v.mover.Move(pid, e)
		return err
	})
	return n, cold, err
}

// forget drops the values of the last move.
func (v *mover[P]) forget() {
	var none P
	v.c.payload, v.c.frag, v.c.made = values.Payload{}, none, nil
	v.tx.Release()
}

// prepare computes the change for the page with head h.
func (v *mover[P]) prepare(h *head) (bool, error) {
	if h == nil || !inside(h, v.extent) {
		return false, nil
	}
	v.cold, v.warm = v.cold || h.Kind() == pagestack.KindOnDisk, true
	h.Refs(func(r pagestack.Ref) {
		v.warm = v.warm && (!v.extent.Contains(r.Ptr.Off) || v.warmth.Was(r.Ptr))
	})
	return true, v.pc.prepareMove(&v.tx, v.pid, h, &v.c)
}

func (v *mover[P]) make(h *head, msg pagestack.Ref) *head { return movedTo(h, msg, &v.c) }

// prepareMove sets the message and the resident value of the page with head h at its new place. Nothing of them aliases
// the old place (rule 3). A page that is a blob keeps the blob.
func (pc *PageCache[P]) prepareMove(tx *scope.Scope, pid PageID, h *head, c *change[P]) (err error) {
	var none P
	c.kind, c.payload, c.frag, c.size, c.sum = format.KindCompact, values.Payload{}, none, 0, invariants.Sum{}
	c.made = nil
	switch h.Kind() {
	case pagestack.KindFree:
		c.kind = format.KindFree
		return nil
	case pagestack.KindRoot:
		c.kind, c.payload.Body = format.KindRoot, format.AppendRoot(nil, h.Root())
		return nil
	case pagestack.KindCounter:
		c.kind, c.payload.Body = format.KindCounter, format.AppendCounter(nil, h.Ext().Counter)
		return nil
	}
	if h.Depth() == 1 && h.Ptr().Blob {
		ptr, err := pc.core.store.Blob(h.LSN, h.Ptr())
		err = logstore.InPage(pid, err)
		if h.Kind() != pagestack.KindOnDisk {
			c.frag = pagestack.EntryOf[P](h).Frag // in the blob, which stays where it is, or on the heap
			c.size, c.sum = pc.mem.sizeOf(h), pagestack.EntryOf[P](h).Sum
		}
		c.payload = values.Payload{Body: ptr.Append(nil), Form: values.FormBlob, Blob: ptr.ID, Kept: true}
		return err
	}
	value, view, err := pc.value(pid, h)
	if err != nil {
		return err
	}
	c.frag = value
	resident := h.TailEntry().Kind() != pagestack.KindOnDisk
	if !view {
		if resident {
			c.size, c.sum = pc.mem.size(value), sumOf(pc.m, value)
		}
		if h.HasRoom() { // the page keeps its room, and not the entries below
			c.made = pc.copyRoomy(h)
			c.frag, c.size = c.made.Frag, c.made.Ext.Size
		}
		c.payload, err = pc.encode(tx, pid, value)
		return err
	}
	encoded, err := pc.appended(tx, pid, value)
	if err == nil && resident { // before a blob may be written: Decode may fail
		if c.frag, err = pc.m.Decode(clip(bytes.Clone(encoded))); err != nil {
			return fmt.Errorf("decode page %d, to move it: %w", pid, err)
		}
		c.size, c.sum = pc.mem.size(c.frag), sumOf(pc.m, c.frag)
	}
	if err == nil {
		c.payload, err = pc.values.Pack(tx, encoded)
	}
	return err
}

// movedTo makes the entry of the page with head h at its new place. A page whose base is not resident has nothing
// resident from now on.
func movedTo[P any](h *head, msg pagestack.Ref, c *change[P]) *head {
	switch h.TailEntry().Kind() {
	case pagestack.KindFree:
		return pagestack.NewFree(h.TS(), msg.LSN, msg.Ptr)
	case pagestack.KindOnDisk:
		return pagestack.NewOnDisk(h.TS(), []pagestack.Ref{msg})
	case pagestack.KindRoot:
		return pagestack.NewRoot(h.TS(), h.Root(), msg)
	case pagestack.KindCounter:
		return pagemap.NewCounter(h.TS(), h.Ext().Counter, msg)
	}
	e := c.made
	if e == nil {
		e = &entry[P]{Frag: c.frag}
	}
	e.InitBase(h.TS(), msg)
	e.Sum = c.sum
	if c.payload.Kept {
		e.Ext = h.Ext()
	}
	return &e.Head
}

// Unknown implements clean.Pages.
func (v *mover[P]) Unknown() bool { return v.pc.pages.Unknown() }

// Written implements clean.Pages.
func (v *mover[P]) Written() int64 { return v.pc.txs.Written() + v.pc.mem.counts.rewritten.Load() }

// WrittenByCallers implements clean.Pages.
func (v *mover[P]) WrittenByCallers() int64 { return v.pc.txs.Written() }

// Settle implements clean.Pages.
func (v *mover[P]) Settle() {
	v.warmth.Read()
	if v.pc.mem.budget.Settle(&v.tx.S().Account) != lru.PressureNone {
		v.pc.mem.policy.Kick()
	}
}

// AttemptGC performs one cleaning step: it recycles empty segments or, if there are none, relocates the live data of
// the best victim. It reports whether it made progress. Cleaning also goes on in the background. If SegmentMode is
// SegmentModeLinear, it only removes blobs that no page refers to. Errors: ErrClosed, ErrReadOnly, ErrNoSpace,
// ErrFailed, ErrCorrupt if a page that must be moved is corrupt. Safe for concurrent use.
func (pc *PageCache[P]) AttemptGC() (bool, error) {
	call, err := pc.core.enter()
	if err != nil {
		return false, describe("clean", err)
	}
	defer call.End()
	if pc.core.opts.ReadOnly {
		return false, describe("clean", ErrReadOnly)
	}
	did, err := pc.cleaner.Step()
	return did, describe("clean", err)
}

// recycleEmpty gives the slots of empty segments back when the store is closed, in another goroutine. It returns a
// channel that is closed when that has ended. Unless quiet, with no Tx and no cleaner at work, it does nothing.
func (c *core) recycleEmpty(cleaner *clean.Cleaner, quiet bool) <-chan struct{} {
	done := make(chan struct{})
	if o := &c.opts; !quiet || o.ReadOnly || o.Temporary || c.store.Log.Err() != nil {
		close(done)
		return done
	}
	go func() {
		defer close(done)
		if err := cleaner.RecycleEmpty(); err != nil {
			c.opts.report.Background("space of empty segments not given back", c.store.LogFile(), err)
		}
	}()
	return done
}
