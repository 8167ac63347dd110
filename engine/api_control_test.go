package engine

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"pagecache/segments/format"
)

// Roots are swapped by name: absent or present as expected, else the current one is told. They are there after reopening.
func TestRoots(t *testing.T) {
	dir := t.TempDir()
	pc := openTest(t, dir, &Options{SegmentSize: 16 << 10})
	tx := begin(t, pc)
	long := strings.Repeat("n", 5000)
	steps := []struct {
		name     string
		old, new PageID
		want     PageID
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
			t.Errorf("step %d: %v %v %v", i, got, won, err)
		}
	}
	for _, bad := range []PageID{format.MaxPageID + 1, 1 << 60} {
		if _, _, err := pc.CASRoot(tx, "c", 0, bad); !errors.Is(err, ErrPageRange) {
			t.Errorf("root %d: %v", bad, err)
		}
	}
	if _, _, err := pc.CASRoot(tx, strings.Repeat("n", 20<<10), 0, 2); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a name that no segment holds: %v", err)
	}
	tx.End()
	closeTest(t, pc)
	pc = openTest(t, dir, nil)
	defer closeTest(t, pc)
	tx = begin(t, pc)
	defer tx.End()
	want := Meta{"a": 9, "": 1, long: format.MaxPageID}
	m, err := pc.Meta(tx)
	if err != nil || fmt.Sprint(m) != fmt.Sprint(want) {
		t.Errorf("%v %v", m, err)
	}
	m["a"] = 1 // the caller's copy
	if pid, err := pc.Root(tx, "a"); err != nil || pid != 9 {
		t.Errorf("%d %v", pid, err)
	}
	if _, err := pc.Root(tx, "b"); !errors.Is(err, ErrRootNotFound) {
		t.Error(err)
	}
}

