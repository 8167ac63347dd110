package engine

import (
	"runtime"

	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/pagemap"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/scope"
	"pagecache/engine/internal/txn"
	"pagecache/engine/internal/values"
	"pagecache/internal/invariants"
	"pagecache/mmapread"
	"pagecache/segments/format"
)

// Link appends a delta to the page if the page is still in the state old. It returns the new state and true. If another
// writer got there first, it returns the current state and false; that state is zero if the page does not exist, is
// free or holds a root: do not retry then. The write is in memory when Link returns; MakeStable(ptr.LastLSN()) makes it
// durable. The store copies delta, which may be, or share memory with, a value that Get returned; the caller may change
// it when Link has returned. After an error nothing was done. Errors: ErrNoSpace, ErrFailed, ErrTooLarge, ErrClosed,
// ErrReadOnly, ErrTxEnded, ErrReserved, ErrCorrupt, and that of Decode if it refuses what Append has written. Safe for
// concurrent use.
func (pc *PageCache[P]) Link(tx *Tx[P], pid PageID, old PagePtr[P], delta P) (PagePtr[P], bool, error) {
	return pc.write(tx.base(), pid, delta, change[P]{kind: format.KindAppend, old: old})
}

// Replace replaces the whole page by frag if the page is still in the state old. Results and errors are those of Link.
func (pc *PageCache[P]) Replace(tx *Tx[P], pid PageID, old PagePtr[P], frag P) (PagePtr[P], bool, error) {
	return pc.write(tx.base(), pid, frag, change[P]{kind: format.KindCompact, old: old})
}

// write encodes a fragment and applies a change with it to an existing page.
func (pc *PageCache[P]) write(tx *scope.Scope, pid PageID, frag P, c change[P]) (PagePtr[P], bool, error) {
	pg, err := pc.finder.writable(tx, verb(c.kind), pid)
	if err != nil || !c.meets(pid, pg.head) { // it cannot win any more (rule 6), so nothing is copied
		return livePtr[P](pid, pg.head), false, err
	}
	defer tx.Release()
	v, err := owned[P]{}, error(nil)
	switch {
	case c.kind != format.KindAppend:
		v, err = pc.copyIn(tx, pid, frag, pc.inlineBase)
	case pc.grows(pg.head, frag) && !mmapread.MayView(pc.raw(frag)):
		v, err = pc.lend(tx, frag)
	case pagestack.BeginsRun(pg.head):
		v, err = pc.copyIn(tx, pid, frag, pc.inlineDelta)
	default:
		v, err = pc.copyIn(tx, pid, frag, inlined[P]{})
	}
	if err != nil {
		return PagePtr[P]{}, false, describePage(verb(c.kind), pid, err)
	}
	c.take(v)
	pc.cleaner.Pace() // it delays the caller while the cleaner is behind
	h, won, err := pc.apply(tx, pg, &c)
	if err != nil {
		return PagePtr[P]{}, false, describePage(verb(c.kind), pid, err)
	}
	if !won {
		return livePtr[P](pid, h).in(&pc.pages), false, nil
	}
	ptr := ptrTo[P](pid, h)
	if h.Depth() > pc.limit {
		pc.shorten(tx, pg)
	}
	pc.mem.reclaim(tx, pid)
	return ptr, true, nil
}

// condition is the condition on a page's head under which a change is made.
type condition uint8

const (
	ifState condition = iota // the page exists and is in the state that the caller saw
	ifHead                   // the head is still the one that the change was made from
	ifOwned                  // nothing: the caller alone changes the page, or the change is computed anew for each head
)

// String returns the name of the condition.
func (c condition) String() string { return enumName("condition", int(c), "state", "head", "owned") }

// change is a change of one page: the message to write and the entry to install.
type change[P any] struct {
	kind    format.Kind // KindAppend, KindCompact, KindFree, KindRoot or KindCounter
	payload values.Payload
	frag    P              // the new fragment, for KindAppend and KindCompact
	size    int64          // Size of frag, if that will be resident
	sum     invariants.Sum // of frag, if that will be resident
	made    *entry[P]      // for KindCompact and KindAppend: the entry that holds frag, if there is one already
	// grow, if set, makes the entry for KindAppend, with a copy of frag.
	grow    func(h *head, delta P, msg pagestack.Ref) *entry[P]
	root    format.Root // the new contents, for KindRoot
	counter uint64      // the new contents, for KindCounter
	on      condition
	old     PagePtr[P] // for ifState
	token   *txn.Token // of the transaction, if it has one
	from    *head      // for ifHead
	// sameState keeps the page's timestamp: the page's contents do not change (rule 6).
	sameState bool
	urgent    bool // the message makes room: it may use the reserve
	// prepare, if set, computes the change for the head h, which may be nil. It returns false if there is nothing to
	// do.
	prepare func(h *head) (bool, error)
	// make, if set, makes the entry instead of entry.
	make func(h *head, msg pagestack.Ref) *head
}

