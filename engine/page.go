package engine

import (
	"fmt"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"pagecache/engine/internal/pagemap"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/report"
	"pagecache/engine/internal/values"
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// PageID is the number of a page.
type PageID = format.PageID

// LSN is a log sequence number: the position of a byte in the log, counted from its beginning. LSNs only rise.
type LSN = format.LSN

// DiskPtr says where a message lies in the log file.
type DiskPtr = format.DiskPtr

// FirstUserPage is the first id that Allocate returns in a new store. Pages 0 and 1 are reserved.
const FirstUserPage = format.FirstUserPage

// A Materializer defines the page type of a store: how fragments are merged, measured, encoded and decoded. Many
// goroutines call its methods concurrently. The store keeps nothing that callers pass to it: it keeps what Decode makes
// of the encoding (or a copy, if P is a byte string of Bytes or has no pointers). See docs/MATERIALIZER.md.
type Materializer[P any] interface {
	// Merge combines the fragments of a page, oldest first, at least two. The result must not alias memory that Decode
	// was given as src; it may share memory that Decode has copied. Merge must not change frags, nor keep the slice.
	Merge(frags []P) P
	// Size returns the memory that a fragment occupies, in bytes, the same at any time. It must not panic.
	Size(frag P) int
	// Append appends the encoding of frag to dst and returns the extended slice.
	Append(dst []byte, frag P) []byte
	// Decode decodes a fragment. The result may alias src, which does not change until the Tx ends, or is memory that
	// belongs to this fragment alone. An error while a fragment is written is the error of that call.
	Decode(src []byte) (P, error)
}

// callerCode calls the Materializer. All calls of it go through these methods, by which contain tells a panic in the
// Materializer from one of our own. They cost nothing: they are inlined, and yet found in a stack.
type callerCode[P any] struct{ m Materializer[P] }

func (c callerCode[P]) Merge(frags []P) P                { return c.m.Merge(frags) }
func (c callerCode[P]) Size(frag P) int                  { return c.m.Size(frag) }
func (c callerCode[P]) Append(dst []byte, frag P) []byte { return c.m.Append(dst, frag) }
func (c callerCode[P]) Decode(src []byte) (P, error)     { return c.m.Decode(src) }

// sumOf returns the checksum of a value that the store keeps. Only in builds with the invariants tag.
func sumOf[P any](m callerCode[P], v P) invariants.Sum {
	if !invariants.Enabled {
		return invariants.Sum{}
	}
	return invariants.SumOf(m.Append(nil, v))
}

// checkUnmodified panics if a value of the page with head h is not what it was when it became resident: the embedder
// has changed memory that belongs to the store (rule 20). Only in builds with the invariants tag.
func checkUnmodified[P any](m callerCode[P], pid PageID, h *head) {
	for ; invariants.Enabled && h != nil; h = h.Next() {
		if h.Kind() != pagestack.KindDelta && !h.IsWhole() {
			return
		}
		if e := pagestack.EntryOf[P](h); e.Sum.IsSet() && !matches(m, e) {
			const text = "engine: the value of page %d at LSN %d was modified; copy a value to change it (rule 20)"
			panic(fmt.Sprintf(text, pid, h.LSN))
		}
		if h.Kind() != pagestack.KindDelta {
			return
		}
	}
}

// matches reports whether an entry's value has its checksum. A value that Append panics on cannot be checked; without
// the invariants tag nothing would have called Append.
func matches[P any](m callerCode[P], e *entry[P]) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = true
		}
	}()
	return e.Sum.Matches(m.Append(nil, e.Frag))
}

// isFlat reports whether a value of type t has no pointers.
func isFlat(t reflect.Type) bool {
	switch k := t.Kind(); {
	case k == reflect.Array:
		return isFlat(t.Elem())
	case k == reflect.Struct:
		for i := range t.NumField() {
			if !isFlat(t.Field(i).Type) {
				return false
			}
		}
		return true
	default:
		return k >= reflect.Bool && k <= reflect.Complex128 // the numbers, in the order of package reflect
	}
}

