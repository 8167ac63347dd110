package engine_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
)

// document is a page of a type that points to memory of its own, with an encoding that is longer than its value.
type document struct{ Body []byte }

// documents is the Materializer of *document. Merging appends.
type documents struct{}

func (documents) Merge(frags []*document) *document {
	r := new(document)
	for _, f := range frags {
		r.Body = append(r.Body, f.Body...)
	}
	return r
}
func (documents) Size(r *document) int { return 24 + len(r.Body) }
func (documents) Append(dst []byte, r *document) []byte {
	b, _ := json.Marshal(r)
	return append(dst, b...)
}
func (documents) Decode(src []byte) (*document, error) {
	r := new(document)
	return r, json.Unmarshal(src, r)
}

// counters is the Materializer of a type without pointers. Merging adds.
type counters struct{}

type counter struct{ N [3]uint32 }

func (counters) Merge(frags []counter) (sum counter) {
	for _, f := range frags {
		for i, n := range f.N {
			sum.N[i] += n
		}
	}
	return sum
}
func (counters) Size(counter) int { return 12 }
func (counters) Append(dst []byte, c counter) []byte {
	return fmt.Appendf(dst, "%d %d %d", c.N[0], c.N[1], c.N[2])
}
func (counters) Decode(src []byte) (c counter, err error) {
	_, err = fmt.Sscan(string(src), &c.N[0], &c.N[1], &c.N[2])
	return c, err
}

