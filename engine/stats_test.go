package engine_test

import (
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// The counts of Stats report the work done and agree with each other at any time. The counts of work never fall, and
// start at zero with each opening.
func TestStatsAgree(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	last := engine.Stats{Log: engine.LogStats{StableLSN: -1}}
	look := func(pc *engine.PageCache[[]byte]) engine.Stats {
		t.Helper()
		s := pc.Stats()
		for name, v := range map[string][2]int64{
			"StableLSN":      {int64(last.Log.StableLSN), int64(s.Log.StableLSN)},
			"BytesWritten":   {last.Log.BytesWritten, s.Log.BytesWritten},
			"BytesPadded":    {last.Log.BytesPadded, s.Log.BytesPadded},
			"Flushes":        {last.Log.Flushes, s.Log.Flushes},
			"BufferWaits":    {last.Log.BufferWaits, s.Log.BufferWaits},
			"Segments":       {int64(last.Space.Segments), int64(s.Space.Segments)},
			"Fetches":        {last.Pages.Fetches, s.Pages.Fetches},
			"Merges":         {last.Pages.Merges, s.Pages.Merges},
			"Consolidations": {last.Pages.Consolidations, s.Pages.Consolidations},
		} {
			if v[1] < v[0] {
				t.Errorf("%s went from %d to %d", name, v[0], v[1])
			}
		}
		if s.Log.BytesPadded > s.Log.BytesWritten || s.Space.SegmentsInUse > s.Space.Segments ||
			s.Space.LiveBytes < 0 || s.Pages.InUse < 0 || s.Pages.Free < 0 || s.Log.StableLSN > pc.StableLSN() ||
			s.Dir != "/store" ||
			s.Space.LiveBytes > int64(s.Space.SegmentsInUse)*16<<10 || s.Log.Device == "" ||
			s.Log.BytesWritten%4096 != 0 || (s.Txs.Open == 0) != (s.Txs.Oldest == 0) {
			t.Errorf("the counts contradict each other: %+v", s)
		}
		last = s
		return s
	}
	pc := enginetest.OpenSim(t, d)
	s := look(pc)
	if s.Pages.InUse != 0 || s.Space.Segments != 0 || s.Log.BytesWritten != 0 ||
		s.Generation != 1 || s.Log.StableLSN != -1 {
		t.Errorf("a new store: %+v", s)
	}
	if _, err := pc.GenerateID(); err != nil { // so that no timestamp is 0
		t.Fatal(err)
	}
	tx := enginetest.Begin(t, pc)
	ptrs := map[engine.PageID]engine.PagePtr[[]byte]{}
	for i := range 60 {
		pid, ptr, err := pc.Allocate(tx, make([]byte, 500))
		if err != nil {
			t.Fatal(err)
		}
		ptrs[pid] = enginetest.Must(t)(pc.Link(tx, pid, ptr, make([]byte, 40)))
		if s := look(pc); s.Pages.InUse != int64(i+1) || s.Txs.Open != 1 || s.Txs.Oldest != tx.TS() {
			t.Errorf("after %d pages: %+v", i+1, s)
		}
	}
	live := last.Space.LiveBytes
	for pid := engine.FirstUserPage; pid < 12; pid++ {
		enginetest.Must(t)(pc.Free(tx, pid, ptrs[pid]))
	}
	if s := look(pc); s.Pages.InUse != 50 || s.Pages.Free != 10 || s.Space.LiveBytes > live-10*540 {
		t.Errorf("after 10 were freed: %+v", s)
	}
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
	if s := look(pc); s.Log.Flushes == 0 || s.Log.BytesWritten < 60*540 || s.Space.SegmentsInUse < 2 {
		t.Errorf("after Flush: %+v", s)
	}
	tx.End()
	if s := look(pc); s.Txs.Open != 0 {
		t.Errorf("after End: %+v", s)
	}
	var sum int64
	for i, g := range pc.Segments() {
		if sum += g.LiveBytes; g.Slot != i || g.Size != 16<<10 || g.State == "" {
			t.Errorf("segment %d: %+v", i, g)
		}
	}
	if sum != last.Space.LiveBytes || last.Log.WriteAmplification < 1 || last.Log.WriteAmplification > 3 ||
		last.Space.Amplification < 1 || last.Log.BytesGiven < 60*540 {
		t.Errorf("segments hold %d live bytes: %+v", sum, last)
	}
	enginetest.Close(t, pc)
	before := last
	last = engine.Stats{}
	last.Log.StableLSN, last.Space.Segments = before.Log.StableLSN, before.Space.Segments
	pc = enginetest.OpenSim(t, d)
	if s := look(pc); s.Pages.InUse != 50 || s.Pages.Free != 10 || s.Space.LiveBytes != before.Space.LiveBytes ||
		s.Generation != 2 || s.Pages.Fetches+s.Pages.Merges != 0 {
		t.Errorf("reopened: %+v, before %+v", s, before)
	}
	tx = enginetest.Begin(t, pc)
	for range 2 {
		for pid := engine.FirstUserPage; pid < 62; pid++ {
			if _, err := pc.Get(tx, pid); err != nil {
				t.Fatal(err)
			}
		}
		// In the second round all pages are resident.
		if s := look(pc); s.Pages.Fetches != 100 || s.Pages.Merges != 50 || s.Pages.Consolidations != 0 {
			t.Errorf("after reading: %+v", s)
		}
	}
	tx.End()
	enginetest.Close(t, pc)
}

// Stats of a standalone log have the counts of the log; those of pages and Txs are zero.
func TestLogStats(t *testing.T) {
	l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(simdisk.New(2, simdisk.Options{})))
	for range 30 {
		if _, _, err := l.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	n, err := l.Flush()
	s := l.Stats()
	if err != nil || s.Log.BytesWritten < 30_000 || s.Space.SegmentsInUse != 3 || engine.LSN(n) > s.Log.StableLSN+1 ||
		s.Log.StableLSN != l.StableLSN() || s.Pages.InUse != 0 || s.Txs.Open != 0 {
		t.Errorf("Flush: %d bytes, error %v; %+v", n, err, s)
	}
	enginetest.Close(t, l)
}

// The counts of the log are those of the device: its writes and their bytes. Each small commit fills up one block, and
// the rest of the block counts as padding.
func TestLogStatsCountTheDevice(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	o := enginetest.SimOptions(d)
	o.SegmentSize, o.FlushEvery = 256<<10, -1
	l := enginetest.OpenLog(t, "/store", o)
	if _, err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	var writes, bytes atomic.Int64
	d.SetFault(func(op simdisk.Op) error {
		if op.Kind == simdisk.OpDeviceWrite {
			writes.Add(1)
			bytes.Add(int64(op.Len))
		}
		return nil
	})
	const commits, record, block = 20, 100, 4096
	before := l.Stats().Log
	for range commits {
		if _, _, err := l.Write(make([]byte, record)); err != nil {
			t.Fatal(err)
		}
		enginetest.Flush(t, l)
	}
	s := l.Stats().Log
	d.SetFault(nil)
	if n := s.Flushes - before.Flushes; n != writes.Load() || n < commits {
		t.Errorf("%d flushes, the device did %d writes", n, writes.Load())
	}
	if n := s.BytesWritten - before.BytesWritten; n != bytes.Load() || n < commits*block {
		t.Errorf("%d bytes, the device wrote %d", n, bytes.Load())
	}
	padded, most := s.BytesPadded-before.BytesPadded, bytes.Load()-commits*record
	if padded > most || padded < most-commits*300 {
		t.Errorf("%d bytes of padding, want %d less the headers of messages", padded, most)
	}
	enginetest.Close(t, l)
}

// Stats name the oldest open Tx, batch and reservation, with their ages.
func TestStatsNameWhatIsOpen(t *testing.T) {
	pc := enginetest.Open(t, t.TempDir(), &engine.Options{SegmentSize: 16 << 10})
	first, second := enginetest.Begin(t, pc), enginetest.Begin(t, pc)
	b, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	pc.Stats()
	time.Sleep(20 * time.Millisecond)
	st := pc.Stats()
	if st.Txs.Open != 2 || st.Txs.Oldest != first.TS() || st.Txs.Age < 20*time.Millisecond {
		t.Errorf("Txs %+v, want the oldest with timestamp %d", st.Txs, first.TS())
	}
	if p := st.Log.OldestBatch; st.Log.Batches != 1 || p.LSN != b.LSN() || p.Age < 20*time.Millisecond {
		t.Errorf("oldest of %d batches: %+v, want that at LSN %d", st.Log.Batches, p, b.LSN())
	}
	first.End()
	second.End()
	if err := b.Seal(); err != nil {
		t.Fatal(err)
	}
	st = pc.Stats()
	if st.Txs != (engine.TxStats{Kept: 2}) || st.Log.OldestBatch != (engine.Pending{}) || st.Log.Batches != 0 {
		t.Errorf("with nothing open: %+v, %+v", st.Txs, st.Log)
	}
	enginetest.Close(t, pc)
	l := enginetest.OpenLog(t, t.TempDir(), &engine.Options{SegmentSize: 16 << 10})
	r, err := l.Reserve(10)
	if err != nil {
		t.Fatal(err)
	}
	l.Stats()
	time.Sleep(20 * time.Millisecond)
	if p := l.Stats().Log.OldestReservation; p.LSN != r.LSN() || p.Age < 20*time.Millisecond {
		t.Errorf("oldest reservation %+v, want that at LSN %d", p, r.LSN())
	}
	if _, _, err := r.Complete(); err != nil {
		t.Fatal(err)
	}
	enginetest.Close(t, l)
}

// A change that loses, or that finds nothing to do, gives the log nothing.
func TestLostChangesGiveNothing(t *testing.T) {
	pc := enginetest.Open(t, t.TempDir(), nil)
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	pid, old, err := pc.Allocate(tx, []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Must(t)(pc.Link(tx, pid, old, []byte("b")))
	given := pc.Stats().Log.BytesGiven
	for name, change := range map[string]func() (bool, error){
		"link":    func() (bool, error) { _, won, err := pc.Link(tx, pid, old, []byte("c")); return won, err },
		"replace": func() (bool, error) { _, won, err := pc.Replace(tx, pid, old, []byte("c")); return won, err },
		"free":    func() (bool, error) { _, won, err := pc.Free(tx, pid, old); return won, err },
		"root":    func() (bool, error) { _, won, err := pc.CASRoot(tx, "r", pid, pid+1); return won, err },
	} {
		if won, err := change(); won || err != nil || pc.Stats().Log.BytesGiven != given {
			t.Errorf("%s: %v, %v; given %d bytes, then %d", name, won, err, given, pc.Stats().Log.BytesGiven)
		}
	}
}

// A Get that only merges fragments which are all resident reads nothing: it is no miss. A Get after reopening is one.
func TestMergingIsNoMiss(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	get := func(pid engine.PageID) {
		t.Helper()
		tx, err := pc.Begin()
		if err != nil {
			t.Fatal(err)
		}
		defer tx.End()
		if page, err := pc.Get(tx, pid); err != nil || string(page.Value) != "wholedelta" {
			t.Fatalf("%q, %v", page.Value, err)
		}
	}
	tx, err := pc.Begin()
	if err != nil {
		t.Fatal(err)
	}
	pid, ptr, err := pc.Allocate(tx, []byte("whole"))
	if err == nil {
		_, _, err = pc.Link(tx, pid, ptr, []byte("delta"))
	}
	tx.End()
	if err != nil {
		t.Fatal(err)
	}
	get(pid)
	if s := pc.Stats(); s.Pages.Merges != 1 || s.Cache.Misses != 0 || s.Cache.Hits < 1 || s.Pages.Fetches != 0 {
		t.Errorf("%d merges, %d misses, %d hits, %d fetches", s.Pages.Merges, s.Cache.Misses, s.Cache.Hits,
			s.Pages.Fetches)
	}
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	pc = enginetest.OpenSim(t, d)
	get(pid)
	if s := pc.Stats(); s.Cache.Misses != 1 {
		t.Errorf("%d misses after reopening", s.Cache.Misses)
	}
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
}

// Counts of what has happened never go down, so that a rate can be computed of them, while a page is merged and
// changed in turns.
func TestCountsNeverGoDown(t *testing.T) {
	pc := enginetest.Open(t, "", &engine.Options{Temporary: true})
	tx := enginetest.Begin(t, pc)
	pid, _, err := pc.Allocate(tx, []byte("x"))
	tx.End()
	if err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan bool), make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := growOrReplace(pc, pid); err != nil {
				done <- err
				return
			}
		}
	}()
	var last engine.CacheStats
	for range 20_000 {
		now := pc.Stats().Cache
		if now.Misses < last.Misses || now.Hits < last.Hits {
			t.Errorf("%d hits and %d misses, then %d and %d", last.Hits, last.Misses, now.Hits, now.Misses)
			break
		}
		last = now
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// growOrReplace reads a page and links to it, or replaces it once it is long.
func growOrReplace(pc *engine.PageCache[[]byte], pid engine.PageID) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	p, err := pc.Get(tx, pid)
	if err == nil && len(p.Value) > 64 {
		_, _, err = pc.Replace(tx, pid, p.Ptr, []byte("x"))
	} else if err == nil {
		_, _, err = pc.Link(tx, pid, p.Ptr, []byte("y"))
	}
	return err
}
