package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// contentsOf returns what every page of a store is, as one string.
func contentsOf(t testing.TB, pc *PageCache[[]byte]) string {
	t.Helper()
	tx := begin(t, pc)
	defer tx.End()
	var b strings.Builder
	for pid := FirstUserPage; pid < pc.pages.IDs.Next(); pid++ {
		p, err := pc.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%d %v %x\n", pid, p.Kind == KindMaterialized, p.Value)
	}
	m, err := pc.Meta(tx)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&b, m)
	return b.String()
}

// busy does something of everything to a store.
func busy(t testing.TB, pc *PageCache[[]byte], n int, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 3))
	for i := range n {
		tx := begin(t, pc)
		pid := FirstUserPage + PageID(rng.IntN(int(pc.pages.IDs.Next())))
		p, err := pc.Get(tx, pid)
		if err == nil {
			v := random(rng.IntN(300), uint64(i))
			if rng.IntN(30) == 0 {
				v = random(5000, uint64(i))
			}
			switch k := rng.IntN(10); {
			case k < 3 || p.Kind != KindMaterialized:
				_, _, err = pc.Allocate(tx, v)
			case k < 7:
				_, _, err = pc.Link(tx, pid, p.Ptr, v)
			case k < 9:
				_, _, err = pc.Replace(tx, pid, p.Ptr, v)
			default:
				_, _, err = pc.Free(tx, pid, p.Ptr)
			}
		}
		if err == nil && i%50 == 0 {
			_, _, err = pc.CASRoot(tx, fmt.Sprintf("root %d of %d", i, seed), 0, pid)
		}
		if err != nil {
			t.Fatal(err)
		}
		tx.End()
	}
}

func snapshotFiles(t testing.TB, fs vfs.FS, dir string) (names []string) {
	t.Helper()
	all, err := fs.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		if strings.HasPrefix(n, "snapshot") {
			names = append(names, n)
		}
	}
	return names
}

// A store opens with the same contents with a snapshot as without one, whatever was done before and after it, closed
// cleanly or not. There is one snapshot at a time, and that of a Close after which nothing was written is kept. O6.
func TestSnapshot(t *testing.T) {
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
				t.Fatalf("round %d, without the snapshot %v: the contents differ", round, o.seam.LogAlone)
			}
			if o.seam.LogAlone == (pc.snaps.Base != nil) {
				t.Fatal("not opened from where it should be")
			}
			if err := errors.Join(exactAccounts(pc), exactBlobs(pc)); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			closeTest(t, pc)
		}
		names := snapshotFiles(t, d, "/elsewhere/snaps")
		closeTest(t, openTest(t, "/store", o))
		if again := snapshotFiles(t, d, "/elsewhere/snaps"); len(names) != 1 || fmt.Sprint(again) != fmt.Sprint(names) {
			t.Fatalf("round %d: snapshots %v, then %v", round, names, again)
		}
	}
	if names := snapshotFiles(t, d, "/store"); len(names) != 0 {
		t.Error(names)
	}
}

