package txn

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"

	"pagecache/engine/internal/history"
	"pagecache/engine/internal/pagestack"
	"pagecache/segments/format"
)

// store is a store of lists, as package history wants them, without a log.
type store struct {
	slots []Slot
	clock Clock
	lsn   atomic.Uint64 // of the last message
	value atomic.Uint64 // the last one that was appended
	time  atomic.Int64
	wrong atomic.Pointer[string]
	// stopped counts the changes of single pages whose goroutine has stopped for ever.
	stopped atomic.Int64
}

func newStore(pages int) *store {
	s := &store{slots: make([]Slot, pages)}
	for i := range s.slots {
		s.slots[i].Store(s.entry(nil, nil))
	}
	return s
}

// entry makes an entry with a list, on top of head h.
func (s *store) entry(h *Head, list []uint64) *Head {
	ts := uint64(0)
	if h != nil {
		ts = h.TS() + 1
	}
	lsn := format.LSN(s.lsn.Add(8))
	e := pagestack.New[[]uint64](pagestack.KindBase, ts, 1, lsn, format.DiskPtr{Off: format.Offset(lsn), Len: 8})
	e.Frag = list
	if h != nil && h.LSN >= e.LSN {
		s.fail("an entry at LSN %d is put on one at %d (Q6)", e.LSN, h.LSN)
	}
	return &e.Head
}

func (s *store) fail(text string, args ...any) {
	msg := fmt.Sprintf(text, args...)
	s.wrong.CompareAndSwap(nil, &msg)
}

func listOf(h *Head) []uint64 { return pagestack.EntryOf[[]uint64](h).Frag }

// appended returns a list with a value behind it, which shares no memory with it.
func appended(list []uint64, v ...uint64) []uint64 { return append(slices.Clone(list), v...) }

// single is a transaction of one page, as the calls on single pages are: it appends, or reads if v is 0.
func (s *store) single(page int, v uint64) history.Txn {
	t := history.Txn{Begin: s.time.Add(1)}
	slot := &s.slots[page]
	for {
		if v == 0 {
			t.Ops = []history.Op{{Page: page, List: listOf(s.clock.Load(slot))}}
			break
		}
		h := s.clock.Claim(slot)
		e := s.entry(h, appended(listOf(h), v))
		s.clock.Begin(format.PageID(page))
		won := false
		if v%2 == 0 {
			won = s.clock.Swap(slot, h, e)
		} else { // as entries are put on others that have no room to refer to them
			won = s.clock.wrap(slot, h, e)
		}
		if won {
			s.clock.Stamp(format.PageID(page))
		}
		s.clock.End(format.PageID(page))
		if won {
			t.Ops = []history.Op{{Page: page, Value: v}}
			break
		}
	}
	t.End = s.time.Add(1)
	return t
}

// move replaces the entry of a page by one in the same state, as housekeeping does.
func (s *store) move(page int) {
	slot := &s.slots[page]
	if h := s.clock.Load(slot); !IsClaimed(slot) {
		lsn := format.LSN(s.lsn.Add(8)) // a new message
		ptr := format.DiskPtr{Off: format.Offset(lsn), Len: 8}
		e := pagestack.New[[]uint64](pagestack.KindBase, h.TS(), 1, lsn, ptr)
		e.Frag = listOf(h)
		s.clock.Move(slot, h, &e.Head)
	}
}

// singleStops is the number of places where the goroutine of a change of a single page can stop for ever.
const singleStops = 7

// stopSingle is single, by a goroutine that stops for ever behind its swap, at one of singleStops places.
func (s *store) stopSingle(page int, v uint64, at int) history.Txn {
	t := history.Txn{Begin: s.time.Add(1), End: 1 << 60, Outcome: history.OutcomeLost}
	t.Ops = []history.Op{{Page: page, Value: v}}
	slot, views := &s.slots[page], &s.clock.Views
	h := views.Claim(slot)
	e := s.entry(h, appended(listOf(h), v))
	s.clock.Begin(format.PageID(page)) // and never ends
	s.stopped.Add(1)
	if at >= 4 {
		i := views.committed(slot, h, e)
		if !slot.CompareAndSwap(h, &i.Head) {
			return t
		}
		if at > 4 {
			i.record.stamped()
		}
		if at > 5 && views.needing(views.since(slot), i.record.stamped()) != nil {
			views.insert(slot, e, h, i.record.stamped())
		}
		return t
	}
	e.SetUnstamped(h)
	if !slot.CompareAndSwap(h, e) || at == 0 || !e.BeginStamping() || at == 1 {
		return t
	}
	r, _ := views.insert(slot, e, h, 0)
	if at > 2 && e.IsStamping() {
		r.until.CompareAndSwap(0, views.Moment())
	}
	return t
}

