package pagestack

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"pagecache/segments/format"
)

// refAt returns the message at lsn.
func refAt(lsn int) Ref { return Ref{format.LSN(lsn), ptrAt(format.LSN(lsn), 30)} }

// roomyHead returns the head of a page in two messages whose value has room behind it.
func roomyHead(t *testing.T, base, delta []byte) *Head {
	t.Helper()
	e := NewRoomy([][]byte{base, delta})
	if e == nil {
		t.Fatal("no entry")
	}
	e.InitMerged(7, []Ref{refAt(128), refAt(64)})
	return &e.Head
}

// A merged value of each length is a concatenation without capacity behind it, in memory that Size counts, and keeps
// that in memory by itself. One that is longer than MaxRoomy with its room, or empty, is refused.
func TestRoomyValues(t *testing.T) {
	var values [][]byte
	for n := range 2*MaxRoomy/3 + 100 {
		long := bytes.Repeat([]byte{byte(n) | 1}, n)
		e := NewRoomy([][]byte{long[:n/3], long[n/3:]})
		refused := n == 0 || n+n/2 > MaxRoomy
		if (e == nil) != refused {
			t.Fatalf("%d bytes: refused %v", n, e == nil)
		}
		if e == nil {
			continue
		}
		if !bytes.Equal(e.Frag, long) || cap(e.Frag) != n || e.Ext.used.Load() != uint32(n) {
			t.Fatalf("%d bytes: %d bytes, room for %d, %d in use", n, len(e.Frag), cap(e.Frag), e.Ext.used.Load())
		}
		extra := int(e.Ext.capacity) - n - n/2
		if extra < 0 || extra > 128+n/3 || e.Ext.Size != int64(e.Ext.capacity)+int64(unsafe.Sizeof(Ext{})) {
			t.Fatalf("%d bytes: memory of %d, counted %d", n, e.Ext.capacity, e.Ext.Size)
		}
		e.InitMerged(7, []Ref{refAt(128), refAt(64)})
		if h := &e.Head; h.Kind() != KindMerged || !h.IsWhole() || h.IsGrown() || !h.HasRoom() || h.TS() != 7 ||
			h.Depth() != 2 || h.LSN != 128 || h.Ptr() != ptrAt(128, 30) {
			t.Fatalf("%d bytes: %+v", n, h)
		}
		values = append(values, e.Frag) // and not the entry
	}
	runtime.GC()
	for _, v := range values {
		if n := len(v); !bytes.Equal(v, bytes.Repeat([]byte{byte(n) | 1}, n)) {
			t.Fatalf("a value of %d bytes has changed", n)
		}
	}
	if e := NewRoomy([][]byte{make([]byte, 1000), {1}}); e.Ext.capacity > 1200 {
		t.Errorf("room for %d bytes, after a delta of one", e.Ext.capacity)
	}
}

// Deltas are appended in place, and their entries hold the whole page, as long as there is room; then a delta is alone.
// No entry changes what another holds. Proves K4.
func TestDeltasGrowInTheirRoom(t *testing.T) {
	head := roomyHead(t, bytes.Repeat([]byte("b"), 40), []byte("01234"))
	want, heads := []byte(nil), []*Head{head}
	want = append(want, EntryOf[[]byte](head).Frag...)
	memory := &EntryOf[[]byte](head).Frag[0]
	for n := 0; CanGrow(head, 5); n++ {
		delta := []byte{'d', byte(n), 'x', 'y', 'z'}
		e := Grow(head, delta, refAt(192+64*n))
		want = append(want, delta...)
		delta[0] = 0 // it was copied
		if e.Kind() != KindDelta || !e.IsGrown() || !e.IsWhole() || e.FirstOfRun() || !BeginsRun(&e.Head) {
			t.Fatalf("delta %d: %+v", n, e)
		}
		if e.TS() != head.TS()+1 || e.Depth() != head.Depth()+1 || e.Next != head || e.Ptr() != refAt(192+64*n).Ptr {
			t.Fatalf("delta %d: timestamp %d, depth %d", n, e.TS(), e.Depth())
		}
		if !bytes.Equal(e.Frag, want) || cap(e.Frag) != len(want) || &e.Frag[0] != memory {
			t.Fatalf("delta %d: %q, room for %d, want %q", n, e.Frag, cap(e.Frag), want)
		}
		if own := e.Fragment(); !bytes.Equal(own, want[len(want)-5:]) || cap(own) != 5 {
			t.Fatalf("delta %d: its fragment is %q", n, own)
		}
		head = &e.Head
		heads = append(heads, head)
	}
	if len(heads) < 4 {
		t.Fatalf("room for %d deltas", len(heads)-1)
	}
	for i, h := range heads {
		if v := EntryOf[[]byte](h).Frag; !bytes.Equal(v, want[:45+5*i]) {
			t.Errorf("entry %d holds %q", i, v)
		}
	}
	last := Grow(head, []byte("alone"), refAt(4096))
	if last.IsGrown() || last.IsWhole() || !last.FirstOfRun() || string(last.Frag) != "alone" || last.Next != head ||
		last.Depth() != head.Depth()+1 || string(last.Fragment()) != "alone" {
		t.Errorf("without room: %+v", last)
	}
	n := 0
	last.Refs(func(Ref) { n++ })
	if n != len(heads)+2 || last.TailEntry() != heads[0] {
		t.Errorf("%d messages, and the tail is %v", n, last.TailEntry().Kind())
	}
	e := last.ToOnDisk()
	if e.Depth() != n || e.TS() != last.TS() || e.HasRoom() {
		t.Errorf("on disk: depth %d, timestamp %d", e.Depth(), e.TS())
	}
	if CanGrow(nil, 0) || CanGrow(base(1), 0) || CanGrow(&last.Head, 0) {
		t.Error("entries without room can grow")
	}
}

