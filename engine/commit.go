package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"pagecache/engine/internal/pagemap"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/txn"
	"pagecache/segments/format"
)

// Commit makes all changes of the transaction in one step, and returns the LSN with which they are durable
// (MakeStable), 0 if there are none. If another transaction, or a call on a single page, has changed a page that this
// one has read or changed, nothing is done, and the error is an ErrConflict: a *ConflictError names the page. If the
// messages of the transaction take more than a quarter of a segment together, they are written in parts, and others may
// write between them; more than 4 GiB, or 65536 parts, are ErrTooLarge. Other errors are those of PageCache.Link. After
// Commit the values that were read stay valid until End, and all other calls of the transaction return ErrTxEnded.
func (tx *Tx[P]) Commit() (LSN, error) {
	if tx != nil && tx.t.managed {
		return 0, fmt.Errorf("commit: Update and View commit by themselves: %w", ErrTxEnded)
	}
	return tx.commit()
}

func (tx *Tx[P]) commit() (LSN, error) {
	lsn, err := tx.commitAll()
	return lsn, describe("commit", err)
}

func (tx *Tx[P]) commitAll() (LSN, error) {
	if err := tx.enter(); err != nil {
		return 0, err
	}
	defer tx.leave()
	defer tx.rollback() // of what was not done, also after a panic
	tx.t.ended = true
	tx.t.writes = slices.DeleteFunc(tx.t.writes, func(w *ownWrite[P]) bool { // made and freed: there is nothing to do
		unused := w.fresh && w.isFreed()
		if unused {
			tx.drop(w)
		}
		return unused
	})
	tx.t.roots = slices.DeleteFunc(tx.t.roots, func(r pagemap.RootChange) bool { return r.To == r.Was() })
	if len(tx.t.writes)+len(tx.t.roots) == 0 {
		return 0, nil
	}
	tx.pc.cleaner.Pace() // it delays the caller while the cleaner is behind
	if len(tx.t.writes) == 1 && len(tx.t.roots) == 0 {
		if w := tx.t.writes[0]; len(w.parts) <= 1 && tx.readsOnly(w.id) {
			return tx.commitPage(w)
		}
	}
	return tx.commitGroup()
}

// commitPage commits a transaction of one page and one message, as the calls on single pages do.
func (tx *Tx[P]) commitPage(w *ownWrite[P]) (LSN, error) {
	pc := tx.pc
	c := change[P]{on: ifState, old: ptrTo[P](w.id, w.head), token: tx.t.token}
	if w.fresh {
		c.on = ifOwned
	}
	if c.kind = w.kind(0); !w.isFreed() {
		c.take(w.parts[0])
	}
	w.parts = nil // apply discards the blob
	h, won, err := pc.apply(&tx.scope, w.page, &c)
	if err != nil {
		return 0, err
	}
	if !won {
		return 0, &ConflictError{Page: w.id}
	}
	lsn := h.LSN
	tx.settled(w, c.kind == format.KindFree, h)
	pc.mem.reclaim(&tx.scope, w.id)
	return lsn, nil
}

// kind returns the kind of the i-th message for a page.
func (w *ownWrite[P]) kind(i int) format.Kind {
	switch {
	case w.isFreed():
		return format.KindFree
	case w.whole && i == 0:
		return format.KindCompact
	}
	return format.KindAppend
}

// settled follows the commit of a page, whose head is h.
func (tx *Tx[P]) settled(w *ownWrite[P], freed bool, h *head) {
	w.parts, w.fresh = nil, false
	if freed {
		tx.pc.pages.IDs.Give(&tx.pc.txs.Domain, w.id)
	}
	if h.Depth() > tx.pc.limit {
		tx.pc.shorten(&tx.scope, w.page)
	}
}

