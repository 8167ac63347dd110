package pagemap

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/epoch"
	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/snapshot"
	"pagecache/internal/simdisk"
	"pagecache/recovery"
	"pagecache/segments/format"
)

const forgeDir = "/store"

// opened is a store that is being opened: everything but Rebuild is done.
type opened struct {
	store  *logstore.Store
	blobs  *blob.Store
	snaps  *snapshot.Store
	found  *logstore.Recovered
	domain epoch.Domain
	m      Map
}

// openUnbuilt opens the store on a disk. The caller closes it with Abandon.
func openUnbuilt(t testing.TB, d *simdisk.Disk, segmentSize int) *opened {
	t.Helper()
	store, err := logstore.Open(forgeDir, logstore.Config{FS: d, SegmentSize: segmentSize, IOBuffers: 2,
		IDInterval: 100, Cleaned: true, Foreground: true})
	if err != nil {
		t.Fatal(err)
	}
	o := &opened{store: store}
	o.blobs = blob.New(blob.Config{In: store.Held, Name: "blobs", Store: store.Super.Store, Reader: store.Reader})
	o.snaps = snapshot.New(snapshot.Config{In: store.Held, FS: d, Store: store.Super.Store,
		Lineage: store.Super.Lineage(), Timeline: store.Timeline,
		SegmentSize: store.SegmentSize(), Reader: store.Reader, Clean: store.Super.Clean})
	store.Attach(o.blobs)
	store.Attach(o.snaps)
	for _, step := range []func() error{
		store.Distrust,
		func() error { return o.snaps.Find(false) },
		func() (err error) {
			o.found, err = store.Recover(o.base())
			return err
		},
		o.blobs.Find,
		func() error { return store.Prepare(o.found) },
		func() error { return store.Start(o.found) },
	} {
		if err := step(); err != nil {
			store.Abandon()
			t.Fatal(err)
		}
	}
	o.m.Init(store, o.blobs, o.snaps, &o.domain)
	return o
}

// base returns what the snapshot says about the log, as the engine does.
func (o *opened) base() (b logstore.Base) {
	if snap := o.snaps.Base; snap != nil {
		b = logstore.Base{From: snap.From, Stable: snap.High, Counter: snap.Counter,
			Recycled: snap.Recycled, Left: snap.Left, Timeline: snap.Timeline}
		for _, g := range snap.Segments {
			b.Known = append(b.Known, g.Base)
		}
	}
	return b
}

// forged is a message that a forge has written.
type forged struct {
	kind format.Kind
	ref  recovery.Ref
	body []byte // of KindRoot
}

// A forge writes the logs and snapshots of a page store message by message. So it also writes some that no store
// writes.
type forge struct {
	t     testing.TB
	rng   *rand.Rand
	disk  *simdisk.Disk
	o     *opened
	batch *iobuf.Batch
	blob  format.BlobID
	// pages has the messages of each page in the order of the log.
	pages map[format.PageID][]forged
	next  format.PageID // above the highest page with a message
	exact bool          // snapshots begin where the log was stable, and show the pages as they are
}

func newForge(t testing.TB, seed uint64) *forge {
	f := &forge{t: t, rng: rand.New(rand.NewPCG(seed, 5)), pages: map[format.PageID][]forged{}}
	f.disk = simdisk.New(seed, simdisk.Options{Block: 512})
	f.next = format.FirstUserPage
	f.open()
	return f
}

// open opens the store and forgets what the recovered log does not contain.
func (f *forge) open() {
	f.o = openUnbuilt(f.t, f.disk, format.MinSegmentSize)
	for pid, msgs := range f.pages {
		f.pages[pid] = slices.DeleteFunc(msgs, func(m forged) bool { return m.ref.LSN >= f.o.found.Scan.End })
	}
}

// write writes a message. A delta is appended to the page's newest message.
func (f *forge) write(k format.Kind, pid format.PageID, body []byte) {
	var prev format.LSN
	if n := len(f.pages[pid]); n > 0 {
		prev = f.pages[pid][n-1].ref.LSN
	}
	f.writeAfter(prev, k, pid, body)
}

// writeAfter writes a message. A delta names the message at LSN prev.
func (f *forge) writeAfter(prev format.LSN, k format.Kind, pid format.PageID, body []byte) {
	if k.Delta() {
		rest := body
		body = make([]byte, format.PrevSize+len(rest))
		copy(format.PutPrev(body, prev), rest)
	}
	r, err := f.o.store.Log.Reserve(k, pid, len(body))
	if err != nil {
		f.t.Fatal(err)
	}
	copy(r.Body(), body)
	ref := recovery.Ref{LSN: r.LSN(), Len: r.Ptr().Len, Blob: k.Blob()}
	r.Complete()
	m := forged{kind: k, ref: ref}
	if k == format.KindRoot {
		m.body = body
	}
	f.pages[pid] = append(f.pages[pid], m)
	if pid <= format.MaxPageID/2 {
		f.next = max(f.next, pid+1)
	}
}

