package engine

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// A value that Get returned, or a part of it, may be given to the store again, in the same page or in another: it does not change when the place where it lay
// is written again. Blobs too. Proves rule 3.
func TestValueGivenBack(t *testing.T) {
	for _, size := range []int{3000, 8000} {
		o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{Eager: true}}
		dir := t.TempDir()
		pc := openTest(t, dir, o)
		pids := some(t, pc, 10, size)
		closeTest(t, pc)
		pc = openTest(t, dir, o)
		tx := begin(t, pc)
		p, err := pc.Get(tx, pids[3])
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Clone(p.Value)
		must(t)(pc.Replace(tx, pids[3], p.Ptr, p.Value[:1500])) // a B-tree's page is split
		right, ptr, err := pc.Allocate(tx, p.Value[1500:2000])
		if err != nil {
			t.Fatal(err)
		}
		must(t)(pc.Link(tx, right, ptr, p.Value[2000:]))
		tx.End()
		rest := append(append([]PageID{}, pids[:3]...), pids[4:]...)
		for range 6 {
			churn(t, pc, rest, 4)
			cleanAll(t, pc)
		}
		for range 2 {
			tx = begin(t, pc)
			l, err1 := pc.Get(tx, pids[3])
			r, err2 := pc.Get(tx, right)
			if err1 != nil || err2 != nil || !bytes.Equal(append(bytes.Clone(l.Value), r.Value...), want) {
				t.Errorf("halves of %d: %v %s, %v %s", size, err1, brief(l.Value), err2, brief(r.Value))
			}
			tx.End()
			closeTest(t, pc)
			pc = openTest(t, dir, o)
		}
		closeTest(t, pc)
	}
}

// A file that ends inside a slot, as growing leaves it that was cut off: the slot is used once. O5.
func TestPartOfASlot(t *testing.T) {
	for _, extra := range []int{1, 4096, 16<<10 - 1} {
		d := simdisk.New(1, simdisk.Options{})
		o := &Options{SegmentSize: 16 << 10, IOBuffers: 3, FlushEvery: -1, seam: seam.Options{FS: d}}
		pc := openTest(t, "/store", o)
		some(t, pc, 30, 1500)
		closeTest(t, pc)
		d.WriteFile("/store/log", append(d.ReadDurable("/store/log"), make([]byte, extra)...))
		pc = openTest(t, "/store", o)
		for range 60 {
			some(t, pc, 8, 1500)
		}
		want := contentsOf(t, pc)
		closeTest(t, pc)
		for _, o.seam.LogAlone = range []bool{true, false} {
			pc = openTest(t, "/store", o)
			if contentsOf(t, pc) != want {
				t.Errorf("%d bytes too many: the contents differ", extra)
			}
			closeTest(t, pc)
		}
	}
}

// slow takes its time to decode.
type slow struct {
	Bytes
	nap time.Duration
}

func (s slow) Decode(b []byte) ([]byte, error) { time.Sleep(s.nap); return b, nil }

// Close does not wait for a long step of cleaning, nor takes anything away under it.
func TestCloseWhileCleaning(t *testing.T) {
	dir := t.TempDir()
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1}
	pc := openTest(t, dir, o)
	pids := some(t, pc, 2000, 50)
	closeTest(t, pc)
	o.seam.Eager = true
	s, err := Open[[]byte](dir, slow{nap: 30 * time.Millisecond}, o)
	if err != nil {
		t.Fatal(err)
	}
	tx, _ := s.Begin()
	for i, pid := range pids {
		if i%4 == 0 {
			_, e, err := s.pages.Find(pid)
			if err != nil {
				t.Fatal(err)
			}
			must(t)(s.Replace(tx, pid, ptrTo[[]byte](pid, e), make([]byte, 50)))
		}
	}
	tx.End()
	s.cleaner.Kick()
	time.Sleep(200 * time.Millisecond)
	start := time.Now()
	if err := s.Close(); err != nil || time.Since(start) > 4*time.Second {
		t.Errorf("close took %v: %v", time.Since(start), err)
	}
}

// The device hangs while the cleaner waits for an io buffer. Close does not.
func TestCloseWithHungCleaner(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute, as Close is patient")
	}
	t.Parallel()
	d := simdisk.New(3, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{FS: d}}
	pc := openTest(t, "/store", o)
	pids := some(t, pc, 100, 1500)
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
	tx := begin(t, pc)
	for i, pid := range pids {
		if i%3 == 0 {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			must(t)(pc.Replace(tx, pid, p.Ptr, nil))
		}
	}
	tx.End()
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
	d.Hang(true)
	defer d.Hang(false)
	pc.cleaner.Restart(true)
	time.Sleep(300 * time.Millisecond)
	done := make(chan error, 1)
	go func() { done <- pc.Close() }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("closed without an error")
		}
	case <-time.After(60 * time.Second):
		t.Error("Close hangs for a minute")
	}
}

