package engine_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// The caller may write a value of Get, or a part of it, to the same page or to another. The new value does not change
// when the segment or blob of the old one is recycled. Proves rule 3.
func TestWriteValueReturnedByGet(t *testing.T) {
	t.Parallel()
	for _, size := range []int{3000, 8000} {
		o := enginetest.WithSeam(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1},
			seam.Options{Eager: true})
		dir := t.TempDir()
		pc := enginetest.Open(t, dir, o)
		pids := enginetest.AllocateMany(t, pc, 10, size)
		enginetest.Close(t, pc)
		pc = enginetest.Open(t, dir, o)
		tx := enginetest.Begin(t, pc)
		p, err := pc.Get(tx, pids[3])
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Clone(p.Value)
		enginetest.Must(t)(pc.Replace(tx, pids[3], p.Ptr, p.Value[:1500])) // as a B-tree splits a page
		right, ptr, err := pc.Allocate(tx, p.Value[1500:2000])
		if err != nil {
			t.Fatal(err)
		}
		enginetest.Must(t)(pc.Link(tx, right, ptr, p.Value[2000:]))
		tx.End()
		rest := append(append([]engine.PageID{}, pids[:3]...), pids[4:]...)
		for range 6 {
			enginetest.Churn(t, pc, rest, 4)
			enginetest.CleanAll(t, pc)
		}
		for range 2 {
			tx = enginetest.Begin(t, pc)
			l, err1 := pc.Get(tx, pids[3])
			r, err2 := pc.Get(tx, right)
			if err1 != nil || err2 != nil || !bytes.Equal(append(bytes.Clone(l.Value), r.Value...), want) {
				t.Errorf("halves of %d bytes: %s, %v; %s, %v",
					size, enginetest.Brief(l.Value), err1, enginetest.Brief(r.Value), err2)
			}
			tx.End()
			enginetest.Close(t, pc)
			pc = enginetest.Open(t, dir, o)
		}
		enginetest.Close(t, pc)
	}
}

// A crash while the log file grows can leave a file that ends inside a slot. Open repairs it, and no two segments share
// the slot. O5.
func TestLogEndsInsideSlot(t *testing.T) {
	t.Parallel()
	for _, extra := range []int{1, 4096, 16<<10 - 1} {
		d := simdisk.New(1, simdisk.Options{})
		o := enginetest.WithSeam(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 3, FlushEvery: -1},
			seam.Options{FS: d})
		pc := enginetest.Open(t, "/store", o)
		enginetest.AllocateMany(t, pc, 30, 1500)
		enginetest.Close(t, pc)
		d.WriteFile("/store/log", append(d.ReadDurable("/store/log"), make([]byte, extra)...))
		pc = enginetest.Open(t, "/store", o)
		for range 60 {
			enginetest.AllocateMany(t, pc, 8, 1500)
		}
		want := enginetest.Contents(t, pc)
		enginetest.Close(t, pc)
		for _, logAlone := range []bool{true, false} {
			enginetest.WithSeam(o, seam.Options{FS: d, LogAlone: logAlone})
			pc = enginetest.Open(t, "/store", o)
			if enginetest.Contents(t, pc) != want {
				t.Errorf("%d bytes after the last slot: contents differ after reopening", extra)
			}
			enginetest.Close(t, pc)
		}
	}
}

// If pages leave much of each segment unused, cleaning still ends: the bytes moved are in proportion to the bytes
// written.
func TestCleaningEnds(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	o := enginetest.SimOptions(d)
	pc := enginetest.Open(t, "/store", o)
	defer enginetest.Close(t, pc)
	engine.SetInline(pc, 12000) // no blobs
	enginetest.AllocateMany(t, pc, 60, 9000)
	enginetest.Flush(t, pc)
	n := 0
	for did := true; did; n++ {
		var err error
		if did, err = pc.AttemptGC(); err != nil {
			t.Fatal(err)
		}
		if n%20 == 0 {
			enginetest.Flush(t, pc)
		}
		if n > 5000 {
			t.Fatalf("cleaning did not end after %d steps: %+v", n, pc.Stats().Space)
		}
	}
	if s := pc.Stats(); s.Space.BytesMoved > 8*60*9000 || engine.CleanerOf(pc).Behind() {
		t.Errorf("%d steps moved %d bytes; cleaner behind: %v", n, s.Space.BytesMoved, engine.CleanerOf(pc).Behind())
	}
}

