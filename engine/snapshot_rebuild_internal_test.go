package engine

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pagecache/engine/internal/seam"
	"pagecache/engine/internal/snapshot"
	"pagecache/internal/simdisk"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// snapshotted is a closed store that opens from a snapshot of several blocks, which are verified when they are used, as
// those of a large snapshot.
type snapshotted struct {
	d      *simdisk.Disk
	o      Options
	name   string // of the snapshot
	header format.SnapshotHeader
	want   map[PageID]string // the values of the pages
	roots  Meta
	rooted map[PageID]bool // the pages that hold roots
}

// newSnapshotted makes a store with chains, free pages, blobs, moved pages and recycled segments.
func newSnapshotted(t *testing.T) *snapshotted {
	t.Helper()
	s := &snapshotted{d: simdisk.New(11, simdisk.Options{}), want: map[PageID]string{}, rooted: map[PageID]bool{}}
	s.o = Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 4,
		seam: seam.Options{Eager: true, FS: s.d, Unchecked: true}}
	pc := openTest(t, "/store", &s.o)
	some(t, pc, 1000, 30)
	for round := range uint64(3) {
		busy(t, pc, 400, round)
		flushTest(t, pc)
		cleanAll(t, pc)
	}
	busy(t, pc, 300, 9)
	tx := begin(t, pc)
	for pid := FirstUserPage + 20; pid < pc.pages.IDs.Next(); pid += 23 {
		if p, err := pc.Get(tx, pid); err != nil {
			t.Fatal(err)
		} else if p.Kind == KindMaterialized {
			must(t)(pc.Free(tx, pid, p.Ptr))
		}
	}
	for pid, kind := range pc.Pages(tx) {
		s.rooted[pid] = kind == KindRoot
		if kind == KindMaterialized {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			s.want[pid] = string(p.Value)
		}
	}
	var err error
	if s.roots, err = pc.Meta(tx); err != nil {
		t.Fatal(err)
	}
	tx.End()
	if pc.cleaner.Stats().Recycled == 0 {
		t.Error("no segment was recycled")
	}
	closeTest(t, pc)
	s.name = filepath.Join("/store", snapshotFiles(t, s.d, "/store")[0])
	b := s.d.ReadDurable(s.name)
	if s.header, err = format.DecodeSnapshotHeader(b, int64(len(b))); err != nil {
		t.Fatal(err)
	}
	if s.header.RecordBlocks() < 4 || s.header.Refs == 0 || s.header.Blobs == 0 || s.header.Free == 0 {
		t.Fatalf("the snapshot is too simple: %+v", s.header)
	}
	return s
}

// open opens the store on d, which has a copy of it, from its snapshot.
func (s *snapshotted) open(t testing.TB, d *simdisk.Disk) *PageCache[[]byte] {
	t.Helper()
	o := s.o
	o.seam.FS = d
	pc := openTest(t, "/store", &o)
	if pc.snaps.Base == nil {
		t.Fatal("the snapshot was skipped")
	}
	return pc
}

// blocks returns the number of blocks of records and references, and the header.
func (s *snapshotted) blocks() int64 { return s.header.RestOffset() / format.SnapshotBlock }

// corruptions are the ways in which a block of a file is made corrupt.
var corruptions = map[string]func(d *simdisk.Disk, name string, off int64){
	"flipped": func(d *simdisk.Disk, name string, off int64) { d.FlipBit(name, off+777, 3) },
	"zeroed": func(d *simdisk.Disk, name string, off int64) {
		b := d.ReadDurable(name)
		clear(b[off:][:format.SnapshotBlock])
		d.WriteFile(name, b)
	},
	"unreadable": func(d *simdisk.Disk, name string, off int64) { d.SetUnreadable(name, off, format.SnapshotBlock) },
}

// corrupted returns a copy of the store's disk with a corrupt block in the snapshot.
func (s *snapshotted) corrupted(how string, number int64) *simdisk.Disk {
	d := s.d.Copy()
	corruptions[how](d, s.name, number*format.SnapshotBlock)
	return d
}