// meets reports whether the page with head h meets the condition.
func (c *change[P]) meets(pid PageID, h *head) bool {
	switch c.on {
	case ifState:
		return isPage(h) && h.TS() == c.old.ts && pid == c.old.pid && !c.old.IsZero()
	case ifHead:
		return h == c.from || h != nil && h.Is(c.from)
	}
	return true
}

// take makes the change one to a fragment that a caller has given.
func (c *change[P]) take(v owned[P]) {
	c.frag, c.size, c.payload, c.made, c.grow, c.sum = v.frag, v.size, v.payload, v.entry, v.grow, v.sum
}

// bodyLen returns the length in bytes of the body of the message.
func (c *change[P]) bodyLen() int {
	if c.kind == format.KindAppend {
		return format.PrevSize + len(c.payload.Body)
	}
	return len(c.payload.Body)
}

// entry makes the entry for the message msg on top of h, unpublished.
func (c *change[P]) entry(h *head, msg pagestack.Ref) *head {
	if c.make != nil {
		return c.make(h, msg)
	}
	ts := pagemap.NextTS(h)
	if c.sameState {
		ts = h.TS()
	}
	switch c.kind {
	case format.KindAppend:
		e := c.made
		switch {
		case c.grow != nil:
			if e = c.grow(h, c.frag, msg); e.IsGrown() {
				return &e.Head
			}
		case e != nil: // no earlier turn has published it
			e.InitDelta(h, c.frag, msg.LSN, msg.Ptr)
		default:
			e = pagestack.NewDelta(h, c.frag, msg.LSN, msg.Ptr)
		}
		e.Sum = c.sum
		return &e.Head
	case format.KindFree:
		return pagestack.NewFree(ts, msg.LSN, msg.Ptr)
	case format.KindRoot:
		return pagestack.NewRoot(ts, c.root, msg)
	case format.KindCounter:
		return pagemap.NewCounter(ts, c.counter, msg)
	}
	e := c.made
	if e != nil { // as above
		e.InitBase(ts, msg)
	} else {
		e = pagestack.New[P](pagestack.KindBase, ts, 1, msg.LSN, msg.Ptr)
		e.Frag = c.frag
	}
	e.Sum = c.sum
	return &e.Head
}

// patientTurns is the number of turns that housekeeping loses to writers before it closes the gate.
const patientTurns = 2

// apply makes a change: it loads the head, reserves the message, makes the entry, installs it, and starts again if the
// head moved meanwhile. It returns the new head and true. If the page does not meet the condition, or there is nothing
// to do, it returns the current head and false. After an error nothing was done. The loop ends because each failed turn
// means that another goroutine has changed the page. No code of the caller runs between the reservation and its end: a
// panic there would stop the log for ever.
func (pc *PageCache[P]) apply(tx *scope.Scope, pg page, c *change[P]) (*head, bool, error) {
	g := pc.gates.of(pg.id)
	if !c.sameState && c.kind != format.KindCounter {
		pc.fallback.Pass(pg.id, c.token)
	}
	for turn := 0; ; turn++ {
		if !c.sameState && c.kind != format.KindCounter { // a note may be what the goroutine at the gate waits for
			g.pass()
		}
		if turn == patientTurns && c.sameState && c.on == ifOwned { // the cleaner
			g.mu.Lock()
			defer g.mu.Unlock()
			g.shut()
			defer g.open()
		}
		h, ok := c.claim(&pc.pages.Clock, pg)
		if !ok {
			pc.values.Discard(&c.payload)
			return h, false, nil
		}
		if c.prepare != nil {
			if do, err := c.prepare(h); err != nil || !do {
				return h, false, err
			}
		}
		w := measured{size: c.size}
		if c.kind != format.KindAppend {
			w.heap, w.views = pc.mem.weigh(h)
		}
		r, err := pc.reserve(pg.id, h, c)
		if err != nil {
			pc.values.Discard(&c.payload)
			return nil, false, err
		}
		e := c.entry(h, pagestack.Ref{LSN: r.LSN(), Ptr: r.Ptr()})
		if pc.install(pg, h, e, c, &r) {
			if !c.sameState && c.kind != format.KindCounter {
				tx.Wrote(c.bodyLen())
			}
			pc.mem.swapped(tx, pg.id, h, e, w)
			return e, true, nil
		}
		if e.Kind() == pagestack.KindDelta {
			pagestack.EntryOf[P](e).Discard()
		}
		if c.prepare != nil {
			pc.values.Discard(&c.payload)
		}
	}
}

// politeTurns is the number of times that housekeeping yields to a transaction that changes the page, before it aborts
// it.
const politeTurns = 16

