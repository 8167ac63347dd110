package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/pagetable"
	"pagecache/lru"
	"pagecache/segments/format"
)

// The names of the log, see package segments/format.
type (
	PageID  = format.PageID
	LSN     = format.LSN
	DiskPtr = format.DiskPtr
)

// Materializer says what a store's pages are. Its methods are called by many goroutines at once. P is a value that is
// never changed once it was given to the store.
type Materializer[P any] interface {
	// Merge makes one value of a page's fragments, oldest first, at least two. The result aliases none of them.
	Merge(frags []P) P
	// Size is how many bytes of memory a fragment takes.
	Size(frag P) int
	// Append encodes a fragment behind dst.
	Append(dst []byte, frag P) []byte
	// Decode decodes a fragment. It may alias src, which stays unchanged until the Tx ends. If it does, what Get returns, or a part of it, must not be
	// given to the store again as it is, but copied. (Bytes takes care of that.)
	Decode(src []byte) (P, error)
}

// Bytes is the Materializer for pages that are byte strings and grow by appending: merging is concatenation. Encoding
// and decoding copy nothing.
type Bytes struct{}

// Merge concatenates.
func (Bytes) Merge(frags [][]byte) []byte {
	n := 0
	for _, f := range frags {
		n += len(f)
	}
	// A Builder's memory is not zeroed first, and whoever gets the page may not write to it any more than to a string.
	var page strings.Builder
	page.Grow(n)
	for _, f := range frags {
		page.Write(f)
	}
	return unsafe.Slice(unsafe.StringData(page.String()), n)
}

// Size is the length and the slice's own words.
func (Bytes) Size(frag []byte) int { return len(frag) + 24 }

// Append appends.
func (Bytes) Append(dst, frag []byte) []byte { return append(dst, frag...) }

// Decode returns src itself.
func (Bytes) Decode(src []byte) ([]byte, error) { return src, nil }

// PageKind says what a page is.
type PageKind uint8

// The kinds of page.
const (
	Unallocated  PageKind = iota // never allocated
	Materialized                 // has a value
	Free                         // was freed
	Counter                      // page 1, the id counter
	MetaPage                     // page 0, the map from names to root pages
)

var pageKinds = [...]string{"unallocated", "materialized", "free", "counter", "meta"}

// String returns the kind's name.
func (k PageKind) String() string { return pageKinds[k] }

// Page is what Get returns. Value is set if Kind is Materialized; it is valid until the Tx ends, and never changes.
type Page[P any] struct {
	Kind  PageKind
	Value P
	Ptr   PagePtr[P]
}

// PagePtr is a state of a page, for the compare-and-swap calls. It keeps nothing in memory, and may be kept for as long as the store is open.
type PagePtr[P any] struct {
	pid PageID
	ts  uint64 // which of the page's states (rule 6)
	lsn LSN    // of its newest message when it was seen; 0: the state of no page
}

// IsZero reports whether p is the state of no page.
func (p PagePtr[P]) IsZero() bool { return p.lsn == 0 }

// ptrTo is the state that a page is in whose head is given; zero if that is nil.
func ptrTo[P any](pid PageID, h *head) PagePtr[P] {
	if h == nil {
		return PagePtr[P]{}
	}
	return PagePtr[P]{pid, h.TS(), h.LSN}
}

// LastLSN is the LSN of the newest message that the state consists of; 0 if IsZero. The state is durable once that is stable.
func (p PagePtr[P]) LastLSN() LSN { return p.lsn }

// own returns a value of a caller's, or a copy of it if it is a view of the disk, such as Get returns: a page that was given it would not keep the place from
// being written again (rule 3). Only Bytes has such.
func (pc *PageCache[P]) own(pid PageID, v P) (P, error) {
	if pc.raw == nil {
		return v, nil
	}
	b := pc.raw(v)
	if len(b) == 0 || !pc.view.Holds(b) && !pc.blobs.holds(b) {
		return v, nil
	}
	err := pc.looking(true, pid, func() (err error) {
		v, err = pc.m.Decode(bytes.Clone(b))
		return err
	})
	return v, err
}