// verify compares all pages with want.
func verify(t testing.TB, pc *PageCache[[]byte], want map[PageID]string) {
	t.Helper()
	tx := begin(t, pc)
	defer tx.End()
	for pid := FirstUserPage; pid < pc.pages.IDs.Next(); pid++ {
		p, err := pc.Get(tx, pid)
		v, exists := want[pid]
		if err != nil || (p.Kind == KindMaterialized) != exists || string(p.Value) != v {
			const text = "page %d is %v with %d bytes, error %v, want %d bytes, existing %v"
			t.Fatalf(text, pid, p.Kind, len(p.Value), err, len(v), exists)
		}
	}
}

// alter makes n random changes, after each of which want is what the pages should be. Before it changes a page it
// compares it.
func alter(t testing.TB, pc *PageCache[[]byte], want map[PageID]string, n int, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 5))
	for i := range n {
		pid := FirstUserPage + PageID(rng.IntN(int(pc.pages.IDs.Next())))
		alterPage(t, pc, want, pid, alteration{random(rng.IntN(200), uint64(i)), rng.IntN(8)})
	}
}

// alteration is a change of a page with the value v. how is 0 for Allocate, 1 … 3 for Link, 4 … 6 for Replace, and 7
// for Free.
type alteration struct {
	v   []byte
	how int
}

// alterPage changes a page, or, if it does not exist, allocates another one.
func alterPage(t testing.TB, pc *PageCache[[]byte], want map[PageID]string, pid PageID, a alteration) {
	t.Helper()
	v, how := a.v, a.how
	tx := begin(t, pc)
	defer tx.End()
	p, err := pc.Get(tx, pid)
	old, exists := want[pid]
	if err != nil || (p.Kind == KindMaterialized) != exists || string(p.Value) != old {
		t.Fatalf("page %d is %v, error %v, want it to exist %v", pid, p.Kind, err, exists)
	}
	won := true
	switch {
	case !exists || how == 0:
		var id PageID
		if id, _, err = pc.Allocate(tx, v); err == nil {
			if _, twice := want[id]; twice {
				t.Fatalf("page %d was allocated twice", id)
			}
			want[id] = string(v)
		}
	case how < 4:
		_, won, err = pc.Link(tx, pid, p.Ptr, v)
		want[pid] = old + string(v)
	case how < 7:
		_, won, err = pc.Replace(tx, pid, p.Ptr, v)
		want[pid] = string(v)
	default:
		_, won, err = pc.Free(tx, pid, p.Ptr)
		delete(want, pid)
	}
	if err != nil || !won {
		t.Fatalf("page %d: won %v, error %v", pid, won, err)
	}
}

// wholeSnapshot fails the test unless the newest snapshot is whole and there is no other.
func wholeSnapshot(t *testing.T, pc *PageCache[[]byte]) {
	t.Helper()
	ids, err := pc.snaps.IDs()
	if err != nil || len(ids) != 1 {
		t.Fatalf("snapshots %v, error %v", ids, err)
	}
	if err := pc.snaps.Verify(ids[0]); err != nil {
		t.Error(err)
	}
}

