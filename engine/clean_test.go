package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/clean"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments"
	"pagecache/segments/format"
)

// A value that a Tx has read stays valid until the Tx ends, even if its page is replaced. Its segment is recycled only
// then. Proves rules 3 and 4; trap 9.
func TestRecyclingWaitsForReaders(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	o := enginetest.WithSeam(enginetest.SimOptions(d), seam.Options{Eager: true, FS: d})
	pc := enginetest.Open(t, "/store", o)
	pids := enginetest.AllocateMany(t, pc, 10, 3000)
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, "/store", o)
	defer enginetest.Close(t, pc)
	reader := enginetest.Begin(t, pc)
	var held, was [][]byte
	for _, pid := range pids {
		p, err := pc.Get(reader, pid)
		if err != nil {
			t.Fatal(err)
		}
		held, was = append(held, p.Value), append(was, bytes.Clone(p.Value))
	}
	for range 5 {
		enginetest.Churn(t, pc, pids, 4)
		if n := enginetest.CleanAll(t, pc); n != 0 {
			t.Fatalf("%d segments recycled under a reader", n)
		}
	}
	draining := engine.CleanerOf(pc).Stats().Draining
	if draining == 0 {
		t.Fatal("no segment is draining")
	}
	for i := range held {
		if !bytes.Equal(held[i], was[i]) {
			t.Fatalf("the value of page %d changed under its reader", pids[i])
		}
	}
	reader.End()
	// One segment may have to wait until the next one's header is durable.
	if n := enginetest.CleanAll(t, pc); int(n) < draining-1 {
		t.Errorf("%d segments recycled of %d that were draining", n, draining)
	}
}

// A segment is recycled only once the replacements of its contents are stable. An open batch delays that. Proves rule
// 4; trap 14.
func TestRecyclingWaitsForStability(t *testing.T) {
	d := simdisk.New(2, simdisk.Options{})
	o := enginetest.WithSeam(enginetest.SimOptions(d), seam.Options{Eager: true, FS: d})
	pc := enginetest.Open(t, "/store", o)
	defer enginetest.Close(t, pc)
	pids := enginetest.AllocateMany(t, pc, 10, 1500)
	enginetest.Flush(t, pc)
	batch, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		for _, pid := range pids {
			tx := enginetest.Begin(t, pc)
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			enginetest.Must(t)(pc.Replace(tx, pid, p.Ptr, make([]byte, 900)))
			tx.End()
		}
	}
	if n := enginetest.CleanAll(t, pc); n != 0 || engine.CleanerOf(pc).Stats().Draining == 0 {
		t.Errorf("%d segments recycled, %d draining, while the batch that replaced their pages is open",
			n, engine.CleanerOf(pc).Stats().Draining)
	}
	if err := batch.Seal(); err != nil {
		t.Fatal(err)
	}
	enginetest.Flush(t, pc)
	if n := enginetest.CleanAll(t, pc); n == 0 {
		t.Error("no segment was recycled after the batch had ended")
	}
}

// However often pages are overwritten, the file stays within a small multiple of the live data. All pages and the freed
// page ids survive reopening. Proves rules 4 and 6; trap 15.
func TestSpaceIsBounded(t *testing.T) {
	t.Parallel()
	d := simdisk.New(3, simdisk.Options{})
	o := enginetest.SimOptions(d)
	pc := enginetest.Open(t, "/store", o)
	pids := enginetest.AllocateMany(t, pc, 100, 1000)
	want := map[engine.PageID][]byte{}
	for round := range 40 {
		tx := enginetest.Begin(t, pc)
		for i, pid := range pids {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case round == 3 && i%10 == 0:
				enginetest.Must(t)(pc.Free(tx, pid, p.Ptr))
				want[pid] = nil
			case p.Kind == engine.KindMaterialized && (i+round)%3 == 0:
				want[pid] = fmt.Appendf(nil, "%d in round %d %0900d", pid, round, 0)
				enginetest.Must(t)(pc.Replace(tx, pid, p.Ptr, want[pid]))
			}
		}
		tx.End()
		enginetest.Flush(t, pc)
		enginetest.CleanAll(t, pc)
		if round%9 == 8 {
			enginetest.Close(t, pc)
			pc = enginetest.Open(t, "/store", o)
		}
	}
	if s := pc.Stats(); s.Space.Segments > 31 { // 100 KB of live data fill 9 segments
		t.Errorf("%d segments for %d live bytes, %d recycled", s.Space.Segments, s.Space.LiveBytes, s.Space.Recycled)
	}
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, "/store", o)
	defer enginetest.Close(t, pc)
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	for _, pid := range pids {
		v, ok := want[pid]
		p, err := pc.Get(tx, pid)
		if err != nil || ok && (v == nil) != (p.Kind == engine.KindFree) || v != nil && !bytes.Equal(p.Value, v) {
			t.Errorf("page %d is %v of %d bytes, want %d, error %v", pid, p.Kind, len(p.Value), len(v), err)
		}
	}
}