// contain calls f, which does the store's own work on a page, and returns its error. If the Materializer panics in it,
// or faults on mapped memory, contain reports that and returns ErrPanic. Other panics are faults of ours and go on.
// doing says what f does, such as "moving".
func contain(r *report.Reporter, doing string, pid PageID, f func() error) (err error) {
	old, done := debug.SetPanicOnFault(true), false
	defer func() {
		debug.SetPanicOnFault(old)
		if done || !inCallerCode() {
			return
		}
		value := recover()
		if value == nil {
			value = "runtime.Goexit was called" // which goes on to end the goroutine
		}
		r.Panic(report.PanicInfo{Doing: doing, Page: pid, Value: value, Stack: debug.Stack()})
		err = fmt.Errorf("%s page %d: %w: %v", doing, pid, ErrPanic, value)
	}()
	err = f()
	done = true
	return err
}

// inCallerCode reports whether a call of the Materializer is under way that was made within the innermost contain.
func inCallerCode() bool {
	pcs := make([]uintptr, 64)
	n := runtime.Callers(2, pcs)
	for n == len(pcs) { // ends: a stack is finite
		pcs = make([]uintptr, 2*len(pcs))
		n = runtime.Callers(2, pcs)
	}
	const pkg = "pagecache/engine."
	for frames := runtime.CallersFrames(pcs[:n]); ; {
		frame, more := frames.Next()
		if strings.HasPrefix(frame.Function, pkg+"callerCode[") {
			return true
		}
		if frame.Function == pkg+"contain" || !more {
			return false
		}
	}
}

// Named is an optional interface of a Materializer: it names the format of its pages, so that no other type takes their
// bytes for its own. Open calls Format once. The name has at most 255 bytes; an empty name is none. It is kept in the
// superblock, from the first opening for writing that has one, of a new store or of one without a name. From then on,
// Open with another name, or with none, fails with ErrFormat before anything is written. A store without a name can be
// opened by every type.
type Named interface{ Format() string }

// formatOf returns the name of the format of a Materializer's pages, or an error if the name is too long.
func formatOf(m any) (string, error) {
	n, ok := m.(Named)
	if !ok {
		return "", nil
	}
	name := n.Format()
	if len(name) > format.MaxFormatName {
		return "", fmt.Errorf("the name of the pages' format has %d bytes, want at most %d", len(name),
			format.MaxFormatName)
	}
	return name, nil
}

// Bytes is the Materializer for pages that are byte strings and grow by appending: merging concatenates. Encoding and
// decoding copy nothing.
type Bytes struct{}

// Merge concatenates the fragments.
func (Bytes) Merge(frags [][]byte) []byte {
	n := 0
	for _, f := range frags {
		n += len(f)
	}
	// A Builder does not zero its memory first. The page must not be modified, any more than a string.
	var page strings.Builder
	page.Grow(n)
	for _, f := range frags {
		page.Write(f)
	}
	return unsafe.Slice(unsafe.StringData(page.String()), n)
}

// Size returns the length of the fragment plus that of its slice header.
func (Bytes) Size(frag []byte) int { return len(frag) + 24 }

// Append appends the fragment.
func (Bytes) Append(dst, frag []byte) []byte { return append(dst, frag...) }

// Decode returns src itself.
func (Bytes) Decode(src []byte) ([]byte, error) { return src, nil }

// PageKind is the kind of a page.
type PageKind uint8

// The kinds of page.
const (
	KindUnallocated  PageKind = iota // never allocated
	KindMaterialized                 // has a value
	KindFree                         // was freed
	KindCounter                      // page 1, the id counter
	KindMeta                         // page 0, which stands for the roots as a whole
	KindUnreadable                   // only from Pages and GetMany: the page cannot be read; Get returns the error
	KindRoot                         // holds a root; no page for calls other than Get and Pages
)

// String returns the kind's name.
func (k PageKind) String() string {
	return enumName("PageKind", int(k), "unallocated", "materialized", "free", "counter", "meta", "unreadable",
		"root")
}

// Page is the result of Get. Value is set if Kind is KindMaterialized; it is valid until the Tx ends and never changes.
type Page[P any] struct {
	Kind  PageKind
	Value P
	Ptr   PagePtr[P]
}

// A PagePtr identifies one version of a page for the compare-and-swap calls. It pins no memory and stays usable until
// Close.
type PagePtr[P any] struct {
	pid PageID
	ts  uint64 // identifies the version (rule 6)
	lsn LSN    // at which the version's newest message takes effect; 0: no page
}

