package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// A store opens with the same contents from a snapshot as from the log alone, after changes before and after the
// snapshot, closed cleanly or not. There is one snapshot at a time. An opening that writes nothing keeps the snapshot.
// O6.
func TestSnapshotAndLogAgree(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 4,
		SnapshotDir: "/elsewhere/snaps", seam: seam.Options{Eager: true, FS: d}}
	for round := range uint64(20) {
		pc := openTest(t, "/store", o)
		busy(t, pc, 200, round)
		if err := pc.Snapshot(); err != nil {
			t.Fatal(err)
		}
		if round%2 == 0 {
			busy(t, pc, 100, 100+round)
			cleanAll(t, pc)
			if _, err := pc.Flush(); err != nil {
				t.Fatal(err)
			}
			cleanAll(t, pc)
		}
		want := contentsOf(t, pc)
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		if round%3 == 0 {
			next := d.Crash(round)
			_ = pc.Close()
			d, o.seam.FS = next, next
		} else {
			closeTest(t, pc)
		}
		for _, o.seam.LogAlone = range []bool{true, false} {
			pc := openTest(t, "/store", o)
			if got := contentsOf(t, pc); got != want {
				t.Fatalf("round %d, from the log alone %v: the contents differ", round, o.seam.LogAlone)
			}
			if o.seam.LogAlone == (pc.snaps.Base != nil) {
				t.Fatalf("from the log alone %v, but opened from a snapshot %v", o.seam.LogAlone, pc.snaps.Base != nil)
			}
			_, err := ExactBlobs(pc)
			if err := errors.Join(ExactAccounts(pc), err); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			closeTest(t, pc)
		}
		names := snapshotFiles(t, d, "/elsewhere/snaps")
		closeTest(t, openTest(t, "/store", o))
		if again := snapshotFiles(t, d, "/elsewhere/snaps"); len(names) != 1 || fmt.Sprint(again) != fmt.Sprint(names) {
			t.Fatalf("round %d: snapshots %v, then %v, want the same one", round, names, again)
		}
	}
	if names := snapshotFiles(t, d, "/store"); len(names) != 0 {
		t.Errorf("the directory of the store has the snapshots %v", names)
	}
}

// Snapshots that are written beside writers have the same contents as the log alone.
func TestSnapshotBesideWriters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := &Options{SegmentSize: 64 << 10, ConsolidateAfter: 4, SnapshotEvery: 500}
	for round := range uint64(3) {
		pc := openTest(t, dir, o)
		var wg sync.WaitGroup
		for g := range uint64(3) {
			wg.Go(func() { busyAlone(t, pc, 600, 10*round+g) })
		}
		for range 5 {
			if err := pc.Snapshot(); err != nil {
				t.Error(err)
			}
		}
		soon(t, "writers beside snapshots", wg.Wait)
		if err := pc.Snapshot(); err != nil {
			t.Error(err)
		}
		want := contentsOf(t, pc)
		closeTest(t, pc)
		for _, o.seam.LogAlone = range []bool{true, false} {
			pc := openTest(t, dir, o)
			resume := pc.cleaner.Pause()
			err := ExactAccounts(pc)
			resume()
			if err != nil || contentsOf(t, pc) != want {
				t.Errorf("round %d, from the log alone %v: the contents differ, or %v", round, o.seam.LogAlone, err)
			}
			closeTest(t, pc)
		}
	}
}

// busyAlone is busy for one of several goroutines: it changes only pages that it has allocated.
func busyAlone(t *testing.T, pc *PageCache[[]byte], n int, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 4))
	type page struct {
		pid PageID
		ptr PagePtr[[]byte]
	}
	var pages []page
	for i := range n {
		tx, err := pc.Begin()
		if err != nil {
			t.Error(err)
			return
		}
		v := random(rng.IntN(300), uint64(i))
		if rng.IntN(100) == 0 {
			v = random(20000, uint64(i))
		}
		if len(pages) < 10 || rng.IntN(4) == 0 {
			var p page
			p.pid, p.ptr, err = pc.Allocate(tx, v)
			pages = append(pages, p)
		} else {
			at := rng.IntN(len(pages))
			p, won := &pages[at], true
			switch rng.IntN(6) {
			case 0:
				_, won, err = pc.Free(tx, p.pid, p.ptr)
				pages = append(pages[:at], pages[at+1:]...)
			case 1, 2:
				p.ptr, won, err = pc.Replace(tx, p.pid, p.ptr, v)
			default:
				p.ptr, won, err = pc.Link(tx, p.pid, p.ptr, v)
			}
			if !won && err == nil {
				err = fmt.Errorf("page %d, which no other goroutine changes, was not in the expected state", p.pid)
			}
		}
		tx.End()
		if err != nil {
			t.Error(err)
			return
		}
	}
}

