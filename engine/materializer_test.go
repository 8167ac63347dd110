package engine_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// scripted is a Materializer of comma-separated lists, encoded as hexadecimal digits. It records the arguments of
// Merge, and panics or fails where the test wants it.
type scripted struct {
	mu     sync.Mutex
	merges [][]string
	bomb   string // the method that panics
	refuse bool   // Decode fails for "old"
}

var errRefused = errors.New("refused")

// at panics if method is to panic.
func (m *scripted) at(method string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bomb == method {
		panic("bomb in " + method)
	}
}

// set chooses the method that panics, "" for none, and whether Decode fails for "old".
func (m *scripted) set(bomb string, refuse bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bomb, m.refuse = bomb, refuse
}

func (m *scripted) Merge(frags []string) string {
	m.at("Merge")
	m.mu.Lock()
	defer m.mu.Unlock()
	m.merges = append(m.merges, slices.Clone(frags))
	return strings.Join(frags, ",")
}

func (m *scripted) Size(frag string) int {
	m.at("Size")
	return len(frag)
}

func (m *scripted) Append(dst []byte, frag string) []byte {
	m.at("Append")
	return hex.AppendEncode(dst, []byte(frag))
}

func (m *scripted) Decode(src []byte) (string, error) {
	m.at("Decode")
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := hex.AppendDecode(nil, src)
	if m.refuse && string(b) == "old" {
		return "", errRefused
	}
	return string(b), err
}

func openScripted(t *testing.T, d *simdisk.Disk, m *scripted) (*engine.PageCache[string], *engine.Tx[string]) {
	t.Helper()
	o := enginetest.SimOptions(d)
	o.ConsolidateAfter = 4
	pc := enginetest.OpenWith(t, "/store", m, o)
	return pc, enginetest.Begin(t, pc)
}

// Merge gets the fragments oldest first, and never fewer than two. Its result is not merged again while nothing
// changes. Deltas and rewritten pages are read back as they were encoded.
func TestMergeOrder(t *testing.T) {
	t.Parallel()
	d, m := simdisk.New(1, simdisk.Options{}), &scripted{}
	pc, tx := openScripted(t, d, m)
	pid, ptr, err := pc.Allocate(tx, "0")
	if err != nil {
		t.Fatal(err)
	}
	want := "0"
	get := func(merges string) {
		t.Helper()
		for range 3 {
			if p, err := pc.Get(tx, pid); err != nil || p.Value != want {
				t.Fatalf("page holds %q, want %q, error %v", p.Value, want, err)
			}
		}
		if got := fmt.Sprint(m.merges); got != merges {
			t.Errorf("merged %s, want %s", got, merges)
		}
		m.merges = nil
	}
	get("[]")
	for i := 1; i <= 7; i++ {
		v := fmt.Sprint(i)
		want += "," + v
		won := false
		if ptr, won, err = pc.Link(tx, pid, ptr, v); err != nil || !won {
			t.Fatal(won, err)
		}
		switch i {
		case 2:
			get("[[0 1 2]]")
		case 4: // five fragments, one above ConsolidateAfter: the page was rewritten
			get("[[0,1,2 3 4]]")
		}
	}
	get("[[0,1,2,3,4 5 6 7]]")
	tx.End()
	enginetest.Close(t, pc)
	pc, tx = openScripted(t, d, m)
	get("[[0,1,2,3,4 5 6 7]]")
	tx.End()
	enginetest.Close(t, pc)
}

// bombed calls f, which must panic with the value that the Materializer panicked with.
func bombed(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if r := recover(); r == nil || !strings.HasPrefix(fmt.Sprint(r), "bomb in ") {
			t.Errorf("%s: recovered %v, want the panic of the Materializer", what, r)
		}
	}()
	f()
}