// commitGroup commits a transaction of several pages, messages or roots.
func (tx *Tx[P]) commitGroup() (LSN, error) {
	pc := tx.pc
	slices.SortFunc(tx.t.writes, func(a, b *ownWrite[P]) int { return cmp.Compare(a.id, b.id) })
	c := &tx.t.commit
	c.Age, c.Reads = cmp.Or(tx.t.age, tx.TS()), nil
	c.Writes = slices.Grow(c.Writes[:0], len(tx.t.writes))[:len(tx.t.writes)]
	defer func() { clear(c.Writes) }()
	for i, w := range tx.t.writes {
		pc.fallback.Pass(w.id, tx.t.token)
		pc.gates.of(w.id).pass()
		if w.make == nil {
			w.make = w.entry
		}
		c.Writes[i] = pagemap.Write{Read: w.read, Parts: w.messages(), Entry: w.make}
		if w.whole {
			c.Writes[i].Prepare = func(h *head) { w.before.heap, w.before.views = pc.mem.weigh(h) }
		}
	}
	for i := range tx.t.roots {
		pc.fallback.Pass(pc.pages.Names(tx.t.roots[i].Name), tx.t.token)
	}
	pc.ids.CatchUp()
	lsn, err := tx.install(c)
	done := c.Writes
	for _, w := range tx.t.writes {
		for done[0].Read.Page != w.id { // a root
			done = done[1:]
		}
		if err != nil {
			w.forget(done[0].Head())
		} else {
			tx.installed(w, &done[0])
		}
	}
	if err == nil {
		pc.mem.reclaim(&tx.scope, c.Writes[0].Read.Page)
	}
	return lsn, err
}

// install makes the changes of a commit, and those of the roots that the transaction changes.
func (tx *Tx[P]) install(c *pagemap.Commit) (lsn LSN, err error) {
	var roots *pagemap.Renaming
	if len(tx.t.roots) > 0 {
		roots, err = tx.pc.pages.Rename(c, tx.t.roots, &tx.t.reads)
		defer roots.End() // also after a panic
	}
	if err == nil {
		all := tx.t.reads.All()
		c.Reads = make([]txn.Read, 0, max(0, len(all)-len(tx.t.writes))) // other goroutines look at it, also later
		for _, r := range all {
			if tx.own(r.Page) == nil && !roots.Changes(r.Page) {
				c.Reads = append(c.Reads, r)
			}
		}
		lsn, err = tx.pc.pages.Commit(c)
	}
	if err != nil {
		if changed := (*ConflictError)(nil); errors.As(err, &changed) {
			err = tx.conflict(changed.Page)
		}
		return 0, err
	}
	if roots != nil {
		roots.Won()
		roots.Messages(tx.scope.Wrote)
	}
	return lsn, nil
}

// messages returns the messages for a page.
func (w *ownWrite[P]) messages() []pagemap.Part {
	w.message[0].Kind = format.KindFree
	parts := w.message[:]
	if len(w.parts) > 1 {
		parts = make([]pagemap.Part, len(w.parts))
	}
	for i := range w.parts {
		p := &w.parts[i].payload
		parts[i] = pagemap.Part{Kind: p.Kind(w.kind(i)), Body: p.Body, Blob: p.Blob}
	}
	return parts
}

// entry makes the new entry of a page, on top of head h.
func (w *ownWrite[P]) entry(h *head, msgs []pagestack.Ref) *head {
	for i, msg := range msgs {
		c := change[P]{kind: w.kind(i)}
		if !w.isFreed() {
			c.take(w.parts[i])
		}
		h = c.entry(h, msg)
	}
	return h
}

// forget drops the entries of a page that has not changed, from the newest one on.
func (w *ownWrite[P]) forget(h *head) {
	for i := len(w.parts) - 1; i >= 0 && h != nil && h.Kind() == pagestack.KindDelta; i-- {
		e := h
		h = h.Next()
		pagestack.EntryOf[P](e).Discard()
	}
}

// installed follows the commit of a page of a group: it counts what became resident, and what was written.
func (tx *Tx[P]) installed(w *ownWrite[P], done *pagemap.Write) {
	var few [maxParts]*head
	newest, entries := done.Head(), few[:len(done.Parts)]
	for e, i := newest, len(entries)-1; i >= 0; i-- {
		if entries[i] = e; i > 0 {
			e = e.Next()
		}
	}
	below := done.Below()
	for i, e := range entries {
		m := measured{}
		if !w.isFreed() {
			m.size = w.parts[i].size
		}
		if i == 0 && w.whole {
			m.heap, m.views = w.before.heap, w.before.views
		}
		n := len(done.Parts[i].Body)
		if done.Parts[i].Kind.Delta() {
			n += format.PrevSize
		}
		tx.scope.Wrote(n)
		tx.pc.mem.swapped(&tx.scope, w.id, below, e, m)
		below = e
	}
	tx.settled(w, w.isFreed(), newest)
}

// rollback undoes what the transaction has done and not committed.
func (tx *Tx[P]) rollback() {
	for _, w := range tx.t.writes {
		tx.drop(w)
		*w = ownWrite[P]{make: w.make} // it is used again, and keeps nothing
	}
	clear(tx.t.roots)
	tx.t.writes, tx.t.roots, tx.t.index = tx.t.writes[:0], tx.t.roots[:0], nil
}

