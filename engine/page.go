package engine

import (
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"pagecache/engine/internal/pagemap"
	"pagecache/engine/internal/pagestack"
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
// goroutines call its methods concurrently. The caller must not modify a P after passing it to the store. See
// docs/MATERIALIZER.md.
type Materializer[P any] interface {
	// Merge combines the fragments of a page, oldest first, at least two. The result must not alias any of them.
	Merge(frags []P) P
	// Size returns the memory that a fragment occupies, in bytes.
	Size(frag P) int
	// Append appends the encoding of frag to dst and returns the extended slice.
	Append(dst []byte, frag P) []byte
	// Decode decodes a fragment. The result may alias src, which does not change until the Tx ends. If it does, a value
	// obtained from Get must be copied before it is passed back to Link, Replace or Allocate. (Bytes does this itself.)
	Decode(src []byte) (P, error)
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
	KindMeta                         // page 0, the map from names to root pages
	KindUnreadable                   // only from Pages: the state of the page cannot be read; Get returns the error
)

// String returns the kind's name.
func (k PageKind) String() string {
	return enumName("PageKind", int(k), "unallocated", "materialized", "free", "counter", "meta", "unreadable")
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
	lsn LSN    // of the version's newest message when it was seen; 0: no page
}

// IsZero reports whether p identifies no page.
func (p PagePtr[P]) IsZero() bool { return p.lsn == 0 }

// LastLSN returns the LSN of the newest message in this version, or 0 if p is zero. The version is durable once that
// LSN is stable.
func (p PagePtr[P]) LastLSN() LSN { return p.lsn }

// ptrTo identifies the version of the page whose head is h; zero if h is nil.
func ptrTo[P any](pid PageID, h *head) PagePtr[P] {
	if h == nil {
		return PagePtr[P]{}
	}
	return PagePtr[P]{pid, h.TS(), h.LSN}
}

type (
	entry[P any] = pagestack.Entry[P]
	head         = pagestack.Head
	slot         = pagemap.Slot
)

// page is a page that a call works on: its id, its slot in the table, and the head that the slot held when it was
// looked up.
type page struct {
	id   PageID
	slot *slot
	head *head
}

// isWhole reports whether an entry of that kind holds the value of the whole page.
func isWhole(k pagestack.Kind) bool { return k == pagestack.KindBase || k == pagestack.KindMerged }

// exists reports whether the page was allocated and not freed.
func (pg page) exists() bool { return pg.head != nil && pg.head.Kind() != pagestack.KindFree }

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
