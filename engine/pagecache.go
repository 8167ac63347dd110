// Package engine is a page cache and log for databases: numbered pages that live in memory and on disk at once.
//
// A page is a chain of fragments. Link appends a small delta, Replace writes the page anew, and Get returns the
// fragments merged by the caller's Materializer; Bytes is the Materializer for pages that are byte strings. Every
// change is a compare-and-swap against the state that the caller saw (PagePtr), and one message in a log-structured
// file. Open recovers all of it.
//
//	tx, err := pc.Begin()
//	pid, ptr, err := pc.Allocate(tx, first)           // in memory
//	ptr, won, err := pc.Link(tx, pid, ptr, delta)     // in memory, if no other writer changed the page meanwhile
//	_, err = pc.MakeStable(ptr.LastLSN())             // on stable storage
//	page, err := pc.Get(tx, pid)                      // page.Value is valid until End
//	tx.End()
//
// # What it guarantees
//
// The numbers of rules and traps are those of docs/RULES.md, which also lists the tests that prove each.
//
//	P1  Durability. When MakeStable(lsn) or Flush has returned nil, the message at lsn and all before it survive any
//	    crash. Stable bytes are never written again, the log becomes stable strictly in order, and recovery never
//	    silently drops data that was known to be stable (rules 1, 5, 10).
//	P2  Batches. Everything between PinLog and Seal is recovered whole or not at all (trap 1), whatever its size. An
//	    open batch delays only the stability of messages written after it (trap 11).
//	P3  One winner. Of several calls with the same PagePtr exactly one changes the page; the others return its current
//	    state. Housekeeping never makes a caller lose (rule 6).
//	P4  Views. A value that Get returns does not change until its Tx ends, and is never torn or half merged (rules 2,
//	    3). Values that callers pass in are copied, and stay theirs (rule 20).
//	P5  Ids. GenerateID and Begin never return a number twice in the life of a store, crashes included, with one
//	    exception: timestamps that were drawn while no note of ids could be written, after ErrFailed or on a full
//	    disk, may come again after a crash (rule 19). A page id is used again only after its freeing has won and every
//	    Tx that could have seen the page has ended (trap 2).
//	P6  Failure. A failed write to the log wakes every waiter, and every later write is ErrFailed with the cause;
//	    reads go on (rule 8, trap 10). A full disk fails the call that needs space and nothing else (rule 9).
//	P7  Shown data stays. Open shows nothing that a power cut right afterwards could take back (rule 11).
//	P8  Corruption. No bytes on disk make Open or a read panic, hang, or return a wrong value. The error is a
//	    CorruptError that says where (rule 12). Of a view this holds for the bytes that were verified.
//	P9  Accounts. Before a message can become stable, its segment's live bytes include it (rule 7).
//	P10 Space. Dead data is recycled in the background, in proportion to what is written, and never while a Tx, a
//	    batch or a crash could still need it (rule 4). Opening takes time for the log written since the last snapshot,
//	    not for the number of pages.
//	P11 Transactions. The changes that a Tx makes with its own calls take effect in one step at Commit, on disk too,
//	    or not at all. Transactions are strictly serializable, and so are the calls on single pages beside them; no
//	    transaction ever sees a half of another (txn, Q1 to Q3).
//
// The calls of PageCache on single pages, in contrast, take effect at once. They see each other at once, also within a
// Tx.
//
// # Transactions
//
// Update calls a function with a Tx, commits, and does both again after a conflict with another transaction. View is
// for functions that only read.
//
//	lsn, err := pc.Update(ctx, func(tx *engine.Tx[[]byte]) error {
//		from, err := tx.Get(a)                    // all pages as they were at one moment
//		if err != nil {
//			return err
//		}
//		return errors.Join(tx.Replace(a, less(from.Value)), tx.Link(b, delta))
//	})
//
// # Reading the code
//
// The files have an order, and no file refers back up: salvage, check, stream, log, open; then the calls in stats,
// batch, ids, commit, transaction and get, with evict between them; then move, which housekeeping calls; then change
// and fetch, which do the work; then pagecache, with the types that all of these are methods of; and at the bottom
// memory, page, options and errors.
// Packages below internal hold everything that knows neither the page type nor the Materializer. docs/ARCHITECTURE.md
// has the map.
package engine

import (
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/clean"
	"pagecache/engine/internal/compress"
	"pagecache/engine/internal/idgen"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagemap"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/scope"
	"pagecache/engine/internal/scratch"
	"pagecache/engine/internal/snapshot"
	"pagecache/engine/internal/txn"
	"pagecache/engine/internal/values"
)

