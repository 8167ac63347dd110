// Package engine is a page cache and log for databases: numbered pages that live in memory and on disk at once.
//
// A page is a chain of fragments. Link appends a small delta, Replace writes the page anew, and Get returns the fragments
// merged by the caller's Materializer; Bytes is the Materializer for pages that are byte strings. Every change is a
// compare-and-swap against the state that the caller saw (PagePtr), and one message in a log-structured file. Open recovers
// all of it.
//
//	tx, err := pc.Begin()
//	pid, ptr, err := pc.Allocate(tx, first)           // in memory
//	ptr, won, err := pc.Link(tx, pid, ptr, delta)     // in memory, if no other writer changed the page meanwhile
//	_, err = pc.MakeStable(ptr.LastLSN())             // on stable storage
//	page, err := pc.Get(tx, pid)                      // page.Value, valid until
//	tx.End()
//
// # What it guarantees
//
// The numbers of rules and traps are those of docs/RULES.md, which also lists the tests that prove each.
//
//	P1  Durability. When MakeStable(lsn) or Flush has returned nil, the message at lsn and all before it survive any crash.
//	    Stable bytes are never written again, the log becomes stable strictly in order, and recovery never silently drops
//	    data that was known to be stable (rules 1, 5, 10).
//	P2  Batches. Everything between PinLog and Seal is recovered whole or not at all (trap 1), whatever its size. An open
//	    batch delays only the durability of messages written after it (trap 11).
//	P3  One winner. Of several calls with the same PagePtr exactly one changes the page; the others return its current
//	    state. Housekeeping never makes a caller lose (rule 6).
//	P4  Views. A value that Get returns does not change until its Tx ends, and is never torn or half merged (rules 2, 3).
//	P5  Ids. GenerateID and Begin never return a number twice in the life of a store, crashes included. A page id is used
//	    again only after its freeing has won and every Tx that could have seen the page has ended (trap 2).
//	P6  Failure. A failed write to the log wakes every waiter, and every later write is ErrFailed with the cause; reads go on
//	    (rule 8, trap 10). A full disk fails the call that needs space and nothing else (rule 9).
//	P7  Shown data stays. Open shows nothing that a power cut right afterwards could take back (rule 11).
//	P8  Corruption. No bytes on disk make Open or a read panic, hang, or return a wrong value. The error is a CorruptError
//	    that says where (rule 12).
//	P9  Accounts. Before a message can become stable, its segment's live bytes include it (rule 7).
//	P10 Space. Dead data is recycled in the background, in proportion to what is written, and never while a Tx, a batch or a
//	    crash could still need it (rule 4). Opening takes time for the log written since the last snapshot, not for the
//	    number of pages.
//
// It gives no isolation between transactions: a Tx only keeps what it can reach from being reclaimed. Locks, orders and
// retries across pages are up to the database above.
//
// # Reading the code
//
// The files have an order, and no file refers back up: salvage, check, log, open; then the calls in stats, meta, link, get,
// batch; then evict and move, which housekeeping calls; then change, fetch, encode and memory, which do the work; and at the
// bottom page, pagecache, tx, options and errors. Packages below internal hold everything that knows neither the page type nor
// the Materializer. docs/ARCHITECTURE.md has the map.
package engine

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/clean"
	"pagecache/engine/internal/compress"
	"pagecache/engine/internal/idgen"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagemap"
	"pagecache/engine/internal/snapshot"
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

// A Materializer defines the page type of a store: how fragments are merged, measured, encoded and decoded. Many goroutines
// call its methods concurrently. The caller must not modify a P after passing it to the store. See docs/MATERIALIZER.md.
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

// Bytes is the Materializer for pages that are byte strings and grow by appending: merging concatenates. Encoding and decoding
// copy nothing.
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
	names := [...]string{"unallocated", "materialized", "free", "counter", "meta", "unreadable"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("PageKind(%d)", uint8(k))
}

// Page is the result of Get. Value is set if Kind is KindMaterialized; it is valid until the Tx ends and never changes.
type Page[P any] struct {
	Kind  PageKind
	Value P
	Ptr   PagePtr[P]
}

// A PagePtr identifies one version of a page for the compare-and-swap calls. It pins no memory and stays usable until Close.
type PagePtr[P any] struct {
	pid PageID
	ts  uint64 // identifies the version (rule 6)
	lsn LSN    // of the version's newest message when it was seen; 0: no page
}

// IsZero reports whether p identifies no page.
func (p PagePtr[P]) IsZero() bool { return p.lsn == 0 }

// LastLSN returns the LSN of the newest message in this version, or 0 if p is zero. The version is durable once that LSN is
// stable.
func (p PagePtr[P]) LastLSN() LSN { return p.lsn }

// ptrTo identifies the version of the page whose head is h; zero if h is nil.
func ptrTo[P any](pid PageID, h *head) PagePtr[P] {
	if h == nil {
		return PagePtr[P]{}
	}
	return PagePtr[P]{pid, h.TS(), h.LSN}
}

// PageCache is an open page store. All methods are safe for concurrent use.
type PageCache[P any] struct {
	core    core
	m       Materializer[P]
	raw     func(P) []byte       // if the page type is Bytes: a fragment is its own encoding; else nil
	zip     *compress.Compressor // nil: values are not compressed
	inline  int                  // the longest encoded value, in bytes, that goes into the log and not into a blob
	limit   int                  // Options.ConsolidateAfter
	pages   pagemap.Map
	txs     txs
	ids     idgen.Generator
	mem     memory[P]
	cleaner *clean.Cleaner
	blobs   *blob.Store
	snaps   *snapshot.Store
	frags   sync.Pool // of *[]P, empty: scratch memory for the fragments of a page while it is merged
	// aheadInBlobs says that a goroutine reads blobs ahead for Prefetch.
	aheadInBlobs atomic.Bool
}

// core is the part that page stores and standalone logs have in common.
type core struct {
	opts  Options
	store *logstore.Store
	// closed is set by Close, which then waits for the calls and Txs that have not seen it.
	closed atomic.Bool
	// calls are the calls that use the log outside of a Tx. Close takes no buffer away under them.
	calls txs
}

// enter begins a call that uses the io buffers or the map outside of a Tx. The call ends with End. It fails once the store is
// closed.
func (c *core) enter() (*Tx, error) {
	call := c.calls.begin()
	if c.closed.Load() { // after begin: Close sets it, then looks for calls
		call.End()
		return nil, ErrClosed
	}
	return call, nil
}
