package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/segments/format"
)

// CASRoot swaps a root if it is as expected, and otherwise returns the current one. Roots survive reopening.
func TestCASRoot(t *testing.T) {
	dir := t.TempDir()
	pc := enginetest.Open(t, dir, &engine.Options{SegmentSize: 16 << 10})
	tx := enginetest.Begin(t, pc)
	long := strings.Repeat("n", 5000)
	steps := []struct {
		name     string
		old, new engine.PageID
		want     engine.PageID
		won      bool
	}{
		{"a", 0, 7, 7, true},
		{"a", 0, 8, 7, false},
		{"a", 8, 9, 7, false},
		{"a", 7, 9, 9, true},
		{"", 0, 1, 1, true}, // the lowest page that can be a root
		{long, 0, format.MaxPageID, format.MaxPageID, true},
		{"b", 1, 0, 0, false},
		{"b", 0, 0, 0, true},
		{"b", 0, 3, 3, true},
		{"b", 3, 0, 0, true},
	}
	for i, s := range steps {
		if got, won, err := pc.CASRoot(tx, s.name, s.old, s.new); err != nil || won != s.won || got != s.want {
			t.Errorf("step %d: CASRoot(%.5q, %d, %d) = %d, %v, %v; want %d, %v",
				i, s.name, s.old, s.new, got, won, err, s.want, s.won)
		}
	}
	for _, bad := range []engine.PageID{format.MaxPageID + 1, 1 << 60} {
		if _, _, err := pc.CASRoot(tx, "c", 0, bad); !errors.Is(err, engine.ErrPageRange) {
			t.Errorf("root %d: error %v, want ErrPageRange", bad, err)
		}
	}
	if _, _, err := pc.CASRoot(tx, strings.Repeat("n", 20<<10), 0, 2); !errors.Is(err, engine.ErrTooLarge) {
		t.Errorf("name longer than a segment: error %v, want ErrTooLarge", err)
	}
	tx.End()
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, dir, nil)
	defer enginetest.Close(t, pc)
	tx = enginetest.Begin(t, pc)
	defer tx.End()
	want := engine.Meta{"a": 9, "": 1, long: format.MaxPageID}
	m, err := pc.Meta(tx)
	if err != nil || fmt.Sprint(m) != fmt.Sprint(want) {
		t.Errorf("roots are %v, want %v, error %v", m, want, err)
	}
	m["a"] = 1 // the map is the caller's own copy
	if pid, err := pc.Root(tx, "a"); err != nil || pid != 9 {
		t.Errorf("root a is %d, want 9, error %v", pid, err)
	}
	if _, err := pc.Root(tx, "b"); !errors.Is(err, engine.ErrRootNotFound) {
		t.Errorf("deleted root: error %v, want ErrRootNotFound", err)
	}
}

// Ids rise for each goroutine. No id is handed out twice, to any goroutine or after reopening.
func TestIDsNeverRepeat(t *testing.T) {
	dir := t.TempDir()
	last := uint64(0)
	for _, interval := range []uint64{1, 7, 1000, 3} {
		pc := enginetest.Open(t, dir, &engine.Options{SegmentSize: 16 << 10, IDPersistInterval: interval})
		var mu sync.Mutex
		seen := map[uint64]bool{}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				before := last
				for range 100 {
					id, err := pc.GenerateID()
					if err != nil || id < before {
						t.Errorf("id %d, want %d or more, error %v", id, before, err)
						return
					}
					before = id + 1
					mu.Lock()
					if seen[id] {
						t.Errorf("id %d was handed out twice", id)
					}
					seen[id] = true
					mu.Unlock()
				}
			})
		}
		enginetest.Soon(t, "generating ids", wg.Wait)
		for id := range seen {
			last = max(last, id+1)
		}
		enginetest.Close(t, pc)
	}
}

// A page's read timestamp is the highest one that BumpReadTS was given since Open.
func TestReadTS(t *testing.T) {
	pc, tx := small(t)
	pid, ptr, err := pc.Allocate(tx, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ bump, want uint64 }{{0, 0}, {5, 5}, {3, 5}, {9, 9}} {
		pc.BumpReadTS(tx, pid, c.bump)
		if ts, ok := pc.ReadTS(tx, pid); !ok || ts != c.want {
			t.Errorf("after a bump to %d: read timestamp %d, %v; want %d", c.bump, ts, ok, c.want)
		}
	}
	pc.BumpReadTS(tx, format.MaxPageID+5, 3) // does nothing, does not panic
	enginetest.Must(t)(pc.Free(tx, pid, ptr))
	if _, ok := pc.ReadTS(tx, pid); ok {
		t.Error("freed page has a read timestamp")
	}
}