// PageCache is an open page store. All methods are safe for concurrent use.
type PageCache[P any] struct {
	core core
	m    callerCode[P]
	raw  func(P) []byte // if the page type is Bytes: a fragment is its own encoding; else nil
	flat bool           // a P has no pointers: assigning it copies all of it
	// inlineBase and inlineDelta are set if the page type is Bytes.
	inlineBase, inlineDelta inlined[P]
	limit                   int // Options.ConsolidateAfter
	pages                   pagemap.Map
	txs                     scope.Set
	ids                     idgen.Generator
	finder                  finder
	values                  values.IO
	mem                     memory[P]
	gates                   gates
	fallback                txn.Fallback
	cleaner                 *clean.Cleaner
	blobs                   *blob.Store
	snaps                   *snapshot.Store
	// frags holds *[]P, empty and short: scratch memory for the fragments of a page while it is merged. The collector
	// empties it.
	frags sync.Pool
	// aheadInBlobs says that a goroutine reads blobs ahead for Prefetch.
	aheadInBlobs atomic.Bool

	// grow, newRoomy and copyRoomy are those of pagestack if the page type is Bytes, else nil.
	grow      func(h *head, delta P, msg pagestack.Ref) *entry[P]
	newRoomy  func(frags []P) *entry[P]
	copyRoomy func(h *head) *entry[P]
}

// core is the part that page stores and standalone logs have in common.
type core struct {
	opts  Options
	store *logstore.Store
	// closed is set by Close, which then waits for the calls and Txs that have not seen it.
	closed atomic.Bool
	// shut is set by Close once it does not wait for batches any more: from then on none can be ended.
	shut atomic.Bool
	// scratch counts, limits and releases the memory that calls work in.
	scratch *scratch.Keeper
	// calls are the calls that use the log outside of a Tx. Close waits for them before it releases the io buffers.
	calls scope.Set
	// left has the batches that could not be ended because the store is closing. Only builds with the invariants tag
	// use it: until the log has stopped, they would take such a batch for one that was dropped.
	left sync.Map
}

// keptScratch is the most bytes of scratch memory that a store keeps for values on their way to the log. To it comes
// what compression keeps.
const keptScratch = 8 << 20

// prepare makes calls and scratch ready for use, and returns the options.
func (c *core) prepare() *Options {
	limit := int64(keptScratch)
	if c.opts.Compression == CompressionZstd {
		limit += compress.MostKept(c.opts.CompressionLevel)
	}
	c.scratch = scratch.New(limit)
	c.calls.Init(&c.closed, c.scratch, c.opts.report)
	return &c.opts
}

// enter begins a call that uses the io buffers or the map outside of a Tx. The call ends with End. It fails once the
// store is closed.
func (c *core) enter() (*scope.Scope, error) {
	if c.closed.Load() { // calls that come later do not hold up Close, however many there are
		return nil, ErrClosed
	}
	call := c.calls.Begin()
	if c.closed.Load() { // after begin: Close sets it, then looks for calls
		call.End()
		return nil, ErrClosed
	}
	return call, nil
}

// Begin begins a Tx. It does not block, except when a note of ids is overdue. It works for ever, also after ErrFailed
// and on a full disk. Timestamps never repeat, but those that were drawn while ids could not be noted, and that nothing
// was written after, may do so after a crash. The only error is ErrClosed. Safe for concurrent use.
func (pc *PageCache[P]) Begin() (*Tx[P], error) {
	ts, ok := pc.ids.Try()
	if !ok {
		pc.ids.Pass(ts)
	}
	// Txs that come after Close do not even begin: Close waits for those that do.
	if !pc.core.closed.Load() {
		sc := pc.txs.Begin()
		if sc.S().TS.Store(ts); !pc.core.closed.Load() {
			pc.txs.Watch.Opened()
			return sc.Outer.(*Tx[P]), nil
		}
		sc.End()
	}
	return nil, fmt.Errorf("begin: %w", ErrClosed)
}

// A Tx keeps everything that was reachable when it began from being reclaimed until End: it is the scope of the calls
// of PageCache, which take effect at once. Its own calls are a transaction: they read pages as of one moment, and what
// they write takes effect in one step at Commit. A Tx belongs to one goroutine and must not be used after End. Keep it
// short, since it delays the reuse of space. In builds with the invariants tag, a Tx that is dropped without End panics
// and says where it was begun.
type Tx[P any] struct {
	scope scope.Scope // the first field: see base
	pc    *PageCache[P]
	t     transaction[P]
}

// transaction is what a Tx has read and written with its own calls, until Commit or End. It belongs to the goroutine of
// the Tx.
type transaction[P any] struct {
	reads   txn.Reads
	writes  []*ownWrite[P]
	index   map[PageID]*ownWrite[P] // of writes, once there are many
	roots   []pagemap.RootChange    // of SetRoot
	commit  pagemap.Commit          // memory that is used again, like that behind the end of writes
	age     uint64                  // see txn.Views.Record
	token   *txn.Token              // of the fallback; nil: it holds none
	begun   bool                    // a call was made
	ended   bool                    // by Commit
	managed bool                    // Update or View has begun the Tx and will end it
	view    *pagemap.View           // of View: what the transaction reads; else nil
	failed  error                   // the conflict that a call has found
	// inside is set while a call runs, in builds with the invariants tag, to find a second goroutine.
	inside atomic.Bool
}

