package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/segments/format"
)

// small opens a store for tests of single calls, with a Tx. Both end with the test.
func small(t *testing.T) (*engine.PageCache[[]byte], *engine.Tx[[]byte]) {
	t.Helper()
	pc := enginetest.Open(t, t.TempDir(), &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2})
	tx := enginetest.Begin(t, pc)
	t.Cleanup(func() {
		tx.End()
		enginetest.Close(t, pc)
	})
	return pc, tx
}

// Calls on a page that does not exist return no error and change nothing.
func TestCallsOnMissingPages(t *testing.T) {
	pc, tx := small(t)
	pids := []engine.PageID{engine.FirstUserPage, 5, 4096, format.MaxPageID, format.MaxPageID + 1, math.MaxUint64}
	for _, pid := range pids {
		p, err := pc.Get(tx, pid)
		if err != nil || p.Kind != engine.KindUnallocated || p.Value != nil || !p.Ptr.IsZero() {
			t.Errorf("Get of page %d: %+v, %v", pid, p, err)
		}
		if ptr, frags, err := pc.Fragments(tx, pid); err != nil || !ptr.IsZero() || frags != nil {
			t.Errorf("Fragments of page %d: %v, %v", pid, frags, err)
		}
		var none engine.PagePtr[[]byte]
		for what, f := range map[string]func() (engine.PagePtr[[]byte], bool, error){
			"Link":    func() (engine.PagePtr[[]byte], bool, error) { return pc.Link(tx, pid, none, []byte("x")) },
			"Replace": func() (engine.PagePtr[[]byte], bool, error) { return pc.Replace(tx, pid, none, []byte("x")) },
			"Free":    func() (engine.PagePtr[[]byte], bool, error) { return pc.Free(tx, pid, none) },
		} {
			if ptr, won, err := f(); err != nil || won || !ptr.IsZero() {
				t.Errorf("%s of page %d: won %v, error %v", what, pid, won, err)
			}
		}
		if ts, ok := pc.ReadTS(tx, pid); ok || ts != 0 {
			t.Errorf("page %d has read timestamp %d", pid, ts)
		}
	}
	// Pages 0 and 1 are reserved.
	for _, pid := range []engine.PageID{format.MetaPage, format.CounterPage} {
		_, _, errLink := pc.Link(tx, pid, engine.PagePtr[[]byte]{}, nil)
		_, _, errReplace := pc.Replace(tx, pid, engine.PagePtr[[]byte]{}, nil)
		_, _, errFree := pc.Free(tx, pid, engine.PagePtr[[]byte]{})
		_, _, errFrags := pc.Fragments(tx, pid)
		for _, err := range []error{errLink, errReplace, errFree, errFrags} {
			if !errors.Is(err, engine.ErrReserved) {
				t.Errorf("page %d: error %v, want ErrReserved", pid, err)
			}
		}
	}
	if _, _, err := pc.CASRoot(tx, "r", 0, 9); err != nil {
		t.Fatal(err)
	}
	if p, err := pc.Get(tx, format.MetaPage); err != nil || p.Kind != engine.KindMeta || p.Value != nil {
		t.Errorf("Get of page 0: %+v, %v", p, err)
	}
}

// A compare-and-swap that loses returns the current state, from which the next one wins. On a freed page it returns
// the zero state.
func TestCompareAndSwap(t *testing.T) {
	pc, tx := small(t)
	pid, first, err := pc.Allocate(tx, []byte("a"))
	if err != nil || pid != engine.FirstUserPage {
		t.Fatalf("Allocate returns page %d, want %d, error %v", pid, engine.FirstUserPage, err)
	}
	second := enginetest.Must(t)(pc.Link(tx, pid, first, []byte("b")))
	for _, stale := range []engine.PagePtr[[]byte]{first, {}} {
		now, won, err := pc.Replace(tx, pid, stale, []byte("lost"))
		if err != nil || won || now.LastLSN() != second.LastLSN() {
			t.Fatalf("Replace of a stale state: won %v, LSN %d, want %d, error %v",
				won, now.LastLSN(), second.LastLSN(), err)
		}
	}
	third := enginetest.Must(t)(pc.Replace(tx, pid, second, []byte("c")))
	if second.LastLSN() <= first.LastLSN() || third.LastLSN() <= second.LastLSN() {
		t.Errorf("LSNs %d, %d, %d do not rise", first.LastLSN(), second.LastLSN(), third.LastLSN())
	}
	if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "c" || p.Ptr.LastLSN() != third.LastLSN() {
		t.Errorf("page after Replace: %+v, %v", p, err)
	}
	freed := enginetest.Must(t)(pc.Free(tx, pid, third))
	if p, err := pc.Get(tx, pid); err != nil || p.Kind != engine.KindFree || p.Value != nil {
		t.Errorf("page after Free: %+v, %v", p, err)
	}
	for _, old := range []engine.PagePtr[[]byte]{third, freed, {}} { // a second Free loses and is no error: trap 2
		if now, won, err := pc.Free(tx, pid, old); err != nil || won || !now.IsZero() {
			t.Errorf("second Free: won %v, error %v", won, err)
		}
		if now, won, err := pc.Link(tx, pid, old, []byte("x")); err != nil || won || !now.IsZero() {
			t.Errorf("Link to a freed page: won %v, error %v", won, err)
		}
	}
	if other, _, err := pc.Allocate(tx, nil); err != nil || other == pid {
		t.Errorf("Allocate returns page %d while an open Tx can see freed page %d: %v", other, pid, err)
	}
}

