package engine

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/pagetable"
	"pagecache/recovery"
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
	// Decode decodes a fragment. It may alias src, which stays unchanged until the Tx ends.
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

// PagePtr is a state of a page, for the compare-and-swap calls. It does not outlive the opening.
type PagePtr[P any] struct{ e *entry[P] }

// IsZero reports whether p is the state of no page.
func (p PagePtr[P]) IsZero() bool { return p.e == nil }

// LastLSN is the LSN of the newest message that the state consists of; 0 if IsZero. The state is durable once that is stable.
func (p PagePtr[P]) LastLSN() LSN {
	if p.e == nil {
		return 0
	}
	return p.e.LSN
}

type (
	entry[P any] = pagestack.Entry[P]
	slot[P any]  = pagetable.Slot[entry[P]]
)

// PageCache is an open page store. All methods are safe for concurrent use.
type PageCache[P any] struct {
	*store
	m      Materializer[P]
	raw    func(P) []byte // for Bytes: the encoding is the fragment itself
	zip    *zipper        // nil: values are not compressed
	inline int            // the longest value that goes into the log, encoded, in bytes
	table  pagetable.Table[entry[P]]
	txs    txs
	ids    counter
	pages  pages
	counts counts
	// pulled is the Ext of every Base whose value may be a view of the mapped file.
	pulled *pagestack.Ext[P]
	limit  int       // ConsolidateAfter
	frags  sync.Pool // of *[]P, empty: room for the fragments of a page while it is merged
}

// Open opens the page store in dir, or makes one. opts nil means defaults. Errors: bad options (all of them named), ErrLocked
// after two seconds, ErrCorrupt, ErrNoSpace, ErrUnsupported, and those of the operating system. On an error nothing
// stays open and no data was touched.
func Open[P any](dir string, m Materializer[P], opts *Options) (*PageCache[P], error) {
	if m == nil {
		return nil, errors.New("open: no Materializer given")
	}
	s, found, err := openStore(dir, opts, false)
	if err != nil {
		return nil, err
	}
	pc := &PageCache[P]{store: s, m: m, pulled: new(pagestack.Ext[P]), limit: min(s.opts.ConsolidateAfter, pagestack.MaxDepth-1)}
	if _, ok := any(m).(Bytes); ok {
		pc.raw, _ = any(func(b []byte) []byte { return b }).(func(P) []byte)
	}
	pc.inline = s.super.SegmentSize / 4
	if s.opts.Compression == CompressionZstd {
		pc.zip, err = newZipper(s.opts.CompressionLevel)
	}
	if err == nil {
		err = pc.rebuild(found)
	}
	if err != nil {
		_, _ = s.log.Close()
		s.busy = !s.space.Close(iobuf.Patience)
		s.release()
		return nil, fmt.Errorf("open %s: %w", s.dir, err)
	}
	pc.ids.start(s, found.nextID, found.idLimit, pc.writeCounter)
	pc.startCleaner()
	return pc, nil
}

// rebuild fills the table from the messages that recovery found.
func (pc *PageCache[P]) rebuild(r *recovered) error {
	next := max(r.nextPage, FirstUserPage)
	// Ids are dense, and of each page that there is, or was, a message is in the log, but for those of the last allocations before a crash.
	// So ids are bounded by how many messages the log has room for: a hostile one must not cost memory (rule 12).
	const slack = 1 << 20
	bound := next + slack + PageID(len(r.scan.Segments)*(pc.super.SegmentSize/format.HeaderSize))
	orphans := map[PageID]recovery.Message{}
	err := r.scan.Apply(func(m recovery.Message) error {
		if m.Page > bound {
			return pc.misplaced(m, "page id out of proportion to the log")
		}
		if m.Kind == format.KindCounter || m.Kind == format.KindMeta {
			return pc.rebuildSpecial(m, m.Ptr)
		}
		next = max(next, m.Page+1)
		if r.scan.Recycled > 0 && pc.orphaned(orphans, m) {
			return nil
		}
		return pc.rebuildPage(m, m.Ptr)
	})
	if err != nil {
		return err
	}
	for _, m := range orphans {
		return pc.misplaced(m, noBase)
	}
	pc.pages.next.Store(uint64(next))
	for pid := FirstUserPage; pid < next; pid++ {
		s := pc.table.Get(pid)
		if s == nil {
			pc.pages.free = append(pc.pages.free, pid)
			continue
		}
		e := s.Load()
		if e == nil || e.Kind() == pagestack.Free {
			pc.pages.free = append(pc.pages.free, pid)
		}
		if e != nil {
			if e.Ext != nil {
				slices.Reverse(e.Ext.Refs)
			}
			e.Refs(func(ref pagestack.Ref) {
				pc.space.Live(ref.Ptr)
				if ref.Ptr.Blob {
					err = errors.Join(err, pc.adoptBlob(ref))
				}
			})
		}
	}
	if err != nil {
		return err
	}
	for _, pid := range []PageID{format.MetaPage, format.CounterPage} {
		if s := pc.table.Get(pid); s != nil && s.Load() != nil {
			pc.space.Live(s.Load().Ptr())
		}
	}
	pc.pages.ready()
	if pc.opts.ReadOnly {
		return nil
	}
	return pc.blobs.sweep()
}