// view is a transaction that reads pages through a View. Between some of them it lets others go on.
func (s *store) view(rng *rand.Rand, pages []int) history.Txn {
	t := history.Txn{Begin: s.time.Add(1)}
	w := s.clock.BeginView()
	for _, page := range pages {
		if rng.IntN(3) == 0 {
			runtime.Gosched()
		}
		h, _ := w.Read(&s.slots[page])
		t.Ops = append(t.Ops, history.Op{Page: page, List: listOf(h)})
	}
	w.End()
	t.End = s.time.Add(1)
	return t
}

// load returns the list on a page.
func (s *store) load(page int) []uint64 { return listOf(s.clock.Load(&s.slots[page])) }

// stop is where the goroutine of a transaction stops for ever.
type stop int

const (
	nowhere stop = iota
	installing
	installed
	checked
	stamped
	decided
	stops
)

// attempt is one attempt at a transaction.
type attempt struct {
	s     *store
	age   uint64
	reads Reads
	txn   history.Txn
	// writes are the lists of the pages that were appended to, in the order of their ids.
	writes []pageWrite
}

type pageWrite struct {
	page int
	read Read
	list []uint64
}

// begin begins an attempt.
func (s *store) begin(age uint64) *attempt {
	a := &attempt{s: s, age: age, txn: history.Txn{Begin: s.time.Add(1)}}
	a.reads.Reset(&s.clock)
	return a
}

// list returns the list on a page as the transaction sees it, false after a conflict.
func (a *attempt) list(page int) ([]uint64, bool) {
	for _, w := range a.writes {
		if w.page == page {
			return w.list, true
		}
	}
	h, _, ok := a.reads.Read(format.PageID(page), &a.s.slots[page])
	if !ok {
		return nil, false
	}
	return listOf(h), true
}

// read reads a page, false after a conflict.
func (a *attempt) read(page int) bool {
	list, ok := a.list(page)
	if ok {
		a.txn.Ops = append(a.txn.Ops, history.Op{Page: page, List: list})
	}
	return ok
}

// append appends to a page, false after a conflict.
func (a *attempt) append(page int) bool {
	list, ok := a.list(page)
	if !ok {
		return false
	}
	v := a.s.value.Add(1)
	a.txn.Ops = append(a.txn.Ops, history.Op{Page: page, Value: v})
	list = appended(list, v)
	for i := range a.writes {
		if a.writes[i].page == page {
			a.writes[i].list = list
			return true
		}
	}
	all := a.reads.All()
	a.writes = append(a.writes, pageWrite{page: page, read: all[len(all)-1], list: list})
	slices.SortFunc(a.writes, func(x, y pageWrite) int { return cmp.Compare(x.page, y.page) })
	return true
}

// end ends an attempt that had no conflict yet, unless it stops, and returns whether it has committed.
func (a *attempt) end(at stop) bool {
	s := a.s
	var reads []Read
	for _, r := range a.reads.All() {
		if !slices.ContainsFunc(a.writes, func(w pageWrite) bool { return w.page == int(r.Page) }) {
			reads = append(reads, r)
		}
	}
	if len(a.writes) == 0 {
		return true
	}
	rec := s.clock.Record(a.age, len(a.writes))
	var below []*Head
	for n, w := range a.writes {
		if at == installing && n == len(a.writes)-1 {
			return a.stopped()
		}
		h, ok := rec.Install(&w.read)
		if !ok {
			rec.Abort()
			return false
		}
		below = append(below, h)
	}
	if at == installed {
		return a.stopped()
	}
	for n, w := range a.writes {
		rec.SetResult(n, s.entry(below[n], w.list))
		s.clock.Begin(format.PageID(w.page))
	}
	if at >= checked {
		rec.reads = reads
		if rec.advance(preparing, checking) {
			switch at {
			case stamped:
				rec.stamped()
			case decided:
				rec.decide()
			}
		}
		return a.stopped()
	}
	ok := rec.Decide(reads)
	for _, w := range a.writes {
		if ok {
			s.clock.Stamp(format.PageID(w.page))
		}
		s.clock.End(format.PageID(w.page))
	}
	return ok
}

// stopped notes that nobody knows whether the transaction has committed.
func (a *attempt) stopped() bool {
	a.txn.Outcome = history.OutcomeLost
	return true
}

// run runs a transaction of random operations until it has committed, and returns all its attempts.
func (s *store) run(rng *rand.Rand, age uint64, at stop, pages []int) (all []history.Txn) {
	for {
		a := s.begin(age)
		ok := true
		for _, page := range pages {
			if rng.IntN(2) == 0 {
				ok = ok && a.append(page)
			} else {
				ok = ok && a.read(page)
			}
		}
		ok = ok && a.end(at)
		if a.txn.End = s.time.Add(1); a.txn.Outcome == history.OutcomeLost {
			a.txn.End = 1 << 60
		}
		if !ok {
			a.txn.Outcome = history.OutcomeAborted
		}
		if all = append(all, a.txn); ok {
			return all
		}
	}
}
