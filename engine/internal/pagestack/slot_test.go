package pagestack

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"unsafe"

	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// lsnAt makes up the LSNs of a file.
func lsnAt(off format.Offset) format.LSN { return format.LSN(off) + 7<<20 }

// onDisk returns an entry of a page in one message.
func onDisk(ts uint64, off format.Offset, n uint32) *Head {
	return NewOnDisk(ts, []Ref{{LSN: lsnAt(off), Ptr: format.DiskPtr{Off: off, Len: n}}})
}

// sameHead reports whether two entries of kind OnDisk in one message are the same in every field.
func sameHead(a, b *Head) bool {
	return a.Kind() == b.Kind() && a.LSN == b.LSN && a.TS() == b.TS() && a.Depth() == b.Depth() && a.Ptr() == b.Ptr()
}

// The numbers of an entry at the limits of the forms, and whether a slot packs it. Proves K5.
func TestPackedEntryKeepsItsNumbers(t *testing.T) {
	const far = format.Offset(maxPackedOff) * format.Align
	cases := []struct {
		ts     uint64
		off    format.Offset
		n      uint32
		packed bool
	}{
		{0, 8, 1, true},
		{1, 4096, 24, true},
		{1<<14 - 2, far, 511, true},
		{1<<14 - 1, far, 511, false},
		{1<<11 - 2, far, 512, true},
		{1<<11 - 1, 8, 512, false},
		{1<<11 - 2, far, 4095, true},
		{1<<8 - 2, far, 4096, true},
		{1<<8 - 1, 8, 4096, false},
		{1<<8 - 2, far, 32767, true},
		{0, 8, 32768, false},
		{0, far + format.Align, 24, false},
		{1 << 45, 8, 24, false},
		{0, 0, 0, false},
	}
	for _, c := range cases {
		h := onDisk(c.ts, c.off, c.n)
		var s Slot
		s.Store(h)
		w := s.Word()
		if IsPacked(w) != c.packed {
			t.Errorf("%+v: packed is %v", c, IsPacked(w))
			continue
		}
		if off, ok := s.Place(); ok != c.packed || ok && off != c.off {
			t.Errorf("%+v: the place is %d, %v", c, off, ok)
		}
		if !s.Holds(h) || s.IsEmpty() || !s.Holds(onDisk(c.ts, c.off, c.n)) && c.packed {
			t.Errorf("%+v: the slot does not hold what was stored", c)
		}
		if !c.packed {
			if s.Entry() != h {
				t.Errorf("%+v: the slot holds another entry", c)
			}
			continue
		}
		if s.Entry() != nil || PackedTS(w) != c.ts {
			t.Errorf("%+v: entry %v, timestamp %d", c, s.Entry(), PackedTS(w))
		}
		got := Unpack(w, lsnAt)
		if !sameHead(got, h) || !got.Is(h) || got.Listed() {
			t.Errorf("%+v: unpacked as LSN %d, timestamp %d, %v", c, got.LSN, got.TS(), got.Ptr())
		}
	}
}

// Entries of other kinds, in several messages, or in blobs are held by their address.
func TestOtherEntriesAreNotPacked(t *testing.T) {
	ptr := format.DiskPtr{Off: 4096, Len: 100}
	blob := format.DiskPtr{Off: 4096, Len: 100, Blob: true}
	for _, h := range []*Head{
		base(1), NewFree(1, 4096, ptr), NewRoot(1, format.Root{}, Ref{4096, ptr}), new(Head), // which begins an intent
		NewOnDisk(1, []Ref{{4096, blob}}), NewOnDisk(1, []Ref{{8192, ptr}, {4096, ptr}}),
		&NewDelta(onDisk(1, 8, 30), []byte("x"), 72, ptrAt(72, 30)).Head,
	} {
		var s Slot
		if !s.CompareAndSwap(nil, h) || s.Word() != h || s.Entry() != h || !s.Holds(h) {
			t.Errorf("an entry of kind %v is packed", h.Kind())
		}
		if !s.CompareAndSwap(h, nil) || !s.IsEmpty() {
			t.Errorf("an entry of kind %v is not found", h.Kind())
		}
	}
}

