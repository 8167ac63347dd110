package engine

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"pagecache/engine/internal/clean"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments"
	"pagecache/segments/format"
)

// churn replaces all pages six times a round, 15 000 bytes in all, and makes that stable.
func churn(t testing.TB, pc *PageCache[[]byte], pids []PageID, rounds int) {
	t.Helper()
	for round := range 6 * rounds {
		tx := begin(t, pc)
		for _, pid := range pids {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			must(t)(pc.Replace(tx, pid, p.Ptr, bytes.Repeat([]byte{byte(round)}, 2500/len(pids))))
		}
		tx.End()
	}
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// cleanAll cleans until there is nothing to do, and returns how many segments were recycled.
func cleanAll(t testing.TB, pc *PageCache[[]byte]) int64 {
	t.Helper()
	before := pc.cleaner.Stats().Recycled
	for did, err := true, error(nil); did; {
		if did, err = pc.AttemptGC(); err != nil {
			t.Fatal(err)
		}
	}
	return pc.cleaner.Stats().Recycled - before
}

func some(t testing.TB, pc *PageCache[[]byte], n, size int) (pids []PageID) {
	t.Helper()
	tx := begin(t, pc)
	defer tx.End()
	for i := range n {
		pid, _, err := pc.Allocate(tx, bytes.Repeat([]byte{'a' + byte(i)}, size))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// What a Tx has read stays until it ends, whatever becomes of the page and of the segment in which it lay: that is recycled only then.
// Proves rules 3 and 4; trap 9.
func TestRecyclingWaitsForReaders(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{Eager: true, FS: d}}
	pc := openTest(t, "/store", o)
	pids := some(t, pc, 10, 3000)
	closeTest(t, pc)
	pc = openTest(t, "/store", o)
	defer closeTest(t, pc)
	reader := begin(t, pc)
	var held, was [][]byte
	for _, pid := range pids {
		p, err := pc.Get(reader, pid)
		if err != nil {
			t.Fatal(err)
		}
		held, was = append(held, p.Value), append(was, bytes.Clone(p.Value))
	}
	for range 5 {
		churn(t, pc, pids, 4)
		if n := cleanAll(t, pc); n != 0 {
			t.Fatalf("%d segments recycled under a reader", n)
		}
	}
	draining := pc.cleaner.Stats().Draining
	if draining == 0 {
		t.Fatal("nothing waits to be recycled")
	}
	for i := range held {
		if !bytes.Equal(held[i], was[i]) {
			t.Fatalf("the value of page %d changed under its reader", pids[i])
		}
	}
	reader.End()
	if n := cleanAll(t, pc); int(n) < draining-1 { // one may wait for the next to begin on the disk
		t.Errorf("%d segments recycled of %d that waited", n, draining)
	}
}

// A segment is recycled only once what replaced its contents is stable, which an open batch holds up. Proves rule 4; trap 14.
func TestRecyclingWaitsForStability(t *testing.T) {
	d := simdisk.New(2, simdisk.Options{})
	pc := openTest(t, "/store", &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{Eager: true, FS: d}})
	defer closeTest(t, pc)
	pids := some(t, pc, 10, 1500)
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
	batch, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		for _, pid := range pids {
			tx := begin(t, pc)
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			must(t)(pc.Replace(tx, pid, p.Ptr, make([]byte, 900)))
			tx.End()
		}
	}
	if n := cleanAll(t, pc); n != 0 || pc.cleaner.Stats().Draining == 0 {
		t.Errorf("%d segments recycled, %d wait, with a batch open that replaced their pages", n, pc.cleaner.Stats().Draining)
	}
	if err := batch.Seal(); err != nil {
		t.Fatal(err)
	}
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := cleanAll(t, pc); n == 0 {
		t.Error("nothing recycled once the batch had ended")
	}
}

// Space goes round: however much is overwritten, the file stays within a small multiple of what is live, and everything is found after
// reopening, freed pages as freed ones. Proves rules 4 and 6; trap 15.
func TestSpaceIsBounded(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{FS: d}}
	pc := openTest(t, "/store", o)
	pids := some(t, pc, 100, 1000)
	want := map[PageID][]byte{}
	for round := range 40 {
		tx := begin(t, pc)
		for i, pid := range pids {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case round == 3 && i%10 == 0:
				must(t)(pc.Free(tx, pid, p.Ptr))
				want[pid] = nil
			case p.Kind == KindMaterialized && (i+round)%3 == 0:
				want[pid] = fmt.Appendf(nil, "%d in round %d %0900d", pid, round, 0)
				must(t)(pc.Replace(tx, pid, p.Ptr, want[pid]))
			}
		}
		tx.End()
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		cleanAll(t, pc)
		if round%9 == 8 {
			closeTest(t, pc)
			pc = openTest(t, "/store", o)
		}
	}
	if s := pc.Stats(); s.Space.Segments > 24 { // 100 KB are 7 segments
		t.Errorf("%d segments for %d live bytes, %d recycled", s.Space.Segments, s.Space.LiveBytes, pc.core.store.Space.Recycled())
	}
	closeTest(t, pc)
	pc = openTest(t, "/store", o)
	defer closeTest(t, pc)
	tx := begin(t, pc)
	defer tx.End()
	for _, pid := range pids {
		v, ok := want[pid]
		p, err := pc.Get(tx, pid)
		if err != nil || ok && (v == nil) != (p.Kind == KindFree) || v != nil && !bytes.Equal(p.Value, v) {
			t.Errorf("page %d: %v, %v", pid, p.Kind, err)
		}
	}
}