// Every call refuses a Tx that is nil, has ended, or belongs to another store.
func TestCallsRefuseOtherTx(t *testing.T) {
	pc, tx := small(t)
	pid, ptr, err := pc.Allocate(tx, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	_, foreign := small(t)
	ended := enginetest.Begin(t, pc)
	ended.End()
	(*engine.Tx[[]byte])(nil).End() // does nothing: Begin may have failed
	for name, tx := range map[string]*engine.Tx[[]byte]{"nil": nil, "ended": ended, "foreign": foreign} {
		errs := map[string]error{}
		_, _, errs["Allocate"] = pc.Allocate(tx, nil)
		_, _, errs["Link"] = pc.Link(tx, pid, ptr, nil)
		_, _, errs["Replace"] = pc.Replace(tx, pid, ptr, nil)
		_, _, errs["Free"] = pc.Free(tx, pid, ptr)
		_, errs["Get"] = pc.Get(tx, pid)
		_, _, errs["State"] = pc.State(tx, pid)
		_, errs["GetMany"] = pc.GetMany(tx, []engine.PageID{pid}, nil)
		_, _, errs["Fragments"] = pc.Fragments(tx, pid)
		_, errs["Meta"] = pc.Meta(tx)
		_, errs["Root"] = pc.Root(tx, "")
		_, _, errs["CASRoot"] = pc.CASRoot(tx, "", 0, 0)
		for what, err := range errs {
			if !errors.Is(err, engine.ErrTxEnded) {
				t.Errorf("%s with a Tx that is %s: error %v, want ErrTxEnded", what, name, err)
			}
		}
	}
	a, b := enginetest.Begin(t, pc), enginetest.Begin(t, pc)
	if b.TS() <= a.TS() || a.TS() <= tx.TS() {
		t.Errorf("timestamps %d, %d, %d do not rise", tx.TS(), a.TS(), b.TS())
	}
	if s := pc.Stats(); s.Txs.Open != 3 || s.Txs.Oldest != tx.TS() {
		t.Errorf("Stats: %d Txs open, the oldest %d; want 3, %d", s.Txs.Open, s.Txs.Oldest, tx.TS())
	}
	a.End()
	b.End()
}

// Values of every length from 0 to the largest that fits are read back unchanged, also after reopening. One byte more
// is ErrTooLarge and changes nothing.
func TestValueLengths(t *testing.T) {
	dir := t.TempDir()
	const segment = 16 << 10
	o := &engine.Options{SegmentSize: segment, ConsolidateAfter: 2}
	most := format.MaxBody(segment)
	pc := enginetest.Open(t, dir, o)
	engine.SetMaxBlob(pc, most)
	tx := enginetest.Begin(t, pc)
	values := [][]byte{nil, {}, {0}, make([]byte, 7), bytes.Repeat([]byte{1}, 8), bytes.Repeat([]byte{2}, most-1),
		bytes.Repeat([]byte{3}, most)}
	for _, v := range values {
		if _, _, err := pc.Allocate(tx, v); err != nil {
			t.Fatalf("Allocate of %d bytes: %v", len(v), err)
		}
	}
	last := engine.FirstUserPage + engine.PageID(len(values)) - 1
	p, err := pc.Get(tx, last)
	if err != nil {
		t.Fatal(err)
	}
	too := make([]byte, most+1)
	_, _, errAllocate := pc.Allocate(tx, too)
	_, _, errReplace := pc.Replace(tx, last, p.Ptr, too)
	_, _, errLink := pc.Link(tx, last, p.Ptr, too)
	for _, err := range []error{errAllocate, errReplace, errLink} {
		if !errors.Is(err, engine.ErrTooLarge) || !strings.Contains(err.Error(), fmt.Sprint(most)) {
			t.Errorf("%d bytes: error %v, want ErrTooLarge with the limit %d", most+1, err, most)
		}
	}
	// The next Allocate reuses the page id of the refused one.
	if pid, _, err := pc.Allocate(tx, []byte("next")); err != nil || pid != last+1 {
		t.Errorf("page %d, want %d, error %v", pid, last+1, err)
	}
	// A page that is too large for one message keeps its deltas and stays readable.
	ptr := p.Ptr
	for range 5 {
		ptr = enginetest.Must(t)(pc.Link(tx, last, ptr, []byte("more")))
	}
	tx.End()
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, dir, o)
	defer enginetest.Close(t, pc)
	tx = enginetest.Begin(t, pc)
	defer tx.End()
	for i, v := range values {
		if i == len(values)-1 {
			v = append(bytes.Clone(v), strings.Repeat("more", 5)...)
		}
		p, err := pc.Get(tx, engine.FirstUserPage+engine.PageID(i))
		if err != nil || !bytes.Equal(p.Value, v) {
			t.Errorf("value of %d bytes: read %d bytes, %v", len(v), len(p.Value), err)
		}
	}
}

