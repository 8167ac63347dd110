package pageids

import (
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/engine/internal/epoch"
	"pagecache/recovery"
	"pagecache/segments/format"
)

type pid = format.PageID

// file is a snapshot's file in memory.
type file struct{ b []byte }

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(f.b)) {
		return 0, io.EOF
	}
	n := copy(p, f.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(f.b) {
		f.b = append(f.b, make([]byte, need-len(f.b))...)
	}
	return copy(f.b[off:], p), nil
}

func (f *file) Size() (int64, error)                  { return int64(len(f.b)), nil }
func (f *file) View(off int64, n int) ([]byte, error) { return f.b[off:][:n], nil }
func (f *file) Guard(read func() error) error         { return read() }

// kindOf returns what a snapshot says about a page.
func kindOf(free map[pid]bool, p pid) format.SnapshotKind {
	if free[p] {
		return format.SnapshotKindFree
	}
	return format.SnapshotKindPage
}

// snapshot returns a snapshot of pages 0…next-1, of which those in free are free.
func snapshot(t *testing.T, next pid, free map[pid]bool) *recovery.Snapshot {
	t.Helper()
	return snapshotIn(t, new(file), next, free)
}

// snapshotIn is snapshot with the file f.
func snapshotIn(t *testing.T, f *file, next pid, free map[pid]bool) *recovery.Snapshot {
	t.Helper()
	h := format.SnapshotHeader{Number: 1, NextPage: next, SegmentSize: format.MinSegmentSize}
	w := recovery.NewSnapshotWriter(f, h)
	for p := range next {
		page := recovery.Page{Kind: kindOf(free, p), LSN: 64 + format.LSN(p%1000)*8}
		page.Refs = []recovery.Ref{{LSN: page.LSN, Len: format.HeaderSize}}
		w.Add(page)
	}
	if err := w.Finish([]format.LSN{0}); err != nil {
		t.Fatal(err)
	}
	s, err := recovery.OpenSnapshot(f, "snapshot", format.StoreID{}, format.MinSegmentSize)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func take(t *testing.T, a *Allocator, d *epoch.Domain) pid {
	t.Helper()
	p, err := a.Take(d)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// wantTaken takes ids and compares them.
func wantTaken(t *testing.T, a *Allocator, d *epoch.Domain, want ...pid) {
	t.Helper()
	for i, w := range want {
		if p := take(t, a, d); p != w {
			t.Fatalf("id %d is %v, want %v of %v", i, p, w, want)
		}
	}
}

// New ids are dense. Free ids go first, the highest of them before the others.
func TestHighestFreeIdFirst(t *testing.T) {
	var a Allocator
	var d epoch.Domain
	a.UseSnapshot(nil)
	for _, p := range []pid{5, 3, 9} {
		a.AddFree(p)
	}
	a.Ready(12)
	if a.Next() != 12 || a.Spare() != 3 {
		t.Errorf("next %v, spare %d", a.Next(), a.Spare())
	}
	wantTaken(t, &a, &d, 9, 5, 3, 12, 13)
	for _, p := range []pid{9, 13, 3} {
		a.Give(&d, p)
	}
	a.GiveBack(12)
	if a.Next() != 14 || a.Spare() != 4 {
		t.Errorf("next %v, spare %d", a.Next(), a.Spare())
	}
	wantTaken(t, &a, &d, 12, 13, 9, 3, 14)
	if a.Spare() != 0 {
		t.Errorf("spare %d", a.Spare())
	}
}

// An id that was freed is not handed out while a reader that could have seen the page is inside; readers that entered
// later do not matter. One that was taken and given back is free at once. Trap 2.
func TestFreedIdsWaitForReaders(t *testing.T) {
	var a Allocator
	var d epoch.Domain
	var early, late epoch.Slot
	d.Register(&early)
	d.Register(&late)
	a.Ready(10)
	early.TryEnter(&d)
	a.Give(&d, 7)
	late.TryEnter(&d)
	a.Give(&d, 8)
	a.GiveBack(9)
	wantTaken(t, &a, &d, 9, 10)
	if a.Spare() != 2 {
		t.Errorf("spare %d, want 2: ids that readers hold back count", a.Spare())
	}
	early.Leave()
	wantTaken(t, &a, &d, 7, 11)
	late.Leave()
	wantTaken(t, &a, &d, 8, 12)
}

// The free ids of a snapshot are handed out like others, without being listed. If the log has messages of a page,
// they count more than the snapshot.
func TestFreeIdsOfTheSnapshot(t *testing.T) {
	free := map[pid]bool{0: true, 3: true, 5: true, 600: true, 601: true, 998: true}
	snap := snapshot(t, 1000, free)
	var a Allocator
	var d epoch.Domain
	a.UseSnapshot(snap)
	if a.Spare() != 5 {
		t.Errorf("spare %d, want 5: the store's own page 0 does not count", a.Spare())
	}
	a.Touched(601, format.SnapshotKindFree) // it was allocated after the snapshot
	a.Touched(5, format.SnapshotKindFree)   // and this one was allocated and freed again
	a.AddFree(5)
	a.Touched(700, format.SnapshotKindPage) // this one was freed
	a.AddFree(700)
	a.Touched(format.CounterPage, format.SnapshotKindNone) // not a page of users
	a.Ready(1003)
	if a.Spare() != 5 {
		t.Errorf("spare %d, want 5", a.Spare())
	}
	wantTaken(t, &a, &d, 998, 700)
	a.Give(&d, 998) // it comes after 5: readers are looked at when no other free id but the snapshot's is left
	wantTaken(t, &a, &d, 600)
	a.GiveBack(600)
	wantTaken(t, &a, &d, 600, 5, 998, 3, 1003)
	if a.Spare() != 0 {
		t.Errorf("spare %d", a.Spare())
	}
}

// Random calls do what a plain set of ids would do.
func TestAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 3))
		inSnapshot, want := map[pid]bool{}, map[pid]bool{}
		next := pid(300 + rng.IntN(1000))
		for p := format.FirstUserPage; p < next; p++ {
			if rng.IntN(3) == 0 {
				inSnapshot[p], want[p] = true, true
			}
		}
		var a Allocator
		var d epoch.Domain // no reader: freed ids are free at once
		a.UseSnapshot(snapshot(t, next, inSnapshot))
		for p := format.FirstUserPage; p < next; p++ {
			if rng.IntN(4) > 0 {
				continue
			}
			a.Touched(p, kindOf(inSnapshot, p))
			if delete(want, p); rng.IntN(2) == 0 {
				a.AddFree(p)
				want[p] = true
			}
		}
		a.Ready(next)
		var used []pid
		for range 3000 {
			if a.Spare() != int64(len(want)) || a.Next() != next {
				t.Fatalf("seed %d: spare %d, want %d; next %v, want %v", seed, a.Spare(), len(want), a.Next(), next)
			}
			switch n := rng.IntN(8); {
			case n < 5 || len(used) == 0:
				p := take(t, &a, &d)
				if len(want) == 0 {
					if p != next {
						t.Fatalf("seed %d: took %v, want the new id %v", seed, p, next)
					}
					next++
				} else if !want[p] {
					t.Fatalf("seed %d: took %v, which is not free", seed, p)
				}
				delete(want, p)
				used = append(used, p)
			default:
				i := rng.IntN(len(used))
				p := used[i]
				used = slices.Delete(used, i, i+1)
				want[p] = true
				if n == 7 {
					a.GiveBack(p)
				} else {
					a.Give(&d, p)
				}
			}
		}
	}
}