// On a disk full of garbage the store still works: the reserve is enough to free pages, to end batches and to clean.
// Proves rule 9.
func TestDiskFullOfGarbage(t *testing.T) {
	t.Parallel()
	d := simdisk.New(3, simdisk.Options{})
	o := enginetest.SimOptions(d)
	pc := enginetest.Open(t, "/store", o)
	pids := enginetest.AllocateMany(t, pc, 240, 1900)
	enginetest.Flush(t, pc)
	d.SetCapacity(60 * 16 << 10)
	refused := 0
	for i := range 3000 {
		tx := enginetest.Begin(t, pc)
		p, err := pc.Get(tx, pids[i*7%len(pids)])
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = pc.Replace(tx, pids[i*7%len(pids)], p.Ptr, make([]byte, 1900))
		tx.End()
		if err != nil && !errors.Is(err, engine.ErrNoSpace) {
			t.Fatal(err)
		}
		if err == nil {
			continue
		}
		if refused++; refused > 1000 {
			t.Fatalf("more than 1000 of %d writes were refused: %+v", i, pc.Stats())
		}
		enginetest.Flush(t, pc)
		for range 4 {
			if _, err := pc.AttemptGC(); err != nil && !errors.Is(err, engine.ErrNoSpace) {
				t.Fatal(err)
			}
		}
	}
	if refused == 0 {
		t.Error("the disk was never full")
	}
	t.Logf("%d of 3000 writes refused: %+v", refused, pc.Stats())
	enginetest.Close(t, pc)
}

// moody panics in the Decode call that at counts down to.
type moody struct {
	engine.Bytes
	at *int
}

func (m moody) Decode(b []byte) ([]byte, error) {
	if *m.at--; *m.at == 0 {
		panic("moody")
	}
	return b, nil
}

// If Decode panics while the cleaner moves a page, no reservation or lock is left behind. O5.
func TestMaterializerPanicsInMove(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	o := enginetest.SimOptions(d)
	pc := enginetest.Open(t, "/store", o)
	pids := enginetest.AllocateMany(t, pc, 60, 1500)
	enginetest.Close(t, pc)
	enginetest.WithSeam(o, seam.Options{FS: d, Eager: true})
	at := 0
	s := enginetest.OpenWith(t, "/store", moody{at: &at}, o)
	tx := enginetest.Begin(t, s)
	for i, pid := range pids {
		p, err := s.Get(tx, pid) // makes a view of the value resident
		if err != nil {
			t.Fatal(err)
		}
		if i%4 == 0 {
			enginetest.Must(t)(s.Replace(tx, pid, p.Ptr, make([]byte, 50)))
		}
	}
	tx.End()
	at = 3
	func() {
		defer func() {
			if recover() == nil {
				t.Error("AttemptGC did not panic")
			}
		}()
		for range 50 {
			_, _ = s.AttemptGC()
		}
	}()
	done := make(chan error, 1)
	go func() { _, err := s.Flush(); done <- err }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Flush after the panic: %v", err)
		}
	case <-time.After(3 * time.Second):
		t.Fatal("Flush hangs after the panic")
	}
	if _, err := s.AttemptGC(); err != nil {
		t.Errorf("AttemptGC after the panic: %v", err)
	}
	enginetest.Close(t, s)
}