// FirstUserPage is the first id that Allocate hands out in a new store.
const FirstUserPage = format.FirstUserPage

type (
	entry[P any] = pagestack.Entry[P]
	head         = pagestack.Head
	slot         = pagetable.Slot[head]
)

// PageCache is an open page store. All methods are safe for concurrent use.
type PageCache[P any] struct {
	*store
	m      Materializer[P]
	raw    func(P) []byte // for Bytes: the encoding is the fragment itself
	zip    *zipper        // nil: values are not compressed
	inline int            // the longest value that goes into the log, encoded, in bytes
	table  pagetable.Table[head]
	txs    txs
	ids    counter
	pages  pages
	// What follows is written by many, and what stands before and behind it read by all.
	_      [64]byte
	counts counts
	hand   atomic.Uint64 // of the clock: sweep
	sweeps atomic.Uint64 // that were begun
	_      [64]byte
	budget *lru.Budget
	policy *lru.Policy
	// blobsAhead says that somebody brings in blobs for a Prefetch.
	blobsAhead atomic.Bool
	// barren is where the log was stable when a sweep found nothing that it could page out, −1 since something was read: until it is stable further there is
	// nothing, or next to it. Written by sweep and keepRead; a stale one costs a sweep, or spares one.
	barren atomic.Int64
	// pulled is the Ext of every Base whose value may be a view of the mapped file.
	pulled *pagestack.Ext
	limit  int // ConsolidateAfter
	// rebuilding: references in the table are in the order of the log. Until Open returns.
	rebuilding bool
	frags      sync.Pool // of *[]P, empty: room for the fragments of a page while it is merged
}

// Open opens the page store in dir, or makes one. opts nil means defaults. Errors: bad options (all of them named), ErrLocked
// after two seconds, ErrCorrupt, ErrNoSpace, ErrUnsupported, and those of the operating system. On an error nothing
// stays open and no data was touched.
func Open[P any](dir string, m Materializer[P], opts *Options) (*PageCache[P], error) {
	if m == nil {
		return nil, errors.New("open: no Materializer given")
	}
	pc, err := open(dir, m, opts)
	if ce := (*CorruptError)(nil); errors.As(err, &ce) {
		// A large snapshot is checked where it is used. One that was found damaged by then is passed over, too: all is in the log.
		if _, snapshot := format.ParseSnapshotName(filepath.Base(ce.File)); snapshot {
			opts.withDefaults().Logger.Warn("snapshot passed over", "file", ce.File, "err", err)
			o := Options{}
			if opts != nil {
				o = *opts
			}
			o.logAlone = true
			pc, again := open(dir, m, &o)
			if again != nil {
				return nil, errors.Join(err, again)
			}
			return pc, nil
		}
	}
	return pc, err
}

// open is one try of Open.
func open[P any](dir string, m Materializer[P], opts *Options) (*PageCache[P], error) {
	s, found, err := openStore(dir, opts, false)
	if err != nil {
		return nil, err
	}
	pc := &PageCache[P]{store: s, m: m, pulled: new(pagestack.Ext), limit: min(s.opts.ConsolidateAfter, pagestack.MaxDepth-1)}
	if _, ok := any(m).(Bytes); ok {
		pc.raw, _ = any(func(b []byte) []byte { return b }).(func(P) []byte)
	}
	if s.opts.verbatim {
		pc.limit = pagestack.MaxDepth // which no chain passes
	}
	pc.inline = s.super.SegmentSize / 4
	pc.barren.Store(-1)
	pc.budget = lru.NewBudget(s.opts.CacheCapacity)
	pc.txs.budget = pc.budget
	pc.policy = lru.New(pc.budget, evictor[P]{pc}, lru.Options{Passive: s.opts.foreground})
	if s.opts.Compression == CompressionZstd {
		pc.zip, err = newZipper(s.opts.CompressionLevel)
	}
	if err == nil {
		err = pc.rebuild(found)
	}
	if err != nil {
		pc.policy.Close()
		_, _ = s.log.Close()
		s.busy = !s.space.Close(iobuf.CloseTimeout)
		s.release()
		return nil, fmt.Errorf("open %s: %w", s.dir, err)
	}
	pc.ids.start(s, found.nextID, found.idLimit, pc.writeCounter)
	pc.startCleaner()
	pc.startSnapshots()
	return pc, nil
}