// A snapshot that is corrupt anywhere, missing, cut short, another store's or half written is skipped with a warning,
// and the store has the same contents. If a snapshot is only verified as it is used, each page is right or an error
// that names the file. O6, O7. Proves rule 12; trap 6.
func TestBadSnapshot(t *testing.T) {
	d := simdisk.New(2, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 4, seam: seam.Options{FS: d}}
	pc := openTest(t, "/store", o)
	busy(t, pc, 400, 1)
	want := contentsOf(t, pc)
	closeTest(t, pc)
	name := filepath.Join("/store", snapshotFiles(t, d, "/store")[0])
	good := d.ReadDurable(name)
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[at/8] ^= 1 << (at % 8)
		return b
	}
	bad := map[string][]byte{"empty": {}, "cut": good[:len(good)-1], "longer": append(bytes.Clone(good), 0),
		"block": good[:format.SnapshotBlock],
		"zeros": make([]byte, len(good))}
	for at := 0; at < 8*len(good); at += 611 {
		bad[fmt.Sprint("bit ", at)] = flip(at)
	}
	foreign := bytes.Clone(good)
	h, err := format.DecodeSnapshotHeader(good, int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	h.Store[3]++
	h.Put(foreign)
	bad["foreign"] = foreign
	passed := 0
	for what, b := range bad {
		for _, unchecked := range []bool{false, true} {
			hurt := d.Copy()
			hurt.WriteFile(name, b)
			hurt.WriteFile("/store/snapshot.tmp", good)
			hurt.WriteFile("/store/snapshot.ffffffffffffffff.tmp", good)
			hurt.WriteFile("/store/snapshot.1", good)
			o := *o
			o.seam.FS, o.seam.Unchecked = hurt, unchecked
			pc, err := Open("/store", Bytes{}, &o)
			if err != nil {
				t.Fatalf("%s, unchecked %v: %v", what, unchecked, err)
			}
			if pc.snaps.Base == nil {
				passed++
			} else if !unchecked {
				t.Fatalf("%s: taken for good", what)
			}
			if unchecked && pc.snaps.Base != nil {
				tx := begin(t, pc)
				for pid := FirstUserPage; pid < pc.pages.IDs.Next(); pid++ {
					p, err := pc.Get(tx, pid)
					line := fmt.Sprintf("%d %v %x\n", pid, p.Kind == KindMaterialized, p.Value)
					if err != nil && (!errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), name)) {
						t.Fatalf("%s: page %d: %v", what, pid, err)
					} else if err == nil && !strings.Contains("\n"+want, "\n"+line) {
						t.Fatalf("%s: page %d is wrong", what, pid)
					}
				}
				tx.End()
			} else if contentsOf(t, pc) != want {
				t.Fatalf("%s: the contents differ", what)
			}
			closeTest(t, pc)
		}
	}
	if passed < len(bad) {
		t.Errorf("%d of %d passed over", passed, len(bad))
	}
	hurt := d.Copy()
	if err := hurt.Remove(name); err != nil {
		t.Fatal(err)
	}
	o.seam.FS = hurt
	pc = openTest(t, "/store", o)
	if contentsOf(t, pc) != want {
		t.Error("without a snapshot the contents differ")
	}
	closeTest(t, pc)
}

// If a store was closed cleanly, lost segments, segment headers, or a lost end of the file are noticed, although the
// opening does not read the log. Corruption within a segment is found when it is read. O7. Proves rules 10 and 12.
func TestDamageBelowSnapshot(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 4,
		seam: seam.Options{Eager: true, FS: d}}
	pc := openTest(t, "/store", o)
	for round := range uint64(5) {
		busy(t, pc, 300, round)
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		cleanAll(t, pc)
	}
	var bases = map[format.SegmentID]bool{}
	slots, _, _ := pc.core.store.Space.Totals()
	for id := range format.SegmentID(slots) {
		bases[id] = pc.core.store.Space.Segment(id).Live() > 0
	}
	want := contentsOf(t, pc)
	closeTest(t, pc)
	log := d.ReadDurable("/store/log")
	for id, live := range bases {
		wipes := map[string][]byte{"zeroed": make([]byte, 16<<10), "header": bytes.Repeat([]byte{0xa5}, 64)}
		for what, wipe := range wipes {
			if !live {
				continue
			}
			hurt := d.Copy()
			b := bytes.Clone(log)
			copy(b[id.Offset(16<<10):], wipe)
			hurt.WriteFile("/store/log", b)
			o := *o
			o.seam.FS = hurt
			if _, err := Open("/store", Bytes{}, &o); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%v %s: %v", id, what, err)
			}
		}
	}
	for n := 0; n < len(log); n += 4096 {
		hurt := d.Copy()
		hurt.WriteFile("/store/log", log[:n])
		o := *o
		o.seam.FS = hurt
		pc, err := Open("/store", Bytes{}, &o)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("cut to %d: %v", n, err)
			}
			continue
		}
		tx := begin(t, pc)
		corrupt := false
		for pid := FirstUserPage; pid < pc.pages.IDs.Next(); pid++ {
			p, err := pc.Get(tx, pid)
			line := fmt.Sprintf("%d %v %x\n", pid, p.Kind == KindMaterialized, p.Value)
			corrupt = corrupt || err != nil
			if err != nil && !errors.Is(err, ErrCorrupt) || err == nil && !strings.Contains("\n"+want, "\n"+line) {
				t.Errorf("cut to %d: page %d: %v", n, pid, err)
			}
		}
		tx.End()
		if !corrupt && n < int(bytesUsed(bases)) {
			t.Logf("cut to %d: nothing was lost", n)
		}
		closeTest(t, pc)
	}
}