// claim returns the head of a page, and whether it meets the condition. If it does, the slot held that head, and not
// the intent of a transaction: one that was still preparing is aborted, as if the change had come before it.
func (c *change[P]) claim(pages *txn.Clock, pg page) (*head, bool) {
	if c.sameState {
		for turn := 0; turn < politeTurns && txn.IsClaimed(pg.slot); turn++ {
			runtime.Gosched()
		}
	}
	if h := pg.head; h != nil && pg.slot.Holds(h) && c.meets(pg.id, h) { // most often
		return h, true
	}
	if h := pages.Load(pg.slot); !c.meets(pg.id, h) { // nothing to do: no reason to abort a transaction
		return h, false
	}
	h := pages.Claim(pg.slot)
	return h, c.meets(pg.id, h)
}

// install installs the new entry e of a change over head h, and shows the clock of the transactions that the page has
// changed. It returns false, and has aborted the reservation, if the head is no longer h.
func (pc *PageCache[P]) install(pg page, h, e *head, c *change[P], r *iobuf.Reservation) bool {
	if c.sameState {
		return pc.pages.Install(pg.slot, h, e, r, c.payload.Blob)
	}
	pc.pages.Clock.Begin(pg.id)
	won := pc.pages.Install(pg.slot, h, e, r, c.payload.Blob)
	if won {
		pc.pages.Clock.Stamp(pg.id)
	}
	pc.pages.Clock.End(pg.id)
	return won
}

// reserve reserves the message of a change of the page with head h, and writes its body.
//
// A delta names the newest message of h (rule 14). That is exact: the compare-and-swap that installs the delta succeeds
// only if h is still the head, and no other call writes deltas. An entry with the same messages, made by an eviction or
// by a reader, has the same LSN. If one has replaced h, the change starts again.
func (pc *PageCache[P]) reserve(pid PageID, h *head, c *change[P]) (r iobuf.Reservation, err error) {
	kind, n := c.payload.Kind(c.kind), c.bodyLen()
	if c.kind != format.KindCounter && !c.sameState { // a note, and housekeeping, which writes no new timestamps
		pc.ids.CatchUp()
	}
	if c.urgent {
		r, err = pc.core.store.Log.ReserveUrgent(kind, pid, n)
	} else {
		r, err = pc.core.store.Log.Reserve(kind, pid, n)
	}
	if err != nil {
		return r, err
	}
	body := r.Body()
	if c.kind == format.KindAppend {
		body = format.PutPrev(body, h.LSN)
	}
	copy(body, c.payload.Body)
	return r, nil
}

// shorten consolidates a page that has more fragments than the limit. If another goroutine is at it already, the caller
// goes on, unless the chain has become much longer than the limit.
func (pc *PageCache[P]) shorten(tx *scope.Scope, pg page) {
	const much = 8
	g := pc.gates.of(pg.id)
	if !g.mu.TryLock() {
		if pc.pages.Clock.Load(pg.slot).Depth() <= much*pc.limit {
			return
		}
		g.mu.Lock()
	}
	defer g.mu.Unlock()
	defer g.open()
	for turn := 0; ; turn++ { // ends: see gate
		if turn == patientTurns {
			g.shut()
		}
		h := pc.pages.Clock.Load(pg.slot)
		if h.Depth() <= pc.limit {
			return
		}
		// The page is complete without it. After an error the next Link tries again, or an eviction.
		if e, err := pc.consolidate(tx, pg.id, pg.slot, h); e != nil || err != nil {
			pc.core.opts.report.Background(notConsolidated, "", err)
			return
		}
	}
}

// consolidate rewrites the page as one message, in the same state (rule 6). It returns nil if the head has moved from
// h.
func (pc *PageCache[P]) consolidate(tx *scope.Scope, pid PageID, s *slot, h *head) (*entry[P], error) {
	value, _, err := pc.value(pid, h) // of several messages, so it was merged and is no view (rule 3)
	if err != nil {
		return nil, err
	}
	defer tx.Release()
	c := change[P]{kind: format.KindCompact, frag: value, on: ifHead, from: h, sameState: true}
	c.size, c.sum = pc.mem.size(value), sumOf(pc.m, value)
	if h.HasRoom() { // the page keeps its room, and not the entries below
		c.made = pc.copyRoomy(h)
		c.frag, c.size = c.made.Frag, c.made.Ext.Size
	}
	if c.payload, err = pc.encode(tx, pid, value); err != nil {
		return nil, err
	}
	e, won, err := pc.apply(tx, page{id: pid, slot: s}, &c)
	if !won {
		return nil, err
	}
	pc.mem.counts.consolidations.Add(1)
	pc.mem.counts.rewritten.Add(int64(format.HeaderSize + len(c.payload.Body)))
	return pagestack.EntryOf[P](e), nil
}