// A panic of the Materializer leaves the store whole: it holds no lock, no place in the log and no Tx, no change is
// half done, and every call works once the Materializer does. O5.
func TestMaterializerPanics(t *testing.T) {
	t.Parallel()
	d, m := simdisk.New(2, simdisk.Options{}), &scripted{}
	pc, tx := openScripted(t, d, m)
	pid, ptr, err := pc.Allocate(tx, "a")
	if err != nil {
		t.Fatal(err)
	}
	before := pc.Stats()
	for _, method := range []string{"Append", "Size"} {
		m.set(method, false)
		bombed(t, "Allocate", func() { _, _, _ = pc.Allocate(tx, "x") })
		bombed(t, "Link", func() { _, _, _ = pc.Link(tx, pid, ptr, "x") })
		bombed(t, "Replace", func() { _, _, _ = pc.Replace(tx, pid, ptr, "x") })
		after := pc.Stats()
		if after.Pages.InUse != before.Pages.InUse || after.Space.LiveBytes != before.Space.LiveBytes ||
			after.Cache.HeapResident != before.Cache.HeapResident {
			t.Errorf("panics in %s changed the counts: %+v, before %+v", method, after, before)
		}
	}
	m.set("Merge", false)
	won := false
	if ptr, won, err = pc.Link(tx, pid, ptr, "b"); err != nil || !won {
		t.Fatal(won, err)
	}
	bombed(t, "Get", func() { _, _ = pc.Get(tx, pid) })
	for i := range 2 {
		if ptr, won, err = pc.Link(tx, pid, ptr, fmt.Sprint(i)); err != nil || !won {
			t.Fatal(won, err)
		}
	}
	bombed(t, "the Link that consolidates", func() { _, _, _ = pc.Link(tx, pid, ptr, "c") })
	for range 2 {
		bombed(t, "Get of a page that is too long", func() { _, _ = pc.Get(tx, pid) })
	}
	if _, frags, err := pc.Fragments(tx, pid); err != nil || len(frags) != 5 { // merges nothing
		t.Errorf("fragments %q, error %v", frags, err)
	}
	enginetest.Soon(t, "Flush after panics", func() {
		if _, err := pc.Flush(); err != nil {
			t.Errorf("flush: %v", err)
		}
	})
	m.set("", false)
	p, err := pc.Get(tx, pid)
	if err != nil || p.Value != "a,b,0,1,c" { // that Link had won before it panicked
		t.Errorf("page holds %q, want \"a,b,0,1,c\", error %v", p.Value, err)
	}
	if n, err := pc.Flush(); err != nil || n != 0 { // a read writes nothing, however long the page is
		t.Errorf("a Get has written %d bytes, error %v", n, err)
	}
	const links = 40 // more than may come before a Link waits for the goroutine that consolidates
	want := p.Value + strings.Repeat(",d", links)
	enginetest.Soon(t, "Links after panics", func() {
		ptr := p.Ptr
		for range links {
			if ptr, won, err = pc.Link(tx, pid, ptr, "d"); err != nil || !won {
				t.Error(won, err)
			}
		}
	})
	if other, _, err := pc.Allocate(tx, "y"); err != nil || other != pid+1 {
		t.Errorf("allocated page %d, want %d, error %v", other, pid+1, err)
	}
	tx.End()
	enginetest.Close(t, pc)

	pc, tx = openScripted(t, d, m)
	m.set("Decode", false)
	bombed(t, "Get from the disk", func() { _, _ = pc.Get(tx, pid) })
	bombed(t, "Fragments from the disk", func() { _, _, _ = pc.Fragments(tx, pid) })
	m.set("Size", false)
	bombed(t, "Get that makes the page resident", func() { _, _ = pc.Get(tx, pid) })
	m.set("", false)
	if p, err := pc.Get(tx, pid); err != nil || p.Value != want {
		t.Errorf("page holds %q, want %q, error %v", p.Value, want, err)
	}
	tx.End()
	if n := pc.Stats().Txs.Open; n != 0 {
		t.Errorf("%d Txs are open, want 0", n)
	}
	enginetest.Soon(t, "Close after panics", func() {
		if err := pc.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

// While Decode fails on a page, each Get of the page returns that error, and writes to the page work. Once Decode
// works, Get returns the page with all writes.
func TestDecodeErrorIsTemporary(t *testing.T) {
	d, m := simdisk.New(3, simdisk.Options{}), &scripted{}
	pc, tx := openScripted(t, d, m)
	pid, _, err := pc.Allocate(tx, "old")
	if err != nil {
		t.Fatal(err)
	}
	tx.End()
	enginetest.Close(t, pc)
	pc, tx = openScripted(t, d, m)
	m.set("", true)
	for range 2 {
		if _, err := pc.Get(tx, pid); !errors.Is(err, errRefused) || errors.Is(err, engine.ErrCorrupt) {
			t.Errorf("Get: error %v, want that of Decode", err)
		}
		if _, _, err := pc.Fragments(tx, pid); !errors.Is(err, errRefused) {
			t.Errorf("Fragments: error %v, want that of Decode", err)
		}
	}
	if other, _, err := pc.Allocate(tx, "new"); err != nil || other == pid {
		t.Errorf("allocated page %d, which is in use, error %v", other, err)
	}
	// A zero state loses. The current state is known, although the value is not.
	now, won, err := pc.Link(tx, pid, engine.PagePtr[string]{}, "+")
	if err != nil || won || now.IsZero() {
		t.Fatal(won, err)
	}
	for range 4 { // five fragments, more than ConsolidateAfter: the page cannot be consolidated, and the deltas stay
		if now, won, err = pc.Link(tx, pid, now, "+"); err != nil || !won {
			t.Fatal(won, err)
		}
	}
	if _, err := pc.Get(tx, pid); !errors.Is(err, errRefused) {
		t.Errorf("Get: error %v, want that of Decode", err)
	}
	m.set("", false)
	if p, err := pc.Get(tx, pid); err != nil || p.Value != "old,+,+,+,+" {
		t.Errorf("page holds %q, want \"old,+,+,+,+\", error %v", p.Value, err)
	}
	tx.End()
	enginetest.Close(t, pc)
}

// A value that Decode refuses is not written: Link, Replace and Allocate return the error of Decode, and nothing was
// done.
func TestRefusedValueIsNotWritten(t *testing.T) {
	d, m := simdisk.New(5, simdisk.Options{}), &scripted{}
	pc, tx := openScripted(t, d, m)
	pid, ptr, err := pc.Allocate(tx, "good")
	if err != nil {
		t.Fatal(err)
	}
	m.set("", true)
	before := pc.Stats()
	if _, _, err := pc.Allocate(tx, "old"); !errors.Is(err, errRefused) {
		t.Errorf("Allocate: error %v, want that of Decode", err)
	}
	if _, won, err := pc.Link(tx, pid, ptr, "old"); won || !errors.Is(err, errRefused) {
		t.Errorf("Link: %v, error %v, want that of Decode", won, err)
	}
	if _, won, err := pc.Replace(tx, pid, ptr, "old"); won || !errors.Is(err, errRefused) {
		t.Errorf("Replace: %v, error %v, want that of Decode", won, err)
	}
	if now := pc.Stats(); now.Log.BytesGiven != before.Log.BytesGiven || now.Pages != before.Pages {
		t.Errorf("refused values changed the counts from %+v to %+v", before, now)
	}
	if _, won, err := pc.Link(tx, pid, ptr, "better"); err != nil || !won {
		t.Error(won, err)
	}
	tx.End()
	enginetest.Close(t, pc)
}

// plain is Bytes as another type, so that the store takes the code path of other Materializers.
type plain struct{ engine.Bytes }

// A store of byte strings is the same through the code path of Bytes and through that of other Materializers. Values do
// not share memory with the scratch buffer in which a Tx encodes fragments.
func TestBytesAndOtherMaterializersAgree(t *testing.T) {
	d := simdisk.New(4, simdisk.Options{})
	want := map[engine.PageID][]byte{}
	for round := range 4 {
		var m engine.Materializer[[]byte] = engine.Bytes{}
		if round%2 == 0 {
			m = plain{}
		}
		pc := enginetest.OpenWith(t, "/store", m, enginetest.SimOptions(d))
		tx := enginetest.Begin(t, pc)
		for i := range 20 {
			pid, ptr, err := pc.Allocate(tx, bytes.Repeat([]byte{byte(i)}, i))
			if err != nil {
				t.Fatal(err)
			}
			enginetest.Must(t)(pc.Link(tx, pid, ptr, []byte{0xff}))
			want[pid] = append(bytes.Repeat([]byte{byte(i)}, i), 0xff)
		}
		for pid, v := range want {
			if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, v) {
				t.Fatalf("round %d: page %d holds %x, want %x, error %v", round, pid, p.Value, v, err)
			}
		}
		tx.End()
		enginetest.Close(t, pc)
	}
	if n := (engine.Bytes{}).Size(make([]byte, 100)); n < 100 {
		t.Errorf("Size of 100 bytes is %d", n)
	}
}