// A segment that has vanished is told from one that was recycled. Proves rules 4, 10 and 12.
func TestVanishedSegment(t *testing.T) {
	d := simdisk.New(4, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{Eager: true, FS: d}}
	pc := openTest(t, "/store", o)
	pids := some(t, pc, 10, 1000)
	churn(t, pc, pids, 12)
	if cleanAll(t, pc) == 0 {
		t.Fatal("nothing was recycled")
	}
	churn(t, pc, pids, 2)
	for range 2 { // the second notes how far the first made the log stable
		some(t, pc, 1, 10)
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	var inUse []segments.Candidate
	pc.core.store.Space.Inactive(func(c segments.Candidate) { inUse = append(inUse, c) })
	for _, clean := range []bool{false, true} {
		if clean {
			closeTest(t, pc)
		}
		for _, c := range inUse {
			for name, wipe := range map[string][]byte{"zeroed": make([]byte, 16<<10), "flipped": bytes.Repeat([]byte{0xa5}, format.SegmentHeaderSize)} {
				hurt := d.Copy()
				f := hurt.ReadDurable("/store/log")
				copy(f[c.ID.Offset(16<<10):], wipe)
				hurt.WriteFile("/store/log", f)
				o := *o
				o.seam.FS = hurt
				ce := (*CorruptError)(nil)
				if pc, err := Open("/store", Bytes{}, &o); err == nil {
					_ = pc.Close()
					t.Errorf("clean %v: slot %v %s: opened", clean, c.ID, name)
				} else if !errors.Is(err, ErrCorrupt) || !errors.As(err, &ce) {
					t.Errorf("clean %v: slot %v %s: %v", clean, c.ID, name, err)
				}
			}
		}
	}
}

// Where a header cannot be written, nothing is recycled any more, and everything else goes on; Linear stores and closed ones are not cleaned.
func TestCleaningStops(t *testing.T) {
	d := simdisk.New(5, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{Eager: true, FS: d}}
	pc := openTest(t, "/store", o)
	pids := some(t, pc, 10, 1000)
	churn(t, pc, pids, 8)
	d.SetFault(func(o simdisk.Op) error {
		if o.Kind == simdisk.OpDeviceWrite {
			return syscall.EIO
		}
		return nil
	})
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = pc.AttemptGC()
	}
	if !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	d.SetFault(nil)
	if _, err := pc.AttemptGC(); !errors.Is(err, syscall.EIO) {
		t.Errorf("goes on after it: %v", err)
	}
	churn(t, pc, pids, 3)
	closeTest(t, pc)
	if _, err := pc.AttemptGC(); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	o.SegmentMode = SegmentModeLinear
	pc = openTest(t, "/store", o)
	churn(t, pc, pids, 3)
	if n := cleanAll(t, pc); n != 0 {
		t.Errorf("%d segments of a Linear store recycled", n)
	}
	closeTest(t, pc)
	o.SegmentMode = SegmentModeGC
	pc = openTest(t, "/store", o)
	defer closeTest(t, pc)
	if cleanAll(t, pc) == 0 {
		t.Error("nothing recycled after reopening")
	}
}

// The lists of pages that cleaning goes by name just the pages that the segments hold, whether they were written a moment ago or are read; only segments of many
// small messages have none.
func TestPageLists(t *testing.T) {
	for size, want := range map[int]bool{2000: true, 20: false} {
		d := simdisk.New(5, simdisk.Options{})
		pc := openTest(t, "/store", &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{Foreground: true, FS: d}})
		pids := some(t, pc, 1000, size)
		tx := begin(t, pc)
		pid, ptr, err := pc.Allocate(tx, nil)
		if err != nil {
			t.Fatal(err)
		}
		must(t)(pc.Free(tx, pid, ptr))
		b, err := pc.PinLog()
		if err != nil {
			t.Fatal(err)
		}
		must(t)(pc.Link(tx, pids[0], ptrTo[[]byte](pids[0], pc.pages.Table.Get(pids[0]).Load()), []byte("delta")))
		if err := b.Seal(); err != nil {
			t.Fatal(err)
		}
		tx.End()
		churn(t, pc, pids[:10], 10)
		n := 0
		resume := pc.cleaner.Pause()
		pc.core.store.Space.Inactive(func(c segments.Candidate) {
			n++
			got, listed := pc.core.store.Space.Segment(c.ID).Pages()
			read, err := pc.cleaner.PagesRead(c)
			if listed != want && c.Base == 0 || listed && !bytes.Equal(got, read) || err != nil {
				t.Errorf("values of %d bytes, %v: listed %v: %v; %v is there; %v", size, c.ID, listed, slices.Collect(got.All()), slices.Collect(read.All()), err)
			}
		})
		resume()
		if n < 3 {
			t.Errorf("%d segments", n)
		}
		closeTest(t, pc)
	}
}

// A small store takes more segments than it needs while it is written to; they are given back when it comes to rest.
func TestCalm(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 16 << 10, IOBuffers: 2})
	defer closeTest(t, pc)
	pids := some(t, pc, 10, 250)
	most := 0
	for range 60 {
		churn(t, pc, pids, 2)
		most = max(most, pc.Stats().Space.SegmentsInUse)
	}
	if most > clean.FewSegments+20 {
		t.Errorf("%d segments for 2500 bytes", most)
	}
	for deadline := time.Now().Add(5 * time.Second); pc.Stats().Space.SegmentsInUse > 5; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d segments at rest", pc.Stats().Space.SegmentsInUse)
		}
	}
}