// After MakeStable the stable LSN covers the LSN that was asked for. It stays below the begin of an open batch.
func TestMakeStable(t *testing.T) {
	pc, tx := small(t)
	if got := pc.StableLSN(); got != -1 {
		t.Errorf("empty log: stable LSN %d, want -1", got)
	}
	if n, err := pc.Flush(); n != 0 || err != nil {
		t.Errorf("Flush of an empty log: %d bytes, %v", n, err)
	}
	_, ptr, err := pc.Allocate(tx, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := pc.MakeStable(ptr.LastLSN()); n <= 0 || err != nil || pc.StableLSN() < ptr.LastLSN() {
		t.Errorf("MakeStable(%d): %d bytes, %v; stable LSN %d", ptr.LastLSN(), n, err, pc.StableLSN())
	}
	if n, err := pc.MakeStable(ptr.LastLSN()); n != 0 || err != nil {
		t.Errorf("MakeStable of a stable LSN: %d bytes, %v", n, err)
	}
	for _, lsn := range []engine.LSN{-1, 0, 1 << 50} {
		if _, err := pc.MakeStable(lsn); err != nil {
			t.Errorf("MakeStable(%d): %v", lsn, err)
		}
	}
	b, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	_, inside, err := pc.Allocate(tx, []byte("inside"))
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := pc.MakeStable(inside.LastLSN())
		waited <- err
	}()
	if got := pc.StableLSN(); got >= b.LSN() {
		t.Errorf("stable LSN %d, with a batch open from %d", got, b.LSN())
	}
	if err := b.Seal(); err != nil {
		t.Fatal(err)
	}
	enginetest.Soon(t, "MakeStable after Seal", func() { err = <-waited })
	if err != nil || pc.StableLSN() < inside.LastLSN() {
		t.Errorf("stable LSN %d after Seal, want %d or more, error %v", pc.StableLSN(), inside.LastLSN(), err)
	}
	if !errors.Is(b.Seal(), engine.ErrBatchEnded) || !errors.Is(b.Abort(), engine.ErrBatchEnded) {
		t.Error("Seal or Abort of an ended batch: want ErrBatchEnded")
	}
	for range 3 { // empty batches
		if b, err = pc.PinLog(); err != nil {
			t.Fatal(err)
		}
		if err := b.Abort(); err != nil {
			t.Fatal(err)
		}
	}
	enginetest.Flush(t, pc)
}

// A standalone log returns each record by its place, and all records in order from any LSN, also after reopening. It
// refuses records that do not fit and reservations that have ended.
func TestLogWriteAndRead(t *testing.T) {
	dir := t.TempDir()
	o := &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1}
	l := enginetest.OpenLog(t, dir, o)
	var lsns []engine.LSN
	var want [][]byte
	for i := range 200 {
		b := bytes.Repeat([]byte{byte(i)}, i*7%900)
		lsn, _, err := l.Write(b)
		if err != nil {
			t.Fatal(err)
		}
		lsns, want = append(lsns, lsn), append(want, b)
	}
	r, err := l.Reserve(5)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), "1 reservations") {
		t.Errorf("Close with an open reservation: error %v", err)
	}
	copy(r.Bytes(), "later")
	lsn, ptr, err := r.Complete()
	if err != nil || lsn != r.LSN() {
		t.Fatal(err)
	}
	_, _, again := r.Complete()
	ended := errors.Is(again, engine.ErrReservationEnded) && errors.Is(r.Abort(), engine.ErrReservationEnded)
	if !ended || r.Bytes() != nil {
		t.Errorf("ended reservation: Complete returns %v, want ErrReservationEnded; %d bytes", again, len(r.Bytes()))
	}
	lsns, want = append(lsns, lsn), append(want, []byte("later"))
	if b, err := l.Read(lsn, ptr); err != nil || string(b) != "later" {
		t.Errorf("read %q, want %q, error %v", b, "later", err)
	}
	if r, err = l.Reserve(300); err == nil {
		err = r.Abort()
	}
	if err != nil {
		t.Fatal(err)
	}
	batch, err := l.WriteBatch([][]byte{[]byte("one"), nil, []byte("three")})
	if err != nil || len(batch) != 3 {
		t.Fatalf("WriteBatch of 3 records: %d LSNs, error %v", len(batch), err)
	}
	lsns, want = append(lsns, batch...), append(want, []byte("one"), nil, []byte("three"))
	for _, n := range []int{-1, 16 << 10, 1 << 30} {
		if _, err := l.Reserve(n); !errors.Is(err, engine.ErrTooLarge) {
			t.Errorf("Reserve(%d): error %v, want ErrTooLarge", n, err)
		}
	}
	for _, c := range []struct {
		lsn engine.LSN
		ptr engine.DiskPtr
	}{
		{lsn, engine.DiskPtr{}},
		{lsn + 8, ptr},
		{0, ptr},
		{-8, ptr},
		{1 << 40, ptr},
		{16 << 10, engine.DiskPtr{Off: -16 << 10, Len: 40}},
		{lsn, engine.DiskPtr{Off: ptr.Off, Len: 1 << 30}},
		{lsn, engine.DiskPtr{Off: ptr.Off + 1<<40, Len: 40}},
	} {
		if b, err := l.Read(c.lsn, c.ptr); err == nil {
			t.Errorf("read %q at LSN %d, %v; want an error", b, c.lsn, c.ptr)
		}
	}
	for r, err := range l.Records(0) {
		if err != nil || l.StableLSN() < r.LSN {
			t.Errorf("Records yields LSN %d, stable LSN %d, error %v", r.LSN, l.StableLSN(), err)
		}
	}
	enginetest.Close(t, l)
	if _, _, err := l.Write(nil); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("Write after Close: %v", err)
	}
	if _, err := l.Read(lsn, ptr); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	l = enginetest.OpenLog(t, dir, o)
	defer enginetest.Close(t, l)
	for _, first := range []int{0, 1, 57, len(lsns) - 1, len(lsns)} {
		from := l.StableLSN()
		if first < len(lsns) {
			from = lsns[max(0, first)] - engine.LSN(first%2)
		}
		i := first
		for r, err := range l.Records(from) {
			if i >= len(lsns) {
				t.Fatalf("another record after the last: LSN %d, %v", r.LSN, err)
			}
			if err != nil || r.LSN != lsns[i] || !bytes.Equal(r.Bytes, want[i]) {
				t.Fatalf("from record %d: record %d has LSN %d, want %d, error %v", first, i, r.LSN, lsns[i], err)
			}
			if b, err := l.Read(r.LSN, r.Ptr); err != nil || !bytes.Equal(b, want[i]) {
				t.Fatalf("Read of record %d: %v", i, err)
			}
			i++
		}
		if i != len(lsns) {
			t.Fatalf("from record %d: Records ended before record %d", first, i)
		}
	}
}