func bytesUsed(live map[format.SegmentID]bool) (end int64) {
	for id, l := range live {
		if l {
			end = max(end, int64(id+1)*16<<10)
		}
	}
	return end
}

// Writers go on while snapshots are written, one after another; each is as good as the log alone.
func TestSnapshotBesideWriters(t *testing.T) {
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
		wg.Wait()
		if err := pc.Snapshot(); err != nil {
			t.Error(err)
		}
		want := contentsOf(t, pc)
		closeTest(t, pc)
		for _, o.seam.LogAlone = range []bool{true, false} {
			pc := openTest(t, dir, o)
			resume := pc.cleaner.Pause()
			err := exactAccounts(pc)
			resume()
			if err != nil || contentsOf(t, pc) != want {
				t.Errorf("round %d, without the snapshot %v: the contents differ; %v", round, o.seam.LogAlone, err)
			}
			closeTest(t, pc)
		}
	}
}

// busyAlone is busy for one of several goroutines: it changes pages of its own.
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
				err = errors.New("lost a page of its own")
			}
		}
		tx.End()
		if err != nil {
			t.Error(err)
			return
		}
	}
}

// A snapshot is written in the background every SnapshotEvery messages. A temporary store needs none.
func TestSnapshotEvery(t *testing.T) {
	for _, temporary := range []bool{false, true} {
		pc := openTest(t, t.TempDir(), &Options{SnapshotEvery: 100, Temporary: temporary})
		busy(t, pc, 1000, 1)
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for !temporary && pc.Stats().Snapshots == 0 && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if pc.Stats().Snapshots > 0 == temporary {
			t.Errorf("temporary %v: %d snapshots", temporary, pc.Stats().Snapshots)
		}
		closeTest(t, pc)
	}
}

// While a batch is open, a snapshot fails and delays no caller. The store closes all the same.
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
		t.Error("a snapshot of a batch that is open")
	}
	closeTest(t, pc)
	runtime.KeepAlive(batch)
	for _, o.seam.LogAlone = range []bool{true, false} {
		pc := openTest(t, "/store", o)
		if contentsOf(t, pc) != want { // page ids that the batch drew are not missed
			t.Error("a part of the batch is there, or pages are missing")
		}
		closeTest(t, pc)
	}
}

// cachingFS is a file system whose snapshots stay in the page cache.
type cachingFS struct{ vfs.FS }

func (f cachingFS) Open(name string, flag vfs.Flag) (vfs.File, error) {
	file, err := f.FS.Open(name, flag)
	if err == nil && strings.HasPrefix(filepath.Base(name), "snapshot.") {
		file = cachingFile{file}
	}
	return file, err
}

type cachingFile struct{ vfs.File }

func (cachingFile) DropCache(int64, int64) error { return errors.New("planted") }