// Fragments returns the deltas that were not consolidated yet, newest first, and then the base. Consolidation makes
// them one fragment and keeps the page's state.
func TestFragments(t *testing.T) {
	dir := t.TempDir()
	o := &engine.Options{SegmentSize: 16 << 10, ConsolidateAfter: 4}
	pc := enginetest.Open(t, dir, o)
	tx := enginetest.Begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("0"))
	if err != nil {
		t.Fatal(err)
	}
	check := func(want ...string) {
		t.Helper()
		ptr, frags, err := pc.Fragments(tx, pid)
		if err != nil || ptr.IsZero() || fmt.Sprintf("%s", frags) != fmt.Sprint(want) {
			t.Errorf("fragments %s, want %v, error %v", frags, want, err)
		}
	}
	check("0")
	for i := 1; i <= 3; i++ {
		ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, fmt.Append(nil, i)))
	}
	check("3", "2", "1", "0")
	ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, []byte("4"))) // one more than ConsolidateAfter
	check("01234")
	if n := pc.Stats().Pages.Consolidations; n != 1 {
		t.Errorf("%d consolidations, want 1", n)
	}
	enginetest.Must(t)(pc.Link(tx, pid, ptr, []byte("5"))) // the state is still current after the consolidation: rule 6
	check("5", "01234")
	tx.End()
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, dir, o)
	tx = enginetest.Begin(t, pc)
	check("5", "01234")
	if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != "012345" {
		t.Errorf("value %q, want 012345, error %v", p.Value, err)
	}
	tx.End()
	enginetest.Close(t, pc)
}

// upper is a Materializer whose encoding differs from the fragment. If it is picky, Decode refuses some fragments.
type upper struct{ picky bool }

func (upper) Merge(frags []string) string        { return strings.Join(frags, "") }
func (upper) Size(s string) int                  { return len(s) }
func (upper) Append(dst []byte, s string) []byte { return append(dst, strings.ToUpper(s)...) }
func (u upper) Decode(src []byte) (s string, e error) {
	if u.picky && bytes.Contains(src, []byte("BAD")) {
		return "", errors.New("no such fragment")
	}
	return string(src), nil
}

// If Decode returns an error, Get returns it with the page's number. Other pages can be read.
func TestDecodeErrors(t *testing.T) {
	dir := t.TempDir()
	pc := enginetest.OpenWith(t, dir, upper{}, &engine.Options{SegmentSize: 16 << 10})
	tx := enginetest.Begin(t, pc)
	for _, s := range []string{"good", "bad"} {
		if _, _, err := pc.Allocate(tx, s); err != nil {
			t.Fatal(err)
		}
	}
	tx.End()
	enginetest.Close(t, pc)
	pc = enginetest.OpenWith(t, dir, upper{picky: true}, nil)
	defer enginetest.Close(t, pc)
	tx = enginetest.Begin(t, pc)
	defer tx.End()
	if p, err := pc.Get(tx, 2); err != nil || p.Value != "GOOD" {
		t.Errorf("page 2: %q, want GOOD, error %v", p.Value, err)
	}
	if _, err := pc.Get(tx, 3); err == nil || !strings.Contains(err.Error(), "page 3") ||
		!strings.Contains(err.Error(), "no such fragment") {
		t.Errorf("Get of page 3: %v", err)
	}
	if _, _, err := pc.Fragments(tx, 3); err == nil {
		t.Error("Fragments of page 3: no error, and Decode refuses one")
	}
}
