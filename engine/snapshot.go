package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/pagestack"
	"pagecache/internal/vfs"
	"pagecache/mmapread"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// snapshots are a store's snapshots: the one that it was opened from, from which pages are taken in when they are first touched, and those that
// it writes.
//
//	N1  A page's slot is empty only if it was not touched since the opening; then the snapshot says what the page is.
//	N2  A snapshot gets its name once everything that it refers to is stable, and older ones are removed once that is durable (trap 6).
//	N3  Writing one waits for nobody and stops nobody; with a batch open it is given up.
type snapshots struct {
	base *recovery.Snapshot // nil: the store was opened from the log alone
	file vfs.File
	view vfs.Map
	dir  string

	mu     sync.Mutex // held while one is written
	number uint64     // of the newest there is
	from   LSN        // where that begins; −1 if it is not known
	at     int64      // how many messages the log had written then
	quit   chan struct{}
	// patience is snapshotPatience, but for tests.
	patience time.Duration
	done     chan struct{}

	written atomic.Int64 // in this opening
}

const (
	snapshotTmpName = "snapshot.tmp"
	// checkedWhole is the size in bytes up to which a snapshot is verified as a whole at the opening, so that another way is taken where it is
	// damaged. That costs some milliseconds; of larger ones each block is verified when it is first used.
	checkedWhole = 16 << 20
	// A slice of writing, and the pause after it: about a tenth of a processor.
	snapshotSlice, snapshotPause = 500 * time.Microsecond, 4 * time.Millisecond
	// slicePages is how many pages are looked at between looks at the clock.
	slicePages = 256
	// snapshotPatience is how long a snapshot waits for what it refers to to be stable, and how long after a failure the next is tried.
	snapshotPatience = 5 * time.Second
)

// findSnapshot opens the newest snapshot that is good. Bad ones are passed over with a warning: the log is enough (recovery.S3).
func (s *store) findSnapshot() error {
	n := &s.snaps
	n.dir, n.from, n.patience = s.opts.SnapshotDir, -1, snapshotPatience
	if n.dir == "" {
		n.dir = s.dir
	}
	numbers, err := s.snapshotNumbers()
	if err != nil || s.super.Log {
		return err
	}
	for _, number := range slices.Backward(numbers) {
		n.number = max(n.number, number)
		if s.opts.logAlone {
			continue
		}
		err := s.openSnapshot(number)
		if err == nil {
			n.from = n.base.From
			return nil
		}
		s.opts.Logger.Warn("snapshot passed over", "file", s.snapshotName(number), "err", err)
	}
	return nil
}

func (s *store) snapshotName(number uint64) string {
	return filepath.Join(s.snaps.dir, format.SnapshotName(number))
}