// owned runs the steps of a caller that uses its buffer again after each call, and of a reader that appends to what it
// got. value makes a P in the buffer, which ends in room that belongs to the caller; bytesOf returns the bytes of a P.
func owned[P any](t *testing.T, m engine.Materializer[P], value func(buf []byte) P, bytesOf func(P) []byte) {
	t.Helper()
	won := func(ptr engine.PagePtr[P], won bool, err error) engine.PagePtr[P] {
		t.Helper()
		if err != nil || !won {
			t.Fatal(won, err)
		}
		return ptr
	}
	dir := t.TempDir()
	o := &engine.Options{SegmentSize: 16 << 10, ConsolidateAfter: 3, FlushEvery: -1}
	pc := enginetest.OpenWith(t, dir, m, o)
	tx := enginetest.Begin(t, pc)
	buf := make([]byte, 0, 64)
	fresh := func(s string) P { // in the same memory each time
		buf = append(buf[:0], s...)
		return value(buf)
	}
	a, ptr, err := pc.Allocate(tx, fresh("AAAA"))
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := pc.Allocate(tx, fresh("BBBB"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[engine.PageID]string{a: "AAAA", b: "BBBB"}
	check := func(when string) {
		t.Helper()
		for pid, w := range want {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			v := bytesOf(p.Value)
			if string(v) != w {
				t.Errorf("%s: page %d is %q, want %q", when, pid, v, w)
			}
			_ = append(v, "zzzz"...) // must change nothing
			_, frags, err := pc.Fragments(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range frags {
				_ = append(bytesOf(f), "zzzz"...)
			}
		}
		clear(buf[:cap(buf)]) // the caller's, at any time
	}
	check("allocated")
	check("appended to")
	for i := range 5 { // consolidated on the way
		ptr = won(pc.Link(tx, a, ptr, fresh(fmt.Sprint(i))))
		want[a] += fmt.Sprint(i)
		if i%2 == 0 {
			check("linked")
		}
	}
	check("linked")
	ptr = won(pc.Replace(tx, a, ptr, fresh("CCCC")))
	want[a] = "CCCC"
	check("replaced")
	// The value of one page becomes a part of another, and the first one changes.
	for _, when := range []string{"from memory", "from the disk"} {
		if when == "from the disk" {
			tx.End()
			enginetest.Close(t, pc)
			pc = enginetest.OpenWith(t, dir, m, o)
			tx = enginetest.Begin(t, pc)
			p, err := pc.Get(tx, a)
			if err != nil {
				t.Fatal(err)
			}
			ptr = p.Ptr
		}
		p, err := pc.Get(tx, b)
		if err != nil {
			t.Fatal(err)
		}
		ptr = won(pc.Link(tx, a, ptr, p.Value))
		c, _, err := pc.Allocate(tx, p.Value)
		if err != nil {
			t.Fatal(err)
		}
		want[a], want[c] = want[a]+want[b], want[b]
		won(pc.Replace(tx, b, p.Ptr, fresh("b"+when)))
		want[b] = "b" + when
		check("moved " + when)
	}
	tx.End()
	enginetest.Close(t, pc)
	pc = enginetest.OpenWith(t, dir, m, o)
	tx = enginetest.Begin(t, pc)
	check("reopened")
	tx.End()
	enginetest.Close(t, pc)
}

// A caller may use its memory again after the call, and a reader may append to what it got: no page changes, in memory
// or on disk, whatever the page type. Proves rule 20, trap 47.
func TestValuesBelongToTheStore(t *testing.T) {
	t.Parallel()
	itself := func(b []byte) []byte { return b }
	t.Run("bytes", func(t *testing.T) { owned(t, engine.Bytes{}, itself, itself) })
	t.Run("aliasing type", func(t *testing.T) { owned(t, plain{}, itself, itself) })
	t.Run("pointer", func(t *testing.T) {
		bodyOf := func(d *document) []byte { return d.Body }
		owned(t, documents{}, func(b []byte) *document { return &document{b} }, bodyOf)
	})
}

// A type without pointers is kept as it is. Proves rule 20.
func TestFlatValues(t *testing.T) {
	pc := enginetest.OpenWith(t, t.TempDir(), counters{}, &engine.Options{SegmentSize: 16 << 10, ConsolidateAfter: 4})
	tx := enginetest.Begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, counter{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint32(10) {
		var won bool
		if ptr, won, err = pc.Link(tx, pid, ptr, counter{[3]uint32{1, i, 0}}); err != nil || !won {
			t.Fatal(won, err)
		}
	}
	if p, err := pc.Get(tx, pid); err != nil || p.Value.N != [3]uint32{10, 45, 0} {
		t.Error(p.Value, err)
	}
	tx.End()
	enginetest.Close(t, pc)
}

// A part of a page of an aliasing type that goes into other pages stays what it is when the first page's segment is
// written again. With the invariants tag, access to the old place faults. Proves rules 3 and 20, trap 47.
func TestMovedViewsAreCopied(t *testing.T) {
	o := enginetest.WithSeam(&engine.Options{SegmentSize: 16 << 10, FlushEvery: -1}, seam.Options{Eager: true})
	dir := t.TempDir()
	pc := enginetest.OpenWith(t, dir, plain{}, o)
	value := func(pid engine.PageID) []byte { return bytes.Repeat([]byte{byte(pid)}, 600) }
	var pids []engine.PageID
	for i := range 60 {
		tx := enginetest.Begin(t, pc)
		pid, _, err := pc.Allocate(tx, value(engine.FirstUserPage+engine.PageID(i)))
		if err != nil {
			t.Fatal(err)
		}
		tx.End()
		pids = append(pids, pid)
	}
	enginetest.Close(t, pc)
	pc = enginetest.OpenWith(t, dir, plain{}, o) // reads are views now
	other := map[engine.PageID]engine.PageID{}
	for i, pid := range pids {
		tx := enginetest.Begin(t, pc)
		p, err := pc.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		at, ptr, err := pc.Allocate(tx, p.Value[100:400])
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			enginetest.Must(t)(pc.Link(tx, at, ptr, p.Value[:50]))
		}
		other[pid] = at
		enginetest.Must(t)(pc.Free(tx, pid, p.Ptr))
		tx.End()
	}
	for range 30 {
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := pc.AttemptGC(); err != nil {
			t.Fatal(err)
		}
	}
	if n := pc.Stats().Space.Recycled; n == 0 {
		t.Fatal("no segment was recycled")
	}
	enginetest.AllocateMany(t, pc, 100, 600) // over the old places
	tx := enginetest.Begin(t, pc)
	for i, pid := range pids {
		n := 300
		if i%2 == 0 {
			n = 350
		}
		if p, err := pc.Get(tx, other[pid]); err != nil || !bytes.Equal(p.Value, value(pid)[:n]) {
			t.Errorf("a part of page %d has become %d bytes of %v, %v", pid, len(p.Value), p.Value[:1], err)
		}
	}
	tx.End()
	enginetest.Close(t, pc)
}

// touchy is an aliasing type whose methods all look at every byte.
type touchy struct{ plain }

func touch(b []byte) (sum int) {
	for _, c := range b {
		sum += int(c)
	}
	return sum
}

func (m touchy) Size(b []byte) int                 { return 24 + len(b) + touch(b)&1 }
func (m touchy) Append(dst, b []byte) []byte       { touch(b); return m.plain.Append(dst, b) }
func (m touchy) Decode(src []byte) ([]byte, error) { touch(src); return src, nil }
func (m touchy) Merge(frags [][]byte) []byte {
	for _, f := range frags {
		touch(f)
	}
	return m.plain.Merge(frags)
}

// If the log is cut short under the map, no method of a Materializer ends the process, whatever calls it: with a page
// as it lies on disk, with views of it in memory, or with a view that the caller passes on. The count of resident bytes
// stays right. Trap 42.
func TestFaultsInCallersCodeAreErrors(t *testing.T) {
	t.Parallel()
	t.Run("bytes", func(t *testing.T) { faulting(t, engine.Bytes{}) })
	t.Run("touchy", func(t *testing.T) { faulting(t, touchy{}) })
}

func faulting(t *testing.T, m engine.Materializer[[]byte]) {
	t.Helper()
	const pages = 60
	dir := t.TempDir()
	o := &engine.Options{SegmentSize: 64 << 10, CacheCapacity: 1 << 20, ConsolidateAfter: 3, FlushEvery: -1}
	pc := enginetest.OpenWith(t, dir, m, o)
	tx := enginetest.Begin(t, pc)
	var pids []engine.PageID
	for i := range pages {
		pid, ptr, err := pc.Allocate(tx, bytes.Repeat([]byte{byte(i)}, 8000+i))
		if err != nil {
			t.Fatal(err)
		}
		for range i % 3 {
			ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, []byte("delta")))
		}
		pids = append(pids, pid)
	}
	tx.End()
	enginetest.Close(t, pc)
	pc = enginetest.OpenWith(t, dir, m, o)
	enginetest.NoCheck(t, pc)
	tx = enginetest.Begin(t, pc)
	held := make([]engine.Page[[]byte], pages)
	for i, pid := range pids[:2*pages/3] { // the others are not resident
		var err error
		if held[i], err = pc.Get(tx, pid); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(dir, "log"), 64<<10); err != nil {
		t.Fatal(err)
	}
	faults := 0
	result := func(err error) {
		t.Helper()
		if err != nil && !errors.Is(err, engine.ErrCorrupt) {
			t.Errorf("error %v, want none or ErrCorrupt", err)
		} else if err != nil {
			faults++
		}
	}
	small, ptr, err := pc.Allocate(tx, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	for i, pid := range pids {
		p, err := pc.Get(tx, pid)
		result(err)
		_, _, err = pc.Fragments(tx, pid)
		result(err)
		if i < len(held) && held[i].Value != nil {
			p = held[i]
			_, _, err = pc.Allocate(tx, p.Value) // a view of what is gone
			result(err)
			if now, won, err := pc.Replace(tx, small, ptr, p.Value[:100]); err == nil && won {
				ptr = now
			} else {
				result(err)
			}
		}
		if p.Ptr.IsZero() {
			continue
		}
		switch i % 4 {
		case 0:
			_, _, err = pc.Replace(tx, pid, p.Ptr, []byte("new"))
		case 1:
			_, _, err = pc.Free(tx, pid, p.Ptr)
		default:
			for n, won := 0, true; won && err == nil && n < 5; n++ { // until it would be consolidated
				p.Ptr, won, err = pc.Link(tx, pid, p.Ptr, []byte("more"))
			}
		}
		result(err)
	}
	if faults == 0 {
		t.Error("nothing has failed, although the log was cut")
	}
	tx.End()
	if err := pc.SetCacheCapacity(1); err != nil { // everything that is stable is weighed and evicted
		t.Error(err)
	}
	_, _ = pc.Flush()
	enginetest.Soon(t, "eviction of everything", func() {
		for s := pc.Stats(); s.Cache.HeapResident+s.Cache.MappedResident > 4096; s = pc.Stats() {
		}
	})
	if s := pc.Stats(); s.Cache.HeapResident < 0 || s.Cache.MappedResident < 0 {
		t.Errorf("%d bytes on the heap and %d mapped are counted", s.Cache.HeapResident, s.Cache.MappedResident)
	}
	for range 5 {
		_, err := pc.AttemptGC()
		result(err)
	}
	_ = pc.Close() // the file is not what it was
}