// Goroutines that take and free ids at once never own the same one, and never one that a reader inside can still see.
// Trap 2.
func TestOneOwner(t *testing.T) {
	const goroutines, rounds, ids = 4, 4000, 68
	var a Allocator
	var d epoch.Domain
	free := map[pid]bool{}
	for p := format.FirstUserPage; p < ids; p++ {
		free[p] = true
	}
	a.UseSnapshot(snapshot(t, ids, free))
	a.Ready(ids)
	var owner [1 << 15]atomic.Int32
	var shown [goroutines]atomic.Uint64 // ids of pages that readers can find; 0: none
	var wg sync.WaitGroup
	for g := range goroutines {
		var slot epoch.Slot
		d.Register(&slot)
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 4))
			for range rounds {
				slot.TryEnter(&d)
				// A page that is seen must not change owners before Leave.
				if seen := pid(shown[rng.IntN(goroutines)].Load()); seen != 0 {
					before := owner[seen].Load()
					runtime.Gosched()
					if after := owner[seen].Load(); after != 0 && before != 0 && after != before {
						t.Errorf("page %v passed from %d to %d under a reader", seen, before, after)
					}
				}
				p, err := a.Take(&d)
				if err != nil || !owner[p].CompareAndSwap(0, int32(g)+1) {
					t.Errorf("page %v has two owners: %v", p, err)
					return
				}
				if rng.IntN(8) == 0 {
					owner[p].Store(0)
					a.GiveBack(p)
				} else {
					shown[g].Store(uint64(p))
					runtime.Gosched()
					shown[g].Store(0)
					owner[p].Store(0)
					a.Give(&d, p)
				}
				slot.Leave()
			}
		})
	}
	wg.Wait()
	left := map[pid]bool{}
	for range a.Spare() {
		left[take(t, &a, &d)] = true
	}
	if n := int(a.Next() - format.FirstUserPage); len(left) != n || a.Spare() != 0 {
		t.Errorf("%d of %d ids are left, spare %d", len(left), n, a.Spare())
	}
}

