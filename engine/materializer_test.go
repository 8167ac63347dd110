package engine

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"pagecache/internal/simdisk"
)

// scripted is a Materializer of lists whose encoding is not what is in memory: hexadecimal. It notes what Merge is given, and panics or
// fails where it is told to.
type scripted struct {
	mu     sync.Mutex
	merges [][]string
	bomb   string // the method that panics
	refuse bool   // Decode fails
}

var errRefused = errors.New("refused")

func (m *scripted) at(method string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bomb == method {
		panic("bomb in " + method)
	}
}

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

func (m *scripted) Size(frag string) int { return len(frag) }

func (m *scripted) Append(dst []byte, frag string) []byte {
	m.at("Append")
	return hex.AppendEncode(dst, []byte(frag))
}

func (m *scripted) Decode(src []byte) (string, error) {
	m.at("Decode")
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse {
		return "", errRefused
	}
	b, err := hex.AppendDecode(nil, src)
	return string(b), err
}

func openScripted(t *testing.T, d *simdisk.Disk, m *scripted) (*PageCache[string], *Tx) {
	t.Helper()
	o := simOptions(d)
	o.ConsolidateAfter = 4
	pc, err := Open("/store", m, o)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := pc.Begin()
	if err != nil {
		t.Fatal(err)
	}
	return pc, tx
}

// Merge is given the fragments oldest first, never fewer than two, and what it made is not merged again while nothing changes. What was
// encoded comes back as it was, deltas and pages that were rewritten.
func TestMergeOrder(t *testing.T) {
	d, m := simdisk.New(1, simdisk.Options{}), &scripted{}
	pc, tx := openScripted(t, d, m)
	pid, ptr, err := pc.Allocate(tx, "0")
	if err != nil {
		t.Fatal(err)
	}
	want := "0"
	get := func(again string) {
		t.Helper()
		for range 3 {
			if p, err := pc.Get(tx, pid); err != nil || p.Value != want {
				t.Fatalf("%q, want %q, %v", p.Value, want, err)
			}
		}
		if got := fmt.Sprint(m.merges); got != again {
			t.Errorf("merged %s, want %s", got, again)
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
		case 4: // one above ConsolidateAfter: it was rewritten
			get("[[0,1,2 3 4]]")
		}
	}
	get("[[0,1,2,3,4 5 6 7]]")
	tx.End()
	closeTest(t, pc)
	pc, tx = openScripted(t, d, m)
	get("[[0,1,2,3,4 5 6 7]]")
	tx.End()
	closeTest(t, pc)
}

// bombed calls f, which must panic with the Materializer's own words.
func bombed(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if r := recover(); r == nil || !strings.HasPrefix(fmt.Sprint(r), "bomb in ") {
			t.Errorf("%s: recovered %v", what, r)
		}
	}()
	f()
}