// While a batch is open, Snapshot fails. The store closes, and the batch is absent after reopening.
func TestSnapshotWithBatchOpen(t *testing.T) {
	d := simdisk.New(4, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, seam: seam.Options{FS: d}}
	pc := openTest(t, "/store", o)
	busy(t, pc, 100, 1)
	want := contentsOf(t, pc)
	batch, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	pc.snaps.Patience = 100 * time.Millisecond
	busy(t, pc, 100, 2)
	if err := pc.Snapshot(); err == nil {
		t.Error("a snapshot was written while a batch was open")
	}
	closeInBatch(t, pc, batch)
	for _, o.seam.LogAlone = range []bool{true, false} {
		pc := openTest(t, "/store", o)
		if contentsOf(t, pc) != want { // page ids that were handed out in the batch are not missed
			t.Error("a part of the batch was recovered, or pages are missing")
		}
		closeTest(t, pc)
	}
}

// Allocate returns the free ids that only the snapshot knows, the highest first, each once.
func TestFreeIDsOfSnapshot(t *testing.T) {
	d := simdisk.New(6, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{FS: d}}
	pc := openTest(t, "/store", o)
	pids := some(t, pc, 1200, 10)
	free := map[PageID]bool{}
	release := func(pids []PageID) {
		tx := begin(t, pc)
		for _, pid := range pids {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			must(t)(pc.Free(tx, pid, p.Ptr))
			free[pid] = true
		}
		tx.End()
	}
	release(pids[5:15])
	release(pids[300:310])
	release(pids[1100:1105])
	closeTest(t, pc)
	pc = openTest(t, "/store", o)
	if pc.snaps.Base == nil || pc.Stats().Pages.Free != 25 {
		t.Fatalf("opened from a snapshot %v, want 25 free pages: %+v", pc.snaps.Base != nil, pc.Stats())
	}
	release(pids[700:702])
	tx := begin(t, pc)
	if p, err := pc.Get(tx, pids[7]); err != nil || p.Kind != KindFree { // reading the page does not lose its id
		t.Errorf("page %d is %v, want %v, error %v", pids[7], p.Kind, KindFree, err)
	}
	tx.End()
	var last PageID = 1 << 30
	for i := range 27 {
		tx := begin(t, pc)
		pid, _, err := pc.Allocate(tx, []byte("new"))
		tx.End()
		if err != nil || !free[pid] || pid > last {
			t.Fatalf("allocated page %d after %d, error %v", pid, last, err)
		}
		delete(free, pid)
		last = pid
		if i == 12 { // the rest after another opening
			closeTest(t, pc)
			pc = openTest(t, "/store", o)
		}
	}
	if err := ExactAccounts(pc); err != nil {
		t.Error(err)
	}
	closeTest(t, pc)
}

// Open of a store that was closed cleanly reads no page into the table, however many there are. Proves trap 16.
func TestCleanOpenReadsNoPages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := &Options{SegmentSize: 64 << 10}
	pc := openTest(t, dir, o)
	pids := some(t, pc, 20000, 100)
	closeTest(t, pc)
	pc = openTest(t, dir, o)
	defer closeTest(t, pc)
	touched := 0
	for pid := range pc.pages.IDs.Next() {
		if s := pc.pages.Table.Get(pid); s != nil && !s.IsEmpty() {
			touched++
		}
	}
	if touched > 2 {
		t.Errorf("%d pages of %d are in the table, want at most 2", touched, len(pids))
	}
	tx := begin(t, pc)
	defer tx.End()
	if p, err := pc.Get(tx, pids[777]); err != nil || len(p.Value) != 100 {
		t.Errorf("page %d has %d bytes, want 100, error %v", pids[777], len(p.Value), err)
	}
}

