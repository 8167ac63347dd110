package engine

import (
	"bytes"
	"sync"
	"testing"

	"pagecache/engine/internal/pagestack"
	"pagecache/segments"
)

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
				t.Fatalf("record at LSN %d: %d bytes, want %d, error %v", r.lsn, len(got), len(r.b), err)
			}
		}
	}
	if active != len(all) {
		t.Fatalf("%d of %d records were in an active segment when they were written", active, len(all))
	}
}

// Consolidation does not change a page's timestamp, so a state that was returned before it still wins. Proves rule 6.
func TestTimestampChangesOnWritesOnly(t *testing.T) {
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
		next := must(t)(pc.Link(tx, pid, ptr, []byte("b"))) // consolidates at every second Link
		if next.ts != first+uint64(i)+1 {
			t.Fatalf("timestamp %d after %d links from timestamp %d", next.ts, i+1, first)
		}
		s := pc.pages.Table.Get(pid)
		if _, err := pc.consolidate(tx.base(), pid, s, pc.pages.Clock.Load(s)); err != nil {
			t.Fatal(err)
		}
		if head := pc.pages.Clock.Load(s); head.TS() != next.ts || head.LSN == next.lsn {
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
		t.Fatalf("Link from a stale state: won %v, error %v", won, err)
	}
}

// While no goroutine writes, Stats count as live bytes exactly the messages that pages refer to. Proves rule 7.
func TestLiveBytesAreExact(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 3 {
		pc := openTest(t, dir, &Options{SegmentSize: 16 << 10, ConsolidateAfter: 4})
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := range 200 {
					tx, err := pc.Begin()
					if err != nil {
						t.Errorf("begin: %v", err)
						return
					}
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
						t.Errorf("write page %d: %v", pid, err)
					}
					tx.End()
				}
			})
		}
		soon(t, "writers", wg.Wait)
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