// The cleaner reports a segment with a flipped bit once and does not try it again. If this process wrote the segment,
// the cleaner knows its pages, and moves those that are resident without an error. Rule 10.
func TestCleaningCorruptSegment(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{false, true} {
		d := simdisk.New(3, simdisk.Options{})
		o := enginetest.WithSeam(enginetest.SimOptions(d), seam.Options{Eager: true, FS: d})
		pc := enginetest.Open(t, "/store", o)
		pids := enginetest.AllocateMany(t, pc, 40, 1400)
		enginetest.Flush(t, pc)
		if again {
			enginetest.Close(t, pc)
			pc = enginetest.Open(t, "/store", o)
		}
		tx := enginetest.Begin(t, pc)
		for _, pid := range pids[4:8] {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			enginetest.Must(t)(pc.Replace(tx, pid, p.Ptr, nil))
		}
		p, err := pc.Get(tx, pids[2])
		if err != nil {
			t.Fatal(err)
		}
		tx.End()
		places, err := engine.Places(pc, pids[2])
		if err != nil {
			t.Fatal(err)
		}
		d.FlipBit("/store/log", int64(places[0].Off)+16+4, 3)
		if again { // the flipped bit stays
			enginetest.NoCheck(t, pc)
		}
		reported := 0
		for range 300 {
			_, err := pc.AttemptGC()
			if errors.Is(err, engine.ErrCorrupt) {
				reported++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if again != (reported == 1) || reported > 1 {
			t.Errorf("reopened %v: corruption reported %d times", again, reported)
		}
		enginetest.Close(t, pc)
		pc = enginetest.Open(t, "/store", o)
		if again {
			enginetest.NoCheck(t, pc)
		}
		tx = enginetest.Begin(t, pc)
		p, err = pc.Get(tx, pids[2])
		good := err == nil && bytes.Equal(p.Value, bytes.Repeat([]byte{'a' + 2}, 1400))
		if again != errors.Is(err, engine.ErrCorrupt) || !again && !good {
			t.Errorf("reopened %v: page with the flipped bit: %s, error %v", again, enginetest.Brief(p.Value), err)
		}
		tx.End()
		enginetest.Close(t, pc)
	}
}

// When a segment is recycled, its blocks leave the kernel's page cache before the slot is written again. Proves rule 2.
func TestRecycledSegmentLeavesPageCache(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := enginetest.WithSeam(&engine.Options{SegmentSize: 1 << 20, IOBuffers: 2, FlushEvery: -1},
		seam.Options{Eager: true})
	pc := enginetest.Open(t, dir, o)
	engine.CleanerOf(pc).ByHand() // only CleanAll cleans
	pids := enginetest.AllocateMany(t, pc, 10, 200000)
	for range 4 {
		enginetest.Churn(t, pc, pids, 1)
		tx := enginetest.Begin(t, pc)
		for _, pid := range pids {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			enginetest.Must(t)(pc.Replace(tx, pid, p.Ptr, make([]byte, 200000)))
		}
		tx.End()
	}
	enginetest.Flush(t, pc)
	if enginetest.CleanAll(t, pc) == 0 {
		t.Fatal("no segment was recycled")
	}
	f, err := os.Open(filepath.Join(dir, logstore.LogName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := pc.Stats().Space.Segments << 20
	m, err := unix.Mmap(int(f.Fd()), 0, n, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	for i := range pc.Stats().Space.Segments {
		if engine.StoreOf(pc).Space.Segment(format.SegmentID(i)).State().String() != "free" {
			continue
		}
		if r := residentPages(t, m[i<<20:(i+1)<<20]); r > 0 {
			t.Errorf("slot %d is free, and %d of its blocks are in the page cache", i, r)
		}
	}
	enginetest.Close(t, pc)
}

// residentPages returns the number of pages of a map that are in the kernel's page cache.
func residentPages(t *testing.T, m []byte) (n int) {
	t.Helper()
	vec := make([]byte, len(m)/4096)
	_, _, e := unix.Syscall(unix.SYS_MINCORE,
		uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&vec[0])))
	if e != 0 {
		t.Fatal(e)
	}
	for _, b := range vec {
		n += int(b & 1)
	}
	return n
}

// A slot that Open discards keeps the known-stable LSN of its header: only that LSN may show that a missing segment was
// recycled and not lost. The free slot that the tail moves to keeps it too. Proves rules 4 and 10.
func TestDiscardedSlotKeepsKnownStable(t *testing.T) {
	const size = 16 << 10
	d := simdisk.New(1, simdisk.Options{})
	o := enginetest.WithSeam(&engine.Options{SegmentSize: size, IOBuffers: 4, FlushEvery: -1},
		seam.Options{FS: d})
	pc := enginetest.Open(t, "/store", o)
	engine.SetInline(pc, size) // no blobs
	alloc := func(total int) engine.PageID {
		tx := enginetest.Begin(t, pc)
		defer tx.End()
		pid, _, err := pc.Allocate(tx, make([]byte, total-format.HeaderSize))
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	free := func(pid engine.PageID) {
		tx := enginetest.Begin(t, pc)
		defer tx.End()
		p, err := pc.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		enginetest.Must(t)(pc.Free(tx, pid, p.Ptr))
	}
	until := func(lsn engine.LSN) {
		end := time.Now().Add(5 * time.Second)
		for ; engine.StoreOf(pc).Log.StableEnd() < lsn; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("stable end %d after 5 s, want %d", engine.StoreOf(pc).Log.StableEnd(), lsn)
			}
		}
	}
	for range 5 { // segments 0 … 4 stay live
		alloc(4096)
		alloc(8192)
	}
	x := alloc(4096) // segment 5
	until(5*size + 8192)
	d.Hang(true)
	y := alloc(8192)
	free(x) // opens segment 6; its header says that the first half of 5 is stable
	free(y)
	alloc(4096 - 48)
	d.Hang(false)
	until(6*size + 8192)
	if _, err := pc.AttemptGC(); err != nil || engine.CleanerOf(pc).Stats().Draining != 1 {
		t.Fatalf("%d segments draining, want 1, error %v", engine.CleanerOf(pc).Stats().Draining, err)
	}
	alloc(8192)
	until(7 * size)
	alloc(104) // opens segment 7 in a slot without earlier data
	s7, _ := engine.StoreOf(pc).Space.Find(7 * size)
	if _, err := pc.AttemptGC(); err != nil || pc.Stats().Space.Recycled != 1 {
		t.Fatalf("%d segments recycled, want 1, error %v", pc.Stats().Space.Recycled, err)
	}
	d.Hang(true)
	before := d.ReadDurable("/store/log")
	alloc(size - format.SegmentStart - 104) // fills segment 7
	alloc(4096)                             // opens segment 8 in the slot of 5
	d.Hang(false)
	until(8*size + 8192)
	img := d.ReadDurable("/store/log")
	// The writes of segments 7 and 8 were in flight together. The crash keeps that of 8 and loses that of 7.
	copy(img[s7.Offset(size):], before[s7.Offset(size):][:size])
	crashed := d.Copy()
	crashed.WriteFile("/store/log", img)
	_ = pc.Close()
	enginetest.WithSeam(o, seam.Options{FS: crashed})
	for range 2 {
		enginetest.Close(t, enginetest.Open(t, "/store", o))
	}
}

// On a device with large blocks the store recycles many segments in one step.
func TestRecyclingWithLargeBlocks(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{Block: 32 << 10})
	o := enginetest.SimOptions(d)
	o.SegmentSize = 128 << 10
	pc := enginetest.Open(t, "/store", o)
	pids := enginetest.AllocateMany(t, pc, 2000, 1500)
	enginetest.Flush(t, pc)
	tx := enginetest.Begin(t, pc)
	for _, pid := range pids {
		p, err := pc.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		enginetest.Must(t)(pc.Free(tx, pid, p.Ptr))
	}
	tx.End()
	enginetest.Flush(t, pc)
	for range 4 {
		if _, err := pc.AttemptGC(); err != nil {
			t.Fatal(err)
		}
	}
	if n := pc.Stats().Space.Recycled; n < logstore.SideDepth {
		t.Errorf("%d segments recycled, want %d or more", n, logstore.SideDepth)
	}
	enginetest.Close(t, pc)
	enginetest.Close(t, enginetest.Open(t, "/store", o))
}