// A snapshot that was cached before a crash, and cannot be read anew, is skipped. Proves rule 11.
func TestSnapshotThatStaysCached(t *testing.T) {
	d := simdisk.New(7, simdisk.Options{})
	o := simOptions(d)
	pc := openTest(t, "/store", o)
	busy(t, pc, 200, 1)
	if err := pc.Snapshot(); err != nil {
		t.Fatal(err)
	}
	flushTest(t, pc)
	want := contentsOf(t, pc)
	crashed := d.Crash(1)
	_ = pc.Close()
	o.seam.FS = cachingFS{crashed}
	pc = openTest(t, "/store", o)
	if pc.snaps.Base != nil || contentsOf(t, pc) != want {
		t.Error("the snapshot was used, or the contents differ")
	}
	closeTest(t, pc)
}

// edited returns a snapshot with another record for a page, and good checksums.
func edited(t *testing.T, snapshot []byte, pid PageID, edit func(*format.SnapshotEntry)) []byte {
	t.Helper()
	b := bytes.Clone(snapshot)
	h, err := format.DecodeSnapshotHeader(b, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	number := 1 + int64(pid)/format.EntriesPerBlock
	block := b[number*format.SnapshotBlock:][:format.SnapshotBlock]
	at := block[int64(pid)%format.EntriesPerBlock*format.SnapshotEntrySize:]
	e, err := format.GetSnapshotEntry(at, &h)
	if err != nil {
		t.Fatal(err)
	}
	edit(&e)
	e.Put(at)
	format.SealSnapshotBlock(block, h.Seed(), number)
	return b
}

// A snapshot that gives pages 0 and 1 kinds that they cannot have is skipped, although its checksums are good. If
// another page has a record of their kinds, or that of page 0 lies in no segment, the opening or the call that touches
// the page returns an error. Proves rule 12.
func TestHostileSnapshot(t *testing.T) {
	d := simdisk.New(8, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 4,
		seam: seam.Options{Eager: true, FS: d}}
	pc := openTest(t, "/store", o)
	for round := range uint64(4) {
		busy(t, pc, 300, round)
		flushTest(t, pc)
		cleanAll(t, pc)
	}
	gone := LSN(0) // a segment that was recycled
	for ok := true; ok; gone += 16 << 10 {
		_, ok = pc.core.store.Space.Find(gone)
	}
	gone -= 16 << 10
	if _, err := pc.noteID(pc.ids.Next()); err != nil {
		t.Fatal(err)
	}
	user := FirstUserPage
	for get1(t, pc, user).Kind != KindMaterialized {
		user++
	}
	want := contentsOf(t, pc)
	closeTest(t, pc)
	name := filepath.Join("/store", snapshotFiles(t, d, "/store")[0])
	good := d.ReadDurable(name)
	open := func(pid PageID, unchecked bool, edit func(*format.SnapshotEntry)) (*PageCache[[]byte], error) {
		hurt := d.Copy()
		hurt.WriteFile(name, edited(t, good, pid, edit))
		o := *o
		o.seam.FS, o.seam.Unchecked = hurt, unchecked
		return Open("/store", Bytes{}, &o)
	}
	kinds := []format.SnapshotKind{format.SnapshotKindPage, format.SnapshotKindPages, format.SnapshotKindFree,
		format.SnapshotKindMeta, format.SnapshotKindCounter}
	right := map[PageID]format.SnapshotKind{
		format.MetaPage: format.SnapshotKindMeta, format.CounterPage: format.SnapshotKindCounter}
	for _, k := range kinds {
		as := func(e *format.SnapshotEntry) {
			if e.Kind = k; k == format.SnapshotKindPages {
				e.Len, e.First = 1, 0
			}
		}
		for pid, own := range right {
			for _, unchecked := range []bool{false, true} {
				pc, err := open(pid, unchecked, as)
				if err != nil {
					t.Fatalf("page %d of kind %d: %v", pid, k, err)
				}
				if passed := pc.snaps.Base == nil; passed == (k == own) || contentsOf(t, pc) != want {
					t.Errorf("page %d of kind %d: passed over %v, or the contents differ", pid, k, passed)
				}
				closeTest(t, pc)
			}
		}
		if k != format.SnapshotKindMeta && k != format.SnapshotKindCounter {
			continue
		}
		pc, err := open(user, false, as)
		if err != nil {
			t.Fatal(err)
		}
		tx := begin(t, pc)
		if p, err := pc.Get(tx, user); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), name) {
			t.Errorf("page %d of kind %d: %v, %v", user, k, p.Kind, err)
		}
		tx.End()
		closeTest(t, pc)
	}
	for pid := range right {
		_, err := open(pid, false, func(e *format.SnapshotEntry) { e.LSN = gone + format.SegmentHeaderSize })
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "missing") {
			t.Errorf("page %d in no segment: %v", pid, err)
		}
	}
}

