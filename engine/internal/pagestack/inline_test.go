package pagestack

import (
	"bytes"
	"runtime"
	"testing"
	"unsafe"

	"pagecache/segments/format"
)

// A value of each length up to the limit is a copy without room behind it, in the same piece of memory as its entry,
// and keeps that in memory by itself. A longer one is a fault of the caller. Proves rule 20.
func TestInlineValues(t *testing.T) {
	for name, c := range map[string]struct {
		most  int
		begin uintptr // of the value, behind the beginning of the entry
		make  func([]byte) *Entry[[]byte]
	}{
		"base":  {MaxInline, unsafe.Sizeof(Entry[[]byte]{}), NewInline},
		"delta": {MaxInlineDelta, unsafe.Sizeof(run[[]byte]{}), NewInlineDelta},
	} {
		var frags [][]byte
		for n := range c.most + 1 {
			b := bytes.Repeat([]byte{byte(n) | 1}, n)
			e := c.make(b)
			if len(e.Frag) != n || cap(e.Frag) != n || !bytes.Equal(e.Frag, b) {
				t.Fatalf("%s of %d bytes: %d bytes, room for %d", name, n, len(e.Frag), cap(e.Frag))
			}
			if n > 0 {
				at := uintptr(unsafe.Pointer(&e.Frag[0])) - uintptr(unsafe.Pointer(e))
				if b[0]++; at != c.begin || e.Frag[0] == b[0] {
					t.Fatalf("%s of %d bytes: the value is %d bytes behind its entry, or the caller's", name, n, at)
				}
			}
			frags = append(frags, e.Frag) // and not the entry
		}
		runtime.GC()
		for range 1000 { // reuse what was collected
			_ = c.make(bytes.Repeat([]byte{0xff}, c.most))
		}
		for n, b := range frags {
			if !bytes.Equal(b, bytes.Repeat([]byte{byte(n) | 1}, n)) {
				t.Fatalf("%s of %d bytes has changed", name, n)
			}
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s of more than %d bytes is taken", name, c.most)
				}
			}()
			c.make(make([]byte, c.most+1))
		}()
	}
}

// An entry with its value is initialized like any other, as a base or as the first delta of a run, of which later ones
// use the rest.
func TestInlineEntriesAreEntries(t *testing.T) {
	b := NewInline([]byte("base"))
	b.InitBase(7, Ref{LSN: 100, Ptr: ptrAt(100, 40)})
	if h := &b.Head; h.Kind() != KindBase || h.TS() != 7 || h.Depth() != 1 || h.Next() != nil || h.LSN != 100 ||
		h.Ptr() != ptrAt(100, 40) {
		t.Errorf("base %+v", h)
	}
	d := NewInlineDelta([]byte("delta"))
	if !BeginsRun(&b.Head) || !BeginsRun(nil) {
		t.Error("a delta on top of a base, or of nothing, does not begin a run")
	}
	d.InitDelta(&b.Head, d.Frag, 200, ptrAt(200, 50))
	if h := &d.Head; h.Kind() != KindDelta || h.TS() != 8 || h.Depth() != 2 || h.Next() != &b.Head || h.LSN != 200 {
		t.Errorf("delta %+v", h)
	}
	head := &d.Head
	for i := 1; i < RunLen; i++ {
		if BeginsRun(head) {
			t.Errorf("delta %d begins a run", i)
		}
		lsn := format.LSN(200 + i)
		next := NewDelta(head, []byte{byte(i)}, lsn, ptrAt(lsn, 30))
		distance := uintptr(unsafe.Pointer(next)) - uintptr(unsafe.Pointer(d))
		if distance != uintptr(i)*unsafe.Sizeof(Entry[[]byte]{}) {
			t.Errorf("delta %d of the run lies %d bytes behind the first", i, distance)
		}
		head = &next.Head
	}
	if !BeginsRun(head) || string(d.Frag) != "delta" || string(b.Frag) != "base" {
		t.Errorf("after a full run: %q, %q", d.Frag, b.Frag)
	}
}
