package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"pagecache/segments/format"
)

// small returns a store for the tests of single calls, closed at the end.
func small(t *testing.T) (*PageCache[[]byte], *Tx) {
	t.Helper()
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 16 << 10, IOBuffers: 2})
	tx := begin(t, pc)
	t.Cleanup(func() {
		tx.End()
		closeTest(t, pc)
	})
	return pc, tx
}

// Pages that do not exist are no error, and cannot be changed.
func TestPagesThatAreNot(t *testing.T) {
	pc, tx := small(t)
	for _, pid := range []PageID{FirstUserPage, 5, 4096, format.MaxPageID, format.MaxPageID + 1, math.MaxUint64} {
		if p, err := pc.Get(tx, pid); err != nil || p.Kind != KindUnallocated || p.Value != nil || !p.Ptr.IsZero() {
			t.Errorf("Get of page %d: %+v %v", pid, p, err)
		}
		if ptr, frags, err := pc.Fragments(tx, pid); err != nil || !ptr.IsZero() || frags != nil {
			t.Errorf("Fragments of page %d: %v %v", pid, frags, err)
		}
		for what, f := range map[string]func() (PagePtr[[]byte], bool, error){
			"Link":    func() (PagePtr[[]byte], bool, error) { return pc.Link(tx, pid, PagePtr[[]byte]{}, []byte("x")) },
			"Replace": func() (PagePtr[[]byte], bool, error) { return pc.Replace(tx, pid, PagePtr[[]byte]{}, []byte("x")) },
			"Free":    func() (PagePtr[[]byte], bool, error) { return pc.Free(tx, pid, PagePtr[[]byte]{}) },
		} {
			if ptr, won, err := f(); err != nil || won || !ptr.IsZero() {
				t.Errorf("%s of page %d: %v %v", what, pid, won, err)
			}
		}
		if ts, ok := pc.ReadTS(tx, pid); ok || ts != 0 {
			t.Errorf("page %d has read timestamp %d", pid, ts)
		}
	}
	// The store's own pages.
	for _, pid := range []PageID{format.MetaPage, format.CounterPage} {
		_, _, errLink := pc.Link(tx, pid, PagePtr[[]byte]{}, nil)
		_, _, errReplace := pc.Replace(tx, pid, PagePtr[[]byte]{}, nil)
		_, _, errFree := pc.Free(tx, pid, PagePtr[[]byte]{})
		_, _, errFrags := pc.Fragments(tx, pid)
		for _, err := range []error{errLink, errReplace, errFree, errFrags} {
			if !errors.Is(err, ErrReserved) {
				t.Errorf("page %d: %v", pid, err)
			}
		}
	}
	if _, _, err := pc.CASRoot(tx, "r", 0, 9); err != nil {
		t.Fatal(err)
	}
	if p, err := pc.Get(tx, format.MetaPage); err != nil || p.Kind != KindMeta || p.Value != nil {
		t.Errorf("page 0: %+v %v", p, err)
	}
}

// Swaps that lose return the current state, with which the next wins; freed pages and foreign Txs are told apart.
func TestSwaps(t *testing.T) {
	pc, tx := small(t)
	pid, first, err := pc.Allocate(tx, []byte("a"))
	if err != nil || pid != FirstUserPage {
		t.Fatal(pid, err)
	}
	second := must(t)(pc.Link(tx, pid, first, []byte("b")))
	for _, stale := range []PagePtr[[]byte]{first, {}} {
		now, won, err := pc.Replace(tx, pid, stale, []byte("lost"))
		if err != nil || won || now.LastLSN() != second.LastLSN() {
			t.Fatal(won, err)
		}
	}
	third := must(t)(pc.Replace(tx, pid, second, []byte("c")))
	if second.LastLSN() <= first.LastLSN() || third.LastLSN() <= second.LastLSN() {
		t.Error("LSNs do not rise")
	}
	if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "c" || p.Ptr.LastLSN() != third.LastLSN() {
		t.Errorf("%+v %v", p, err)
	}
	freed := must(t)(pc.Free(tx, pid, third))
	if p, err := pc.Get(tx, pid); err != nil || p.Kind != KindFree || p.Value != nil {
		t.Errorf("%+v %v", p, err)
	}
	for _, old := range []PagePtr[[]byte]{third, freed, {}} { // a second Free is an answer: trap 2
		if now, won, err := pc.Free(tx, pid, old); err != nil || won || !now.IsZero() {
			t.Error(won, err)
		}
		if now, won, err := pc.Link(tx, pid, old, []byte("x")); err != nil || won || !now.IsZero() {
			t.Error(won, err)
		}
	}
	if other, _, err := pc.Allocate(tx, nil); err != nil || other == pid {
		t.Errorf("page %d while a Tx sees %d: %v", other, pid, err)
	}
}