// Any block of a large snapshot may be corrupt or unreadable: all pages are right, before changes and after, the
// accounts are exact, and the next snapshot is whole, also if only a crash follows. Proves N4, trap 29.
func TestCorruptBlockCostsNoData(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	for number := int64(2); number < s.blocks(); number++ {
		for how := range corruptions {
			for first, crash := range map[string]bool{"read": false, "change": true} {
				d, want := s.corrupted(how, number), maps.Clone(s.want)
				pc := s.open(t, d)
				seed := uint64(number) * 3
				if first == "change" {
					alter(t, pc, want, 50, seed)
				}
				verify(t, pc, want) // perhaps the block has no pages that are read
				waitFor(t, "the end of the scan", func() bool { return pc.Stats().Snapshot.Rebuilding == 0 })
				if n := pc.Stats().Snapshot; n.Rebuilt == 0 {
					t.Errorf("block %d %s: %+v", number, how, n)
				}
				if err := ExactAccounts(pc); err != nil {
					t.Errorf("block %d %s, %s: %v", number, how, first, err)
				}
				alter(t, pc, want, 100, seed+1)
				flushTest(t, pc)
				cleanAll(t, pc)
				if err := pc.Snapshot(); err != nil {
					t.Error(err)
				}
				wholeSnapshot(t, pc)
				alter(t, pc, want, 50, seed+2)
				verify(t, pc, want)
				if crash {
					flushTest(t, pc)
					next := d.Crash(seed)
					_ = pc.Close()
					d = next
				} else {
					closeTest(t, pc)
				}
				pc = s.open(t, d)
				verify(t, pc, want)
				err := ExactAccounts(pc)
				if n := pc.Stats().Snapshot.Rebuilt; n > 0 || err != nil {
					t.Errorf("block %d %s: the next opening rebuilt %d blocks, %v", number, how, n, err)
				}
				closeTest(t, pc)
			}
		}
	}
}

// Close writes a whole snapshot in place of one with a corrupt block, whether or not any call came to the block. If
// Open itself needs the block, it skips the snapshot. Trap 29.
func TestCloseReplacesCorruptSnapshot(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	for _, touched := range []bool{false, true} {
		d, want := s.corrupted("flipped", 3), maps.Clone(s.want)
		pc := s.open(t, d)
		if touched {
			verify(t, pc, want)
		} else {
			allocate(t, pc, []byte("so that there is something to write"))
		}
		closeTest(t, pc)
		pc = s.open(t, d)
		wholeSnapshot(t, pc)
		closeTest(t, pc)
	}
	d := s.corrupted("flipped", 1)
	o := s.o
	o.seam.FS = d
	pc := openTest(t, "/store", &o)
	if pc.snaps.Base != nil {
		t.Error("the corrupt record of page 0 was used")
	}
	verify(t, pc, s.want)
	closeTest(t, pc)
}

