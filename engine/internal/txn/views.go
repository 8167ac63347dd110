package txn

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"pagecache/engine/internal/pagestack"
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// Views lets readers see all pages as they were at one moment, for as long as they like. They have no conflicts, wait
// for nobody, and make nobody wait.
//
// Each change of a page has a moment, its stamp. A View has one, too, its cut: it sees the changes with stamps up to
// that. Only a View that begins moves the clock. A change reads it after it is there to see: so a View that begins
// later sees it, and a View that has looked at the page before does not. Nobody returns the result of a change to a
// caller before it has a stamp: every goroutine that finds a change without one gives it one. (Versioned
// compare-and-swap: Wei, Ben-David, Blelloch, Fatourou, Ruppert, Sun, PPoPP 2021.)
//
//   - A change of one page is a swap to an entry that is unstamped (package pagestack), or, if that has no room for a
//     reference to the entry below, to an intent of a record that is committed already.
//   - A transaction of several pages has one stamp, in its record. It takes it while it is checking, before it compares
//     the pages that it has read: so it comes before all changes that overwrite them.
//
// The entry below a change is kept if a View needs it: if its cut is not before the stamp of that entry and before the
// stamp of the change. So at most one entry of a page is kept for each View. Without an open View nothing is kept, and
// a change costs two loads of a cache line that is written only when a View begins or ends, and a compare-and-swap of a
// cache line of its own.
//
// The zero Views is ready for use. It must not be copied. Safe for concurrent use.
type Views struct {
	_ [64]byte // the fields below are read by every change
	// now is the cut of the View that began last. Written by BeginView, under mu; it only rises. *Edge: BeginView
	// stores open, then now; a change loads now, then open.* So a change finds each View whose cut is below its stamp,
	// unless that has ended. A stale value is lower: then the View that has moved it has begun later than the load.
	now atomic.Uint64
	// open are the Views that are open, by rising cuts; nil if there are none. Written by BeginView and End, under mu.
	// A list never changes. A stale one lacks only Views whose cut is later than the load.
	open atomic.Pointer[[]*View]
	_    [48]byte

	mu sync.Mutex // held while a View begins or ends
	// Place returns an entry in the same state for one that is kept, and may change its memory; nil: itself. Set before
	// the first use.
	Place func(*Head) *Head
	// LSNAt returns the LSN of the message of a page, in one message, at an offset of the log file. Set before the
	// first use.
	LSNAt func(format.Offset) format.LSN
	// kept has the chain of each slot of which something is kept: *Slot → *chain.
	kept sync.Map
	// count is the number of versions in kept, or a little more. It rises before a version is entered, and falls after
	// it is removed.
	count atomic.Int64
}

// A View sees pages as they were at its cut. It belongs to one goroutine, except for what changes do.
type View struct {
	of  *Views
	cut uint64
	// charged is the newest of the versions that this View must release; ended once it does. Written by charge and End.
	// *Edge: the swap publishes version.next.*
	charged atomic.Pointer[version]
}

// ended is the charged of a View that has ended.
var ended = new(version)

// chain is what is kept of one page.
type chain struct {
	// list has the versions in the order of the changes, and for a moment some that are not needed. Its writers are
	// insert and remove. A list never changes; removed is the last one.
	list atomic.Pointer[[]*version]
}

// removed is the list of a chain that is not in Views.kept any more.
var removed = new([]*version)

// version is an entry that is kept for Views.
type version struct {
	slot  *Slot
	chain *chain
	by    format.LSN // of the entry that has replaced it, which is kept in memory by nothing here
	entry *Head      // nil: there was no page
	// until is the stamp of the change. 0: it is not stamped yet, or the version means nothing, since it was entered
	// after the change was settled. Set once, from 0, by the first goroutine that stamps the change.
	until atomic.Uint64
	next  *version // that the View was charged with before
}

// BeginView begins a View. Every change finds it that is stamped from now on.
func (v *Views) BeginView() *View {
	w := new(View)
	w.Begin(v)
	return w
}

// Begin is BeginView for a View that is zero, and is not copied from then on.
func (w *View) Begin(v *Views) {
	v.mu.Lock()
	defer v.mu.Unlock()
	w.of, w.cut = v, v.now.Load()+1
	var list []*View
	if open := v.open.Load(); open != nil {
		list = slices.Clip(*open)
	}
	list = append(list, w)
	v.open.Store(&list)
	invariants.Jitter()
	v.now.Store(w.cut)
}

// Cut returns the cut of the View.
func (w *View) Cut() uint64 { return w.cut }

// End ends the View, and releases what was kept for it alone. It does so once.
func (w *View) End() {
	v := w.of
	v.mu.Lock()
	if open := v.open.Load(); open != nil {
		list := slices.DeleteFunc(slices.Clone(*open), func(other *View) bool { return other == w })
		if len(list) > 0 {
			v.open.Store(&list)
		} else {
			v.open.Store(nil)
		}
	}
	v.mu.Unlock()
	invariants.Jitter()
	for r := w.charged.Swap(ended); r != nil && r != ended; {
		next := r.next
		v.charge(r)
		r = next
	}
}

