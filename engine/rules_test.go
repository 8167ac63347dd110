package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/logstore"
)

// A value made by merging or consolidating shares no memory with the fragments that it was made from. Proves rule 3.
func TestMergedValuesAliasNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pc := enginetest.Open(t, dir, &engine.Options{ConsolidateAfter: 3})
	tx := enginetest.Begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("base"))
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Must(t)(pc.Link(tx, pid, ptr, []byte("one")))
	tx.End()
	enginetest.Close(t, pc)

	pc = enginetest.Open(t, dir, &engine.Options{ConsolidateAfter: 3})
	tx = enginetest.Begin(t, pc)
	defer tx.End()
	p, err := pc.Get(tx, pid) // two messages, read from the map
	if err != nil || string(p.Value) != "baseone" {
		t.Fatalf("page holds %q, want \"baseone\", error %v", p.Value, err)
	}
	before := p.Value
	ptr = p.Ptr
	for i := range 4 {
		ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, fmt.Appendf(nil, "+%d", i)))
	}
	p, err = pc.Get(tx, pid)
	if err != nil || string(p.Value) != "baseone+0+1+2+3" {
		t.Fatalf("page holds %q, want \"baseone+0+1+2+3\", error %v", p.Value, err)
	}
	if &before[0] == &p.Value[0] {
		t.Error("the consolidated value shares memory with an older value")
	}
	for _, f := range [][]byte{before} {
		if m := (engine.Bytes{}).Merge([][]byte{f, []byte("x")}); &m[0] == &f[0] {
			t.Error("the result of Merge shares memory with a fragment")
		}
	}
}

// Allocate returns a page id again only after a Free that won, and only once no Tx can see the page. Trap 2.
func TestFreedIDsWaitForReaders(t *testing.T) {
	pc := enginetest.Open(t, t.TempDir(), nil)
	tx := enginetest.Begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	reader := enginetest.Begin(t, pc)
	enginetest.Must(t)(pc.Free(tx, pid, ptr))
	if now, won, err := pc.Free(tx, pid, ptr); err != nil || won || !now.IsZero() {
		t.Fatalf("second Free: won %v, state %v, error %v", won, now, err)
	}
	if p, err := pc.Get(tx, pid); err != nil || p.Kind != engine.KindFree {
		t.Fatalf("page is %v, want %v, error %v", p.Kind, engine.KindFree, err)
	}
	tx.End()
	tx = enginetest.Begin(t, pc)
	if other, _, err := pc.Allocate(tx, nil); err != nil || other == pid {
		t.Fatalf("allocated page %d while a reader could see it, error %v", other, err)
	}
	reader.End()
	tx.End()
	tx = enginetest.Begin(t, pc)
	defer tx.End()
	if again, _, err := pc.Allocate(tx, nil); err != nil || again != pid {
		t.Fatalf("allocated page %d, want %d again, error %v", again, pid, err)
	}
	if more, _, err := pc.Allocate(tx, nil); err != nil || more == pid {
		t.Fatalf("allocated page %d twice, error %v", more, err)
	}
}

// A value that a Tx has read does not change while other Txs overwrite its page over many segments. Trap 9.
func TestHeldValueOutlivesSegments(t *testing.T) {
	dir := t.TempDir()
	o := &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, ConsolidateAfter: 2}
	pc := enginetest.Open(t, dir, o)
	tx := enginetest.Begin(t, pc)
	want := bytes.Repeat([]byte("seen"), 500)
	pid, _, err := pc.Allocate(tx, want)
	if err != nil {
		t.Fatal(err)
	}
	tx.End()
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, dir, o)
	reader := enginetest.Begin(t, pc)
	seen, err := pc.Get(reader, pid)
	if err != nil {
		t.Fatal(err)
	}
	ptr := seen.Ptr
	for i := range 400 {
		tx := enginetest.Begin(t, pc)
		ptr = enginetest.Must(t)(pc.Replace(tx, pid, ptr, bytes.Repeat([]byte{byte(i)}, 1000)))
		tx.End()
	}
	if !bytes.Equal(seen.Value, want) {
		t.Fatal("a value changed before its Tx ended")
	}
	reader.End()
}

// An Open of a store that is in use waits for LockPatience, then returns ErrLocked. If the store is closed meanwhile,
// the Open succeeds. Trap 19.
func TestOpenWaitsForLock(t *testing.T) {
	dir := t.TempDir()
	// Nothing is written to the store: the waiters of a log are pooled, and their channels must not leave the bubble.
	synctest.Test(t, func(t *testing.T) {
		pc := enginetest.Open(t, dir, nil)
		start := time.Now()
		if _, err := engine.Open(dir, engine.Bytes{}, nil); !errors.Is(err, engine.ErrLocked) {
			t.Fatalf("second opening: error %v, want ErrLocked", err)
		}
		if d := time.Since(start); d < logstore.LockPatience || d > logstore.LockPatience*11/10 {
			t.Errorf("the second opening failed after %v, want %v", d, logstore.LockPatience)
		}
		closed := make(chan error, 1)
		time.AfterFunc(logstore.LockPatience/10, func() { closed <- pc.Close() })
		second := enginetest.Open(t, dir, nil)
		if err := <-closed; err != nil {
			t.Errorf("close: %v", err)
		}
		if !second.WasRecovered() {
			t.Error("WasRecovered is false")
		}
		enginetest.Close(t, second)
	})
}

// A chain of 30,000 fragments is recovered, read and merged: no step recurses over it. Trap 17.
func TestLongChains(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const links = 30_000
	// A cleaner would merge the fragments, if the machine is so slow that the store idles meanwhile.
	o := &engine.Options{ConsolidateAfter: 1 << 20, SegmentMode: engine.SegmentModeLinear}
	pc := enginetest.Open(t, dir, o)
	tx := enginetest.Begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte{1})
	if err != nil {
		t.Fatal(err)
	}
	for i := range links {
		ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, []byte{byte(i)}))
	}
	tx.End()
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, dir, o)
	tx = enginetest.Begin(t, pc)
	defer tx.End()
	_, frags, err := pc.Fragments(tx, pid)
	if err != nil || len(frags) != links+1 || frags[links][0] != 1 {
		t.Fatalf("%d fragments, want %d, error %v", len(frags), links+1, err)
	}
	if p, err := pc.Get(tx, pid); err != nil || len(p.Value) != links+1 {
		t.Fatalf("page holds %d bytes, want %d, error %v", len(p.Value), links+1, err)
	}
}