// Pages that leave much of each segment unused are not moved for ever: what is moved is in proportion to what is written.
func TestCleaningEnds(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{FS: d}}
	pc := openTest(t, "/store", o)
	defer closeTest(t, pc)
	pc.inline = 12000 // not in blobs
	some(t, pc, 60, 9000)
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for did := true; did; n++ {
		var err error
		if did, err = pc.AttemptGC(); err != nil {
			t.Fatal(err)
		}
		if n%20 == 0 {
			if _, err := pc.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if n > 5000 {
			t.Fatalf("no end: %+v", pc.Stats())
		}
	}
	if s := pc.Stats(); s.Space.BytesMoved > 8*60*9000 || pc.cleaner.Behind() {
		t.Errorf("after %d steps %d bytes were moved; writers wait: %v", n, s.Space.BytesMoved, pc.cleaner.Behind())
	}
}

// A disk that is full of garbage is no dead end: what is kept in reserve is enough to free pages, to end batches and to clean. Proves rule 9.
func TestFullOfGarbage(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{FS: d}}
	pc := openTest(t, "/store", o)
	pids := some(t, pc, 240, 2500)
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
	d.SetCapacity(60 * 16 << 10)
	refused := 0
	for i := range 3000 {
		tx := begin(t, pc)
		p, err := pc.Get(tx, pids[i*7%len(pids)])
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = pc.Replace(tx, pids[i*7%len(pids)], p.Ptr, make([]byte, 2500))
		tx.End()
		if err != nil && !errors.Is(err, ErrNoSpace) {
			t.Fatal(err)
		}
		if err == nil {
			continue
		}
		if refused++; refused > 1000 {
			t.Fatalf("after %d writes nothing works any more: %+v", i, pc.Stats())
		}
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			if _, err := pc.AttemptGC(); err != nil && !errors.Is(err, ErrNoSpace) {
				t.Fatal(err)
			}
		}
	}
	if refused == 0 {
		t.Error("the disk was never full")
	}
	t.Logf("%d of 3000 writes refused: %+v", refused, pc.Stats())
	closeTest(t, pc)
}

// moody panics when told to.
type moody struct {
	Bytes
	at *int
}

func (m moody) Decode(b []byte) ([]byte, error) {
	if *m.at--; *m.at == 0 {
		panic("moody")
	}
	return b, nil
}

