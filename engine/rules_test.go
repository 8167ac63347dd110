package engine

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/segments"
)

func openTest(t testing.TB, dir string, o *Options) *PageCache[[]byte] {
	t.Helper()
	pc, err := Open(dir, Bytes{}, o)
	if err != nil {
		t.Fatal(err)
	}
	return pc
}

func begin(t testing.TB, pc *PageCache[[]byte]) *Tx {
	t.Helper()
	tx, err := pc.Begin()
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

func closeTest(t testing.TB, pc interface{ Close() error }) {
	t.Helper()
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
}

// must returns a compare-and-swap call's state, or fails the test.
func must(t testing.TB) func(PagePtr[[]byte], bool, error) PagePtr[[]byte] {
	return func(p PagePtr[[]byte], won bool, err error) PagePtr[[]byte] {
		t.Helper()
		if err != nil || !won {
			t.Fatalf("won %v, error %v", won, err)
		}
		return p
	}
}

// Messages in the active segment are read from its io buffer, before they are in the file. Those in sealed segments are
// read from the map. Proves rule 2.
func TestActiveSegmentIsReadFromItsBuffer(t *testing.T) {
	l, err := OpenLog(t.TempDir(), &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, l)
	type record struct {
		lsn LSN
		ptr DiskPtr
		b   []byte
	}
	var all []record
	active := 0
	for i := range 300 {
		b := bytes.Repeat([]byte{byte(i)}, 100+i)
		lsn, ptr, err := l.Write(b)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, record{lsn, ptr, b})
		if l.core.store.Space.At(ptr.Off).State() == segments.StateActive {
			active++
		}
		for _, r := range all[max(0, len(all)-60):] {
			if got, err := l.Read(r.lsn, r.ptr); err != nil || !bytes.Equal(got, r.b) {
				t.Fatalf("record at LSN %d: %v", r.lsn, err)
			}
		}
	}
	if active != len(all) {
		t.Fatalf("%d of %d records were in an active segment when they were written", active, len(all))
	}
}

// A value made by merging or consolidating shares no memory with what it was made from. Proves rule 3.
func TestMergedValuesAliasNothing(t *testing.T) {
	dir := t.TempDir()
	pc := openTest(t, dir, &Options{ConsolidateAfter: 3})
	tx := begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("base"))
	if err != nil {
		t.Fatal(err)
	}
	must(t)(pc.Link(tx, pid, ptr, []byte("one")))
	tx.End()
	closeTest(t, pc)

	pc = openTest(t, dir, &Options{ConsolidateAfter: 3})
	defer closeTest(t, pc)
	tx = begin(t, pc)
	defer tx.End()
	p, err := pc.Get(tx, pid) // two messages, read from the map
	if err != nil || string(p.Value) != "baseone" {
		t.Fatalf("%q, %v", p.Value, err)
	}
	before := p.Value
	ptr = p.Ptr
	for i := range 4 {
		ptr = must(t)(pc.Link(tx, pid, ptr, fmt.Appendf(nil, "+%d", i)))
	}
	p, err = pc.Get(tx, pid)
	if err != nil || string(p.Value) != "baseone+0+1+2+3" {
		t.Fatalf("%q, %v", p.Value, err)
	}
	if &before[0] == &p.Value[0] {
		t.Error("the consolidated value lies where an older one lies")
	}
	for _, f := range [][]byte{before} {
		if m := (Bytes{}).Merge([][]byte{f, []byte("x")}); &m[0] == &f[0] {
			t.Error("Merge returns memory of a fragment")
		}
	}
}

// Housekeeping does not move the timestamp, so that a state taken before it still wins. Proves rule 6.
func TestTimestampsMoveOnRealChangeOnly(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{ConsolidateAfter: 2})
	defer closeTest(t, pc)
	tx := begin(t, pc)
	defer tx.End()
	pid, ptr, err := pc.Allocate(tx, []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	first := ptr.ts
	for i := range 10 {
		next := must(t)(pc.Link(tx, pid, ptr, []byte("b"))) // consolidates at every second one
		if next.ts != first+uint64(i)+1 {
			t.Fatalf("timestamp %d after %d links on %d", next.ts, i+1, first)
		}
		s := pc.pages.Table.Get(pid)
		if _, err := pc.consolidate(tx, pid, s, s.Load()); err != nil {
			t.Fatal(err)
		}
		if head := s.Load(); head.TS() != next.ts || head.LSN == next.lsn {
			t.Fatalf("consolidation left timestamp %d, want %d", head.TS(), next.ts)
		}
		ptr = next // the state before the consolidation
	}
	if pc.Stats().Pages.Consolidations == 0 {
		t.Fatal("nothing was consolidated")
	}
	stale := ptr
	ptr = must(t)(pc.Replace(tx, pid, ptr, []byte("c")))
	if now, won, err := pc.Link(tx, pid, stale, []byte("d")); err != nil || won || now != ptr {
		t.Fatalf("a stale state won: %v %v", won, err)
	}
}