// Close makes everything written durable, marks the store closed cleanly and releases it. Calls that are under way or come later fail with
// ErrClosed. It waits a few seconds for open Txs to end; if one does not, the store is closed all the same, but its memory
// map stays until the process ends, so that what the Tx holds stays valid, and the error says so. A second Close is ErrClosed.
func (pc *PageCache[P]) Close() error {
	if pc.closed.Swap(true) {
		return fmt.Errorf("close: %w", ErrClosed)
	}
	close(pc.cleaner.quit)
	evicted := make(chan struct{})
	go func() {
		pc.policy.Close()
		close(evicted)
	}()
	pc.stopSnapshots()
	var left error
	if n := pc.txs.wait(); n > 0 {
		left = fmt.Errorf("close: %d Txs have not ended; the memory map is left in place", n)
		pc.keep = true
	}
	pc.calls.wait() // those that wait for the log itself end when it is closed
	cleaned := await(pc.cleaner.done) && await(evicted)
	if pc.opts.PrintProfileOnClose {
		pc.opts.Logger.Info("profile", "dir", pc.dir, "stats", fmt.Sprintf("%+v", pc.Stats()))
	}
	end, err := pc.log.Close() // wakes whoever waits for the log, such as a note of ids
	pc.ids.stop()
	if !cleaned && !(await(pc.cleaner.done) && await(evicted)) { // what they waited for may have been the log
		pc.busy = true
		left = errors.Join(left, errors.New("close: the cleaner, or the evictor, does not end"))
	}
	if err == nil && !pc.opts.Temporary && !pc.opts.ReadOnly {
		pc.lastSnapshot()
	}
	if err == nil && left == nil {
		pc.blobs.reap(pc.log.StableEnd(), math.MaxUint64) // what an open batch replaced is needed again
	}
	err = pc.finish(end, err, pc.ids.next.Load(), PageID(pc.pages.next.Load()))
	return errors.Join(left, logError("close", err))
}

// lastSnapshot writes the snapshot of a closing: what it does not know costs the next opening time, and no more.
func (pc *PageCache[P]) lastSnapshot() {
	err := pc.writeSnapshot(0)
	if err != nil && !errors.Is(err, iobuf.ErrClosed) { // a batch was left open
		pc.opts.Logger.Warn("snapshot not written", "dir", pc.dir, "err", err)
	}
}

// WasRecovered reports whether the store existed before this opening.
func (pc *PageCache[P]) WasRecovered() bool { return pc.found }

// Begin begins a Tx. It fails with ErrClosed, and with the log's error if ids have run out and cannot be noted.
func (pc *PageCache[P]) Begin() (*Tx, error) {
	ts := pc.ids.next.Add(1) - 1
	if ts >= pc.ids.soft.Load() {
		if err := pc.ids.slow(ts); err != nil {
			return nil, logError("begin", err)
		}
	}
	tx := pc.txs.begin()
	if pc.closed.Load() {
		tx.End()
		return nil, fmt.Errorf("begin: %w", ErrClosed)
	}
	tx.ts.Store(ts)
	return tx, nil
}

// check is what every call on a page begins with.
func (pc *PageCache[P]) check(tx *Tx, doing string, pid PageID) error {
	if err := pc.txs.checkTx(tx); err != nil {
		return fmt.Errorf("%s page %d: %w", doing, pid, err)
	}
	if pc.closed.Load() {
		return fmt.Errorf("%s page %d: %w", doing, pid, ErrClosed)
	}
	return nil
}