// A compare-and-swap takes entries with the same numbers for one another, and no others. It allocates nothing.
func TestSlotComparesNumbers(t *testing.T) {
	var s Slot
	s.Store(onDisk(3, 800, 100))
	for _, h := range []*Head{nil, onDisk(4, 800, 100), onDisk(3, 808, 100), onDisk(3, 800, 101), base(3)} {
		if s.CompareAndSwap(h, base(9)) {
			t.Errorf("took %v for another entry", h)
		}
	}
	next := base(4)
	if !s.CompareAndSwap(onDisk(3, 800, 100), next) || s.Entry() != next {
		t.Error("an equal entry was not taken for the one that the slot holds")
	}
	evicted := onDisk(4, 1600, 100)
	if !s.CompareAndSwap(next, evicted) || !IsPacked(s.Word()) || !s.CompareAndSwap(evicted, next) {
		t.Fatal("the entry of an evicted page was not packed")
	}
	if n := testing.AllocsPerRun(100, func() {
		s.CompareAndSwap(next, evicted)
		s.CompareAndSwap(evicted, next)
	}); n != 0 {
		t.Errorf("swapping allocates %v times", n)
	}
}

// Packed words of all forms live through collections, growing stacks and copies to the heap, and no collection finds
// anything behind them.
func TestCollectorIgnoresPackedEntries(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(5))
	rng := rand.New(rand.NewPCG(1, 2))
	const count = 20_000
	slots := make([]Slot, count)
	want := make([]*Head, count)
	for i := range slots {
		n := uint32(1) << rng.IntN(15)
		off := format.Offset(rng.Uint64()>>rng.IntN(64)&maxPackedOff) * format.Align
		want[i] = onDisk(rng.Uint64()%200, off, n)
		slots[i].Store(want[i])
	}
	var grow func(h *Head, depth int) *Head
	grow = func(h *Head, depth int) *Head {
		var room [128]byte
		room[depth%len(room)] = byte(depth)
		if depth == 0 {
			runtime.GC()
			return h
		}
		if r := grow(h, depth-1); room[depth%len(room)] == byte(depth) {
			return r
		}
		return nil
	}
	kept := map[int]*Head{}
	var wg sync.WaitGroup
	for i := range slots {
		w := slots[i].Word()
		if !IsPacked(w) {
			t.Fatalf("entry %d is not packed", i)
		}
		if i%1000 == 0 {
			wg.Go(func() { // on a new stack, which grows
				if got := grow(w, 200); got != w {
					t.Errorf("word %x became %x", uintptr(unsafe.Pointer(w)), uintptr(unsafe.Pointer(got)))
				}
			})
		}
		kept[i] = w
	}
	wg.Wait()
	for i, w := range kept {
		if got := Unpack(w, lsnAt); !sameHead(got, want[i]) {
			t.Fatalf("entry %d was changed", i)
		}
	}
}

// Goroutines that change, evict and fetch one page lose no change, and see only states that there were: an entry whose
// timestamp, place and length belong together.
func TestConcurrentEvictionsAndChanges(t *testing.T) {
	var s Slot
	const turns, workers = 3000, 4
	state := func(ts uint64) *Head { return onDisk(ts, format.Offset(ts+1)*64, uint32(ts%400+1)) }
	load := func() *Head {
		h := s.Word()
		if IsPacked(h) {
			return Unpack(h, lsnAt)
		}
		return h
	}
	check := func(h *Head) error {
		if want := state(h.TS()); h.Ptr() != want.Ptr() || h.LSN != want.LSN {
			return fmt.Errorf("timestamp %d with LSN %d and %v", h.TS(), h.LSN, h.Ptr())
		}
		return nil
	}
	resident := func(h *Head) *Head { return &New[[]byte](KindBase, h.TS(), 1, h.LSN, h.Ptr()).Head }
	s.Store(state(0))
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			for range turns {
				for {
					h := load()
					if err := check(h); err != nil {
						t.Error(err)
						return
					}
					invariants.Jitter()
					switch rng.IntN(3) {
					case 0:
						s.CompareAndSwap(h, h.ToOnDisk())
					case 1:
						s.CompareAndSwap(h, resident(h))
					}
					if next := state(h.TS() + 1); s.CompareAndSwap(h, resident(next)) {
						break
					}
				}
			}
		})
	}
	wg.Wait()
	if n := load().TS(); n != turns*workers && !t.Failed() {
		t.Errorf("%d changes, want %d", n, turns*workers)
	}
}