// While no goroutine writes, the live bytes are those of the messages that are current. Proves rule 7.
func TestAccountsAreTrue(t *testing.T) {
	dir := t.TempDir()
	for range 3 {
		pc := openTest(t, dir, &Options{SegmentSize: 16 << 10, ConsolidateAfter: 4})
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := range 200 {
					tx := begin(t, pc)
					pid, ptr, err := pc.Allocate(tx, make([]byte, 20*g+i))
					for range i % 7 {
						if err == nil {
							ptr, _, err = pc.Link(tx, pid, ptr, make([]byte, 30))
						}
					}
					if err == nil && i%5 == 0 {
						_, _, err = pc.Free(tx, pid, ptr)
					}
					if err != nil {
						t.Error(err)
					}
					tx.End()
				}
			})
		}
		wg.Wait()
		resume := pc.cleaner.Pause()
		want := int64(0)
		for pid := PageID(0); pid < pc.pages.IDs.Next(); pid++ {
			if _, head, err := pc.pages.Find(pid); err != nil {
				t.Fatal(err)
			} else {
				head.Refs(func(r pagestack.Ref) { want += (int64(r.Ptr.Len) + 7) &^ 7 })
			}
		}
		got := pc.Stats().Space.LiveBytes
		resume()
		if got != want {
			t.Fatalf("live bytes %d, want %d", got, want)
		}
		closeTest(t, pc)
	}
}

// A page id is handed out again only after a free that won, and only once no Tx can see the page. Trap 2.
func TestFreedIDsWaitForReaders(t *testing.T) {
	pc := openTest(t, t.TempDir(), nil)
	defer closeTest(t, pc)
	tx := begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	reader := begin(t, pc)
	must(t)(pc.Free(tx, pid, ptr))
	if now, won, err := pc.Free(tx, pid, ptr); err != nil || won || !now.IsZero() {
		t.Fatalf("second free: %v %v", won, err)
	}
	if p, err := pc.Get(tx, pid); err != nil || p.Kind != KindFree {
		t.Fatalf("%v %v", p.Kind, err)
	}
	tx.End()
	tx = begin(t, pc)
	if other, _, err := pc.Allocate(tx, nil); err != nil || other == pid {
		t.Fatalf("page %d was handed out while a reader could see it (%v)", other, err)
	}
	reader.End()
	tx.End()
	tx = begin(t, pc)
	defer tx.End()
	if again, _, err := pc.Allocate(tx, nil); err != nil || again != pid {
		t.Fatalf("got page %d, want %d again (%v)", again, pid, err)
	}
	if more, _, err := pc.Allocate(tx, nil); err != nil || more == pid {
		t.Fatalf("page %d has two owners (%v)", more, err)
	}
}

// A value that a Tx has read does not change while other goroutines overwrite its page for many segments. Trap 9.
func TestValuesStayUntilTheTxEnds(t *testing.T) {
	dir := t.TempDir()
	o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, ConsolidateAfter: 2}
	pc := openTest(t, dir, o)
	tx := begin(t, pc)
	want := bytes.Repeat([]byte("seen"), 500)
	pid, _, err := pc.Allocate(tx, want)
	if err != nil {
		t.Fatal(err)
	}
	tx.End()
	closeTest(t, pc)
	pc = openTest(t, dir, o)
	defer closeTest(t, pc)
	reader := begin(t, pc)
	seen, err := pc.Get(reader, pid)
	if err != nil {
		t.Fatal(err)
	}
	ptr := seen.Ptr
	for i := range 400 {
		tx := begin(t, pc)
		ptr = must(t)(pc.Replace(tx, pid, ptr, bytes.Repeat([]byte{byte(i)}, 1000)))
		tx.End()
	}
	if !bytes.Equal(seen.Value, want) {
		t.Fatal("a value changed under an open Tx")
	}
	reader.End()
}

// A second opening waits for the first to end for LockPatience, then returns ErrLocked. Trap 19.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	pc := openTest(t, dir, nil)
	start := time.Now()
	if _, err := Open(dir, Bytes{}, nil); !errors.Is(err, ErrLocked) {
		t.Fatalf("second opening: %v", err)
	}
	if d := time.Since(start); d < logstore.LockPatience || d > 2*logstore.LockPatience {
		t.Errorf("gave up after %v", d)
	}
	go func() {
		time.Sleep(logstore.LockPatience / 10)
		closeTest(t, pc)
	}()
	second := openTest(t, dir, nil)
	if !second.WasRecovered() {
		t.Error("WasRecovered is false")
	}
	closeTest(t, second)
}

// A chain of tens of thousands of fragments is read, merged and recovered in loops. Trap 17.
func TestLongChains(t *testing.T) {
	dir := t.TempDir()
	const links = 30_000
	o := &Options{ConsolidateAfter: 1 << 20}
	pc := openTest(t, dir, o)
	tx := begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte{1})
	if err != nil {
		t.Fatal(err)
	}
	for i := range links {
		ptr = must(t)(pc.Link(tx, pid, ptr, []byte{byte(i)}))
	}
	tx.End()
	closeTest(t, pc)
	pc = openTest(t, dir, o)
	defer closeTest(t, pc)
	tx = begin(t, pc)
	defer tx.End()
	_, frags, err := pc.Fragments(tx, pid)
	if err != nil || len(frags) != links+1 || frags[links][0] != 1 {
		t.Fatalf("%d fragments, %v", len(frags), err)
	}
	if p, err := pc.Get(tx, pid); err != nil || len(p.Value) != links+1 {
		t.Fatalf("%d bytes, %v", len(p.Value), err)
	}
}
