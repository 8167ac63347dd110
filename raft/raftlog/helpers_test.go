package raftlog_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/engine/pagetest"
	"pagecache/raft/raftlog"
)

// simDir is the directory of stores on simulated disks.
const simDir = "/raft"

// small returns options with segments of 16 KiB, so that little data fills many.
func small() *engine.Options {
	return &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1}
}

// openSim opens a store on a simulated disk.
func openSim(t testing.TB, d *pagetest.Disk) *raftlog.Store {
	t.Helper()
	s, err := raftlog.Open(simDir, &raftlog.Options{Log: d.Options(small())})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// openDir opens a store in a directory.
func openDir(t testing.TB, dir string) *raftlog.Store {
	t.Helper()
	s, err := raftlog.Open(dir, &raftlog.Options{Log: small()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// closed closes a store at the end of the test.
func closed(t testing.TB, s interface{ Close() error }) {
	t.Helper()
	t.Cleanup(func() { must(t, s.Close()) })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// isLong reports whether entryOf makes entries of a term that are longer than segments of 16 KiB.
func isLong(term uint64) bool { return term%50 == 49 }

// entryOf returns an entry whose contents follow from its index and term.
func entryOf(index, term uint64) *raft.Log {
	rng := rand.New(rand.NewPCG(index, term))
	l := &raft.Log{
		Index: index, Term: term, Type: raft.LogType(rng.IntN(6)),
		AppendedAt: time.Unix(1_700_000_000+int64(index), int64(rng.IntN(1e9))).UTC(),
	}
	size := rng.IntN(300)
	if rng.IntN(20) == 0 {
		size = rng.IntN(5000)
	}
	if isLong(term) {
		size = 16<<10 + rng.IntN(20<<10)
	}
	l.Data = fmt.Appendf(nil, "entry %d of term %d ", index, term)
	for len(l.Data) < size {
		l.Data = append(l.Data, byte(rng.Uint32()))
	}
	if rng.IntN(4) == 0 {
		l.Extensions = []byte("extension")
	}
	return l
}

// entries returns n entries from index first on.
func entries(first uint64, n int, term uint64) (logs []*raft.Log) {
	for i := range uint64(n) {
		logs = append(logs, entryOf(first+i, term))
	}
	return logs
}

// store stores n entries from index first on, in one call.
func store(t testing.TB, s raft.LogStore, first uint64, n int) {
	t.Helper()
	must(t, s.StoreLogs(entries(first, n, 1)))
}

// sameEntry returns an error if two entries differ.
func sameEntry(got, want *raft.Log) error {
	g, w := *got, *want
	if !g.AppendedAt.Equal(w.AppendedAt) {
		return fmt.Errorf("entry %d was appended at %v, want %v", w.Index, g.AppendedAt, w.AppendedAt)
	}
	g.AppendedAt, w.AppendedAt = time.Time{}, time.Time{}
	if !reflect.DeepEqual(g, w) {
		const text = "entry %d of term %d, type %v, %d bytes %.40q, extensions %q, " +
			"want index %d, term %d, type %v, %d bytes %.40q, %q"
		return fmt.Errorf(text, g.Index, g.Term, g.Type, len(g.Data), g.Data, g.Extensions, w.Index, w.Term, w.Type,
			len(w.Data), w.Data, w.Extensions)
	}
	return nil
}

// bounds returns the first and the last index of a store.
func bounds(t testing.TB, s raft.LogStore) (first, last uint64) {
	t.Helper()
	first, err := s.FirstIndex()
	must(t, err)
	last, err = s.LastIndex()
	must(t, err)
	return first, last
}

// wantEntries fails the test unless the store has exactly the entries of term 1 from first to last.
func wantEntries(t testing.TB, s raft.LogStore, first, last uint64) {
	t.Helper()
	if f, l := bounds(t, s); f != first || l != last {
		t.Fatalf("the store has entries %d to %d, want %d to %d", f, l, first, last)
	}
	var got raft.Log
	for i := first; i <= last && i > 0; i++ {
		if err := s.GetLog(i, &got); err != nil {
			t.Fatalf("entry %d of %d to %d: %v", i, first, last, err)
		}
		must(t, sameEntry(&got, entryOf(i, 1)))
	}
	for _, i := range []uint64{0, first - 1, last + 1, last + 1000} {
		if i >= first && i <= last && i > 0 {
			continue
		}
		if err := s.GetLog(i, &got); err != raft.ErrLogNotFound {
			t.Fatalf("entry %d beyond %d to %d: %v, want raft.ErrLogNotFound itself", i, first, last, err)
		}
	}
}

// wantValue fails the test unless a key has a value; nil: there is no such key.
func wantValue(t testing.TB, s raft.StableStore, key string, want []byte) {
	t.Helper()
	got, err := s.Get([]byte(key))
	switch {
	case want == nil && !errors.Is(err, raftlog.ErrKeyNotFound):
		t.Fatalf("key %q: %q, %v, want none", key, got, err)
	case want != nil && (err != nil || !bytes.Equal(got, want)):
		t.Fatalf("key %q: %q, %v, want %q", key, got, err, want)
	}
}

// wantNumber fails the test unless a key has a number.
func wantNumber(t testing.TB, s raft.StableStore, key string, want uint64) {
	t.Helper()
	if got, err := s.GetUint64([]byte(key)); err != nil || got != want {
		t.Fatalf("key %q: %d, %v, want %d", key, got, err, want)
	}
}