// adoptBlob says that the blob that a message points to is there.
func (pc *PageCache[P]) adoptBlob(ref pagestack.Ref) error {
	ptr, err := pc.blobAt(ref)
	if err == nil {
		pc.blobs.adopt(ptr)
	}
	return err
}

// blobAt returns the pointer to a blob that a message is.
func (s *store) blobAt(ref pagestack.Ref) (format.BlobPtr, error) {
	_, body, err := s.read(ref.LSN, ref.Ptr)
	if err != nil {
		return format.BlobPtr{}, err
	}
	ptr, err := format.DecodeBlobPtr(body)
	return ptr, s.corrupt(ref.LSN, ref.Ptr, format.Header{Page: recovery.NoPage}, err)
}

// FirstUserPage is the first id that Allocate hands out in a new store.
const FirstUserPage = format.FirstUserPage

const noBase = "a delta of a page that has no base"

// orphaned reports whether a message is a delta whose base was recycled. Then the page was written anew further on: orphans keeps those for which
// that has not come yet.
func (pc *PageCache[P]) orphaned(orphans map[PageID]recovery.Message, m recovery.Message) bool {
	if m.Kind.Plain() != format.KindAppend {
		delete(orphans, m.Page)
		return false
	}
	if old := pc.table.Make(m.Page).Load(); old != nil && old.Kind() == pagestack.OnDisk {
		if _, already := orphans[m.Page]; !already {
			return false
		}
	}
	orphans[m.Page] = m
	return true
}

func (pc *PageCache[P]) rebuildPage(m recovery.Message, ptr DiskPtr) error {
	s := pc.table.Make(m.Page)
	old := s.Load()
	e := pagestack.New[P](pagestack.OnDisk, 0, 1, m.LSN, ptr)
	switch m.Kind.Plain() {
	case format.KindFree:
		e = pagestack.New[P](pagestack.Free, 0, 1, m.LSN, ptr)
	case format.KindCompact:
		e.Ext = &pagestack.Ext[P]{Refs: []pagestack.Ref{{LSN: m.LSN, Ptr: ptr}}}
	case format.KindAppend:
		if old == nil || old.Kind() != pagestack.OnDisk {
			return pc.misplaced(m, noBase)
		}
		// Nobody else sees the chain yet. Oldest first until rebuild turns it round.
		e = pagestack.New[P](pagestack.OnDisk, 0, len(old.Ext.Refs)+1, m.LSN, ptr)
		e.Ext = old.Ext
		e.Ext.Refs = append(e.Ext.Refs, pagestack.Ref{LSN: m.LSN, Ptr: ptr})
	default:
		return pc.misplaced(m, "a message of kind "+m.Kind.String()+" in a page store")
	}
	s.Store(e)
	return nil
}

// misplaced is the error for a message that is intact but cannot be where it is.
func (s *store) misplaced(m recovery.Message, reason string) error {
	return &CorruptError{File: filepath.Join(s.dir, logName), Slot: format.SegmentID(int64(m.Ptr.Off) / int64(s.super.SegmentSize)),
		Offset: m.Ptr.Off, LSN: m.LSN, Page: m.Page, Reason: reason}
}

func (pc *PageCache[P]) rebuildSpecial(m recovery.Message, ptr DiskPtr) error {
	ext := new(pagestack.Ext[P])
	var err error
	kind, want := pagestack.Meta, format.MetaPage
	if m.Kind == format.KindCounter {
		kind, want = pagestack.Counter, format.CounterPage
		ext.Counter, err = format.DecodeCounter(m.Body)
	} else {
		ext.Meta, err = format.DecodeMeta(m.Body)
	}
	if err == nil && m.Page != want {
		err = fmt.Errorf("%v message for page %d", m.Kind, m.Page)
	}
	if err != nil {
		return pc.misplaced(m, err.Error())
	}
	e := pagestack.New[P](kind, 0, 1, m.LSN, ptr)
	e.Ext = ext
	pc.table.Make(want).Store(e)
	return nil
}

// Close makes everything written durable, marks the store closed cleanly and releases it. Calls that are under way or come later fail with
// ErrClosed. It waits a few seconds for open Txs to end; if one does not, the store is closed all the same, but its memory
// map stays until the process ends, so that what the Tx holds stays valid, and the error says so. A second Close is ErrClosed.
func (pc *PageCache[P]) Close() error {
	if pc.closed.Swap(true) {
		return fmt.Errorf("close: %w", ErrClosed)
	}
	var left error
	if n := pc.txs.wait(); n > 0 {
		left = fmt.Errorf("close: %d Txs have not ended; the memory map is left in place", n)
		pc.view = nil
	}
	pc.calls.wait() // those that wait for the log itself end when it is closed
	pc.stopCleaner()
	if pc.opts.PrintProfileOnClose {
		pc.opts.Logger.Info("profile", "dir", pc.dir, "stats", fmt.Sprintf("%+v", pc.Stats()))
	}
	end, err := pc.log.Close() // wakes whoever waits for the log, such as a note of ids
	pc.ids.stop()
	if err == nil && left == nil {
		pc.blobs.reap(pc.log.StableEnd(), math.MaxUint64) // what an open batch replaced is needed again
	}
	err = pc.finish(end, err, pc.ids.next.Load(), PageID(pc.pages.next.Load()))
	return errors.Join(left, logError("close", err))
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