// Open returns the number of open Views.
func (v *Views) Open() int {
	if open := v.open.Load(); open != nil {
		return len(*open)
	}
	return 0
}

// Kept returns the number of versions of pages that are kept for Views.
func (v *Views) Kept() int64 { return v.count.Load() }

// Read returns the head that the page in the slot had at the cut of the View. past says that the page has changed since
// then: the slot does not hold that head, and never will.
func (w *View) Read(s *Slot) (h *Head, past bool) {
	h = w.of.Load(s)
	if w.of.count.Load() == 0 {
		return h, false
	}
	c, _ := w.of.kept.Load(s)
	if c == nil {
		return h, false
	}
	// A version that has no stamp yet replaces no entry that Load has found, since that would have stamped it. Of those
	// with the same stamp the View needs the first: that one is never entered again.
	lowest := uint64(math.MaxUint64)
	for _, r := range *c.(*chain).list.Load() {
		if until := r.until.Load(); until > w.cut && until < lowest {
			h, past, lowest = r.entry, true, until
		}
	}
	return h, past
}

// Whole is Read for a page whose value is resident and that has not changed since the cut, if that shows at once; nil
// for all others. s may be nil.
func (w *View) Whole(s *Slot) *Head {
	if s == nil {
		return nil
	}
	h := s.Word()
	if !pagestack.IsEntry(h) || !h.IsWhole() || h.IsUnstamped() {
		return nil
	}
	if w.of.count.Load() > 0 {
		if _, ok := w.of.kept.Load(s); ok {
			return nil
		}
	}
	return h
}

// Load returns the head of the page in the slot: never an intent, and never one that a View could see later and not
// sooner. It waits for nobody. If a transaction that changes the page is still preparing, the slot keeps its intent,
// and a compare-and-swap of the head that Load returns fails.
func (v *Views) Load(s *Slot) *Head {
	return v.settled(s, load(s))
}

// settled returns the head h of a slot, which may be nil: unpacked, and after its change was stamped.
func (v *Views) settled(s *Slot, h *Head) *Head {
	h = v.unpacked(h)
	if h != nil && h.IsUnstamped() {
		v.stamp(s, h)
	}
	return h
}

// unpacked returns the entry of a head that may be packed, or nil.
func (v *Views) unpacked(h *Head) *Head {
	if pagestack.IsPacked(h) {
		return pagestack.Unpack(h, v.LSNAt)
	}
	return h
}

// Claim is Load for a goroutine that is about to change the page by a compare-and-swap of its own. It aborts a
// transaction that is still preparing, so the slot held the head that it returns, and no intent.
func (v *Views) Claim(s *Slot) *Head {
	return v.settled(s, claim(s))
}

// Swap replaces the head h of a slot, as Claim has returned it, by a new state of the page, e, which is not published.
// It reports whether h was still the head.
func (v *Views) Swap(s *Slot, h, e *Head) bool {
	if !e.CanRefer() {
		return v.wrap(s, h, e)
	}
	e.SetUnstamped(h)
	invariants.Jitter()
	if !s.CompareAndSwap(h, e) {
		return false
	}
	v.stamp(s, e)
	return true
}

// Move replaces the head h of a slot, as Claim has returned it, by an entry in the same state with other messages. It
// reports whether h was still the head. To Views it is a change: those that are open keep to the messages that there
// were. If none is open, one that begins later finds the messages of either entry in place, since those of e were
// reserved before.
func (v *Views) Move(s *Slot, h, e *Head) bool {
	if v.open.Load() == nil {
		invariants.Jitter()
		return s.CompareAndSwap(h, e)
	}
	return v.wrap(s, h, e)
}

// wrap is Swap that puts an intent into the slot first.
func (v *Views) wrap(s *Slot, h, e *Head) bool {
	i := v.committed(s, h, e)
	invariants.Jitter()
	if !s.CompareAndSwap(h, &i.Head) {
		return false
	}
	i.resolve()
	return true
}

// committed returns the intent of a record that has committed a change of one page.
func (v *Views) committed(s *Slot, h, e *Head) *intent {
	r := &Record{views: v}
	r.intents = append(r.small[:0], intent{record: r, slot: s, below: h, above: e})
	r.word.Store(uint32(committed))
	return &r.intents[0]
}

// Moment returns the stamp of a change that takes it now.
func (v *Views) Moment() uint64 {
	invariants.Jitter()
	return v.now.Load() + 1
}

// Needs reports whether an open View may need what was replaced with the given stamp, or by Moment.
func (v *Views) Needs(until uint64) bool { return v.needing(0, until) != nil }

// stamp stamps the change that has made e the head of a slot. If no View needs the entry below at a moment after the
// swap, none will: one that begins later sees e.
func (v *Views) stamp(s *Slot, e *Head) {
	if v.needing(v.since(s), v.Moment()) == nil && e.Settle() {
		return
	}
	if below := e.Replaced(); e.BeginStamping() {
		v.enter(s, e, below)
	}
}