// If a snapshot cannot be written, the store goes on, and no part of the snapshot is left.
func TestSnapshotFailures(t *testing.T) {
	for _, kind := range []simdisk.Kind{simdisk.OpSync, simdisk.OpRename, simdisk.OpSyncDir, simdisk.OpWrite} {
		d := simdisk.New(5, simdisk.Options{})
		o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{FS: d}}
		pc := openTest(t, "/store", o)
		busy(t, pc, 100, 1)
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		failOn(d, kind, 1, errors.New("planted"))
		if err := pc.Snapshot(); err == nil || !strings.Contains(err.Error(), "planted") {
			t.Errorf("%v: %v", kind, err)
		}
		d.SetFault(nil)
		if kind != simdisk.OpSyncDir && len(snapshotFiles(t, d, "/store")) > 0 {
			t.Errorf("%v: %v", kind, snapshotFiles(t, d, "/store"))
		}
		busy(t, pc, 100, 2)
		if err := pc.Snapshot(); err != nil {
			t.Error(err)
		}
		want := contentsOf(t, pc)
		closeTest(t, pc)
		pc = openTest(t, "/store", o)
		if contentsOf(t, pc) != want {
			t.Errorf("%v: the contents differ", kind)
		}
		closeTest(t, pc)
	}
}

// Free ids that only the snapshot knows are handed out, the highest first, each once.
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
		t.Fatalf("%+v", pc.Stats())
	}
	release(pids[700:702])
	tx := begin(t, pc)
	if p, err := pc.Get(tx, pids[7]); err != nil || p.Kind != KindFree { // being looked at does not lose it
		t.Error(p.Kind, err)
	}
	tx.End()
	var last PageID = 1 << 30
	for i := range 27 {
		tx := begin(t, pc)
		pid, _, err := pc.Allocate(tx, []byte("new"))
		tx.End()
		if err != nil || !free[pid] || pid > last {
			t.Fatalf("id %d after %d, %v", pid, last, err)
		}
		delete(free, pid)
		last = pid
		if i == 12 { // the rest after another opening
			closeTest(t, pc)
			pc = openTest(t, "/store", o)
		}
	}
	if err := exactAccounts(pc); err != nil {
		t.Error(err)
	}
	closeTest(t, pc)
}

// Opening a store that was closed cleanly looks at no page and reads only the headers and the end of the log, whatever
// its size. Proves trap 16.
func TestOpeningLooksAtNothing(t *testing.T) {
	dir := t.TempDir()
	o := &Options{SegmentSize: 64 << 10}
	pc := openTest(t, dir, o)
	pids := some(t, pc, 20000, 100)
	closeTest(t, pc)
	pc = openTest(t, dir, o)
	defer closeTest(t, pc)
	touched := 0
	pc.pages.Table.Each(func(PageID, *slot) { touched++ })
	if touched > 2 {
		t.Errorf("%d pages of %d were taken in", touched, len(pids))
	}
	tx := begin(t, pc)
	defer tx.End()
	if p, err := pc.Get(tx, pids[777]); err != nil || len(p.Value) != 100 {
		t.Error(len(p.Value), err)
	}
}
