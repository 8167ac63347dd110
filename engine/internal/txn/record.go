package txn

import (
	"runtime"
	"sync/atomic"
	"unsafe"

	"pagecache/engine/internal/pagestack"
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

type (
	// Head is the newest entry of a page.
	Head = pagestack.Head
	// Slot is the place in the table that holds a page's head, or an intent.
	Slot = pagestack.Slot
)

// Version identifies the contents of a page over the life of its slot: they are the same if the version is. 0 stands
// for a page without a head.
type Version uint64

// VersionOf returns the version of the page with head h, which may be nil, or packed. Timestamps only rise (rule 6).
func VersionOf(h *Head) Version {
	if h == nil {
		return 0
	}
	if pagestack.IsPacked(h) {
		return Version(pagestack.PackedTS(h) + 1)
	}
	return Version(h.TS() + 1)
}

// state is the deciding word of a record. Package txn's comment draws the states.
type state uint32

const (
	preparing state = iota
	checking
	committed
	aborted
)

var stateNames = [...]string{"preparing", "checking", "committed", "aborted"}

// String returns the name of the state.
func (s state) String() string { return stateNames[s] }

// Record is one attempt at a transaction. It belongs to its owner, the goroutine that made it, except for what other
// goroutines do with the intents that they find. It is not used again. A Record is made by New, and is not copied.
type Record struct {
	// word is the state. Its writers are the owner (Check) and every goroutine that decides or aborts the record. It
	// goes forward only, in the directions of the package comment. The store of checking publishes reads and the above
	// of all intents. A stale preparing shows the state of affairs before the transaction, which was true when the word
	// was loaded, or costs a failed compare-and-swap.
	word atomic.Uint32
	age  uint64
	// cause is the page over which a goroutine last tried to abort the record: a hint for messages. Its
	// writers are those goroutines. Once the record is aborted, a load finds one of their pages.
	cause atomic.Uint64
	// stamp is the moment of the changes for Views. Set once, from 0, by the first goroutine that finds the record
	// checking, or committed if it is that of a single change. It publishes nothing.
	stamp   atomic.Uint64
	views   *Views
	intents []intent
	reads   []Read
	small   [2]intent // the memory of most intents
}

// intent is what a slot holds while a transaction changes its page. It is no entry: code outside this package must not
// find it in a slot, and calls Load.
type intent struct {
	Head   // the zero Head, by which IsIntent tells it from an entry
	record *Record
	slot   *Slot
	page   format.PageID
	below  *Head // the entry that the intent has replaced; nil: there was none
	above  *Head // the new entry; set before checking
}

// Record returns the record of a transaction that changes up to n pages. A transaction with a lower age is older; ages
// of transactions in progress differ.
func (v *Views) Record(age uint64, n int) *Record {
	r := &Record{age: age, views: v}
	if r.intents = r.small[:0]; n > len(r.small) {
		r.intents = make([]intent, 0, n) // intents do not move: slots refer to them
	}
	return r
}

func (r *Record) state() state { return state(r.word.Load()) }

func (r *Record) advance(from, to state) bool {
	invariants.Jitter()
	return r.word.CompareAndSwap(uint32(from), uint32(to))
}

// abort aborts the record because of a page, if it is in the given state, and returns whether it has.
func (r *Record) abort(from state, page format.PageID) bool {
	r.cause.Store(uint64(page))
	return r.advance(from, aborted)
}

// Conflict returns the page over which another goroutine, or Decide, has aborted the record.
func (r *Record) Conflict() format.PageID { return format.PageID(r.cause.Load()) }

// IsAborted reports whether the record was aborted. Until Decide, another goroutine may do so at any time.
func (r *Record) IsAborted() bool { return r.state() == aborted }

// intentOf returns the intent that a slot holds in place of a head, or nil if h is an entry, packed or not, or nil.
func intentOf(h *Head) *intent {
	if !pagestack.IsEntry(h) || !h.IsIntent() {
		return nil
	}
	return (*intent)(unsafe.Pointer(h)) // it was allocated as an intent, which begins with its Head
}

// load is Views.Load, but the head may be unstamped, or packed.
func load(s *Slot) *Head {
	invariants.Jitter()
	h := s.Word()
	if i := intentOf(h); i != nil {
		h, _ = i.resolve()
	}
	return h
}

// claim is Views.Claim, but the head may be unstamped, or packed.
func claim(s *Slot) *Head {
	for { // ends: each turn but the last removes an intent, and each means that another transaction has begun to commit
		invariants.Jitter()
		h := s.Word()
		i := intentOf(h)
		if i == nil {
			return h
		}
		i.record.abort(preparing, i.page)
		if _, settled := i.resolve(); settled {
			invariants.Sometimes("txn: a single change removes an intent", true)
		}
	}
}

// IsClaimed reports whether the slot holds the intent of a transaction that is not decided. Housekeeping leaves such a
// page alone for a while. It is a hint.
func IsClaimed(s *Slot) bool {
	i := intentOf(s.Word())
	return i != nil && i.record.state() < committed
}

// resolve returns the head of the page with an intent. If the transaction is decided, or can be, it removes the intent
// from the slot, and returns true.
func (i *intent) resolve() (*Head, bool) {
	r := i.record
	if r.state() == checking {
		r.decide()
	}
	switch r.state() {
	case committed:
		r.views.keep(i, r.stamped())
		i.remove(i.above)
		return i.above, true
	case aborted:
		i.remove(i.below)
		return i.below, true
	}
	return i.below, false
}

// stamped returns the stamp of a record that is checking or committed.
func (r *Record) stamped() uint64 {
	if r.stamp.Load() == 0 {
		r.stamp.CompareAndSwap(0, r.views.Moment())
	}
	return r.stamp.Load()
}

// remove replaces the intent by a head, unless another goroutine has. Heads never come back, so a late swap fails.
func (i *intent) remove(h *Head) {
	invariants.Jitter()
	i.slot.CompareAndSwap(&i.Head, h)
}

// patience is the number of times that a transaction yields before it aborts an older one that is preparing.
const patience = 16

// Install puts an intent into the slot of a page that was read, and must still have the version that was read. It
// returns the head of the page, below the intent, and true, or false if the page has another version; the owner aborts
// the record then. Pages are installed in the order of their ids, each once.
func (r *Record) Install(read *Read) (*Head, bool) {
	s := read.slot
	r.intents = append(r.intents, intent{record: r, slot: s, page: read.Page})
	i := &r.intents[len(r.intents)-1]
	for turn := 0; ; { // ends: each turn removes an intent, counts, or finds that the head has changed
		invariants.Jitter()
		h := s.Word()
		if other := intentOf(h); other != nil {
			if other.record.state() == preparing {
				if r.age > other.record.age && turn < patience {
					turn++
					runtime.Gosched()
					continue
				}
				other.record.abort(preparing, read.Page)
				invariants.Sometimes("txn: an older transaction is aborted while it prepares",
					r.age > other.record.age)
			}
			other.resolve()
			continue
		}
		if VersionOf(h) != read.version {
			i.slot = nil
			return nil, false
		}
		h = r.views.unpacked(h)
		i.below = h
		if s.CompareAndSwap(h, &i.Head) {
			return h, true
		}
	}
}

// SetResult sets the new entry of the n-th page that was installed. Its LSN is above that of the head below.
func (r *Record) SetResult(n int, h *Head) { r.intents[n].above = h }

// Decide ends the preparation, checks that none of the pages that were read has another version, and returns whether
// the transaction has taken effect. reads does not contain pages that were installed; it must not change any more. The
// intents are removed before it returns.
func (r *Record) Decide(reads []Read) bool {
	r.reads = reads
	if r.advance(preparing, checking) {
		r.decide()
	}
	r.settle()
	return r.state() == committed
}

// Abort ends a record that Decide was not called for. The intents are removed before it returns.
func (r *Record) Abort() {
	r.advance(preparing, aborted)
	r.settle()
}

// settle removes the intents of a record that is decided.
func (r *Record) settle() {
	for n := range r.intents {
		if i := &r.intents[n]; i.slot != nil {
			i.resolve()
		}
	}
}

// decide decides a record that is checking, unless it is decided meanwhile.
//
// Two goroutines may decide differently, since a page may change between their checks. The first swap counts. If it
// commits, its goroutine has found every page unchanged after Check, so all were unchanged at Check. The stamp comes
// first: a change that overwrites what was read is stamped after it was compared.
func (r *Record) decide() {
	r.stamped()
	for n := range r.reads {
		if r.state() != checking {
			return
		}
		if !r.holds(&r.reads[n]) {
			r.abort(checking, r.reads[n].Page)
			return
		}
	}
	if !r.advance(checking, committed) {
		invariants.Sometimes("txn: another goroutine decides first", true)
	}
}

// holds reports whether a page that the record, which is checking, has read still has the version that was read.
//
// The page may hold the intent of another transaction. If that one is still preparing, its moment comes later. If it is
// checking too, it is decided first, unless it is younger: then it is aborted. So no two goroutines check in a circle,
// and the recursion ends: each record is older than the one before.
func (r *Record) holds(read *Read) bool {
	for { // ends: each turn but the last decides another transaction, and removes its intent
		invariants.Jitter()
		h := read.slot.Word()
		i := intentOf(h)
		if i == nil {
			return VersionOf(h) == read.version
		}
		other := i.record
		if other == r {
			return VersionOf(i.below) == read.version
		}
		switch other.state() {
		case preparing:
			return VersionOf(i.below) == read.version
		case checking:
			if other.age > r.age {
				younger := other.abort(checking, i.page)
				invariants.Sometimes("txn: a check aborts a younger transaction", younger)
			} else {
				invariants.Sometimes("txn: a check decides an older transaction", true)
			}
		}
		i.resolve()
	}
}
