package pagestack

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

type bytesEntry = Entry[[]byte]

// ptrAt returns a place for the message at lsn. The LSN and the offset agree in their last twelve bits, since the
// size of a segment is a multiple of 4096 bytes.
func ptrAt(lsn format.LSN, n uint32) format.DiskPtr {
	return format.DiskPtr{Off: format.Offset(lsn + 7<<grainBits), Len: n}
}

func base(ts uint64) *Head {
	e := New[[]byte](KindBase, ts, 1, 64, ptrAt(64, 100))
	e.Frag = []byte("base")
	return &e.Head
}

// An entry for byte strings fills a cache line, and a run four.
func TestEntryAndRunSizes(t *testing.T) {
	if n := unsafe.Sizeof(bytesEntry{}); n != 64 && !invariants.Enabled {
		t.Errorf("an entry is %d bytes", n)
	}
	if n := unsafe.Sizeof(run[[]byte]{}); n != 256 && !invariants.Enabled {
		t.Errorf("a run is %d bytes", n)
	}
}

// An OnDisk entry takes 24 bytes, plus 16 for each message after the first, and returns the messages it was made of.
// Proves K3.
func TestOnDiskKeepsItsMessages(t *testing.T) {
	if n, r := unsafe.Sizeof(Head{}), unsafe.Sizeof(packedRef{}); n != 24 || r != 16 {
		t.Errorf("a head is %d bytes, a reference %d", n, r)
	}
	for _, n := range []int{1, 2, 3, 4, 11, MaxDepth - 1, MaxDepth, MaxDepth + 11} {
		var want, got []Ref
		for i := n; i > 0; i-- {
			lsn := format.LSN(i * 64)
			ptr := format.DiskPtr{Off: format.Offset(lsn) + 5<<grainBits, Len: uint32(30 + i%1000), Blob: i%3 == 0}
			want = append(want, Ref{lsn, ptr})
		}
		h := NewOnDisk(77, want)
		if n%2 == 0 {
			h = NewUnfilled(77, n)
			for i, r := range slices.Backward(want) {
				h.Fill(i, r)
			}
		}
		runtime.GC() // must not free the messages behind the head
		h.Refs(func(r Ref) { got = append(got, r) })
		if h.Kind() != KindOnDisk || h.TS() != 77 || h.Depth() != min(n, MaxDepth) {
			t.Errorf("%d messages: kind %v, depth %d, timestamp %d", n, h.Kind(), h.Depth(), h.TS())
		}
		if h.LSN != want[0].LSN || h.Ptr() != want[0].Ptr || !slices.Equal(got, want) {
			t.Errorf("%d messages: LSN %d; other messages than those it was made of", n, h.LSN)
		}
		if h.Listed() != (n >= MaxDepth) || (h.Ext() != nil) != h.Listed() {
			t.Errorf("%d messages: listed %v", n, h.Listed())
		}
	}
	if NewUnfilled(77, 0) != nil || NewOnDisk(77, nil) != nil {
		t.Error("an entry of no message was made")
	}
	if h := NewFree(5, 64, ptrAt(64, 24)); h.Kind() != KindFree || h.TS() != 5 || h.Depth() != 1 || h.Ext() != nil {
		t.Errorf("a free page: %v %d %d", h.Kind(), h.TS(), h.Depth())
	}
}

// A Head has no pointers: the checks of pointers would refuse packed words, which are not aligned.
func TestHeadHasNoPointers(t *testing.T) {
	var look func(of reflect.Type)
	look = func(of reflect.Type) {
		switch of.Kind() {
		case reflect.Struct:
			for i := range of.NumField() {
				look(of.Field(i).Type)
			}
		case reflect.Array:
			if of.Len() > 0 {
				look(of.Elem())
			}
		case reflect.Int64, reflect.Uint64:
		default:
			t.Errorf("%v is no number", of)
		}
	}
	look(reflect.TypeFor[Head]())
}