// Ids rise, are drawn once whoever draws them, and never come again after closing.
func TestIDs(t *testing.T) {
	dir := t.TempDir()
	last := uint64(0)
	for _, interval := range []uint64{1, 7, 1000, 3} {
		pc := openTest(t, dir, &Options{SegmentSize: 16 << 10, IDPersistInterval: interval})
		var mu sync.Mutex
		seen := map[uint64]bool{}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				before := last
				for range 100 {
					id, err := pc.GenerateID()
					if err != nil || id < before {
						t.Errorf("%d after %d: %v", id, before, err)
						return
					}
					before = id + 1
					mu.Lock()
					if seen[id] {
						t.Errorf("id %d twice", id)
					}
					seen[id] = true
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		for id := range seen {
			last = max(last, id+1)
		}
		closeTest(t, pc)
	}
}

// A page's read timestamp is the highest it was bumped to, in this opening.
func TestReadTS(t *testing.T) {
	pc, tx := small(t)
	pid, ptr, err := pc.Allocate(tx, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ bump, want uint64 }{{0, 0}, {5, 5}, {3, 5}, {9, 9}} {
		pc.BumpReadTS(tx, pid, c.bump)
		if ts, ok := pc.ReadTS(tx, pid); !ok || ts != c.want {
			t.Errorf("bumped to %d: %d %v", c.bump, ts, ok)
		}
	}
	pc.BumpReadTS(tx, format.MaxPageID+5, 3) // nothing, and no panic
	must(t)(pc.Free(tx, pid, ptr))
	if _, ok := pc.ReadTS(tx, pid); ok {
		t.Error("a freed page has a read timestamp")
	}
}

// The stable LSN only rises, covers what MakeStable was asked for, and stays below an open batch.
func TestStability(t *testing.T) {
	pc, tx := small(t)
	if got := pc.StableLSN(); got != -1 {
		t.Errorf("an empty log is stable up to %d", got)
	}
	if n, err := pc.Flush(); n != 0 || err != nil {
		t.Error(n, err)
	}
	_, ptr, err := pc.Allocate(tx, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := pc.MakeStable(ptr.LastLSN()); n <= 0 || err != nil || pc.StableLSN() < ptr.LastLSN() {
		t.Error(n, err, pc.StableLSN())
	}
	if n, err := pc.MakeStable(ptr.LastLSN()); n != 0 || err != nil {
		t.Error("stable already:", n, err)
	}
	for _, lsn := range []LSN{-1, 0, 1 << 50} {
		if _, err := pc.MakeStable(lsn); err != nil {
			t.Error(lsn, err)
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
		t.Errorf("stable up to %d, with a batch open from %d", got, b.LSN())
	}
	if err := b.Seal(); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil || pc.StableLSN() < inside.LastLSN() {
		t.Error(err)
	}
	if !errors.Is(b.Seal(), ErrBatchEnded) || !errors.Is(b.Abort(), ErrBatchEnded) {
		t.Error("a batch ended twice")
	}
	for range 3 { // empty ones, one dropped for Abort
		if b, err = pc.PinLog(); err != nil {
			t.Fatal(err)
		}
		if err := b.Abort(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// A standalone log gives back what was written, by place and in order, from any LSN on, after reopening too; it refuses what does not fit
// and reservations that have ended.
func TestLogCalls(t *testing.T) {
	dir := t.TempDir()
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1}
	l, err := OpenLog(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	var lsns []LSN
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
		t.Errorf("closed under a reservation: %v", err)
	}
	copy(r.Bytes(), "later")
	lsn, ptr, err := r.Complete()
	if err != nil || lsn != r.LSN() {
		t.Fatal(err)
	}
	_, _, again := r.Complete()
	if !errors.Is(again, ErrReservationEnded) || !errors.Is(r.Abort(), ErrReservationEnded) || r.Bytes() != nil {
		t.Error("a reservation ended twice")
	}
	lsns, want = append(lsns, lsn), append(want, []byte("later"))
	if b, err := l.Read(lsn, ptr); err != nil || string(b) != "later" {
		t.Errorf("%q %v", b, err)
	}
	if r, err = l.Reserve(300); err == nil {
		err = r.Abort()
	}
	if err != nil {
		t.Fatal(err)
	}
	batch, err := l.WriteBatch([][]byte{[]byte("one"), nil, []byte("three")})
	if err != nil || len(batch) != 3 {
		t.Fatal(batch, err)
	}
	lsns, want = append(lsns, batch...), append(want, []byte("one"), nil, []byte("three"))
	for _, n := range []int{-1, 16 << 10, 1 << 30} {
		if _, err := l.Reserve(n); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	for _, c := range []struct {
		lsn LSN
		ptr DiskPtr
	}{{lsn, DiskPtr{}}, {lsn + 8, ptr}, {0, ptr}, {-8, ptr}, {1 << 40, ptr}, {16 << 10, DiskPtr{Off: -16 << 10, Len: 40}}, {lsn, DiskPtr{Off: ptr.Off, Len: 1 << 30}}, {lsn, DiskPtr{Off: ptr.Off + 1<<40, Len: 40}}} {
		if b, err := l.Read(c.lsn, c.ptr); err == nil {
			t.Errorf("read %q at LSN %d, %v", b, c.lsn, c.ptr)
		}
	}
	for r, err := range l.Records(0) {
		if err != nil || l.StableLSN() < r.LSN {
			t.Errorf("iterated over what is not stable: LSN %d, %v", r.LSN, err)
		}
	}
	closeTest(t, l)
	if _, _, err := l.Write(nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := l.Read(lsn, ptr); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if l, err = OpenLog(dir, o); err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, l)
	for _, first := range []int{0, 1, 57, len(lsns) - 1, len(lsns)} {
		from := l.StableLSN()
		if first < len(lsns) {
			from = lsns[max(0, first)] - LSN(first%2)
		}
		i := first
		for r, err := range l.Records(from) {
			if i >= len(lsns) {
				t.Fatalf("after the last record: LSN %d, %v", r.LSN, err)
			}
			if err != nil || r.LSN != lsns[i] || !bytes.Equal(r.Bytes, want[i]) {
				t.Fatalf("record %d from %d: LSN %d, %v", i, first, r.LSN, err)
			}
			if b, err := l.Read(r.LSN, r.Ptr); err != nil || !bytes.Equal(b, want[i]) {
				t.Fatalf("record %d read again: %v", i, err)
			}
			i++
		}
		if i != len(lsns) {
			t.Fatalf("from %d: ended before record %d", first, i)
		}
	}
}