// A Tx that has ended, is nil, or another store's is refused by every call.
func TestTxOfCalls(t *testing.T) {
	pc, tx := small(t)
	pid, ptr, err := pc.Allocate(tx, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	_, foreign := small(t)
	ended := begin(t, pc)
	ended.End()
	ended.End() // does nothing
	for name, tx := range map[string]*Tx{"nil": nil, "ended": ended, "foreign": foreign} {
		errs := map[string]error{}
		_, _, errs["Allocate"] = pc.Allocate(tx, nil)
		_, _, errs["Link"] = pc.Link(tx, pid, ptr, nil)
		_, _, errs["Replace"] = pc.Replace(tx, pid, ptr, nil)
		_, _, errs["Free"] = pc.Free(tx, pid, ptr)
		_, errs["Get"] = pc.Get(tx, pid)
		_, _, errs["Fragments"] = pc.Fragments(tx, pid)
		_, errs["Meta"] = pc.Meta(tx)
		_, errs["Root"] = pc.Root(tx, "")
		_, _, errs["CASRoot"] = pc.CASRoot(tx, "", 0, 0)
		for what, err := range errs {
			if !errors.Is(err, ErrTxEnded) {
				t.Errorf("%s in a Tx that is %s: %v", what, name, err)
			}
		}
	}
	a, b := begin(t, pc), begin(t, pc)
	if b.TS() <= a.TS() || a.TS() <= tx.TS() {
		t.Errorf("timestamps %d, %d, %d", tx.TS(), a.TS(), b.TS())
	}
	if s := pc.Stats(); s.Txs.Open != 3 || s.Txs.Oldest != tx.TS() {
		t.Errorf("%d Txs, the oldest %d", s.Txs.Open, s.Txs.Oldest)
	}
	a.End()
	b.End()
}

// Values from none to the largest that fits come back as they were, and after reopening; a byte more is ErrTooLarge, and does nothing.
func TestSizes(t *testing.T) {
	dir := t.TempDir()
	const segment = 16 << 10
	o := &Options{SegmentSize: segment, ConsolidateAfter: 2}
	most := format.MaxBody(segment)
	pc := openTest(t, dir, o)
	pc.blobs.SetMaxLen(most)
	tx := begin(t, pc)
	values := [][]byte{nil, {}, {0}, make([]byte, 7), bytes.Repeat([]byte{1}, 8), bytes.Repeat([]byte{2}, most-1), bytes.Repeat([]byte{3}, most)}
	for _, v := range values {
		if _, _, err := pc.Allocate(tx, v); err != nil {
			t.Fatal(len(v), err)
		}
	}
	last := FirstUserPage + PageID(len(values)) - 1
	p, err := pc.Get(tx, last)
	if err != nil {
		t.Fatal(err)
	}
	too := make([]byte, most+1)
	_, _, errAllocate := pc.Allocate(tx, too)
	_, _, errReplace := pc.Replace(tx, last, p.Ptr, too)
	_, _, errLink := pc.Link(tx, last, p.Ptr, too)
	for _, err := range []error{errAllocate, errReplace, errLink} {
		if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), fmt.Sprint(most)) {
			t.Error(err)
		}
	}
	// The id that the refused Allocate had drawn is not lost.
	if pid, _, err := pc.Allocate(tx, []byte("next")); err != nil || pid != last+1 {
		t.Error(pid, err)
	}
	// Deltas on a page that is too large to be written as one stay deltas, and the page can be read.
	ptr := p.Ptr
	for range 5 {
		ptr = must(t)(pc.Link(tx, last, ptr, []byte("more")))
	}
	tx.End()
	closeTest(t, pc)
	pc = openTest(t, dir, o)
	defer closeTest(t, pc)
	tx = begin(t, pc)
	defer tx.End()
	for i, v := range values {
		if i == len(values)-1 {
			v = append(bytes.Clone(v), strings.Repeat("more", 5)...)
		}
		p, err := pc.Get(tx, FirstUserPage+PageID(i))
		if err != nil || !bytes.Equal(p.Value, v) {
			t.Errorf("value of %d bytes: %d bytes, %v", len(v), len(p.Value), err)
		}
	}
}