// The room behind a value belongs to one delta. If that is discarded, it can be used again; several are discarded from
// the newest one on. Proves K4.
func TestRoomHasOneOwner(t *testing.T) {
	head := roomyHead(t, bytes.Repeat([]byte("b"), 40), []byte("01234"))
	first, second := Grow(head, []byte("aa"), refAt(192)), Grow(head, []byte("bb"), refAt(256))
	if !first.IsGrown() || second.IsGrown() || string(second.Frag) != "bb" {
		t.Fatalf("%q and %q", first.Frag, second.Frag)
	}
	next := Grow(&first.Head, []byte("cc"), refAt(320))
	if !next.IsGrown() || string(next.Frag[45:]) != "aacc" {
		t.Fatalf("%q", next.Frag)
	}
	next.Discard()
	first.Discard()
	first.Discard() // twice is once
	if first.Frag != nil || first.Next != nil || first.Ext != nil || next.Frag != nil {
		t.Error("a discarded entry keeps something alive")
	}
	third := Grow(head, []byte("ddd"), refAt(384))
	if !third.IsGrown() || string(third.Frag[45:]) != "ddd" {
		t.Errorf("%q", third.Frag)
	}
	empty := Grow(&third.Head, nil, refAt(448))
	if !empty.IsGrown() || !bytes.Equal(empty.Frag, third.Frag) || len(empty.Fragment()) != 0 {
		t.Errorf("%q", empty.Frag)
	}
}

// Many goroutines grow a page. It is merged when it has no room. Every value that was ever the page's stays as it was,
// and each delta that won is there once, in the order of the chain. Proves K4.
func TestConcurrentGrowthLosesNothing(t *testing.T) {
	const goroutines, each = 8, 300
	var head atomic.Pointer[Head]
	head.Store(roomyHead(t, bytes.Repeat([]byte("b"), 100), []byte("0")))
	type version struct {
		value []byte
		copy  []byte
	}
	var versions [goroutines][]version
	var lsn atomic.Int64
	lsn.Store(1000)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(g)))
			for n := 0; n < each; {
				old := head.Load()
				if !old.IsWhole() { // merge it
					m := NewRoomy([][]byte{EntryOf[[]byte](old.Next()).Frag, EntryOf[[]byte](old).Frag})
					if m == nil { // it is too long: begin a new page
						m = NewRoomy([][]byte{bytes.Repeat([]byte("b"), 100), {'0'}})
					}
					m.InitMerged(old.TS(), []Ref{{old.LSN, old.Ptr()}, refAt(64)})
					head.CompareAndSwap(old, &m.Head)
					continue
				}
				delta := bytes.Repeat([]byte{byte(g)}, 1+rng.IntN(9))
				e := Grow(old, delta, refAt(int(lsn.Add(64))))
				if rng.IntN(8) == 0 {
					runtime.Gosched()
				}
				if !head.CompareAndSwap(old, &e.Head) {
					e.Discard()
					continue
				}
				n++
				if before := EntryOf[[]byte](old).Frag; e.IsGrown() &&
					!bytes.Equal(e.Frag, append(bytes.Clone(before), delta...)) {
					t.Errorf("%q grew by %q to %q", before, delta, e.Frag)
					return
				}
				versions[g] = append(versions[g], version{e.Frag, bytes.Clone(e.Frag)})
			}
		})
	}
	wg.Wait()
	grown := 0
	for g := range versions {
		for _, v := range versions[g] {
			if !bytes.Equal(v.value, v.copy) {
				t.Fatalf("a value has changed from %q to %q", v.copy, v.value)
			}
			if len(v.value) > 100 {
				grown++
			}
		}
	}
	if grown < goroutines*each/4 {
		t.Errorf("%d of %d deltas were grown", grown, goroutines*each)
	}
}