// IsZero reports whether p identifies no page.
func (p PagePtr[P]) IsZero() bool { return p.lsn == 0 }

// LastLSN returns the LSN of the newest message in this version, or 0 if p is zero. The version is durable once that
// LSN is stable. If a transaction wrote it in parts (Tx.Commit), it is the LSN that Commit has returned, until that is
// stable.
func (p PagePtr[P]) LastLSN() LSN { return p.lsn }

// in returns p with the LSN at which its version takes effect. The caller has found the version in the pages.
func (p PagePtr[P]) in(pages *pagemap.Map) PagePtr[P] {
	p.lsn = pages.Effect(p.lsn)
	return p
}

// ptrTo identifies the version of the page whose head is h; zero if h is nil.
func ptrTo[P any](pid PageID, h *head) PagePtr[P] {
	if h == nil {
		return PagePtr[P]{}
	}
	return PagePtr[P]{pid, h.TS(), h.LSN}
}

// livePtr identifies the state of the page with head h; zero if the page does not exist.
func livePtr[P any](pid PageID, h *head) PagePtr[P] {
	if !isPage(h) {
		return PagePtr[P]{}
	}
	return ptrTo[P](pid, h)
}

type (
	entry[P any] = pagestack.Entry[P]
	head         = pagestack.Head
	slot         = pagemap.Slot
)

// owned is a copy of a fragment that a caller has given: the store keeps the fragment, and the payload goes into the
// log.
type owned[P any] struct {
	frag    P
	size    int64 // Size of frag
	payload values.Payload
	sum     invariants.Sum
	entry   *entry[P] // not initialized, holds frag in memory of its own; nil: there is none yet
	// grow, if set, makes the entry, which copies frag: frag is not kept.
	grow func(h *head, delta P, msg pagestack.Ref) *entry[P]
}

// inlined makes an entry of Bytes and a copy of its value in one piece of memory. The zero inlined makes none.
type inlined[P any] struct {
	make func(b []byte) *entry[P]
	most int // the length in bytes of the longest value
	// short is memory for the copy of a delta that will be grown, which need not be kept; nil: it is not known to be.
	short []byte
}

// shortDelta is the length in bytes up to which a transaction copies a delta that will be grown into memory that it
// uses again.
const shortDelta = 64

// manyWrites is the number of changed pages above which they are found by a map.
const manyWrites = 8

// page is a page that a call works on: its id, its slot in the table, and the head that the slot held when it was
// looked up.
type page struct {
	id   PageID
	slot *slot
	head *head
}

// exists reports whether the page was allocated and not freed.
func (pg page) exists() bool { return isPage(pg.head) }

// isPage reports whether h is the head of a page that was allocated and not freed.
func isPage(h *head) bool {
	return h != nil && h.Kind() != pagestack.KindFree && h.Kind() != pagestack.KindRoot
}

// gates are the gates of all pages; pages share them.
type gates [64]gate

// gate lets one goroutine at a time do housekeeping on a page that many goroutines write to, and lets it win: while the
// gate is closed, no write to the page begins. Those that have begun win at most once each, so the number of
// turns that the housekeeping loses is limited (rule 18).
type gate struct {
	mu sync.Mutex // held by the goroutine that does housekeeping
	// opens is closed by the goroutine that holds mu, to let the waiting writes go on; nil while the gate is open. It
	// publishes nothing. A stale nil lets one more write begin.
	opens atomic.Pointer[chan struct{}]
	_     [48]byte // a cache line of its own
}

func (g *gates) of(pid PageID) *gate { return &g[pid%PageID(len(g))] }

// pass waits until the gate is open.
func (g *gate) pass() {
	if opens := g.opens.Load(); opens != nil {
		<-*opens
	}
}

// shut closes the gate. The caller holds mu and calls open soon.
func (g *gate) shut() {
	opens := make(chan struct{})
	g.opens.Store(&opens)
}

// open opens the gate, if it is closed. The caller holds mu.
func (g *gate) open() {
	if opens := g.opens.Swap(nil); opens != nil {
		close(*opens)
	}
}