// Fragments are the deltas that are known singly, newest first, then the rest; consolidating makes them one, in the same state.
func TestFragments(t *testing.T) {
	dir := t.TempDir()
	o := &Options{SegmentSize: 16 << 10, ConsolidateAfter: 4}
	pc := openTest(t, dir, o)
	tx := begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("0"))
	if err != nil {
		t.Fatal(err)
	}
	check := func(want ...string) {
		t.Helper()
		ptr, frags, err := pc.Fragments(tx, pid)
		if err != nil || ptr.IsZero() || fmt.Sprintf("%s", frags) != fmt.Sprint(want) {
			t.Errorf("%s, want %v, %v", frags, want, err)
		}
	}
	check("0")
	for i := 1; i <= 3; i++ {
		ptr = must(t)(pc.Link(tx, pid, ptr, fmt.Append(nil, i)))
	}
	check("3", "2", "1", "0")
	ptr = must(t)(pc.Link(tx, pid, ptr, []byte("4"))) // one above ConsolidateAfter
	check("01234")
	if n := pc.Stats().Pages.Consolidations; n != 1 {
		t.Errorf("%d consolidations", n)
	}
	must(t)(pc.Link(tx, pid, ptr, []byte("5"))) // the consolidation did not take the state away: rule 6
	check("5", "01234")
	tx.End()
	closeTest(t, pc)
	pc = openTest(t, dir, o)
	tx = begin(t, pc)
	check("5", "01234")
	if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "012345" {
		t.Errorf("%q %v", p.Value, err)
	}
	tx.End()
	closeTest(t, pc)
}

// upper is a Materializer whose fragments are not their own encoding, and which refuses some.
type upper struct{}

func (upper) Merge(frags []string) string        { return strings.Join(frags, "") }
func (upper) Size(s string) int                  { return len(s) }
func (upper) Append(dst []byte, s string) []byte { return append(dst, strings.ToUpper(s)...) }
func (upper) Decode(src []byte) (s string, e error) {
	if bytes.Contains(src, []byte("BAD")) {
		return "", errors.New("no such fragment")
	}
	return string(src), nil
}

// What Decode refuses is an error of Get that names the page, and hurts no other page.
func TestDecodeErrors(t *testing.T) {
	dir := t.TempDir()
	pc, err := Open(dir, upper{}, &Options{SegmentSize: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	tx, _ := pc.Begin()
	for _, s := range []string{"good", "bad"} {
		if _, _, err := pc.Allocate(tx, s); err != nil {
			t.Fatal(err)
		}
	}
	tx.End()
	closeTest(t, pc)
	if pc, err = Open(dir, upper{}, nil); err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, pc)
	tx, _ = pc.Begin()
	defer tx.End()
	if p, err := pc.Get(tx, 2); err != nil || p.Value != "GOOD" {
		t.Errorf("%q %v", p.Value, err)
	}
	if _, err := pc.Get(tx, 3); err == nil || !strings.Contains(err.Error(), "page 3") || !strings.Contains(err.Error(), "no such fragment") {
		t.Error(err)
	}
	if _, _, err := pc.Fragments(tx, 3); err == nil {
		t.Error("fragments that cannot be decoded")
	}
}