// gatedStore opens a store with a corrupt block. Nothing is looked up in the log before open is closed. It returns a
// page of the block, and its value.
func gatedStore(t *testing.T, s *snapshotted, d *simdisk.Disk, number int64) (
	pc *PageCache[[]byte], pid PageID, open chan struct{}) {
	t.Helper()
	pc, open = s.open(t, d), make(chan struct{})
	pc.snaps.BeforeScan(func(ctx context.Context) error {
		select {
		case <-open:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	for pid, _ = pc.snaps.Base.PagesOf(number); s.want[pid] == ""; pid++ {
	}
	return pc, pid, open
}

// waitFor fails the test if ok does not become true.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(start) > 30*time.Second {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// While a block is rebuilt, calls on its pages wait, and all others go on. Nothing is cleaned or recycled, and no id of
// the block is handed out. Proves N5.
func TestNothingMovesWhileBlockIsRebuilt(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	const number = 3
	pc, pid, open := gatedStore(t, s, s.corrupted("zeroed", number), number)
	first, end := pc.snaps.Base.PagesOf(number)
	free := 0
	for p := first; p < end; p++ {
		if _, exists := s.want[p]; !exists && !s.rooted[p] {
			free++
		}
	}
	if free == 0 {
		t.Fatal("no page of the block is free")
	}
	var waiting sync.WaitGroup
	var done atomic.Int64
	for i := range 3 {
		waiting.Go(func() {
			tx := begin(t, pc)
			defer tx.End()
			p, err := pc.Get(tx, pid)
			if i == 0 && err == nil {
				_, _, err = pc.Link(tx, pid, p.Ptr, []byte("more"))
			}
			if err != nil || !strings.HasPrefix(string(p.Value), s.want[pid]) {
				t.Errorf("page %d: error %v", pid, err)
			}
			done.Add(1)
		})
	}
	waitFor(t, "a block to be rebuilt", func() bool { return pc.Stats().Snapshot.Rebuilding > 0 })
	tx := begin(t, pc)
	for range 2 * s.header.Free {
		p, ptr, err := pc.Allocate(tx, []byte("new"))
		if err == nil && p%2 == 0 { // garbage
			_, _, err = pc.Replace(tx, p, ptr, random(100, uint64(p)))
		}
		if err != nil || p >= first && p < end || s.want[p] != "" {
			t.Fatalf("allocated page %d while the pages %d…%d are not known, error %v", p, first, end-1, err)
		}
	}
	if err := pc.Prefetch(tx, pid, pid+1); err != nil {
		t.Error(err)
	}
	for p := end; p < end+100; p++ {
		if _, err := pc.Get(tx, p); err != nil {
			t.Error(err)
		}
	}
	tx.End()
	flushTest(t, pc)
	if did, err := pc.AttemptGC(); did || err != nil {
		t.Errorf("cleaned: %v, error %v", did, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	if err := pc.SnapshotContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a snapshot of unknown pages: %v", err)
	}
	cancel()
	if n := done.Load(); n > 0 {
		t.Errorf("%d calls did not wait", n)
	}
	close(open)
	soon(t, "calls that wait for a scan", waiting.Wait)
	waitFor(t, "the end of the scan", func() bool { return pc.Stats().Snapshot.Rebuilding == 0 })
	tx = begin(t, pc)
	for range free {
		if p, _, err := pc.Allocate(tx, []byte("new")); err != nil || p < first || p >= end || s.want[p] != "" {
			t.Errorf("allocated page %d, error %v, want a free one of the pages %d…%d", p, err, first, end-1)
		}
	}
	tx.End()
	if err := ExactAccounts(pc); err != nil {
		t.Error(err)
	}
	if cleanAll(t, pc) == 0 {
		t.Error("nothing was recycled after the scan")
	}
	closeTest(t, pc)
}

// Close ends the wait for a scan with ErrClosed. The store opens from the same snapshot again. A crash during the scan
// changes nothing either.
func TestCloseEndsWaitForScan(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	for _, crash := range []bool{false, true} {
		d := s.corrupted("unreadable", 2)
		pc, pid, _ := gatedStore(t, s, d, 2)
		pc.snaps.Patience = 10 * time.Millisecond // of the snapshot that Close tries to write
		got := make(chan error, 1)
		go func() {
			tx := begin(t, pc)
			defer tx.End()
			_, err := pc.Get(tx, pid)
			got <- err
		}()
		waitFor(t, "a block to be rebuilt", func() bool { return pc.Stats().Snapshot.Rebuilding > 0 })
		if crash {
			allocate(t, pc, []byte("lost"))
			next := d.Crash(3)
			_ = pc.Close()
			d = next
		} else {
			closeUnchecked(t, pc)
		}
		if err := <-got; !errors.Is(err, ErrClosed) {
			t.Errorf("crash %v: a call that waited: %v, want ErrClosed", crash, err)
		}
		pc = s.open(t, d)
		verify(t, pc, s.want)
		closeTest(t, pc)
	}
}

// A scan that fails is tried again by the next call, and nothing is cleaned before one succeeds.
func TestFailedScanIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	d := s.corrupted("flipped", 3)
	pc, pid, open := gatedStore(t, s, d, 3)
	close(open)
	planted := errors.New("planted")
	d.FailFrom(simdisk.OpRead, 1, planted)
	tx := begin(t, pc)
	for range 2 {
		if _, err := pc.Get(tx, pid); !errors.Is(err, planted) {
			t.Errorf("get while the log cannot be read: %v", err)
		}
	}
	tx.End()
	if did, err := pc.AttemptGC(); did || err != nil {
		t.Errorf("cleaned: %v, error %v", did, err)
	}
	d.SetFault(nil)
	verify(t, pc, s.want)
	closeTest(t, pc)
}

// Readers, writers, the cleaner, snapshots and Close run beside the scans of several corrupt blocks. All pages are
// right when the store is opened again.
func TestRebuildBesideEverything(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	const writers = 3
	for round := range uint64(6) {
		d := s.d.Copy()
		rng := rand.New(rand.NewPCG(round, 6))
		for _, how := range []string{"zeroed", "flipped", "unreadable"} {
			n := int64(2 + rng.IntN(int(s.blocks())-2))
			corruptions[how](d, s.name, n*format.SnapshotBlock)
		}
		pc := s.open(t, d)
		var all sync.WaitGroup
		var stop atomic.Bool
		wants := [writers]map[PageID]string{}
		for w := range writers {
			wants[w] = map[PageID]string{}
			for pid, v := range s.want {
				if pid%writers == PageID(w) {
					wants[w][pid] = v
				}
			}
			all.Go(func() { alterOwn(t, pc, wants[w], &stop, round*writers+uint64(w)) })
		}
		all.Go(func() {
			for !stop.Load() {
				if _, err := pc.AttemptGC(); err != nil && !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
				_, _ = pc.Flush()
			}
		})
		all.Go(func() {
			for !stop.Load() {
				if err := pc.Snapshot(); err != nil && !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
			}
		})
		time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond)
		stop.Store(round%2 == 0) // else Close ends them
		if err := pc.Close(); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		stop.Store(true)
		soon(t, "everything beside a scan", all.Wait)
		pc = openTest(t, "/store", &Options{seam: seam.Options{Eager: true, FS: d, Unchecked: true}})
		want := map[PageID]string{}
		for _, m := range wants {
			for pid, v := range m {
				want[pid] = v
			}
		}
		verify(t, pc, want)
		if err := ExactAccounts(pc); err != nil {
			t.Error(err)
		}
		closeTest(t, pc)
	}
}

// alterOwn changes pages that no other goroutine changes, until the store is closed or stop is set.
func alterOwn(t *testing.T, pc *PageCache[[]byte], want map[PageID]string, stop *atomic.Bool, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	var pids []PageID
	for pid := range want {
		pids = append(pids, pid)
	}
	for !stop.Load() {
		tx, err := pc.Begin()
		if err != nil {
			return
		}
		i := rng.IntN(len(pids))
		pid, v := pids[i], random(rng.IntN(100), seed)
		p, err := pc.Get(tx, pid)
		if err == nil && string(p.Value) != want[pid] {
			t.Errorf("page %d has %d bytes, want %d", pid, len(p.Value), len(want[pid]))
		}
		won := true
		switch {
		case err != nil:
		case rng.IntN(8) == 0:
			if pid, _, err = pc.Allocate(tx, v); err == nil {
				pids, want[pid] = append(pids, pid), string(v)
			}
		case rng.IntN(8) == 0:
			if _, won, err = pc.Free(tx, pid, p.Ptr); err == nil {
				pids[i] = pids[len(pids)-1]
				pids = pids[:len(pids)-1]
				delete(want, pid)
			}
		default:
			if _, won, err = pc.Replace(tx, pid, p.Ptr, v); err == nil {
				want[pid] = string(v)
			}
		}
		tx.End()
		if errors.Is(err, ErrClosed) {
			return
		}
		if err != nil || !won {
			t.Errorf("page %d: won %v, error %v", pid, won, err)
			return
		}
	}
}

// Check reports a large snapshot with a corrupt block once, and nothing else.
func TestCheckReportsCorruptBlock(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	for how := range corruptions {
		for _, number := range []int64{2, s.blocks() - 1} {
			o := s.o
			o.seam.FS = s.corrupted(how, number)
			var found []error
			r, err := Check("/store", &o, func(problem error) { found = append(found, problem) })
			if err != nil || len(found) != 1 || r.Problems != 1 || !strings.Contains(found[0].Error(), s.name) {
				t.Errorf("block %d %s: %v, error %v", number, how, found, err)
			}
		}
	}
}

// lastPlace returns the newest message of a page in the block that is one message, and its place.
func (s *snapshotted) lastPlace(t *testing.T, number int64) (PageID, recovery.Ref, DiskPtr) {
	t.Helper()
	pc := s.open(t, s.d.Copy())
	defer closeTest(t, pc)
	first, end := pc.snaps.Base.PagesOf(number)
	for pid := first; pid < end; pid++ {
		p, err := pc.snaps.Base.Page(pid)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.want[pid]) < 20 || len(p.Refs) != 1 || p.Refs[0].Blob {
			continue
		}
		places, err := Places(pc, pid)
		if err != nil {
			t.Fatal(err)
		}
		return pid, p.Refs[0], places[0]
	}
	t.Fatal("no such page")
	return 0, recovery.Ref{}, DiskPtr{}
}

// If a block and a message of one of its pages are corrupt, that page alone is lost: the error names the place in the
// log. No other page is, and the corrupt snapshot stays, since the log alone cannot be opened any more. Proves N4, rule
// 12.
func TestCorruptLogBehindCorruptBlock(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	const number = 3
	lost, ref, ptr := s.lastPlace(t, number)
	for bit, step := 0, 5; bit < 8*int(ptr.Len); bit += step {
		if bit > 8*format.HeaderSize {
			step = 65
		}
		d := s.corrupted("flipped", number)
		d.FlipBit("/store/log", int64(ptr.Off)+int64(bit/8), uint(bit%8))
		pc := s.open(t, d)
		tx := begin(t, pc)
		for pid := FirstUserPage; pid < pc.pages.IDs.Next(); pid++ {
			p, err := pc.Get(tx, pid)
			if pid != lost {
				v, exists := s.want[pid]
				if err != nil || (p.Kind == KindMaterialized) != exists || string(p.Value) != v {
					t.Fatalf("bit %d: page %d is %v, error %v", bit, pid, p.Kind, err)
				}
				continue
			}
			ce := (*CorruptError)(nil)
			if !errors.As(err, &ce) || ce.File != "/store/log" {
				t.Fatalf("bit %d: page %d is %v, error %v, want ErrCorrupt", bit, pid, p.Kind, err)
			}
			at, _ := ce.Place.Offset()
			lsn, _ := ce.Place.LSN()
			page, _ := ce.Place.Page()
			if at != ptr.Off || lsn != ref.LSN || page != pid {
				const text = "bit %d: page %d, LSN %d at %v is corrupt, the error says %v"
				t.Errorf(text, bit, pid, ref.LSN, ptr, ce.Place)
			}
		}
		tx.End()
		allocate(t, pc, []byte("so that there is something to write"))
		if err := pc.Snapshot(); !errors.Is(err, ErrCorrupt) {
			t.Errorf("a snapshot with a lost page: %v", err)
		}
		closeUnchecked(t, pc)
		if d.ReadDurable(s.name) == nil {
			t.Error("the snapshot was removed")
		}
	}
}

// If a part of the log cannot be read, and so it is not known whose messages are lost, each page of the corrupt block
// is right or an error.
func TestUnreadableLogBehindCorruptBlock(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	const number = 3
	size := int64(len(s.d.ReadDurable("/store/log")))
	right, lost := 0, 0
	for off := int64(4096); off < size; off += 4096 {
		d := s.corrupted("flipped", number)
		d.SetUnreadable("/store/log", off, 4096)
		o := s.o
		o.seam.FS = d
		pc, err := Open("/store", Bytes{}, &o)
		if errors.Is(err, syscall.EIO) || errors.Is(err, ErrCorrupt) { // a header, the tail, or the roots
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		first, end := pc.snaps.Base.PagesOf(number)
		tx := begin(t, pc)
		for pid := first; pid < end; pid++ {
			p, err := pc.Get(tx, pid)
			v, exists := s.want[pid]
			switch {
			case errors.Is(err, ErrCorrupt) && strings.Contains(err.Error(), "/store/log"):
				lost++
			case err != nil || (p.Kind == KindMaterialized) != exists || string(p.Value) != v:
				t.Fatalf("offset %d: page %d is %v, error %v", off, pid, p.Kind, err)
			default:
				right++
			}
		}
		tx.End()
		closeUnchecked(t, pc)
	}
	if right == 0 || lost == 0 {
		t.Errorf("%d pages were right, %d lost", right, lost)
	}
}

// A message that nothing needs may be corrupt too: no page is lost.
func TestCorruptGarbageBehindCorruptBlock(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	d := s.d.Copy()
	pc := s.open(t, d)
	pid, _, old := s.lastPlace(t, 3)
	want := maps.Clone(s.want)
	alterPage(t, pc, want, pid, alteration{[]byte("replaced, so that the message before is garbage"), 5})
	closeTest(t, pc)
	name := filepath.Join("/store", snapshotFiles(t, d, "/store")[0])
	d.FlipBit(name, 3*format.SnapshotBlock+9, 0)
	d.FlipBit("/store/log", int64(old.Off)+format.HeaderSize+3, 0)
	pc = s.open(t, d)
	verify(t, pc, want)
	closeUnchecked(t, pc)
}

// A snapshot that its blocks of references make unreadable is rebuilt with one scan, whichever page comes first.
func TestOneScanServesAllBlocks(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	d := s.d.Copy()
	for n := int64(2); n < s.blocks(); n++ {
		d.FlipBit(s.name, n*format.SnapshotBlock+50, 1)
	}
	pc := s.open(t, d)
	scans := 0
	pc.snaps.BeforeScan(func(context.Context) error {
		scans++
		return nil
	})
	verify(t, pc, s.want)
	if n, least := pc.Stats().Snapshot.Rebuilt, s.header.RecordBlocks()-1; scans != 1 || n < least {
		t.Errorf("%d blocks were rebuilt by %d scans, want at least %d by one", n, scans, least)
	}
	closeTest(t, pc)
}

// lateTable is a table that changes after From was noted.
type lateTable struct {
	snapshot.Table
	change func()
}

// BeginSnapshot implements snapshot.Table.
func (l lateTable) BeginSnapshot(from LSN) snapshot.Source {
	l.change()
	return l.Table.BeginSnapshot(from)
}

// A page that was allocated while the snapshot was written, so that its newest message is above the snapshot's From, is
// not taken for free when its block has to be rebuilt after Open has used it. Proves N5, trap 2.
func TestPageAboveSnapshotIsNotTakenForFree(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	d := s.d.Copy()
	pc := s.open(t, d)
	allocate(t, pc, []byte("so that there is something to write"))
	flushTest(t, pc)
	var pid PageID
	table := lateTable{&pc.pages, func() { pid, _ = allocate(t, pc, []byte("above From")) }}
	if err := pc.snaps.Write(context.Background(), pc.core.store.Log, table, snapshot.Pause); err != nil {
		t.Fatal(err)
	}
	next := d.Crash(1)
	_ = pc.Close()
	pc = s.open(t, next)
	base := pc.snaps.Base
	if p, err := base.Page(pid); err != nil || p.LSN < base.From {
		t.Fatalf("page %d has LSN %d, error %v, want one from %d on", pid, p.LSN, err, base.From)
	}
	number := recovery.RecordBlock(pid)
	next.SetUnreadable(pc.snaps.Path(base.ID()), number*format.SnapshotBlock, format.SnapshotBlock)
	for first, _ := base.PagesOf(number); pc.Stats().Snapshot.Rebuilt == 0; first++ {
		get1(t, pc, first)
	}
	if err := ExactAccounts(pc); err != nil {
		t.Error(err)
	}
	tx := begin(t, pc)
	for range 2 * base.Free {
		if p, _, err := pc.Allocate(tx, []byte("new")); err != nil || p == pid {
			t.Fatalf("allocated page %d, error %v", p, err)
		}
	}
	tx.End()
	if v := get1(t, pc, pid).Value; string(v) != "above From" {
		t.Errorf("page %d is %q", pid, v)
	}
	closeTest(t, pc)
}