// A Materializer that panics while a page is moved leaves nothing half done. O5.
func TestPanicInMove(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{FS: d}}
	pc := openTest(t, "/store", o)
	pids := some(t, pc, 60, 1500)
	closeTest(t, pc)
	o.seam.Eager = true
	at := 0
	s, err := Open[[]byte]("/store", moody{at: &at}, o)
	if err != nil {
		t.Fatal(err)
	}
	tx, _ := s.Begin()
	for i, pid := range pids {
		p, err := s.Get(tx, pid) // its value is a view from now on
		if err != nil {
			t.Fatal(err)
		}
		if i%4 == 0 {
			must(t)(s.Replace(tx, pid, p.Ptr, make([]byte, 50)))
		}
	}
	tx.End()
	at = 3
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
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
			t.Error(err)
		}
	case <-time.After(3 * time.Second):
		t.Fatal("Flush hangs")
	}
	if _, err := s.AttemptGC(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A segment in which a bit has flipped is not cleaned over and over, and the damage is said. Where the cleaner knows what the segment holds, because it was written in
// this opening, and that is in memory, it is saved. Rule 10.
func TestCleaningOverDamage(t *testing.T) {
	for _, again := range []bool{false, true} {
		d := simdisk.New(3, simdisk.Options{})
		o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{Eager: true, FS: d}}
		pc := openTest(t, "/store", o)
		pids := some(t, pc, 40, 1500)
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		if again {
			closeTest(t, pc)
			pc = openTest(t, "/store", o)
		}
		tx := begin(t, pc)
		for _, pid := range pids[4:8] {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			must(t)(pc.Replace(tx, pid, p.Ptr, nil))
		}
		p, err := pc.Get(tx, pids[2])
		if err != nil {
			t.Fatal(err)
		}
		tx.End()
		d.FlipBit("/store/log", int64(pc.pages.Table.Get(pids[2]).Load().Ptr().Off)+16+4, 3)
		told := 0
		for range 300 {
			_, err := pc.AttemptGC()
			if errors.Is(err, ErrCorrupt) {
				told++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if again != (told == 1) || told > 1 {
			t.Errorf("opened again %v: told %d times", again, told)
		}
		closeTest(t, pc)
		pc = openTest(t, "/store", o)
		tx = begin(t, pc)
		p, err = pc.Get(tx, pids[2])
		if again != errors.Is(err, ErrCorrupt) || !again && (err != nil || !bytes.Equal(p.Value, bytes.Repeat([]byte{'a' + 2}, 1500))) {
			t.Errorf("opened again %v: %v %s", again, err, brief(p.Value))
		}
		tx.End()
		closeTest(t, pc)
	}
}

// A message that frees one of the store's own pages is refused. Proves rule 12.
func TestHostileFree(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{FS: d}}
	pc := openTest(t, "/store", o)
	r, err := pc.core.store.Log.Reserve(format.KindFree, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.Complete()
	closeTest(t, pc)
	o.seam.LogAlone = true
	if _, err = Open("/store", Bytes{}, o); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

// A superblock that says that there are more pages than can be costs no memory. Proves rule 12.
func TestHostileNextPage(t *testing.T) {
	dir := t.TempDir()
	pc := openTest(t, dir, nil)
	closeTest(t, pc)
	name := filepath.Join(dir, "superblock")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	sb, err := format.DecodeSuperblock(b)
	if err != nil {
		t.Fatal(err)
	}
	sb.NextPage = 1 << 26
	if err := os.WriteFile(name, sb.Append(nil), 0o644); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = Open(dir, Bytes{}, nil)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, ErrCorrupt) || after.TotalAlloc-before.TotalAlloc > 100<<20 {
		t.Errorf("%v, %d MB allocated", err, (after.TotalAlloc-before.TotalAlloc)>>20)
	}
}

// What was cached of a segment is dropped when it is recycled, before it is written again. Proves rule 2.
func TestRecycledIsDropped(t *testing.T) {
	dir := t.TempDir()
	o := &Options{SegmentSize: 1 << 20, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{Eager: true}}
	pc := openTest(t, dir, o)
	pc.cleaner.ByHand() // below
	pids := some(t, pc, 10, 200000)
	for range 4 {
		churn(t, pc, pids, 1)
		tx := begin(t, pc)
		for _, pid := range pids {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			must(t)(pc.Replace(tx, pid, p.Ptr, make([]byte, 200000)))
		}
		tx.End()
	}
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
	if cleanAll(t, pc) == 0 {
		t.Fatal("nothing was recycled")
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
		if pc.core.store.Space.Segment(format.SegmentID(i)).State().String() != "free" {
			continue
		}
		if r := residentPages(t, m[i<<20:(i+1)<<20]); r > 0 {
			t.Errorf("slot %d is free, and %d of its blocks are cached", i, r)
		}
	}
	closeTest(t, pc)
}

// residentPages is how many pages of a map are in the page cache.
func residentPages(t *testing.T, m []byte) (n int) {
	t.Helper()
	vec := make([]byte, len(m)/4096)
	if _, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&vec[0]))); e != 0 {
		t.Fatal(e)
	}
	for _, b := range vec {
		n += int(b & 1)
	}
	return n
}