// enter is stamp for an entry e that was stamping, when a View may have needed the entry below, which is entered as a
// version: its until is the stamp of e. Until e is settled, all goroutines find the same version: insert enters only
// one, and the goroutine that has entered it removes it after that. One that is entered later is never stamped, since e
// is not stamping any more.
func (v *Views) enter(s *Slot, e, below *Head) {
	invariants.Jitter()
	r, entered := v.insert(s, e, below, 0)
	if e.IsStamping() {
		r.until.CompareAndSwap(0, v.Moment())
		e.EndStamping()
	}
	switch {
	case !entered:
		invariants.Sometimes("txn: another goroutine enters the version first", true)
	case r.until.Load() == 0:
		v.remove(r)
	default:
		v.charge(r)
	}
}

// keep keeps the entry below an intent for Views, if one needs it, before the intent is removed. until is the stamp of
// its record, which has committed.
func (v *Views) keep(i *intent, until uint64) {
	if i.page > format.MaxPageID || v.needing(v.since(i.slot), until) == nil {
		return // no View looks at the versions of names
	}
	if r, entered := v.insert(i.slot, i.above, i.below, until); entered {
		v.charge(r)
	}
}

// needing returns the first open View that needs an entry with the stamp from, which was replaced with the stamp until;
// nil if there is none. The result stays nil for ever if until was taken from the clock before.
func (v *Views) needing(from, until uint64) *View {
	open := v.open.Load()
	if open == nil {
		return nil
	}
	for _, w := range *open {
		if w.cut >= from {
			if w.cut < until {
				return w
			}
			return nil
		}
	}
	return nil
}

// since returns the stamp of the head of a slot, as far as that concerns open Views: 0 if all of them see it.
func (v *Views) since(s *Slot) uint64 {
	if v.open.Load() == nil || v.count.Load() == 0 {
		return 0
	}
	c, _ := v.kept.Load(s)
	if c == nil {
		return 0
	}
	return since(*c.(*chain).list.Load(), nil)
}

// since returns the stamp of the version r, or of the head if r is nil, as far as that concerns open Views: if one of
// them does not see it, the entry before it is in the list.
func since(list []*version, r *version) (from uint64) {
	for _, other := range list {
		if other == r {
			break
		}
		from = max(from, other.until.Load())
	}
	return from
}

// insert enters the version of a slot that was replaced by the entry by, unless it is there, and returns it. entered
// says that the caller has entered it, and must remove it or charge it.
func (v *Views) insert(s *Slot, by, entry *Head, until uint64) (r *version, entered bool) {
	v.count.Add(1)
	for { // ends: each turn but the last means that another goroutine has changed the chain
		c := v.chainOf(s)
		old := c.list.Load()
		if old == removed {
			v.kept.CompareAndDelete(s, c)
			continue
		}
		if i := slices.IndexFunc(*old, func(r *version) bool { return r.by == by.LSN }); i >= 0 {
			v.count.Add(-1)
			return (*old)[i], false
		}
		if r == nil {
			if v.Place != nil && entry != nil {
				entry = v.Place(entry)
			}
			r = &version{slot: s, by: by.LSN, entry: entry}
			r.until.Store(until)
		}
		r.chain = c
		list := append(slices.Clip(*old), r)
		invariants.Jitter()
		if c.list.CompareAndSwap(old, &list) {
			return r, true
		}
	}
}

// chainOf returns the chain of a slot.
func (v *Views) chainOf(s *Slot) *chain {
	c, ok := v.kept.Load(s)
	if !ok {
		made := new(chain)
		made.list.Store(new([]*version))
		c, _ = v.kept.LoadOrStore(s, made)
	}
	return c.(*chain)
}

// remove removes a version. The caller is the goroutine that has entered it, or the View that was charged with it.
func (v *Views) remove(r *version) {
	c := r.chain
	for { // ends: as in insert
		old := c.list.Load()
		list := slices.DeleteFunc(slices.Clone(*old), func(other *version) bool { return other == r })
		next := &list
		if len(list) == 0 {
			next = removed
		}
		invariants.Jitter()
		if !c.list.CompareAndSwap(old, next) {
			continue
		}
		if next == removed {
			v.kept.CompareAndDelete(r.slot, c)
		}
		v.count.Add(-1)
		return
	}
}

// charge makes a View release the version that needs it, or removes it if none does. The caller is that of remove.
func (v *Views) charge(r *version) {
	for { // ends: a View that has ended is not open any more
		w := v.needing(since(*r.chain.list.Load(), r), r.until.Load())
		if w == nil {
			v.remove(r)
			return
		}
		old := w.charged.Load()
		if old == ended {
			continue
		}
		r.next = old
		if w.charged.CompareAndSwap(old, r) {
			return
		}
	}
}