// At the end of the ids Take fails and changes nothing. Free ids are still handed out.
func TestExhausted(t *testing.T) {
	var a Allocator
	var d epoch.Domain
	a.Ready(format.MaxPageID)
	wantTaken(t, &a, &d, format.MaxPageID)
	for range 3 {
		if p, err := a.Take(&d); !errors.Is(err, ErrExhausted) || a.Next() != format.MaxPageID+1 {
			t.Errorf("%v, %v; next %v", p, err, a.Next())
		}
	}
	a.Give(&d, 77)
	wantTaken(t, &a, &d, 77)
}

// RaiseNext moves the next id up, never down.
func TestRaiseNext(t *testing.T) {
	var a Allocator
	var d epoch.Domain
	a.Ready(10)
	a.RaiseNext(4)
	wantTaken(t, &a, &d, 10)
	a.RaiseNext(50)
	wantTaken(t, &a, &d, 50)
}

// Free ids in a corrupt block of the snapshot are left out until the block is replaced, and then handed out once each.
func TestCorruptBlockIsLeftOut(t *testing.T) {
	free := map[pid]bool{5: true, 300: true, 310: true, 320: true, 600: true}
	f := new(file)
	snap := snapshotIn(t, f, 700, free)
	f.b[2*format.SnapshotBlock+100] ^= 1 // pages 255 to 509
	var a Allocator
	var d epoch.Domain
	var noted []int64
	a.OnCorrupt(func(b *recovery.BlockError) { noted = append(noted, b.Block) })
	a.UseSnapshot(snap)
	a.Touched(310, format.SnapshotKindFree) // it was allocated after the snapshot
	a.Ready(700)
	wantTaken(t, &a, &d, 600, 5, 700)
	if a.Spare() != 2 || !slices.Equal(noted, []int64{2}) {
		t.Errorf("spare %d, corrupt blocks %v, want 2 and block 2", a.Spare(), noted)
	}
	block := &recovery.Block{Number: 2, Pages: make([]recovery.Page, format.EntriesPerBlock)}
	for i := range block.Pages {
		block.Pages[i].Kind = kindOf(free, pid(format.EntriesPerBlock+i))
	}
	a.Resupply() // too early: it changes nothing
	wantTaken(t, &a, &d, 701)
	snap.Replace([]*recovery.Block{block})
	a.Resupply()
	wantTaken(t, &a, &d, 320, 300, 702)
	if a.Spare() != 0 {
		t.Errorf("spare %d", a.Spare())
	}
}