// If a segment that was not recycled is missing or its header is corrupt, Open reports corruption. Proves rules 4, 10
// and 12.
func TestMissingSegmentIsCorruption(t *testing.T) {
	d := simdisk.New(4, simdisk.Options{})
	o := enginetest.WithSeam(enginetest.SimOptions(d), seam.Options{Eager: true, FS: d})
	pc := enginetest.Open(t, "/store", o)
	pids := enginetest.AllocateMany(t, pc, 10, 1000)
	enginetest.Churn(t, pc, pids, 12)
	if enginetest.CleanAll(t, pc) == 0 {
		t.Fatal("no segment was recycled")
	}
	enginetest.Churn(t, pc, pids, 2)
	for range 2 { // the second flush records the stable LSN of the first
		enginetest.AllocateMany(t, pc, 1, 10)
		enginetest.Flush(t, pc)
	}
	var inUse []segments.Candidate
	engine.StoreOf(pc).Space.Inactive(func(c segments.Candidate) { inUse = append(inUse, c) })
	for _, clean := range []bool{false, true} {
		if clean {
			enginetest.Close(t, pc) // it recycles segments that are empty
			log := d.ReadDurable("/store/log")
			inUse = slices.DeleteFunc(inUse, func(c segments.Candidate) bool {
				h, valid := headerOf(log, int(c.ID))
				return !valid || h.State != format.SegmentStateInUse || h.Base != c.Base
			})
			if len(inUse) == 0 {
				t.Fatal("no segment is in use")
			}
		}
		for _, c := range inUse {
			for name, wipe := range map[string][]byte{
				"zeroed":             make([]byte, 16<<10),
				"header overwritten": bytes.Repeat([]byte{0xa5}, format.SegmentHeaderSize),
			} {
				hurt := d.Copy()
				f := hurt.ReadDurable("/store/log")
				copy(f[c.ID.Offset(16<<10):], wipe)
				hurt.WriteFile("/store/log", f)
				o := *o
				enginetest.WithSeam(&o, seam.Options{Eager: true, FS: hurt})
				ce := (*engine.CorruptError)(nil)
				if pc, err := engine.Open("/store", engine.Bytes{}, &o); err == nil {
					_ = pc.Close()
					t.Errorf("clean close %v: slot %v %s: Open: no error", clean, c.ID, name)
				} else if !errors.Is(err, engine.ErrCorrupt) || !errors.As(err, &ce) {
					t.Errorf("clean close %v: slot %v %s: error %v, want a CorruptError", clean, c.ID, name, err)
				}
			}
		}
	}
}