// A slot that an opening discards keeps what its header says of how far the log was stable: it may be the one that makes a hole lawful. So may the free slot that
// the tail moves to. Proves rules 4 and 10.
func TestDiscardedSlotKeepsWhatItKnows(t *testing.T) {
	const size = 16 << 10
	d := simdisk.New(1, simdisk.Options{})
	o := &Options{SegmentSize: size, IOBuffers: 4, FlushEvery: -1, seam: seam.Options{FS: d}}
	pc := openTest(t, "/store", o)
	pc.inline = size // not in blobs
	alloc := func(total int) PageID {
		tx := begin(t, pc)
		defer tx.End()
		pid, _, err := pc.Allocate(tx, make([]byte, total-format.HeaderSize))
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	free := func(pid PageID) {
		tx := begin(t, pc)
		defer tx.End()
		p, err := pc.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		must(t)(pc.Free(tx, pid, p.Ptr))
	}
	until := func(lsn LSN) {
		for end := time.Now().Add(5 * time.Second); pc.core.store.Log.StableEnd() < lsn; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("stable end %d, want %d", pc.core.store.Log.StableEnd(), lsn)
			}
		}
	}
	for range 5 { // segments 0 … 4 stay
		alloc(8128)
		alloc(8192)
	}
	x := alloc(8128) // segment 5
	until(5*size + 8192)
	d.Hang(true)
	y := alloc(8192)
	free(x) // segment 6, whose header knows that the first half of 5 is stable
	free(y)
	alloc(8128 - 48)
	d.Hang(false)
	until(6*size + 8192)
	if _, err := pc.AttemptGC(); err != nil || pc.cleaner.Stats().Draining != 1 {
		t.Fatal(err, pc.cleaner.Stats().Draining)
	}
	alloc(8192)
	until(7 * size)
	alloc(104) // opens segment 7 in a slot that was never written
	s7, _ := pc.core.store.Space.Find(7 * size)
	if _, err := pc.AttemptGC(); err != nil || pc.Stats().Space.Recycled != 1 {
		t.Fatal(err, pc.Stats().Space.Recycled)
	}
	d.Hang(true)
	before := d.ReadDurable("/store/log")
	alloc(size - 64 - 104) // 7 is full
	alloc(8128)            // 8, where 5 was
	d.Hang(false)
	until(8*size + 8192)
	img := d.ReadDurable("/store/log")
	// The writes of 7 and 8 were in flight together: 8's came to the disk, 7's did not.
	copy(img[s7.Offset(size):], before[s7.Offset(size):][:size])
	crashed := d.Copy()
	crashed.WriteFile("/store/log", img)
	_ = pc.Close()
	o.seam.FS = crashed
	for range 2 {
		closeTest(t, openTest(t, "/store", o))
	}
}

// A page whose newest message is in the table but not committed yet is read as soon as it is, by a Get, by a snapshot and by one who removes its blob. Proves rule 7.
func TestReadOfWhatIsJustWritten(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 16 << 10, seam: seam.Options{Foreground: true}})
	defer closeTest(t, pc)
	long := bytes.Repeat([]byte("long "), 2000)
	for name, read := range map[string]func(tx *Tx, pid PageID, ptr PagePtr[[]byte]) error{
		"get":      func(tx *Tx, pid PageID, _ PagePtr[[]byte]) error { _, err := pc.Get(tx, pid); return err },
		"snapshot": func(*Tx, PageID, PagePtr[[]byte]) error { return pc.Snapshot() },
		"replace": func(tx *Tx, pid PageID, ptr PagePtr[[]byte]) error {
			_, _, err := pc.Replace(tx, pid, ptr, []byte("short"))
			return err
		},
	} {
		tx, other := begin(t, pc), begin(t, pc)
		pid, _, err := pc.Allocate(tx, []byte("first"))
		if err != nil {
			t.Fatal(err)
		}
		s, head, err := pc.pages.Find(pid)
		if err != nil {
			t.Fatal(err)
		}
		p, err := pc.encode(tx, long)
		if err != nil {
			t.Fatal(err)
		}
		r, err := pc.reserve(pid, &change[[]byte]{kind: format.KindCompact, payload: p})
		if err != nil {
			t.Fatal(err)
		}
		// What install does, with a long time between its steps.
		e := pagestack.NewOnDisk(head.TS()+1, []pagestack.Ref{{LSN: r.LSN(), Ptr: r.Ptr()}})
		if !s.CompareAndSwap(head, e) {
			t.Fatal("the head has moved")
		}
		pc.core.store.Space.Live(e.Ptr())
		pc.core.store.Space.Dead(head.Ptr())
		done := make(chan error, 1)
		go func() { done <- read(other, pid, ptrTo[[]byte](pid, e)) }()
		select {
		case err := <-done:
			t.Errorf("%s: ended before the message did: %v", name, err)
		case <-time.After(20 * time.Millisecond):
			r.Complete()
			if err := <-done; err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		tx.End()
		other.End()
	}
	if n := pc.blobs.Retired(); n != 1 {
		t.Errorf("%d blobs wait to be removed, not the one that was replaced", n)
	}
}

// Many segments are recycled at once on a device with large blocks.
func TestLargeBlocks(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{Block: 32 << 10})
	o := simOptions(d)
	o.SegmentSize = 128 << 10
	pc := openTest(t, "/store", o)
	pids := some(t, pc, 2000, 1500)
	flushTest(t, pc)
	tx := begin(t, pc)
	for _, pid := range pids {
		p, err := pc.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		must(t)(pc.Free(tx, pid, p.Ptr))
	}
	tx.End()
	flushTest(t, pc)
	for range 4 {
		if _, err := pc.AttemptGC(); err != nil {
			t.Fatal(err)
		}
	}
	if n := pc.Stats().Space.Recycled; n < logstore.SideDepth {
		t.Errorf("%d segments recycled", n)
	}
	closeTest(t, pc)
	closeTest(t, openTest(t, "/store", o))
}