// body returns a body for a message of kind k of a page.
func (f *forge) body(k format.Kind, pid format.PageID) []byte {
	switch {
	case k.Blob():
		f.blob++
		return format.BlobPtr{ID: f.blob, Len: 1000 + int64(f.blob)}.Append(nil)
	case k == format.KindFree:
		return nil
	case k == format.KindCounter:
		return format.AppendCounter(nil, f.rng.Uint64N(1e6))
	case k == format.KindRoot: // no page has the name of another one
		r := format.Root{Name: fmt.Sprint("root ", pid), Target: format.PageID(1 + f.rng.IntN(99))}
		return format.AppendRoot(nil, r)
	}
	return make([]byte, f.rng.IntN(100))
}

// state returns the messages, newest first, that make up a page according to its messages up to lsn, and the kind of
// the oldest of them.
func (f *forge) state(pid format.PageID, lsn format.LSN) (refs []recovery.Ref, k format.Kind) {
	for _, m := range slices.Backward(f.pages[pid]) {
		if m.ref.LSN > lsn {
			continue
		}
		refs = append(refs, m.ref)
		if k = m.kind.Plain(); k != format.KindAppend {
			break
		}
	}
	return refs, k
}

// root returns the root that a page is by its message at lsn.
func (f *forge) root(pid format.PageID, lsn format.LSN) format.Root {
	for _, m := range f.pages[pid] {
		if m.ref.LSN == lsn {
			r, err := format.DecodeRoot(m.body)
			if err != nil {
				f.t.Fatal(err)
			}
			return r
		}
	}
	f.t.Fatalf("page %d has no message at LSN %d", pid, lsn)
	return format.Root{}
}

// change writes a message that a store could write.
func (f *forge) change(pages int) {
	pid := format.FirstUserPage + format.PageID(f.rng.IntN(pages))
	if f.rng.IntN(3) > 0 {
		pid = format.FirstUserPage + format.PageID(f.rng.IntN(1+pages/8)) // some pages have most of the messages
	}
	k := []format.Kind{format.KindAppend, format.KindAppend, format.KindAppend, format.KindAppend,
		format.KindAppendZstd, format.KindAppendBlob, format.KindCompact, format.KindCompactZstd,
		format.KindCompactBlob, format.KindFree, format.KindCounter, format.KindRoot}[f.rng.IntN(12)]
	_, state := f.state(pid, f.o.store.Log.Tail())
	switch {
	case k == format.KindCounter:
		pid = format.CounterPage
	case k == format.KindRoot, k == format.KindFree && state == format.KindRoot:
	case state != format.KindCompact && (k == format.KindFree || k.Plain() == format.KindAppend):
		k = format.KindCompact
	}
	f.write(k, pid, f.body(k, pid))
}

// harm writes a message that no store writes.
func (f *forge) harm() {
	pid := format.PageID(f.rng.IntN(30))
	switch f.rng.IntN(9) {
	case 0:
		f.write(format.KindAppend, f.next+pid, nil) // no base
	case 1:
		f.write(format.KindData, pid, nil)
	case 2:
		f.write(format.KindCounter, pid, f.body(format.KindCounter, pid))
	case 3:
		f.write(format.KindRoot, pid%format.FirstUserPage, f.body(format.KindRoot, pid))
	case 4:
		f.write(format.KindCompact, format.MaxPageID-pid, nil)
	case 5:
		f.write(format.KindCompactBlob, max(pid, format.FirstUserPage), []byte("no pointer"))
	case 6:
		f.write(format.KindFree, pid, nil)
		f.write(format.KindAppend, pid, nil)
	case 7, 8: // the message that it was appended to is missing, unless there are few
		if msgs := f.pages[pid]; len(msgs) > 0 && pid >= format.FirstUserPage {
			f.writeAfter(msgs[f.rng.IntN(len(msgs))].ref.LSN, format.KindAppendZstd, pid, nil)
		}
	}
}

// flush makes everything written durable. An open batch stays open.
func (f *forge) flush() {
	log := f.o.store.Log
	if err := log.MakeDurable(log.Tail() - 1); err != nil {
		f.t.Fatal(err)
	}
}