// Two goroutines that want the same room at the same moment do not both get it. Proves K4.
func TestRoomIsTakenOnce(t *testing.T) {
	var turn [2]atomic.Int64
	taken := make([]*Entry[[]byte], 2)
	rounds := 20_000
	heads := make([]*Head, rounds+1)
	for n := range heads {
		heads[n] = roomyHead(t, bytes.Repeat([]byte("b"), 40), []byte("01234"))
	}
	var wg sync.WaitGroup
	both, none := 0, 0
	for g := range 2 {
		wg.Go(func() {
			for n := int64(1); n <= int64(rounds); n++ {
				turn[g].Store(2*n - 1)
				for turn[1-g].Load() < 2*n-1 { // both begin together
					runtime.Gosched()
				}
				taken[g] = Grow(heads[n], []byte{byte(g), 'x'}, refAt(192))
				turn[g].Store(2 * n)
				for turn[1-g].Load() < 2*n {
					runtime.Gosched()
				}
				if g > 0 {
					continue // the first one looks, and the other one waits for it
				}
				switch {
				case taken[0].IsGrown() && taken[1].IsGrown():
					both++
				case !taken[0].IsGrown() && !taken[1].IsGrown():
					none++
				}
			}
		})
	}
	wg.Wait()
	if both+none > 0 {
		t.Errorf("in %d of %d rounds both had the room, in %d neither", both, rounds, none)
	}
}

// A copy of a page that has grown has room for eight more deltas like the last one, in memory of its own.
func TestCopiesHaveRoom(t *testing.T) {
	for _, size := range []int{60, 1000, MaxRoomy / 2, MaxRoomy - 100} {
		e, memory := newRoomy(size + 10)
		keep(e, memory, copy(memory, bytes.Repeat([]byte("b"), size)))
		e.InitBase(7, refAt(64))
		grown := Grow(&e.Head, []byte("delta"), refAt(128))
		c := CopyRoomy(&grown.Head)
		n, room := size+5, int(c.Ext.capacity)-size-5
		if !bytes.Equal(c.Frag, grown.Frag) || cap(c.Frag) != n || &c.Frag[0] == &grown.Frag[0] ||
			int(c.Ext.used.Load()) != n || c.Ext.Size != int64(c.Ext.capacity)+int64(unsafe.Sizeof(Ext{})) {
			t.Errorf("%d bytes: a copy of %d, with room for %d", size, len(c.Frag), room)
		}
		if room < min(n/2, 8*5) || room > 64+n/4 {
			t.Errorf("%d bytes: room for %d", size, room)
		}
		if c = CopyRoomy(&e.Head); len(c.Frag) != size {
			t.Errorf("%d bytes: a copy of %d", size, len(c.Frag))
		}
	}
}

// A grown delta knows the LSN of the first message of its page, in whatever pieces of memory its value lies. Other
// entries do not tell.
func TestGrownDeltasKnowTheFirstMessage(t *testing.T) {
	for n := 3; n < 3000; n += n/5 + 1 {
		for _, merged := range []bool{true, false} {
			e, first := NewRoomy([][]byte{make([]byte, n-1), {1}}), format.LSN(64)
			if merged {
				e.InitMerged(7, []Ref{refAt(192), refAt(128), refAt(64)})
			} else {
				e.InitBase(7, refAt(192))
				first = 192
			}
			h := &e.Head
			if h.Lowest() != 0 {
				t.Fatalf("an entry of kind %v of %d bytes: lowest LSN %d", h.Kind(), n, h.Lowest())
			}
			for lsn := 256; CanGrow(h, 1); lsn += 64 {
				h = &Grow(h, []byte{2}, refAt(lsn)).Head
				if !h.IsGrown() || h.Lowest() != first {
					t.Fatalf("%d bytes, merged %v: lowest LSN %d, want %d", n, merged, h.Lowest(), first)
				}
			}
			if h == &e.Head {
				t.Fatalf("nothing grows on %d bytes", n)
			}
			if d := Grow(h, []byte{2}, refAt(8192)); d.IsGrown() || d.Lowest() != 0 {
				t.Fatalf("a delta in a run, on %d bytes: lowest LSN %d", n, d.Lowest())
			}
		}
	}
}
