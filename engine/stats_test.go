package engine

import (
	"testing"

	"pagecache/internal/simdisk"
)

// The counts say what was done, and hold together at any time; those of work only rise, and begin anew with each opening.
func TestStatsTell(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	last := Stats{StableLSN: -1}
	look := func(pc *PageCache[[]byte]) Stats {
		t.Helper()
		s := pc.Stats()
		for name, v := range map[string][2]int64{
			"StableLSN": {int64(last.StableLSN), int64(s.StableLSN)}, "BytesWritten": {last.BytesWritten, s.BytesWritten},
			"BytesPadded": {last.BytesPadded, s.BytesPadded}, "Flushes": {last.Flushes, s.Flushes},
			"BufferWaits": {last.BufferWaits, s.BufferWaits}, "Segments": {int64(last.Segments), int64(s.Segments)},
			"Pulls": {last.Pulls, s.Pulls}, "Merges": {last.Merges, s.Merges}, "Consolidations": {last.Consolidations, s.Consolidations},
		} {
			if v[1] < v[0] {
				t.Errorf("%s went from %d to %d", name, v[0], v[1])
			}
		}
		if s.BytesPadded > s.BytesWritten || s.SegmentsInUse > s.Segments || s.LiveBytes < 0 || s.Pages < 0 || s.PagesFree < 0 ||
			s.StableLSN > pc.StableLSN() || s.Dir != "/store" || s.LiveBytes > int64(s.SegmentsInUse)*16<<10 || s.Device == "" ||
			s.BytesWritten%4096 != 0 || (s.OpenTxs == 0) != (s.OldestTx == 0) {
			t.Errorf("%+v", s)
		}
		last = s
		return s
	}
	pc := openSim(t, d)
	if s := look(pc); s.Pages != 0 || s.Segments != 0 || s.BytesWritten != 0 || s.Generation != 1 || s.StableLSN != -1 {
		t.Errorf("a new store: %+v", s)
	}
	if _, err := pc.GenerateID(); err != nil { // so that no timestamp is 0
		t.Fatal(err)
	}
	tx := begin(t, pc)
	ptrs := map[PageID]PagePtr[[]byte]{}
	for i := range 60 {
		pid, ptr, err := pc.Allocate(tx, make([]byte, 500))
		if err != nil {
			t.Fatal(err)
		}
		ptrs[pid] = must(t)(pc.Link(tx, pid, ptr, make([]byte, 40)))
		if s := look(pc); s.Pages != int64(i+1) || s.OpenTxs != 1 || s.OldestTx != tx.TS() {
			t.Errorf("after %d pages: %+v", i+1, s)
		}
	}
	live := last.LiveBytes
	for pid := FirstUserPage; pid < 12; pid++ {
		must(t)(pc.Free(tx, pid, ptrs[pid]))
	}
	if s := look(pc); s.Pages != 50 || s.PagesFree != 10 || s.LiveBytes > live-10*540 {
		t.Errorf("after 10 were freed: %+v", s)
	}
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
	if s := look(pc); s.Flushes == 0 || s.BytesWritten < 60*540 || s.SegmentsInUse < 2 {
		t.Errorf("after Flush: %+v", s)
	}
	tx.End()
	if s := look(pc); s.OpenTxs != 0 {
		t.Errorf("after End: %+v", s)
	}
	var sum int64
	for i, g := range pc.Segments() {
		if sum += g.LiveBytes; g.Slot != i || g.Size != 16<<10 || g.State == "" {
			t.Errorf("%+v", g)
		}
	}
	if sum != last.LiveBytes || last.WriteAmplification < 1 || last.WriteAmplification > 3 || last.SpaceAmplification < 1 || last.BytesGiven < 60*540 {
		t.Errorf("%d live: %+v", sum, last)
	}
	closeTest(t, pc)
	before := last
	last = Stats{StableLSN: before.StableLSN, Segments: before.Segments}
	pc = openSim(t, d)
	if s := look(pc); s.Pages != 50 || s.PagesFree != 10 || s.LiveBytes != before.LiveBytes || s.Generation != 2 || s.Pulls+s.Merges != 0 {
		t.Errorf("reopened: %+v, before %+v", s, before)
	}
	tx = begin(t, pc)
	for range 2 {
		for pid := FirstUserPage; pid < 62; pid++ {
			if _, err := pc.Get(tx, pid); err != nil {
				t.Fatal(err)
			}
		}
		if s := look(pc); s.Pulls != 100 || s.Merges != 50 || s.Consolidations != 0 { // the second time all is there
			t.Errorf("after reading: %+v", s)
		}
	}
	tx.End()
	closeTest(t, pc)
}

// A log's counts are those that it has.
func TestLogStats(t *testing.T) {
	l := openSimLog(t, simdisk.New(2, simdisk.Options{}))
	for range 30 {
		if _, _, err := l.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	n, err := l.Flush()
	s := l.Stats()
	if err != nil || s.BytesWritten < 30_000 || s.SegmentsInUse != 2 || LSN(n) > s.StableLSN+1 || s.StableLSN != l.StableLSN() || s.Pages != 0 ||
		s.OpenTxs != 0 {
		t.Errorf("%d, %v: %+v", n, err, s)
	}
	closeTest(t, l)
}
