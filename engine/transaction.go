package engine

import (
	"bytes"
	"fmt"

	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/txn"
	"pagecache/engine/internal/values"
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// maxParts is the number of fragments of one page above which a transaction merges them.
const maxParts = 8

// enter begins a call of the transaction, which ends with leave if there is no error.
func (tx *Tx[P]) enter() error {
	if tx == nil || tx.pc == nil {
		return fmt.Errorf("no Tx given: %w", ErrTxEnded)
	}
	err := tx.pc.txs.CheckLoose(&tx.scope)
	switch {
	case err != nil:
	case tx.pc.core.closed.Load():
		err = ErrClosed
	case tx.t.ended:
		err = fmt.Errorf("it was committed: %w", ErrTxEnded)
	default:
		err = tx.t.failed
	}
	if err != nil {
		return err
	}
	if invariants.Enabled && !tx.t.inside.CompareAndSwap(false, true) {
		panic("engine: two goroutines use a Tx at once; each must begin its own")
	}
	if !tx.t.begun {
		tx.t.begun = true
		tx.t.reads.Reset(&tx.pc.pages.Clock)
	}
	return nil
}

// leave ends a call.
func (tx *Tx[P]) leave() {
	if invariants.Enabled {
		tx.t.inside.Store(false)
	}
}

// enterPage is enter for a call on a page.
func (tx *Tx[P]) enterPage(doing string, pid PageID) error {
	err := tx.enter()
	if err == nil && pid < FirstUserPage {
		tx.leave()
		err = ErrReserved
	}
	return describePage(doing, pid, err)
}

// mayWrite returns ErrReadOnly if the transaction cannot change pages.
func (tx *Tx[P]) mayWrite() error {
	if tx.t.view != nil || tx.pc.core.opts.ReadOnly {
		return ErrReadOnly
	}
	return nil
}

// look reads the state of a page, which counts as read from then on. Its slot is nil if no page can have the id.
func (tx *Tx[P]) look(doing string, pid PageID) (pg page, read txn.Read, err error) {
	if tx.t.view != nil {
		pg.id = pid
		pg.slot, pg.head, err = tx.pc.pages.At(pid, tx.t.view)
		return pg, read, describePage(doing, pid, tx.pc.core.opts.report.Corrupt(err))
	}
	changed, ok := pid, true
	if again, s := tx.t.reads.Again(pid); again != nil {
		pg, read = page{id: pid, slot: s, head: tx.pc.pages.Clock.Load(s)}, *again
		ok = txn.VersionOf(pg.head) == read.Version()
	} else {
		pg, err = tx.pc.finder.lookup(doing, pid)
		if err != nil || pg.slot == nil && pid > format.MaxPageID {
			return pg, read, err
		}
		if pg.slot == nil { // there may be a page before the transaction commits
			pg.slot = tx.pc.pages.Table.Make(pid)
		}
		tx.t.token.Add(pid)
		if pg.head, changed, ok = tx.t.reads.Read(pid, pg.slot); ok {
			read = tx.t.reads.Last()
		}
	}
	if !ok {
		err = describePage(doing, pid, tx.conflict(changed))
	}
	return pg, read, err
}

// Get returns a page as the transaction sees it: as it was at one moment together with all other pages that the
// transaction has read, with its own changes. Kind and Value are those of PageCache.Get, and valid until the Tx ends.
// Ptr is the state that was read, or zero if the transaction has changed the page. If another transaction has changed a
// page that was read before, so that this one does not go with it, the error is ErrConflict, and that of all later
// calls, too. Other errors are those of PageCache.Get, and ErrReserved for pages 0 and 1.
func (tx *Tx[P]) Get(pid PageID) (p Page[P], err error) {
	p.Value, p.Ptr, p.Kind, err = tx.getBack(pid)
	return // in the form of PageCache.Get
}

// getBack is Get. It is fast in a View if the page's value is resident, and was the same at the cut.
func (tx *Tx[P]) getBack(pid PageID) (value P, ptr PagePtr[P], kind PageKind, err error) {
	if h := tx.atCut(pid); h != nil {
		ptr = PagePtr[P]{pid, h.TS(), tx.pc.pages.Effect(h.LSN)}
		return pagestack.EntryOf[P](h).Frag, ptr, KindMaterialized, nil
	}
	p, err := tx.get(pid)
	return p.Value, p.Ptr, p.Kind, err
}

// get is Get of a transaction that writes, or of a page that has changed since the cut of a View, or is not resident.
func (tx *Tx[P]) get(pid PageID) (p Page[P], err error) {
	if err := tx.enterPage("get", pid); err != nil {
		return p, err
	}
	defer tx.leave()
	if w := tx.own(pid); w != nil {
		if w.isFreed() {
			p.Kind = KindFree
			return p, nil
		}
		p.Kind = KindMaterialized
		p.Value, err = tx.merge(w)
		return p, describePage("get", pid, err)
	}
	pg, _, err := tx.look("get", pid)
	if err != nil {
		return p, err
	}
	p.Ptr = ptrTo[P](pid, pg.head).in(&tx.pc.pages)
	if p.Kind = tx.pc.finder.kindOf(pid, pg.head); p.Kind != KindMaterialized {
		return p, nil
	}
	p.Value, err = tx.valueOf(pg)
	return p, err
}

func (w *ownWrite[P]) isFreed() bool { return len(w.parts) == 0 }

// merge returns the value that a changed page will have.
func (tx *Tx[P]) merge(w *ownWrite[P]) (value P, err error) {
	if w.merged {
		return w.value, nil
	}
	frags := make([]P, 0, len(w.parts)+1)
	if !w.whole {
		base, err := tx.valueOf(w.page)
		if err != nil {
			return value, err
		}
		frags = append(frags, base)
	}
	for i := range w.parts {
		frags = append(frags, w.parts[i].frag)
	}
	if value = frags[0]; len(frags) > 1 {
		err = tx.pc.values.Guard(true, w.id, func() error {
			value = tx.pc.m.Merge(frags)
			return nil
		})
	}
	if err == nil {
		w.value, w.merged = value, true
	}
	return value, err
}

// Link appends a delta to a page when the transaction commits. The store copies it. The page must exist, otherwise
// ErrNoPage. Other errors are those of Get, and those of PageCache.Link; after ErrConflict the transaction must begin
// anew.
func (tx *Tx[P]) Link(pid PageID, delta P) error {
	return tx.write("link", pid, func(w *ownWrite[P]) error {
		if len(w.parts) >= maxParts {
			value, err := tx.merge(w)
			if err != nil {
				return err
			}
			if err = tx.replace(w, value); err != nil {
				return err
			}
		}
		in := inlined[P]{}
		switch {
		case len(w.parts) > 0:
		case tx.pc.grows(w.head, delta):
			in.short = w.short[:]
		case pagestack.BeginsRun(w.head):
			in = tx.pc.inlineDelta
		}
		v, err := tx.copyIn(pid, delta, in)
		if err == nil {
			w.parts, w.merged = append(w.parts, v), false
		}
		return err
	})
}

// Replace replaces a whole page when the transaction commits. Errors are those of Link.
func (tx *Tx[P]) Replace(pid PageID, frag P) error {
	return tx.write("replace", pid, func(w *ownWrite[P]) error { return tx.replace(w, frag) })
}

// replace makes frag all that the transaction writes to a page.
func (tx *Tx[P]) replace(w *ownWrite[P], frag P) error {
	v, err := tx.copyIn(w.id, frag, tx.pc.inlineBase)
	if err != nil {
		return err
	}
	tx.discard(w)
	w.parts, w.whole, w.merged = append(w.parts[:0], v), true, false
	return nil
}

// Free frees a page when the transaction commits. Errors are those of Link.
func (tx *Tx[P]) Free(pid PageID) error {
	return tx.write("free", pid, func(w *ownWrite[P]) error {
		tx.discard(w)
		w.parts, w.whole, w.merged = nil, true, false
		return nil
	})
}

// write lets f change what the transaction writes to a page that exists.
func (tx *Tx[P]) write(doing string, pid PageID, f func(w *ownWrite[P]) error) error {
	if err := tx.enterPage(doing, pid); err != nil {
		return err
	}
	defer tx.leave()
	if err := tx.mayWrite(); err != nil {
		return describePage(doing, pid, err)
	}
	w := tx.own(pid)
	known := w != nil
	if !known {
		pg, read, err := tx.look(doing, pid)
		if err != nil {
			return err
		}
		if !pg.exists() {
			return describePage(doing, pid, ErrNoPage)
		}
		w = tx.newWrite()
		w.page, w.read = pg, read
	} else if w.isFreed() {
		return describePage(doing, pid, ErrNoPage)
	}
	err := f(w)
	if err == nil && !known {
		tx.add(w)
	}
	return describePage(doing, pid, err)
}

// allocate is Allocate within a call.
func (tx *Tx[P]) allocate(frag P) (PageID, error) {
	if err := tx.mayWrite(); err != nil {
		return 0, err
	}
	v, err := tx.copyIn(0, frag, tx.pc.inlineBase)
	if err != nil {
		return 0, err
	}
	w := tx.newWrite()
	w.parts, w.whole = append(w.parts, v), true
	if w.page, err = tx.pc.finder.take(); err != nil {
		tx.drop(w)
		return 0, err
	}
	w.fresh = true
	var changed PageID
	var ok bool
	if w.head, changed, ok = tx.t.reads.Read(w.id, w.slot); !ok {
		tx.drop(w)
		return 0, tx.conflict(changed)
	}
	w.read = tx.t.reads.Last()
	tx.add(w)
	return w.id, nil
}

// readsOnly reports whether the transaction has read no other page.
func (tx *Tx[P]) readsOnly(pid PageID) bool {
	for _, r := range tx.t.reads.All() {
		if r.Page != pid {
			return false
		}
	}
	return true
}

// copyIn makes what is written of a fragment, in memory that the transaction keeps. A part of a transaction that is
// longer than others goes into a blob, so that several fit into the group.
func (tx *Tx[P]) copyIn(pid PageID, frag P, in inlined[P]) (owned[P], error) {
	pc := tx.pc
	defer tx.scope.Release()
	v, err := pc.copyIn(&tx.scope, pid, frag, in)
	if err != nil {
		return v, err
	}
	const share = 4 // of the room of a group
	if p := &v.payload; p.Form != values.FormBlob && len(p.Body) > pc.values.Inline/share {
		return v, pc.values.ToBlob(p)
	} else if p.Form == values.FormZstd || pc.raw == nil && p.Form == values.FormPlain { // in scratch memory
		p.Body = bytes.Clone(p.Body)
	}
	return v, nil
}

// discard deletes the blobs of what would have been written to a page. After Close the next opening does.
func (tx *Tx[P]) discard(w *ownWrite[P]) {
	for i := range w.parts {
		if !tx.pc.core.closed.Load() {
			tx.pc.values.Discard(&w.parts[i].payload)
		}
	}
	clear(w.parts)
	w.parts = w.parts[:0]
}

// drop undoes what the transaction has done for a page.
func (tx *Tx[P]) drop(w *ownWrite[P]) {
	tx.discard(w)
	if w.fresh {
		tx.pc.pages.IDs.GiveBack(w.id)
	}
}