// Stores share a SnapshotDir: each opens from its own snapshot, after crashes too, and removes only its own. Files of
// other stores and other versions stay. A store passes over another's snapshot that has its own name.
func TestStoresShareSnapshotDir(t *testing.T) {
	t.Parallel()
	d := simdisk.New(12, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, SnapshotDir: "/snaps", seam: seam.Options{FS: d}}
	dirs := []string{"/a", "/b"}
	var ids [2]format.StoreID
	old := filepath.Join(o.SnapshotDir, "snapshot.0000000000000001")
	for round := range uint64(6) {
		var want [2]string
		var stores [2]*PageCache[[]byte]
		for i, dir := range dirs {
			stores[i] = openTest(t, dir, o)
			ids[i] = stores[i].core.store.Super.Store
			if base := stores[i].snaps.Base; round > 0 && (base == nil || base.Store != ids[i]) {
				t.Fatalf("round %d: store %s did not open from its snapshot", round, dir)
			}
		}
		if round == 0 {
			d.WriteFile(old, []byte("of version 1"))
		}
		for i, pc := range stores {
			busy(t, pc, 100, 10*round+uint64(i))
			if err := pc.Snapshot(); err != nil {
				t.Fatal(err)
			}
			busy(t, pc, 20, 100+10*round+uint64(i))
			flushTest(t, pc)
			want[i] = contentsOf(t, pc)
		}
		next := d.Crash(round)
		for i, pc := range stores {
			_ = pc.Close()
			stores[i] = nil
		}
		d, o.seam.FS = next, next
		for i, dir := range dirs {
			pc := openTest(t, dir, o)
			if pc.snaps.Base == nil || contentsOf(t, pc) != want[i] {
				t.Errorf("round %d: store %s did not open from its snapshot, or its contents differ", round, dir)
			}
			closeTest(t, pc)
		}
		if names := snapshotFiles(t, d, o.SnapshotDir); len(names) != 3 || d.ReadDurable(old) == nil {
			t.Errorf("round %d: %v, want a snapshot of each store, and the file of version 1", round, names)
		}
	}
	pc := openTest(t, "/b", o)
	own, want := pc.snaps.Base.ID(), contentsOf(t, pc)
	closeTest(t, pc)
	for _, name := range snapshotFiles(t, d, o.SnapshotDir) {
		if id, ok := format.ParseSnapshotName(name); ok && id.Store == ids[0] {
			hidden := format.SnapshotID{Store: own.Store, Timeline: own.Timeline, Number: own.Number + 7}
			d.WriteFile(filepath.Join(o.SnapshotDir, hidden.Name()), d.ReadDurable(filepath.Join(o.SnapshotDir, name)))
		}
	}
	pc = openTest(t, "/b", o)
	if pc.snaps.Base == nil || pc.snaps.Base.ID() != own || contentsOf(t, pc) != want {
		t.Error("another store's snapshot was used, or hid the own one")
	}
	closeUnchecked(t, pc)
}

// A store gets a snapshot although it is killed after few updates each time: the messages that the next Open must apply
// stop growing. Proves N6, trap 37.
func TestSnapshotAcrossOpenings(t *testing.T) {
	t.Parallel()
	const every, each = 300, 50
	o := &Options{SegmentSize: 64 << 10, SnapshotEvery: every, SegmentMode: SegmentModeLinear}
	dir := filepath.Join(t.TempDir(), "0")
	most, fromSnapshot := int64(0), 0
	for round := range 30 {
		pc := openTest(t, dir, o)
		since := pc.Stats().Snapshot.Since
		if most = max(most, since); since >= every {
			waitFor(t, "a snapshot", func() bool { return pc.Stats().Snapshots > 0 })
		}
		if pc.snaps.Base != nil {
			fromSnapshot++
		}
		for i := range each {
			allocate(t, pc, []byte{byte(round), byte(i)})
		}
		flushTest(t, pc)
		killed := filepath.Join(filepath.Dir(dir), fmt.Sprint(round+1))
		resume := pc.snaps.Pause() // so that no file vanishes while it is copied
		if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		resume()
		closeUnchecked(t, pc)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		dir = killed
	}
	if fromSnapshot < 15 || most >= every+2*each {
		const text = "%d openings from a snapshot, want at least 15; one had to apply %d messages, want less than %d"
		t.Errorf(text, fromSnapshot, most, every+2*each)
	}
}