// A Materializer that panics leaves the store whole: no lock, no place in the log and no Tx is held, nothing is half done, and all goes
// on when it behaves again. O5.
func TestMaterializerPanics(t *testing.T) {
	d, m := simdisk.New(2, simdisk.Options{}), &scripted{}
	pc, tx := openScripted(t, d, m)
	pid, ptr, err := pc.Allocate(tx, "a")
	if err != nil {
		t.Fatal(err)
	}
	m.set("Append", false)
	before := pc.Stats()
	bombed(t, "Allocate", func() { _, _, _ = pc.Allocate(tx, "x") })
	bombed(t, "Link", func() { _, _, _ = pc.Link(tx, pid, ptr, "x") })
	bombed(t, "Replace", func() { _, _, _ = pc.Replace(tx, pid, ptr, "x") })
	if after := pc.Stats(); after.Pages.InUse != before.Pages.InUse || after.Space.LiveBytes != before.Space.LiveBytes {
		t.Errorf("%+v, before %+v", after, before)
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
	bombed(t, "Fragments", func() { _, _, _ = pc.Fragments(tx, pid) })
	soon(t, "Flush after panics", func() {
		if _, err := pc.Flush(); err != nil {
			t.Error(err)
		}
	})
	m.set("", false)
	if p, err := pc.Get(tx, pid); err != nil || p.Value != "a,b,0,1,c" { // that Link had won before it panicked
		t.Errorf("%q, %v", p.Value, err)
	}
	if other, _, err := pc.Allocate(tx, "y"); err != nil || other != pid+1 {
		t.Errorf("page %d, %v", other, err)
	}
	tx.End()
	closeTest(t, pc)

	pc, tx = openScripted(t, d, m)
	m.set("Decode", false)
	bombed(t, "Get from the disk", func() { _, _ = pc.Get(tx, pid) })
	bombed(t, "Fragments from the disk", func() { _, _, _ = pc.Fragments(tx, pid) })
	m.set("", false)
	if p, err := pc.Get(tx, pid); err != nil || p.Value != "a,b,0,1,c" {
		t.Errorf("%q, %v", p.Value, err)
	}
	tx.End()
	if n := pc.Stats().Txs.Open; n != 0 {
		t.Errorf("%d Txs are open", n)
	}
	soon(t, "Close after panics", func() { closeTest(t, pc) })
}

// What Decode refuses is refused each time, and read once it does not; writing to the page works meanwhile.
func TestDecodeRefusesForATime(t *testing.T) {
	d, m := simdisk.New(3, simdisk.Options{}), &scripted{}
	pc, tx := openScripted(t, d, m)
	pid, _, err := pc.Allocate(tx, "old")
	if err != nil {
		t.Fatal(err)
	}
	tx.End()
	closeTest(t, pc)
	pc, tx = openScripted(t, d, m)
	m.set("", true)
	for range 2 {
		if _, err := pc.Get(tx, pid); !errors.Is(err, errRefused) || errors.Is(err, ErrCorrupt) {
			t.Errorf("Get: %v", err)
		}
		if _, _, err := pc.Fragments(tx, pid); !errors.Is(err, errRefused) {
			t.Errorf("Fragments: %v", err)
		}
	}
	if other, _, err := pc.Allocate(tx, "new"); err != nil || other == pid {
		t.Errorf("page %d, %v", other, err)
	}
	now, won, err := pc.Link(tx, pid, PagePtr[string]{}, "+") // the current state is known, the value is not
	if err != nil || won || now.IsZero() {
		t.Fatal(won, err)
	}
	for range 4 { // more than ConsolidateAfter: it cannot be consolidated, and the deltas stay
		if now, won, err = pc.Link(tx, pid, now, "+"); err != nil || !won {
			t.Fatal(won, err)
		}
	}
	if _, err := pc.Get(tx, pid); !errors.Is(err, errRefused) {
		t.Errorf("Get: %v", err)
	}
	m.set("", false)
	if p, err := pc.Get(tx, pid); err != nil || p.Value != "old,+,+,+,+" {
		t.Errorf("%q, %v", p.Value, err)
	}
	tx.End()
	closeTest(t, pc)
}

// plain is Bytes by another name, so that the store takes the way of other Materializers.
type plain struct{ Bytes }

// A store of byte strings is the same whichever of the two ways it is written and read. The memory of a Tx in which fragments are encoded
// is not that of the values.
func TestBytesByAnotherName(t *testing.T) {
	d := simdisk.New(4, simdisk.Options{})
	want := map[PageID][]byte{}
	for round := range 4 {
		var pc *PageCache[[]byte]
		var err error
		if round%2 == 0 {
			pc, err = Open("/store", plain{}, simOptions(d))
		} else {
			pc, err = Open("/store", Bytes{}, simOptions(d))
		}
		if err != nil {
			t.Fatal(err)
		}
		tx := begin(t, pc)
		for i := range 20 {
			pid, ptr, err := pc.Allocate(tx, bytes.Repeat([]byte{byte(i)}, i))
			if err != nil {
				t.Fatal(err)
			}
			must(t)(pc.Link(tx, pid, ptr, []byte{0xff}))
			want[pid] = append(bytes.Repeat([]byte{byte(i)}, i), 0xff)
		}
		for pid, v := range want {
			if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, v) {
				t.Fatalf("round %d: page %d: %x, want %x, %v", round, pid, p.Value, v, err)
			}
		}
		tx.End()
		closeTest(t, pc)
	}
	if n := (Bytes{}).Size(make([]byte, 100)); n < 100 {
		t.Errorf("100 bytes take %d", n)
	}
}
