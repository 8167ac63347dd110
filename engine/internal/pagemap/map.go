// Package pagemap is the state of a store's pages, without their values: which pages there are, which of them are
// roots, and which messages of the log each consists of. It holds the page table, the free page ids, the index of the
// roots and the space accounts, rebuilds them when a store is opened, and describes them to snapshots. The engine adds
// the values. A root is a page of one message, which has the name and the page that it names.
//
// Reading the code: map.go finds a page; install.go changes one, commit.go several in one step, parts.go writes such a
// step in parts if it takes much of the log, and rename.go adds and removes roots in one; rebuild.go is recovery, and
// apply.go the part of it that works in parallel; snapshot.go and accounts.go describe the state to snapshots and to
// Check; rescan.go looks pages up in the log that a corrupt snapshot lost.
package pagemap

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/epoch"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pageids"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/pagetable"
	"pagecache/engine/internal/roots"
	"pagecache/engine/internal/snapshot"
	"pagecache/engine/internal/txn"
	"pagecache/recovery"
	"pagecache/segments/format"
)

type (
	// Head is the newest entry of a page.
	Head = pagestack.Head
	// Slot is the place in the table that holds a page's head.
	Slot = pagestack.Slot
)

// Map is the state of the pages of one store. It is used by value inside a larger struct and not copied. Safe for
// concurrent use once Rebuild has returned.
type Map struct {
	Table pagetable.Table[Slot]
	IDs   pageids.Allocator
	_     [64]byte // Allocate and Free write IDs; every change reads the fields below
	Roots roots.Index
	// Clock shows transactions which pages have not changed. Commit announces its changes to it; a goroutine that
	// changes a page that transactions read by a compare-and-swap of its own does so itself.
	Clock txn.Clock
	// names has a slot for each shard of Roots. Each commit that adds names to the shard, or removes names from it,
	// changes the version of the slot, as that of a page. Nothing else writes it, and no page is there. A stale version
	// makes a transaction that has looked for a name in vain conflict.
	names  [roots.Shards]Slot
	former former
	pins   pins

	_       [64]byte // Views write the fields above when they begin and end; every read of a page loads commits.recent
	commits commits
	store   *logstore.Store
	blobs   *blob.Store
	base    *recovery.Snapshot // the snapshot that the store was opened from; nil: none
	snaps   *snapshot.Store
	readers *epoch.Domain // of the Txs
	writer  epoch.Slot    // pins what the snapshot being written refers to
	// rebuilding is set during Rebuild, which fails if it needs a corrupt block of the snapshot: nothing is looked up
	// in the log in the background. applying is set until Rebuild has applied the log, which may have newer messages of
	// a page than the snapshot.
	rebuilding, applying bool

	beforeBase func(format.PageID) // see BeforeBase; nil outside of tests
}

// Init sets the parts that the map works with.
func (m *Map) Init(s *logstore.Store, b *blob.Store, snaps *snapshot.Store, readers *epoch.Domain) {
	m.store, m.blobs, m.snaps, m.base, m.readers = s, b, snaps, snaps.Base, readers
	readers.Register(&m.writer)
	m.Roots.Init()
	snaps.Serve(rescanner{m})
	m.Clock.Place, m.Clock.LSNAt = onDisk, m.lsnAt
	m.IDs.OnCorrupt(snaps.Note)
}

// IsPending reports whether err, of FindNow, says that the page is being looked up in the log.
func IsPending(err error) bool {
	var block *recovery.BlockError
	return err != nil && errors.As(err, &block)
}

// Find returns the page's slot and its head. If the page was not touched since the opening, Find takes it in from the
// snapshot (snapshot, N1); if that is corrupt there, it waits until the page was looked up in the log (snapshot, N4),
// or until the store is closed. Slot and head are nil if there never was such a page; the head alone is nil if the
// page's id was handed out and nothing was written.
func (m *Map) Find(pid format.PageID) (*Slot, *Head, error) {
	s, h, err := m.FindNow(pid)
	if block := m.toRebuild(err); block != nil {
		if err := m.snaps.Await(context.Background(), block); err != nil {
			return s, nil, err
		}
		return m.FindNow(pid) // the block is rebuilt
	}
	return s, h, err
}

// toRebuild returns the corrupt block that err, of a look into the snapshot, is about; nil if it is about none, or
// during Rebuild. It allocates only if there is an error.
func (m *Map) toRebuild(err error) *recovery.BlockError {
	if err == nil || m.rebuilding {
		return nil
	}
	var block *recovery.BlockError
	errors.As(err, &block)
	return block
}

// FindNow is Find that does not wait. If the snapshot is corrupt there, the page is looked up in the log in the
// background, and IsPending of the error is true.
func (m *Map) FindNow(pid format.PageID) (*Slot, *Head, error) {
	s := m.Table.Get(pid)
	if s != nil {
		if h := m.Clock.Load(s); h != nil {
			return s, h, nil
		}
	}
	if m.base == nil || pid >= m.base.NextPage {
		return s, nil, nil
	}
	p, err := m.inBase(pid)
	if block := m.toRebuild(err); block != nil {
		m.snaps.Note(block)
	}
	// It may have been taken in meanwhile. A block that was rebuilt since then says nothing of such pages.
	if s := m.Table.Get(pid); s != nil {
		if h := m.Clock.Load(s); h != nil {
			return s, h, nil
		}
	}
	if err != nil || p.Kind == format.SnapshotKindNone {
		return s, nil, err
	}
	h, err := m.takeIn(pid, p)
	if err != nil {
		return s, nil, err
	}
	s = m.Table.Make(pid)
	s.CompareAndSwap(nil, h)
	return s, m.Clock.Load(s), nil
}