// The fields that are packed into an entry come out unchanged, at the limits too.
func TestPackedFieldsComeOutUnchanged(t *testing.T) {
	for _, ts := range []uint64{0, 1, 1<<46 - 1} {
		for _, depth := range []int{1, 2, MaxDepth} {
			for _, ptr := range []format.DiskPtr{
				{Off: 64, Len: format.HeaderSize},
				{Off: 1<<47 - 8, Len: 1<<24 - 1, Blob: true},
				{Off: 4096, Len: 1 << 23},
			} {
				for k := KindBase; k <= KindCounter; k++ {
					e := New[[]byte](k, ts, depth, format.LSN(1<<40)+format.LSN(ptr.Off%grain), ptr)
					if e.Kind() != k || e.TS() != ts || e.Depth() != depth || e.Ptr() != ptr {
						t.Fatalf("%v %d %d %v: %v %d %d %v", k, ts, depth, ptr, e.Kind(), e.TS(), e.Depth(), e.Ptr())
					}
				}
			}
		}
	}
	if e := New[[]byte](KindBase, 1, MaxDepth+5, 0, format.DiskPtr{}); e.Depth() != MaxDepth || e.TS() != 1 {
		t.Errorf("a depth above MaxDepth becomes %d, the timestamp %d", e.Depth(), e.TS())
	}
}

// Deltas on top of each other fill run after run: timestamps and depths rise by one, and Refs visits all messages,
// newest first. Proves rule 6.
func TestDeltasFillRuns(t *testing.T) {
	head := base(5)
	for i := range 3 * RunLen {
		lsn := format.LSN(128 + 64*i)
		e := NewDelta(head, []byte{byte(i)}, lsn, ptrAt(lsn, uint32(i+30)))
		if e.Kind() != KindDelta || e.TS() != head.TS()+1 || e.Depth() != head.Depth()+1 {
			t.Fatalf("delta %d: kind %v, timestamp %d, depth %d", i, e.Kind(), e.TS(), e.Depth())
		}
		if e.Next != head || e.Frag[0] != byte(i) || e.Ptr() != ptrAt(lsn, uint32(i+30)) {
			t.Fatalf("delta %d: %+v", i, e)
		}
		if i%RunLen > 0 && uintptr(unsafe.Pointer(e))-uintptr(unsafe.Pointer(head)) != unsafe.Sizeof(*e) {
			t.Errorf("delta %d does not follow its predecessor in memory", i)
		}
		head = &e.Head
	}
	last, n := head.LSN+1, 0
	head.Refs(func(r Ref) {
		if r.LSN >= last {
			t.Errorf("LSN %d follows %d", r.LSN, last)
		}
		last = r.LSN
		n++
	})
	if n != 3*RunLen+1 {
		t.Errorf("%d messages", n)
	}
}

// Every kind has a name, and an unknown one prints its number.
func TestKindString(t *testing.T) {
	seen := map[string]bool{}
	for k := KindBase; k <= KindCounter; k++ {
		if s := k.String(); s == "" || strings.HasPrefix(s, "Kind(") || seen[s] {
			t.Errorf("kind %d is named %q", uint8(k), s)
		} else {
			seen[s] = true
		}
	}
	for _, k := range []Kind{0, KindCounter + 1, 255} {
		if want := fmt.Sprintf("Kind(%d)", uint8(k)); k.String() != want {
			t.Errorf("kind %d is named %q", uint8(k), k)
		}
	}
}

// An evicted page keeps its state: ToOnDisk of any chain has the same messages, depth and timestamp. Proves K2.
func TestToOnDiskKeepsTheState(t *testing.T) {
	merged := New[[]byte](KindMerged, 9, 2, 300, ptrAt(300, 30))
	merged.Ext = &Ext{Refs: []Ref{{300, ptrAt(300, 30)}, {200, ptrAt(200, 30)}}}
	for _, h := range []*Head{base(5), &merged.Head, &NewDelta[[]byte](base(7), nil, 400, ptrAt(400, 24)).Head} {
		var want, got []Ref
		h.Refs(func(r Ref) { want = append(want, r) })
		e := h.ToOnDisk()
		e.Refs(func(r Ref) { got = append(got, r) })
		if e.Kind() != KindOnDisk || e.TS() != h.TS() || e.Depth() != h.Depth() || !slices.Equal(got, want) {
			t.Errorf("%v becomes %v: timestamp %d, depth %d, messages %v", h.Kind(), e.Kind(), e.TS(), e.Depth(), got)
		}
		if tail := h.TailEntry(); tail.Kind() == KindDelta || e.TailEntry() != e {
			t.Errorf("%v: the tail entry is a %v", h.Kind(), tail.Kind())
		}
	}
	var none *Head
	none.Refs(func(r Ref) { t.Errorf("a nil head has the message %v", r) })
}