// turnBatch ends the open batch, or begins one.
func (f *forge) turnBatch() {
	var err error
	if f.batch == nil {
		f.batch, err = f.o.store.Log.BeginBatch()
	} else {
		_, err = f.batch.End()
		f.batch = nil
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// recycle recycles some of the segments that no page needs and, if harmful, some that pages need. A delta in a segment
// that is left has lost its base then.
func (f *forge) recycle(harmful bool) {
	if f.batch != nil {
		f.turnBatch()
	}
	f.flush()
	needed := map[format.LSN]bool{}
	size := format.LSN(f.o.store.SegmentSize())
	for pid := range f.pages {
		refs, _ := f.state(pid, f.o.store.Log.Tail())
		for _, r := range refs {
			needed[r.LSN-r.LSN%size] = true
		}
	}
	rec := logstore.NewRecycler(f.o.store)
	stable := f.o.store.Log.StableEnd()
	for _, c := range f.o.store.Below(stable, 0) {
		recycled := f.rng.IntN(2) == 0
		if needed[c.Base] {
			recycled = harmful && f.rng.IntN(4) == 0
		}
		if recycled && f.o.store.Space.Drain(c.ID) {
			rec.Add(logstore.Drained{ID: c.ID, Base: c.Base})
		}
	}
	if err := rec.All(func(logstore.Drained) bool { return true }, func() bool { return false }); err != nil {
		f.t.Fatal(err)
	}
}

// snapshot writes a snapshot of the pages, each as it was at some moment after an LSN of which the snapshot says that
// the log must be read from there.
func (f *forge) snapshot() {
	if f.batch != nil {
		f.turnBatch()
	}
	f.flush()
	if err := f.o.snaps.Write(context.Background(), f.o.store.Log, f, 0); err != nil {
		f.t.Fatal(err)
	}
}

// forgedSource implements snapshot.Source.
type forgedSource struct {
	f      *forge
	header format.SnapshotHeader
	inUse  []format.LSN
}

// BeginSnapshot implements snapshot.Table.
func (f *forge) BeginSnapshot(from format.LSN) snapshot.Source {
	if !f.exact {
		from -= min(from, format.LSN(f.rng.IntN(3*format.MinSegmentSize))) &^ (format.Align - 1)
	}
	s := &forgedSource{f: f}
	var ledger format.Ledger
	s.inUse, ledger, from = f.o.store.Space.Census(from)
	s.header = format.SnapshotHeader{Store: f.o.store.Super.Store, From: from, Recycled: ledger.Recycled,
		Left: ledger.Left, NextPage: f.next,
		SegmentSize: f.o.store.SegmentSize()}
	return s
}

func (s *forgedSource) Header() format.SnapshotHeader { return s.header }
func (s *forgedSource) InUse() []format.LSN           { return s.inUse }

func (s *forgedSource) Add(w *recovery.SnapshotWriter, pid, end format.PageID, _ func() bool) (format.PageID, error) {
	for ; pid < end; pid++ {
		tail := s.f.o.store.Log.Tail()
		at := tail
		if !s.f.exact {
			at -= format.LSN(s.f.rng.Int64N(int64(tail-s.header.From) + 1))
		}
		refs, k := s.f.state(pid, at)
		missing := func(r recovery.Ref) bool { return s.f.o.m.locate(r).IsZero() }
		if slices.ContainsFunc(refs, missing) {
			refs, k = s.f.state(pid, tail)
		}
		p := recovery.Page{Refs: refs}
		switch k {
		case format.KindCompact:
			p.Kind = format.SnapshotKindPage
		case format.KindFree:
			p.Kind, p.Refs = format.SnapshotKindFree, refs[len(refs)-1:] // without deltas that have no base
		case format.KindRoot:
			p.Kind = format.SnapshotKindRoot
		case format.KindCounter:
			p.Kind = format.SnapshotKindCounter
		default:
			p.Refs = nil
		}
		if len(p.Refs) > 0 {
			p.LSN = p.Refs[0].LSN
		}
		w.Add(p)
		if p.Kind == format.SnapshotKindRoot {
			w.AddRoot(s.f.root(pid, p.LSN))
		}
		for _, r := range p.Refs {
			if r.Blob {
				if v, err := s.f.o.store.Blob(r.LSN, s.f.o.m.locate(r)); err == nil {
					w.AddBlob(v.ID, v.Len)
				}
			}
		}
	}
	return pid, nil
}

// end closes the store, or crashes the disk.
func (f *forge) end(crash bool) {
	if f.rng.IntN(3) > 0 {
		f.flush()
	}
	if crash {
		d := f.disk.Crash(f.rng.Uint64())
		f.o.store.Abandon()
		f.disk = d
	} else {
		if f.batch != nil {
			f.turnBatch()
		}
		end, err := f.o.store.Log.Close()
		err = f.o.store.Close(context.Background(), logstore.Ending{End: end, NextPage: f.next}, err)
		if err != nil {
			f.t.Fatal(err)
		}
	}
	f.batch, f.o = nil, nil
}

// life writes a random log in one or several openings. harmful logs have some messages that no store writes, or lack
// segments that pages need.
func (f *forge) life(messages, pages int, harmful bool) {
	openings, snapshots := 1+f.rng.IntN(3), f.rng.IntN(3) > 0
	for range openings {
		if f.o == nil {
			f.open()
		}
		for range messages / openings {
			switch n := f.rng.IntN(300); {
			case n == 0:
				if snapshots {
					f.snapshot()
				}
			case n < 6:
				f.recycle(harmful && f.rng.IntN(6) == 0)
			case n < 9:
				f.turnBatch()
			case n < 12:
				f.flush()
			case n == 12 && harmful && f.rng.IntN(3) == 0:
				f.harm()
			default:
				f.change(pages)
			}
		}
		f.end(f.rng.IntN(4) > 0)
	}
}

// refsOf returns the messages of a head.
func refsOf(h *Head) (refs []pagestack.Ref) {
	h.Refs(func(r pagestack.Ref) { refs = append(refs, r) })
	return refs
}
