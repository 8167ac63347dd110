package pagemap

import (
	"fmt"
	"slices"
	"testing"

	"pagecache/engine/internal/epoch"
	"pagecache/engine/internal/pagestack"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// A page that has held the root of a name is known as long as a View may look for it, with those that have held it
// before. Names that no View looks for are forgotten when the last View ends, or once there are many.
func TestFormerNamesAreDropped(t *testing.T) {
	o := openUnbuilt(t, simdisk.New(1, simdisk.Options{Block: 512}), format.MinSegmentSize)
	if err := o.m.Rebuild(o.found); err != nil {
		t.Fatal(err)
	}
	defer o.store.Abandon()
	m := &o.m
	keep := func(name string, page format.PageID) { m.former.keep(&m.Clock.Views, name, page) }
	begin := func() *View {
		slot := new(epoch.Slot)
		o.domain.Register(slot)
		if !slot.TryEnter(&o.domain) {
			t.Fatal("not entered")
		}
		return m.BeginView(slot, func() uint64 { return 1 })
	}
	want := func(name string, pages ...format.PageID) {
		t.Helper()
		if got := m.former.find(name); !slices.Equal(got, pages) {
			t.Errorf("name %q was on the pages %v, want %v", name, got, pages)
		}
	}
	keep("none", 1) // no View is open
	want("none")
	first := begin()
	keep("a", 5)
	keep("a", 6)
	keep("a", 5)
	want("a", 5, 6)
	second := begin()
	m.EndView(first)
	want("a", 5, 6) // it stays until there are many names
	for i := range 100 {
		keep(fmt.Sprintf("name %d", i), 7)
	}
	m.EndView(begin())
	want("a")
	want("name 99", 7)
	m.EndView(second)
	want("name 99")
	if n := m.former.count.Load(); n != 0 {
		t.Errorf("%d names are left", n)
	}
}

// A version that is kept for Views keeps its state, and no value in memory. Proves Q9.
func TestFormerVersionsHaveNoValues(t *testing.T) {
	below := pagestack.NewOnDisk(1, []pagestack.Ref{{LSN: 800, Ptr: format.DiskPtr{Off: 800, Len: 100}}})
	h := &pagestack.NewDelta(below, []byte("value"), 904, format.DiskPtr{Off: 904, Len: 100}).Head
	k := onDisk(h)
	if k.Kind() != pagestack.KindOnDisk || k.TS() != h.TS() || k.LSN != h.LSN || k.Depth() != h.Depth() {
		t.Errorf("%v of LSN %d, depth %d, is kept of %v", k.Kind(), k.LSN, k.Depth(), h.Kind())
	}
	if free := pagestack.NewFree(1, 8, format.DiskPtr{}); onDisk(free) != free {
		t.Error("another entry is kept of one without a value")
	}
}