// ownWrite is a page that a transaction changes.
type ownWrite[P any] struct {
	page          // as it was read: its head is not a page if the transaction has allocated it
	read txn.Read // the same
	// parts are the fragments to write, oldest first; none: the page is freed.
	parts []owned[P]
	whole bool // the first part is the whole page, or the page is freed
	fresh bool // the transaction owns the id, which Allocate took
	// merged says that value is the page's value.
	merged bool
	value  P
	before measured // of the entry that a whole page replaces
	// one and message are the memory of parts, and of the messages, if there is one; short is that of a short delta.
	one     [1]owned[P]
	message [1]pagemap.Part
	short   [shortDelta]byte
	// make makes the page's new entry. It is made once: an ownWrite is used again.
	make func(h *head, msgs []pagestack.Ref) *head
}

// own returns what the transaction writes to a page, or nil.
func (tx *Tx[P]) own(pid PageID) *ownWrite[P] {
	if tx.t.index != nil {
		return tx.t.index[pid]
	}
	for _, w := range tx.t.writes {
		if w.id == pid {
			return w
		}
	}
	return nil
}

// add adds a page to those that the transaction changes.
func (tx *Tx[P]) add(w *ownWrite[P]) {
	tx.t.writes = append(tx.t.writes, w)
	if tx.t.index == nil && len(tx.t.writes) > manyWrites {
		tx.t.index = map[PageID]*ownWrite[P]{}
		for _, w := range tx.t.writes {
			tx.t.index[w.id] = w
		}
	} else if tx.t.index != nil {
		tx.t.index[w.id] = w
	}
}

// newWrite returns an empty write, which add may follow before the next call.
func (tx *Tx[P]) newWrite() (w *ownWrite[P]) {
	if n := len(tx.t.writes); n < cap(tx.t.writes) {
		w = tx.t.writes[:n+1][n] // of an earlier transaction, or nil
	}
	if w == nil {
		w = new(ownWrite[P])
	}
	*w = ownWrite[P]{make: w.make}
	w.parts = w.one[:0]
	return w
}

// newScope makes a Tx, and returns its scope.
func (pc *PageCache[P]) newScope() *scope.Scope {
	tx := &Tx[P]{pc: pc}
	tx.scope.Outer = tx
	return &tx.scope
}

// base returns the scope of the Tx; nil if tx is nil.
func (tx *Tx[P]) base() *scope.Scope { return (*scope.Scope)(unsafe.Pointer(tx)) }

// TS returns the timestamp of the Tx: unique and rising over the life of the store, except as Begin says.
func (tx *Tx[P]) TS() uint64 { return tx.scope.TS() }

// conflict notes a conflict on a page, which all later calls return, and returns it.
func (tx *Tx[P]) conflict(pid PageID) error {
	tx.t.failed = pagemap.Conflict(pid)
	return tx.t.failed
}

// finder finds the pages that calls name, and checks first whether the call may go on.
type finder struct {
	core  *core
	txs   *scope.Set
	pages *pagemap.Map
}

// check is the beginning of every call on a page: it reports a Tx that cannot be used and a closed store.
func (f *finder) check(tx *scope.Scope, doing string, pid PageID) error {
	return describePage(doing, pid, f.admit(tx))
}

// admit is check without the words.
func (f *finder) admit(tx *scope.Scope) error {
	err := f.txs.Check(tx)
	if err == nil && f.core.closed.Load() {
		err = ErrClosed
	}
	return err
}

// find looks a page up for a call that names it. The slot is nil if the page was never allocated.
func (f *finder) find(tx *scope.Scope, doing string, pid PageID) (page, error) {
	if err := f.check(tx, doing, pid); err != nil {
		return page{}, err
	}
	return f.lookup(doing, pid)
}

// lookup is find without the check.
func (f *finder) lookup(doing string, pid PageID) (page, error) {
	s, h, err := f.pages.Find(pid)
	return page{id: pid, slot: s, head: h}, describePage(doing, pid, f.core.opts.report.Corrupt(err))
}

// writable looks up a page that a caller wants to change. Its head is nil if there never was such a page.
func (f *finder) writable(tx *scope.Scope, doing string, pid PageID) (page, error) {
	if err := f.check(tx, doing, pid); err != nil {
		return page{}, err
	}
	if f.core.opts.ReadOnly {
		return page{}, describePage(doing, pid, ErrReadOnly)
	}
	if pid < FirstUserPage {
		return page{}, describePage(doing, pid, ErrReserved)
	}
	return f.lookup(doing, pid)
}

// take takes the id of a page that was never allocated or is free.
func (f *finder) take() (page, error) {
	pid, s, err := f.pages.Take()
	return page{id: pid, slot: s}, err
}