// inBase returns what the snapshot of the opening says about a page.
func (m *Map) inBase(pid format.PageID) (recovery.Page, error) {
	if m.beforeBase != nil {
		m.beforeBase(pid)
	}
	return m.base.Page(pid)
}

// Unknown reports whether the state of some pages is being looked up in the log. Nothing is cleaned or recycled
// meanwhile (snapshot, N5).
func (m *Map) Unknown() bool { return m.snaps.Rebuilding() > 0 }

// errNoMessages reports a record of a page that consists of no message.
var errNoMessages = fmt.Errorf("%w: page without messages", format.ErrSnapshot)

// takeIn makes the entry of a page from its record in the snapshot.
func (m *Map) takeIn(pid format.PageID, p recovery.Page) (*Head, error) {
	if err := snapshot.CheckKind(pid, p.Kind); err != nil {
		return nil, m.base.CorruptPage(pid, err)
	}
	if len(p.Refs) == 0 {
		return nil, m.base.CorruptPage(pid, errNoMessages)
	}
	refs := make([]pagestack.Ref, len(p.Refs))
	for i, r := range p.Refs {
		refs[i] = pagestack.Ref{LSN: r.LSN, Ptr: m.locate(r)}
	}
	missing := slices.ContainsFunc(refs, func(r pagestack.Ref) bool { return r.Ptr.IsZero() })
	if missing && !m.applying {
		return nil, m.missingSegment(pid, p.LSN)
	}
	switch p.Kind {
	case format.SnapshotKindFree:
		return pagestack.NewFree(0, p.LSN, refs[0].Ptr), nil
	case format.SnapshotKindRoot:
		return m.rootInBase(pid, refs[0])
	case format.SnapshotKindCounter:
		if missing {
			return nil, nil
		}
		msg, err := m.store.Read(p.LSN, refs[0].Ptr)
		if err != nil && errors.Is(err, recovery.ErrCorrupt) {
			m.store.Reporter().Corruption("the note of ids is corrupt; the snapshot has the counter too", err)
			return NewCounter(0, m.base.Counter, refs[0]), nil
		}
		if err != nil {
			return nil, logstore.InPage(pid, err)
		}
		return m.counter(recovery.Message{Kind: msg.Kind, LSN: p.LSN, Page: pid, Ptr: refs[0].Ptr, Body: msg.Body})
	}
	return pagestack.NewOnDisk(0, refs), nil
}

// locate returns where a message lies now that a snapshot refers to: its segment may have moved since. Zero means that
// the segment was recycled, which happens only if the page was written anew.
func (m *Map) locate(r recovery.Ref) format.DiskPtr {
	size := format.LSN(m.store.SegmentSize())
	id, ok := m.store.Space.Find(r.LSN - r.LSN%size)
	if !ok {
		return format.DiskPtr{}
	}
	return format.DiskPtr{Off: id.Offset(int(size)) + format.Offset(r.LSN%size), Len: r.Len, Blob: r.Blob}
}

// Packed returns the timestamp and the LSN of a page whose slot has its entry packed; false for all others. The caller
// is inside the epoch, or the LSN may mean nothing.
func (m *Map) Packed(pid format.PageID) (ts uint64, lsn format.LSN, ok bool) {
	s := m.Table.Get(pid)
	if s == nil {
		return 0, 0, false
	}
	h := s.Word()
	if !pagestack.IsPacked(h) {
		return 0, 0, false
	}
	return pagestack.PackedTS(h), m.lsnAt(pagestack.PackedOffset(h)), true
}

// lsnAt returns the LSN of a byte of the log file. The caller can still see a page that has a message there, so the
// segment stays (rule 4). There are two exceptions, which get an LSN that may mean nothing, and do not use it: the
// cleaner, for a page that has left the place, and a View, for a page that was changed after its cut. Read of the View
// finds the version of the cut instead.
func (m *Map) lsnAt(off format.Offset) format.LSN {
	return m.store.Space.At(off).Base() + format.LSN(off)%format.LSN(m.store.SegmentSize())
}

func (m *Map) missingSegment(pid format.PageID, lsn format.LSN) error {
	place := recovery.Place{}.WithLSN(lsn).WithPage(pid)
	return m.store.CorruptLog(place, "a segment with a part of the page is missing")
}

// rootInBase makes the entry of a root from what the snapshot says about it: its message need not be read.
func (m *Map) rootInBase(pid format.PageID, msg pagestack.Ref) (*Head, error) {
	r, ok := m.base.Root(pid)
	if !ok {
		return nil, m.base.CorruptPage(pid, errNotListed)
	}
	return pagestack.NewRoot(0, r, msg), nil
}

// errNotListed reports a record of a root that is not in the list of roots.
var errNotListed = fmt.Errorf("%w: root without a name", format.ErrSnapshot)

// counter makes the entry of page 1 from its message.
func (m *Map) counter(msg recovery.Message) (*Head, error) {
	if msg.Kind != format.KindCounter || msg.Page != format.CounterPage {
		return nil, m.store.Misplaced(msg, fmt.Sprintf("%v message for page %d", msg.Kind, msg.Page))
	}
	v, err := format.DecodeCounter(msg.Body)
	if err != nil {
		return nil, m.store.Misplaced(msg, err.Error())
	}
	return NewCounter(0, v, pagestack.Ref{LSN: msg.LSN, Ptr: msg.Ptr}), nil
}

// NewCounter returns the entry of page 1 for the message msg, unpublished.
func NewCounter(ts, counter uint64, msg pagestack.Ref) *Head {
	e := pagestack.New[struct{}](pagestack.KindCounter, ts, 1, msg.LSN, msg.Ptr)
	e.Ext = &pagestack.Ext{Counter: counter}
	return &e.Head
}
