package engine_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/invariants"
	"pagecache/internal/simdisk"
)

// The fragments that a call had to read stay resident: 1000 calls on an evicted page of 6 messages read 6, once. They
// are evicted like others. The page's state stays, and Get reads nothing more. Proves rule 6.
func TestFragmentsReadOnce(t *testing.T) {
	for name, o := range map[string]engine.Options{
		"views":      {},
		"copies":     {CopyOnRead: true},
		"compressed": {Compression: engine.CompressionZstd, CompressionLevel: 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := enginetest.SimOptions(simdisk.New(1, simdisk.Options{}))
			s.CopyOnRead, s.Compression, s.CompressionLevel = o.CopyOnRead, o.Compression, o.CompressionLevel
			fragmentsReadOnce(t, s)
		})
	}
}

func fragmentsReadOnce(t *testing.T, o *engine.Options) {
	const messages, calls = 6, 1000
	pc := enginetest.Open(t, "/store", o)
	tx := enginetest.Begin(t, pc)
	want := []string{strings.Repeat("base", 100)}
	pid, ptr, err := pc.Allocate(tx, []byte(want[0]))
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages - 1 {
		want = append(want, strings.Repeat(fmt.Sprint("delta", i), 20))
		ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, []byte(want[i+1])))
	}
	slices.Reverse(want)
	read := func(turn string) {
		t.Helper()
		enginetest.Flush(t, pc)
		engine.Evict(pc, tx, pid)
		before, bytes := pc.Stats(), pc.Stats().Cache.HeapResident
		dst := make([][]byte, 0, messages)
		for range calls {
			now, frags, err := pc.AppendFragments(tx, pid, dst[:0])
			if err != nil || fmt.Sprintf("%s", frags) != fmt.Sprint(want) || now != ptr {
				t.Fatalf("%s: fragments %s in state %+v, want %s in %+v, error %v", turn, frags, now, want, ptr, err)
			}
			if n := cap(frags[0]) - len(frags[0]); n != 0 {
				t.Fatalf("%s: a fragment has room for %d bytes behind it", turn, n)
			}
		}
		st := pc.Stats()
		if n := st.Pages.Fetches - before.Pages.Fetches; n != messages {
			t.Errorf("%s: %d fragments were read, want %d", turn, n, messages)
		}
		if n := st.Cache.Misses - before.Cache.Misses; n != 1 {
			t.Errorf("%s: %d misses, want 1", turn, n)
		}
		if n := st.Cache.HeapResident + st.Cache.MappedResident; n <= bytes {
			t.Errorf("%s: %d bytes are resident, none more than before", turn, n)
		}
		n := testing.AllocsPerRun(100, func() { _, _, _ = pc.AppendFragments(tx, pid, dst) })
		if n != 0 && !invariants.Enabled {
			t.Errorf("%s: AppendFragments allocates %v times for a resident page", turn, n)
		}
	}
	if err := pc.SetCacheCapacity(4096); err != nil { // so small that accounts are settled at once
		t.Fatal(err)
	}
	read("evicted")
	read("evicted again")

	// Below deltas that are resident. The timestamps of the state are known only now.
	tx.End()
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, "/store", o)
	tx = enginetest.Begin(t, pc)
	if ptr, _, err = pc.State(tx, pid); err != nil {
		t.Fatal(err)
	}
	old := ptr
	ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, []byte("blind")))
	want = append([]string{"blind"}, want...)
	for range calls {
		now, frags, err := pc.Fragments(tx, pid)
		if err != nil || fmt.Sprintf("%s", frags) != fmt.Sprint(want) || now != ptr {
			t.Fatalf("fragments %s in state %+v, want %s in %+v, error %v", frags, now, want, ptr, err)
		}
	}
	if n := pc.Stats().Pages.Fetches; n != messages {
		t.Errorf("below a delta, %d fragments were read, want %d", n, messages)
	}
	if _, won, err := pc.Link(tx, pid, old, []byte("lost")); won || err != nil {
		t.Errorf("Link from a superseded state: won %v, error %v", won, err)
	}
	ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, []byte("last")))
	slices.Reverse(want)
	value := strings.Join(want, "") + "last"
	if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != value || p.Ptr != ptr {
		t.Errorf("Get: %q in state %+v, want %q in %+v, error %v", p.Value, p.Ptr, value, ptr, err)
	}
	if n := pc.Stats().Pages.Fetches; n != messages {
		t.Errorf("after Get, %d fragments were read, want %d", n, messages)
	}
	tx.End()
	enginetest.Close(t, pc)
}