// After a failed write of a header, if the superblock cannot say that the slot is out of use, the store recycles
// nothing more; all other calls work. Linear stores and closed stores are not cleaned.
func TestCleaningStopsAfterWriteError(t *testing.T) {
	d := simdisk.New(5, simdisk.Options{})
	o := enginetest.WithSeam(enginetest.SimOptions(d), seam.Options{Eager: true, FS: d})
	pc := enginetest.Open(t, "/store", o)
	pids := enginetest.AllocateMany(t, pc, 10, 1000)
	enginetest.Churn(t, pc, pids, 8)
	d.SetFault(func(o simdisk.Op) error {
		if o.Kind == simdisk.OpDeviceWrite && o.Len == 4096 && o.Off%(16<<10) == 0 || // of a header alone
			o.Kind == simdisk.OpWrite && strings.HasPrefix(o.Name, "/store/superblock") {
			return syscall.EIO
		}
		return nil
	})
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = pc.AttemptGC()
	}
	if !errors.Is(err, syscall.EIO) {
		t.Fatalf("AttemptGC with failing writes: error %v, want EIO", err)
	}
	d.SetFault(nil)
	if _, err := pc.AttemptGC(); !errors.Is(err, syscall.EIO) {
		t.Errorf("AttemptGC after the failed write: error %v, want EIO", err)
	}
	enginetest.Churn(t, pc, pids, 3)
	enginetest.Close(t, pc)
	if _, err := pc.AttemptGC(); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("AttemptGC after Close: error %v, want ErrClosed", err)
	}
	o.SegmentMode = engine.SegmentModeLinear
	pc = enginetest.Open(t, "/store", o)
	enginetest.Churn(t, pc, pids, 3)
	if n := enginetest.CleanAll(t, pc); n != 0 {
		t.Errorf("%d segments of a Linear store were recycled", n)
	}
	enginetest.Close(t, pc)
	o.SegmentMode = engine.SegmentModeGC
	pc = enginetest.Open(t, "/store", o)
	defer enginetest.Close(t, pc)
	if enginetest.CleanAll(t, pc) == 0 {
		t.Error("no segment was recycled after reopening")
	}
}

// A segment's page list, which the cleaner uses, names exactly the pages that reading the segment finds. Only segments
// of many small messages have no list.
func TestPageListsMatchSegments(t *testing.T) {
	t.Parallel()
	for size, want := range map[int]bool{2000: true, 20: false} {
		d := simdisk.New(5, simdisk.Options{})
		o := enginetest.WithSeam(enginetest.SimOptions(d), seam.Options{Foreground: true, FS: d})
		pc := enginetest.Open(t, "/store", o)
		pids := enginetest.AllocateMany(t, pc, 1000, size)
		tx := enginetest.Begin(t, pc)
		pid, ptr, err := pc.Allocate(tx, nil)
		if err != nil {
			t.Fatal(err)
		}
		enginetest.Must(t)(pc.Free(tx, pid, ptr))
		b, err := pc.PinLog()
		if err != nil {
			t.Fatal(err)
		}
		p, err := pc.Get(tx, pids[0])
		if err != nil {
			t.Fatal(err)
		}
		enginetest.Must(t)(pc.Link(tx, pids[0], p.Ptr, []byte("delta")))
		if err := b.Seal(); err != nil {
			t.Fatal(err)
		}
		tx.End()
		enginetest.Churn(t, pc, pids[:10], 10)
		n := 0
		resume := engine.CleanerOf(pc).Pause()
		engine.StoreOf(pc).Space.Inactive(func(c segments.Candidate) {
			n++
			got, listed := engine.StoreOf(pc).Space.Segment(c.ID).Pages()
			read, err := engine.CleanerOf(pc).PagesRead(c)
			if listed != want && c.Base == 0 || listed && !bytes.Equal(got, read) || err != nil {
				t.Errorf("values of %d bytes, segment %v: listed %v: %v, read %v, error %v",
					size, c.ID, listed, slices.Collect(got.All()), slices.Collect(read.All()), err)
			}
		})
		resume()
		if n < 3 {
			t.Errorf("%d segments, want 3 or more", n)
		}
		enginetest.Close(t, pc)
	}
}

// A small store may use more segments than it needs while it is written to. Once it is idle, it recycles them.
func TestIdleStoreRecyclesSegments(t *testing.T) {
	t.Parallel()
	pc := enginetest.Open(t, t.TempDir(), &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2})
	defer enginetest.Close(t, pc)
	pids := enginetest.AllocateMany(t, pc, 10, 250)
	most := 0
	for range 60 {
		enginetest.Churn(t, pc, pids, 2)
		most = max(most, pc.Stats().Space.SegmentsInUse)
	}
	if most > clean.MostSegments+20 {
		t.Errorf("%d segments in use for 2500 bytes", most)
	}
	deadline := time.Now().Add(5 * time.Second)
	for ; pc.Stats().Space.SegmentsInUse > 5; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d segments in use after 5 s without writes, want at most 5", pc.Stats().Space.SegmentsInUse)
		}
	}
}