// Refs visits all messages of a merged entry below a delta.
func TestRefsOfMergedEntry(t *testing.T) {
	m := New[[]byte](KindMerged, 9, 3, 300, ptrAt(300, 30))
	m.Ext = &Ext{Refs: []Ref{{300, ptrAt(300, 30)}, {200, ptrAt(200, 30)}, {100, ptrAt(100, 30)}}}
	d := NewDelta[[]byte](&m.Head, nil, 400, ptrAt(400, 24))
	var lsns []format.LSN
	d.Refs(func(r Ref) { lsns = append(lsns, r.LSN) })
	if len(lsns) != 4 || lsns[0] != 400 || lsns[1] != 300 || lsns[3] != 100 || d.Depth() != 4 {
		t.Errorf("%v, depth %d", lsns, d.Depth())
	}
}

// An entry that lost its compare-and-swap is not used again: the next delta on the same head gets its own.
func TestDiscardedEntryIsNotReused(t *testing.T) {
	first := NewDelta(base(1), []byte("a"), 100, ptrAt(100, 30))
	loser := NewDelta(&first.Head, []byte("b"), 200, ptrAt(200, 30))
	loser.Discard()
	if loser.Frag != nil || loser.Next != nil {
		t.Error("a discarded entry keeps something alive")
	}
	winner := NewDelta(&first.Head, []byte("c"), 300, ptrAt(300, 30))
	if winner == loser || string(winner.Frag) != "c" {
		t.Error("an entry was used twice")
	}
	if next := NewDelta[[]byte](&winner.Head, nil, 400, ptrAt(400, 30)); next.Next != &winner.Head || next.TS() != 4 {
		t.Errorf("%+v", next)
	}
}

// Many goroutines push deltas onto one head: each gets an entry of its own, and the chain holds exactly the deltas of
// the compare-and-swaps that won.
func TestConcurrentDeltasLoseNothing(t *testing.T) {
	const goroutines, each = 8, 2000
	var head atomic.Pointer[Head]
	var lsn atomic.Uint64
	head.Store(base(0))
	lsn.Store(1000)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(g)))
			for n := 0; n < each; {
				old := head.Load()
				l := format.LSN(lsn.Add(64))
				e := NewDelta(old, []byte{byte(g), byte(n), byte(n >> 8)}, l, ptrAt(l, 40))
				if rng.IntN(16) == 0 {
					runtime.Gosched()
				}
				if !head.CompareAndSwap(old, &e.Head) {
					e.Discard()
					continue
				}
				n++
			}
		})
	}
	wg.Wait()
	next := [goroutines]int{}
	for g := range next {
		next[g] = each
	}
	ts := head.Load().TS()
	if ts != goroutines*each {
		t.Fatalf("timestamp %d", ts)
	}
	for h := head.Load(); h.Kind() == KindDelta; h, ts = h.Next(), ts-1 {
		e := EntryOf[[]byte](h)
		g := e.Frag[0]
		next[g]--
		if e.TS() != ts || int(e.Frag[1])|int(e.Frag[2])<<8 != next[g] {
			t.Fatalf("at timestamp %d: goroutine %d wrote %v, expected its delta %d", ts, g, e.Frag, next[g])
		}
	}
}

// One delta in RunLen costs an allocation.
func BenchmarkNewDelta(b *testing.B) {
	b.ReportAllocs()
	head := base(0)
	for i := range b.N {
		if i%12 == 0 {
			head = base(0)
		}
		head = &NewDelta[[]byte](head, nil, format.LSN(i*64), format.DiskPtr{}).Head
	}
	runtime.KeepAlive(head)
}