// Fragments of a type that copies what it decodes stay resident, too.
func TestFragmentsOfStringsReadOnce(t *testing.T) {
	o := enginetest.SimOptions(simdisk.New(1, simdisk.Options{}))
	pc := enginetest.OpenWith(t, "/store", upper{}, o)
	tx := enginetest.Begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, "A")
	won := true
	for _, s := range []string{"B", "C"} {
		if err == nil && won {
			ptr, won, err = pc.Link(tx, pid, ptr, s)
		}
	}
	if err != nil || !won {
		t.Fatal(won, err)
	}
	tx.End()
	enginetest.Close(t, pc)
	pc = enginetest.OpenWith(t, "/store", upper{}, o)
	tx = enginetest.Begin(t, pc)
	for range 10 {
		if _, frags, err := pc.Fragments(tx, pid); err != nil || fmt.Sprint(frags) != "[C B A]" {
			t.Fatalf("fragments %v, error %v", frags, err)
		}
	}
	if n := pc.Stats().Pages.Fetches; n != 3 {
		t.Errorf("%d fragments were read, want 3", n)
	}
	tx.End()
	enginetest.Close(t, pc)
}

// AppendFragments appends to what it is given, and returns that as it was if there is no such page, or after an error.
func TestAppendFragments(t *testing.T) {
	pc, tx := simPages(t, 0)
	pid := enginetest.AllocateMany(t, pc, 1, 3)[0]
	dst := append(make([][]byte, 0, 8), []byte("first"))
	all := map[engine.PageID]string{pid: "[first aaa]", pid + 1: "[first]", 0: "[first]", 1: "[first]"}
	for pid, want := range all {
		ptr, frags, err := pc.AppendFragments(tx, pid, dst)
		if got := fmt.Sprintf("%s", frags); got != want || &frags[0] != &dst[0] || ptr.IsZero() != (want == "[first]") {
			t.Errorf("page %d: %s, want %s, state %+v, error %v", pid, got, want, ptr, err)
		}
	}
	if _, frags, err := pc.AppendFragments(nil, pid, dst); err == nil || len(frags) != 1 {
		t.Errorf("without a Tx: %d fragments, error %v", len(frags), err)
	}
}

// BenchmarkFragments measures Fragments, and AppendFragments, of a resident page of 6 messages that was read from disk.
func BenchmarkFragments(b *testing.B) {
	pc := enginetest.Open(b, b.TempDir(), nil)
	tx := enginetest.Begin(b, pc)
	pid, ptr, err := pc.Allocate(tx, make([]byte, 1000))
	for range 5 {
		if err == nil {
			ptr, _, err = pc.Link(tx, pid, ptr, make([]byte, 100))
		}
	}
	if err != nil {
		b.Fatal(err)
	}
	enginetest.Flush(b, pc)
	engine.Evict(pc, tx, pid)
	for _, appended := range []bool{false, true} {
		b.Run(fmt.Sprintf("append=%v", appended), func(b *testing.B) {
			var dst [][]byte
			if appended {
				dst = make([][]byte, 0, 8)
			}
			b.ReportAllocs()
			for range b.N {
				if _, frags, err := pc.AppendFragments(tx, pid, dst); err != nil || len(frags) != 6 {
					b.Fatal(len(frags), err)
				}
			}
		})
	}
	tx.End()
}