// End ends the Tx. Changes of the transaction that were not committed are not made. Call it once: the store uses an
// ended Tx again at once, so a second End may end another caller's Tx, whose values may then change under it. In builds
// with the invariants tag each Tx is used once: a second End does nothing, and other calls fail with ErrTxEnded. End of
// a nil Tx does nothing. In the function of Update or View, End does nothing either: they end the Tx.
func (tx *Tx[P]) End() {
	if tx != nil && !tx.t.managed {
		tx.end()
	}
}

func (tx *Tx[P]) end() {
	if tx.t.begun || tx.t.managed {
		tx.reset()
	}
	tx.scope.End()
}

func (tx *Tx[P]) reset() {
	if tx.t.begun && tx.scope.S().Slot.Present() {
		tx.rollback()
		tx.t.reads.Reset(nil)
		const keptReads, keptWrites = 1024, 16
		if cap(tx.t.reads.All()) > keptReads {
			tx.t.reads = txn.Reads{}
		}
		if cap(tx.t.writes) > keptWrites || cap(tx.t.commit.Writes) > keptWrites {
			tx.t.writes, tx.t.commit = nil, pagemap.Commit{}
		}
		tx.t.begun, tx.t.ended, tx.t.failed = false, false, nil
	}
	tx.pc.pages.EndView(tx.t.view)
	tx.t.age, tx.t.token, tx.t.managed, tx.t.view = 0, nil, false, nil
}

// Update calls f with a new Tx and commits the transaction. After a conflict it does so again, with growing delays,
// until ctx ends; older transactions win over younger ones. After 8 conflicts, one Update at a time makes calls of
// other goroutines that change a page that f has read wait until it has ended, but for 10 ms at most. f may be called
// many times, and must have no effects outside of the Tx. If f returns an error, nothing is done, and Update returns
// that error, unless a call of f has found a conflict. It returns the LSN of Commit. Other errors are those of Begin
// and Commit, and that of ctx, which wraps ErrConflict too. Safe for concurrent use.
func (pc *PageCache[P]) Update(ctx context.Context, f func(tx *Tx[P]) error) (LSN, error) {
	return pc.attempts(ctx, f)
}

// View calls f, once, with a new Tx whose own writing calls return ErrReadOnly. Calls of PageCache with this Tx are no
// part of the View: they show and change the present state. All that f reads with the calls of the Tx is as it was at
// one moment, when View began, whatever changes meanwhile: there are no conflicts, and no goroutine waits for another.
// For that moment the store keeps at most one old version of each page that is changed before f returns (Stats().Txs).
// Errors are that of f, and those of Begin and of ctx, if that has ended before. Safe for concurrent use.
func (pc *PageCache[P]) View(ctx context.Context, f func(tx *Tx[P]) error) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("view: %w", err)
	}
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	tx.t.view, tx.t.managed = pc.pages.BeginView(&tx.scope.S().Slot, pc.ids.Next), true
	defer tx.end()
	return f(tx)
}

func (pc *PageCache[P]) attempts(ctx context.Context, f func(*Tx[P]) error) (LSN, error) {
	if ctx.Err() != nil { // which takes no lock
		return 0, fmt.Errorf("update: %w", context.Cause(ctx))
	}
	age, b := uint64(0), txn.Backoff{Fallback: &pc.fallback}
	defer b.End()
	for {
		lsn, again, err := pc.attempt(&age, b.Token(), f)
		if !again {
			return lsn, err
		}
		if cause := b.Wait(ctx); cause != nil {
			return 0, fmt.Errorf("update: %w, after %d conflicts: %w", cause, b.Conflicts(), err)
		}
	}
}

// attempt is one attempt of Update. All of them have the age of the first. again says that there was a conflict.
func (pc *PageCache[P]) attempt(age *uint64, token *txn.Token, f func(*Tx[P]) error) (lsn LSN, again bool, err error) {
	tx, err := pc.Begin()
	if err != nil {
		return 0, false, err
	}
	if *age == 0 {
		*age = tx.TS()
	}
	tx.t.age, tx.t.token, tx.t.managed = *age, token, true
	defer tx.end()
	if err = f(tx); tx.t.failed != nil {
		return 0, true, tx.t.failed
	}
	if err != nil {
		return 0, false, err
	}
	lsn, err = tx.commit()
	return lsn, errors.Is(err, ErrConflict), err
}