// snapshotNumbers returns the numbers of the files that are named like snapshots, rising.
func (s *store) snapshotNumbers() (numbers []uint64, err error) {
	names, err := s.fs.ReadDir(s.snaps.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, name := range names {
		if n, ok := format.ParseSnapshotName(name); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, err
}

// snapshotFile is a snapshot's file as it is read.
type snapshotFile struct {
	vfs.File
	vfs.Map
}

// Guard is recovery.SnapshotFile.Guard.
func (snapshotFile) Guard(f func() error) error { return mmapread.Guard(f) }

func (f snapshotFile) Close() error { return errors.Join(f.Map.Close(), f.File.Close()) }

func (s *store) openSnapshot(number uint64) error {
	name := s.snapshotName(number)
	f, err := s.fs.Open(name, vfs.FlagRead)
	if err != nil {
		return err
	}
	if !s.super.Clean { // rule 11
		size, err := f.Size()
		if err == nil {
			err = f.DropCache(0, size)
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
	}
	v, err := f.OpenMap(vfs.PatternRandom, s.reader)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	file := snapshotFile{f, v}
	snap, err := recovery.OpenSnapshot(file, name, s.super.Store, s.super.SegmentSize)
	if err == nil && snap.RestOffset() <= checkedWhole && !s.opts.unchecked {
		err = snap.Check()
	}
	for pid := PageID(0); err == nil && pid < min(FirstUserPage, snap.NextPage); pid++ { // without them nothing opens
		var p recovery.Page
		if p, err = snap.Page(pid); err == nil {
			err = checkRecord(pid, p.Kind)
		}
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	_ = f.Advise(vfs.PatternRandom) // from now on: page by page
	s.snaps.base, s.snaps.file, s.snaps.view = snap, f, v
	return nil
}

// checkRecord says why a page cannot have a record of kind k: the store's own pages have their own kinds, which no other has.
func checkRecord(pid PageID, k format.SnapshotKind) error {
	ok := k != format.SnapshotKindMeta && k != format.SnapshotKindCounter
	switch pid {
	case format.MetaPage:
		ok = k == format.SnapshotKindMeta
	case format.CounterPage:
		ok = k == format.SnapshotKindCounter
	}
	if ok || k == format.SnapshotKindNone {
		return nil
	}
	return fmt.Errorf("%w: page %d has a record of kind %d", format.ErrSnapshot, pid, k)
}

// close gives up the snapshot that the store was opened from.
func (n *snapshots) close() {
	if n.base != nil {
		_, _ = n.view.Close(), n.file.Close()
	}
}

// head returns the page's slot and what is in it. A page that was not touched since the opening is taken in from the snapshot (N1). Slot and head are nil
// where there never was such a page; the slot alone is not where it was given up.
func (pc *PageCache[P]) head(pid PageID) (*slot, *head, error) {
	s := pc.table.Get(pid)
	if s != nil {
		if e := s.Load(); e != nil {
			return s, e, nil
		}
	}
	snap := pc.snaps.base
	if snap == nil || pid >= snap.NextPage {
		return s, nil, nil
	}
	p, err := snap.Page(pid)
	if err != nil || p.Kind == format.SnapshotKindNone {
		return s, nil, err
	}
	e, err := pc.takeIn(pid, p)
	if err != nil {
		return s, nil, err
	}
	s = pc.table.Make(pid)
	s.CompareAndSwap(nil, e)
	return s, s.Load(), nil
}

// takeIn makes the entry of a page that a snapshot tells of.
func (pc *PageCache[P]) takeIn(pid PageID, p recovery.Page) (*head, error) {
	if err := checkRecord(pid, p.Kind); err != nil {
		return nil, pc.snaps.base.CorruptPage(pid, err)
	}
	refs := make([]pagestack.Ref, len(p.Refs))
	for i, r := range p.Refs {
		refs[i] = pagestack.Ref{LSN: r.LSN, Ptr: pc.place(r)}
	}
	missing := slices.ContainsFunc(refs, func(r pagestack.Ref) bool { return r.Ptr.IsZero() })
	if missing && !pc.rebuilding { // only while the log is applied, which then has a newer one
		return nil, &CorruptError{File: filepath.Join(pc.dir, logName), Place: recovery.Place{}.WithLSN(p.LSN).WithPage(pid),
			Reason: "a segment with a part of the page is missing"}
	}
	switch p.Kind {
	case format.SnapshotKindFree:
		return pagestack.NewFree(0, p.LSN, refs[0].Ptr), nil
	case format.SnapshotKindMeta, format.SnapshotKindCounter:
		if missing {
			return nil, nil
		}
		kind, body, _, err := pc.read(p.LSN, refs[0].Ptr)
		if err != nil {
			return nil, err
		}
		return pc.special(recovery.Message{Kind: kind, LSN: p.LSN, Page: pid, Ptr: refs[0].Ptr, Body: body})
	}
	if pc.rebuilding { // in the order of the log until it is rebuilt
		newest := refs[0]
		slices.Reverse(refs)
		return pagestack.NewListed(0, newest, refs), nil
	}
	return pagestack.NewOnDisk(0, refs), nil
}

// place is where a message lies now that a snapshot tells of: its segment may have moved since. Zero: the segment was recycled, which can be only if the
// page was written anew.
func (s *store) place(r recovery.Ref) DiskPtr {
	size := LSN(s.super.SegmentSize)
	id, ok := s.space.Find(r.LSN - r.LSN%size)
	if !ok {
		return DiskPtr{}
	}
	return DiskPtr{Off: id.Offset(int(size)) + format.Offset(r.LSN%size), Len: r.Len, Blob: r.Blob}
}

// Snapshot writes a snapshot now, so that the next opening reads only the log that is written from here on. Nobody waits for it. It is given up with an
// error if a batch stays open for some seconds. Errors: ErrReadOnly, ErrClosed, ErrFailed, ErrNoSpace, ErrCorrupt. Safe for concurrent use.
func (pc *PageCache[P]) Snapshot() error {
	if pc.opts.ReadOnly {
		return logError("snapshot", ErrReadOnly)
	}
	call, err := pc.enter()
	if err != nil {
		return logError("snapshot", err)
	}
	defer call.End()
	return logError("snapshot", pc.writeSnapshot(snapshotPause))
}

// startSnapshots writes one in the background after each SnapshotEvery messages.
func (pc *PageCache[P]) startSnapshots() {
	n := &pc.snaps
	n.quit, n.done = make(chan struct{}), make(chan struct{})
	if pc.opts.foreground || pc.opts.ReadOnly || pc.opts.Temporary {
		close(n.done)
		return
	}
	go func() {
		defer close(n.done)
		t := time.NewTicker(100 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-n.quit:
				return
			case <-t.C:
			}
			n.mu.Lock()
			due := pc.log.Messages()-n.at >= int64(pc.opts.SnapshotEvery)
			n.mu.Unlock()
			if !due {
				continue
			}
			if err := pc.writeSnapshot(snapshotPause); err != nil {
				if errors.Is(err, iobuf.ErrClosed) || errors.Is(err, ErrFailed) {
					return
				}
				pc.opts.Logger.Warn("snapshot not written", "dir", pc.dir, "err", err)
				select { // the next try is no better at once
				case <-n.quit:
				case <-time.After(snapshotPatience):
				}
			}
		}
	}()
}

func (pc *PageCache[P]) stopSnapshots() {
	close(pc.snaps.quit)
	<-pc.snaps.done
}

// writeSnapshot writes a snapshot and makes it the one that the next opening begins from. pause is how long it rests after each slice.
func (pc *PageCache[P]) writeSnapshot(pause time.Duration) error {
	n := &pc.snaps
	n.mu.Lock()
	defer n.mu.Unlock()
	from, at := pc.log.StableEnd(), pc.log.Messages()
	if from == n.from && from == pc.log.Tail() {
		return nil // nothing was written since
	}
	number := n.number + 1
	if err := pc.fs.MkdirAll(n.dir); err != nil {
		return err
	}
	tmp := filepath.Join(n.dir, snapshotTmpName)
	f, err := pc.fs.Open(tmp, vfs.FlagWrite|vfs.FlagCreate|vfs.FlagTrunc)
	if err != nil {
		return err
	}
	err = pc.fillSnapshot(f, number, from, pause)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = pc.fs.Rename(tmp, pc.snapshotName(number))
	}
	if err == nil {
		err = pc.fs.SyncDir(n.dir)
	}
	if err != nil {
		_ = pc.fs.Remove(tmp)
		return fmt.Errorf("write snapshot: %w", err)
	}
	n.number, n.from, n.at = number, from, at
	n.written.Add(1)
	return pc.removeSnapshots(number)
}

// removeSnapshots removes the snapshots before that with the number. The one that the store was opened from stays readable.
func (s *store) removeSnapshots(before uint64) error {
	numbers, err := s.snapshotNumbers()
	for _, n := range numbers {
		if n < before {
			err = errors.Join(err, s.fs.Remove(s.snapshotName(n)))
		}
	}
	return err
}

// fillSnapshot writes what the table holds, in slices, each of which is a Tx: what a page refers to is there as long as it is looked at.
func (pc *PageCache[P]) fillSnapshot(f vfs.File, number uint64, from LSN, pause time.Duration) error {
	inUse, recycled := pc.space.Census(from)
	h := format.SnapshotHeader{Store: pc.super.Store, Number: number, From: from, NextPage: PageID(pc.pages.next.Load()), Recycled: recycled,
		SegmentSize: pc.super.SegmentSize}
	h.NextPage = min(h.NextPage, format.MaxPageID+1)
	if e := pc.table.Make(format.CounterPage).Load(); e != nil {
		h.Counter = e.Ext().Counter
	}
	w := recovery.NewSnapshotWriter(f, h)
	old := pc.blobsInSnapshot()
	for pid := PageID(0); pid < h.NextPage; {
		tx := pc.txs.begin()
		var err error
		for start := time.Now(); err == nil && pid < h.NextPage && time.Since(start) < snapshotSlice; {
			for end := min(pid+slicePages, h.NextPage); err == nil && pid < end; pid++ {
				err = pc.addToSnapshot(w, pid, old)
			}
		}
		tx.End()
		if err = errors.Join(err, w.Err()); err != nil {
			return err
		}
		if pause > 0 && pid < h.NextPage {
			select {
			case <-pc.snaps.quit:
				return iobuf.ErrClosed
			case <-time.After(pause):
			}
		}
	}
	if err := w.Finish(inUse); err != nil {
		return err
	}
	return pc.log.MakeStableWithin(w.High(), pc.snaps.patience)
}

// blobsInSnapshot returns the blobs that the snapshot of the opening knows of.
func (s *store) blobsInSnapshot() map[PageID][]format.SnapshotBlob {
	m := map[PageID][]format.SnapshotBlob{}
	if s.snaps.base != nil {
		for _, b := range s.snaps.base.Blobs {
			m[b.Page] = append(m[b.Page], b)
		}
	}
	return m
}

// addToSnapshot adds a page: as it is in the table, or, if it was not touched since the opening, as it was then.
func (pc *PageCache[P]) addToSnapshot(w *recovery.SnapshotWriter, pid PageID, old map[PageID][]format.SnapshotBlob) error {
	var h *head
	if s := pc.table.Get(pid); s != nil {
		h = s.Load()
	}
	snap := pc.snaps.base
	if h == nil {
		if snap == nil || pid >= snap.NextPage {
			w.Add(recovery.Page{})
			return nil
		}
		p, err := snap.Page(pid)
		if err != nil {
			return err
		}
		w.Add(p)
		for _, b := range old[pid] {
			w.AddBlob(b.ID, b.Len)
		}
		return nil
	}
	p := recovery.Page{Kind: format.SnapshotKindPage, LSN: h.LSN}
	switch h.Kind() {
	case pagestack.KindFree:
		p.Kind = format.SnapshotKindFree
	case pagestack.KindMeta:
		p.Kind = format.SnapshotKindMeta
	case pagestack.KindCounter:
		p.Kind = format.SnapshotKindCounter
	}
	var blobs []format.BlobPtr
	var err error
	h.Refs(func(r pagestack.Ref) {
		p.Refs = append(p.Refs, recovery.Ref{LSN: r.LSN, Len: r.Ptr.Len, Blob: r.Ptr.Blob})
		if r.Ptr.Blob && err == nil {
			var ptr format.BlobPtr
			ptr, err = pc.blobAt(r)
			blobs = append(blobs, ptr)
		}
	})
	if err != nil {
		return err
	}
	w.Add(p)
	for _, b := range blobs {
		w.AddBlob(b.ID, b.Len)
	}
	return nil
}
