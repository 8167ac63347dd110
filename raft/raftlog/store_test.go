package raftlog_test

import (
	"bytes"
	"errors"
	"maps"
	"math"
	"sync"
	"testing"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/engine/pagetest"
	"pagecache/raft/raftlog"
)

// counts is a Metrics.
type counts struct {
	mu sync.Mutex
	n  map[string]uint64
}

func (c *counts) IncrementCounter(name string, delta uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]uint64{}
	}
	c.n[name] += delta
}

// Entries are stored one by one and many at once, over many segments, and are there after reopening.
func TestStoreLogs(t *testing.T) {
	pagetest.CheckLeaks(t)
	dir := t.TempDir() + "/raft"
	s := openDir(t, dir)
	wantEntries(t, s, 0, 0)
	next := uint64(1)
	for n := range 64 {
		store(t, s, next, n)
		next += uint64(n)
	}
	must(t, s.StoreLog(entryOf(next, 1)))
	wantEntries(t, s, 1, next)
	must(t, s.Close())
	s = openDir(t, dir)
	wantEntries(t, s, 1, next)
	store(t, s, next+1, 3)
	wantEntries(t, s, 1, next+3)
	pagetest.Close(t, simple{s}, small())
}

// simple is a Store with the Stats of its log.
type simple struct{ *raftlog.Store }

func (s simple) Stats() engine.Stats { return s.Log().Stats() }

// The first entry of an empty store may have any index but 0.
func TestFirstIndex(t *testing.T) {
	for _, first := range []uint64{1, 2, 10_000, math.MaxUint64 - 10} {
		s := openSim(t, pagetest.NewDisk(1))
		store(t, s, first, 3)
		wantEntries(t, s, first, first+2)
		must(t, s.DeleteRange(0, math.MaxUint64))
		wantEntries(t, s, 0, 0)
		store(t, s, first+5, 2)
		wantEntries(t, s, first+5, first+6)
		must(t, s.Close())
	}
}

// Entries that do not follow each other, or the last one, are refused, and nothing is stored.
func TestGaps(t *testing.T) {
	s := openSim(t, pagetest.NewDisk(1))
	closed(t, s)
	refused := func(logs ...*raft.Log) {
		t.Helper()
		if err := s.StoreLogs(logs); !errors.Is(err, raftlog.ErrGap) {
			t.Errorf("%v, want ErrGap", err)
		}
	}
	refused(entryOf(0, 1))
	refused(entryOf(0, 1), entryOf(1, 1))
	refused(entryOf(5, 1), entryOf(7, 1))
	refused(entryOf(math.MaxUint64, 1), entryOf(0, 1))
	wantEntries(t, s, 0, 0)
	store(t, s, 11, 10)
	refused(entryOf(22, 1))
	refused(entryOf(20, 1))
	refused(entryOf(11, 1))
	refused(entryOf(1, 1))
	refused(entryOf(21, 1), entryOf(22, 1), entryOf(24, 1))
	refused(entryOf(21, 1), entryOf(21, 1))
	must(t, s.StoreLogs(nil))
	wantEntries(t, s, 11, 20)
	store(t, s, 21, 1)
	wantEntries(t, s, 11, 21)
}

// DeleteRange removes the first entries, the last or all, refuses others, and counts those that it has removed. The
// store goes on behind the last one. All that is so after reopening.
func TestDeleteRange(t *testing.T) {
	const first, last = 1000, 1299
	for _, x := range []struct {
		name        string
		min, max    uint64
		err         error
		first, last uint64
	}{
		{"empty range", 1000, 999, nil, first, last},
		{"before the first", 0, 999, nil, first, last},
		{"behind the last", 1300, 5000, nil, first, last},
		{"middle", 1010, 1020, raftlog.ErrMiddle, first, last},
		{"all but two", 1001, 1298, raftlog.ErrMiddle, first, last},
		{"first one", 1000, 1000, nil, 1001, last},
		{"first ones", 0, 1010, nil, 1011, last},
		{"first segments", 1000, 1250, nil, 1251, last},
		{"all but the last", 1, 1298, nil, last, last},
		{"all", 1000, 1299, nil, 0, 0},
		{"all and more", 1, 2000, nil, 0, 0},
		{"all there could be", 0, math.MaxUint64, nil, 0, 0},
		{"last one", 1299, 1299, nil, first, 1298},
		{"last ones", 1290, 1400, nil, first, 1289},
		{"last segments", 1051, math.MaxUint64, nil, first, 1050},
		{"all but the first", 1001, 1299, nil, first, first},
	} {
		t.Run(x.name, func(t *testing.T) {
			d := pagetest.NewDisk(1)
			var c counts
			o := &raftlog.Options{Log: d.Options(small()), Metrics: &c}
			s, err := raftlog.Open(simDir, o)
			must(t, err)
			store(t, s, first, last-first+1)
			c.n = nil
			if err := s.DeleteRange(x.min, x.max); !errors.Is(err, x.err) {
				t.Fatalf("%v, want %v", err, x.err)
			}
			want := map[string]uint64{}
			switch {
			case x.first == 0:
				want["head_truncations"] = last - first + 1
			case x.first > first:
				want["head_truncations"] = x.first - first
			case x.last < last:
				want["tail_truncations"] = last - x.last
			}
			if !maps.Equal(c.n, want) {
				t.Errorf("metrics %v, want %v", c.n, want)
			}
			wantEntries(t, s, x.first, x.last)
			must(t, s.Close())
			s = openSim(t, d)
			defer func() { must(t, s.Close()) }()
			wantEntries(t, s, x.first, x.last)
			store(t, s, x.last+1, 100)
			wantEntries(t, s, max(x.first, 1), x.last+100)
		})
	}
}

// Entries that were deleted stay away when other entries get their indexes, also after a crash.
func TestRewrittenEntries(t *testing.T) {
	d := pagetest.NewDisk(1)
	s := openSim(t, d)
	store(t, s, 1, 100)
	want := entries(1, 100, 1)
	for term := uint64(2); term < 10; term++ {
		from := 100 - 10*(term-1)
		must(t, s.DeleteRange(from, 100))
		logs := entries(from, int(101-from), term)
		must(t, s.StoreLogs(logs))
		want = append(want[:from-1], logs...)
		if term%2 == 0 {
			d = d.Crash()
			_ = s.Close() // its disk has crashed
			s = openSim(t, d)
		}
		var got raft.Log
		for _, w := range want {
			must(t, s.GetLog(w.Index, &got))
			must(t, sameEntry(&got, w))
		}
	}
	must(t, s.Close())
}

// A call with more entries than a segment holds stores all of them, and so does one with an entry that is longer than a
// segment, wherever that entry is. One with an entry beyond the limit of records stores none, and the store goes on.
func TestLargeBatches(t *testing.T) {
	s := openSim(t, pagetest.NewDisk(1))
	closed(t, s)
	store(t, s, 1, 2000)
	wantEntries(t, s, 1, 2000)
	logs := entries(2001, 40, 1)
	for _, size := range []int{11 << 10, 16<<10 - 300, 16<<10 - 1, 16 << 10, 100 << 10} {
		for at := range logs {
			short := logs[at].Data
			logs[at].Data = bytes.Repeat([]byte{byte(at)}, size)
			must(t, s.StoreLogs(logs))
			if _, last := bounds(t, s); last != 2040 {
				t.Fatalf("an entry of %d bytes at %d: the last entry is %d, want 2040", size, at, last)
			}
			var got raft.Log
			for _, l := range logs {
				must(t, s.GetLog(l.Index, &got))
				must(t, sameEntry(&got, l))
			}
			logs[at].Data = short
			must(t, s.DeleteRange(2001, 2040))
		}
	}
	for at := range logs {
		short := logs[at].Data
		logs[at].Data = make([]byte, 2<<20) // the limit in segments of 16 KiB is 1 MiB
		if err := s.StoreLogs(logs); !errors.Is(err, engine.ErrTooLarge) {
			t.Fatalf("an entry of 2 MiB: %v, want ErrTooLarge", err)
		}
		if _, last := bounds(t, s); last != 2000 {
			t.Fatalf("an entry of 2 MiB at %d: the last entry is %d, want 2000", at, last)
		}
		logs[at].Data = short
	}
	must(t, s.StoreLogs(logs))
	wantEntries(t, s, 1, 2040)
}

// The bytes of an entry belong to the caller: they change neither with later calls nor when the entry is deleted.
func TestGetLogCopies(t *testing.T) {
	s := openSim(t, pagetest.NewDisk(1))
	closed(t, s)
	store(t, s, 1, 500)
	var got []raft.Log
	for i := range uint64(500) {
		var l raft.Log
		must(t, s.GetLog(i+1, &l))
		got = append(got, l)
	}
	must(t, s.DeleteRange(1, 450))
	store(t, s, 501, 1000)
	for i := range got {
		must(t, sameEntry(&got[i], entryOf(uint64(i+1), 1)))
		_ = append(got[i].Data[:len(got[i].Data):cap(got[i].Data)], 'x')
	}
	for i := range got {
		must(t, sameEntry(&got[i], entryOf(uint64(i+1), 1)))
	}
}

// Store and Get do not keep the caller's memory.
func TestStoreLogsCopies(t *testing.T) {
	s := openSim(t, pagetest.NewDisk(1))
	closed(t, s)
	logs := entries(1, 10, 1)
	must(t, s.StoreLogs(logs))
	must(t, s.Set([]byte("key"), []byte("value")))
	for _, l := range logs {
		clear(l.Data)
		*l = raft.Log{}
	}
	val, err := s.Get([]byte("key"))
	must(t, err)
	clear(val)
	wantEntries(t, s, 1, 10)
	wantValue(t, s, "key", []byte("value"))
}

// After Close, every call fails with engine.ErrClosed, and Close does nothing.
func TestClosed(t *testing.T) {
	pagetest.CheckLeaks(t)
	s := openDir(t, t.TempDir()+"/raft")
	store(t, s, 1, 10)
	must(t, s.Set([]byte("key"), []byte("value")))
	must(t, s.Close())
	for name, call := range map[string]func() error{
		"FirstIndex":       func() error { _, err := s.FirstIndex(); return err },
		"LastIndex":        func() error { _, err := s.LastIndex(); return err },
		"GetLog":           func() error { return s.GetLog(1, new(raft.Log)) },
		"StoreLog":         func() error { return s.StoreLog(entryOf(11, 1)) },
		"StoreLogs":        func() error { return s.StoreLogs(entries(11, 2, 1)) },
		"DeleteRange":      func() error { return s.DeleteRange(1, 2) },
		"Set":              func() error { return s.Set([]byte("key"), []byte("other")) },
		"Get":              func() error { _, err := s.Get([]byte("key")); return err },
		"SetUint64":        func() error { return s.SetUint64([]byte("key"), 1) },
		"GetUint64":        func() error { _, err := s.GetUint64([]byte("key")); return err },
		"StageCommitIndex": func() error { return s.StageCommitIndex(1) },
		"GetCommitIndex":   func() error { _, err := s.GetCommitIndex(); return err },
	} {
		if err := call(); !errors.Is(err, engine.ErrClosed) {
			t.Errorf("%s: %v, want engine.ErrClosed", name, err)
		}
	}
	must(t, s.Close())
}

// The counts are those of raft-wal, and of what was done.
func TestMetrics(t *testing.T) {
	d := pagetest.NewDisk(1)
	var c counts
	s, err := raftlog.Open(simDir, &raftlog.Options{Log: d.Options(small()), Metrics: &c})
	must(t, err)
	closed(t, s)
	l := &raft.Log{Index: 1, Term: 1, Data: make([]byte, 100)}
	must(t, s.StoreLog(l))
	must(t, s.StoreLogs([]*raft.Log{{Index: 2, Term: 1}, {Index: 3, Term: 1}}))
	must(t, s.GetLog(1, l))
	_ = s.GetLog(9, l)
	must(t, s.Set([]byte("a"), nil))
	must(t, s.SetUint64([]byte("b"), 1))
	_, _ = s.Get([]byte("a"))
	_, _ = s.Get([]byte("none"))
	_, _ = s.GetUint64([]byte("b"))
	_ = s.StoreLog(l)
	must(t, s.DeleteRange(3, 3))
	must(t, s.DeleteRange(1, 1))
	want := map[string]uint64{
		"log_appends": 2, "log_entries_written": 3, "log_entry_bytes_written": 103 + 3 + 3, "log_entries_read": 1,
		"log_entry_bytes_read": 103, "stable_sets": 2, "stable_gets": 3, "head_truncations": 1, "tail_truncations": 1,
	}
	if !maps.Equal(c.n, want) {
		t.Errorf("metrics %v, want %v", c.n, want)
	}
}

// Neither a page store nor the records of another program are taken for a log of raft.
func TestForeignDirectories(t *testing.T) {
	d := pagetest.NewDisk(1)
	pc, err := engine.Open(simDir, engine.Bytes{}, d.Options(small()))
	must(t, err)
	must(t, pc.Close())
	if _, err := raftlog.Open(simDir, &raftlog.Options{Log: d.Options(small())}); !errors.Is(err, engine.ErrKind) {
		t.Errorf("a page store: %v, want engine.ErrKind", err)
	}
	for text, want := range map[string]error{"foreign": engine.ErrFormat, "\x10": engine.ErrCorrupt} {
		d := pagetest.NewDisk(1)
		l, err := engine.OpenLog(simDir, d.Options(small()))
		must(t, err)
		stream, err := l.Stream(0)
		must(t, err)
		_, err = stream.Append(5, []byte(text))
		must(t, err)
		must(t, l.Close())
		if _, err := raftlog.Open(simDir, &raftlog.Options{Log: d.Options(small())}); !errors.Is(err, want) {
			t.Errorf("a record %q: %v, want %v", text, err, want)
		}
		l, err = engine.OpenLog(simDir, d.Options(small())) // it was closed
		must(t, err)
		must(t, l.Close())
	}
}

// Bad options are errors of Open.
func TestBadOptions(t *testing.T) {
	if _, err := raftlog.Open(t.TempDir(), &raftlog.Options{Log: &engine.Options{IOBuffers: 1}}); err == nil {
		t.Error("no error")
	}
}

// Whatever block of a store rots, an entry is either returned as it was stored, or it is an error that wraps
// engine.ErrCorrupt, from Open on. No entry goes missing.
func TestCorruptEntries(t *testing.T) {
	d := pagetest.NewDisk(1)
	s := openSim(t, d)
	const last = 300
	store(t, s, 1, last)
	must(t, s.Close())
	name := ""
	for path, size := range d.Files() {
		if size >= 3*16<<10 {
			name = path
		}
	}
	size := d.Files()[name]
	refused, unreadable := 0, 0
	for off := int64(100); off < size; off += 1 << 10 {
		rotten := d.Crash() // a copy: everything is durable
		rotten.FlipBit(name, off, 3)
		s, err := raftlog.Open(simDir, &raftlog.Options{Log: rotten.Options(small())})
		if err != nil {
			if !errors.Is(err, engine.ErrCorrupt) {
				t.Fatalf("offset %d: %v, want ErrCorrupt", off, err)
			}
			refused++
			continue
		}
		if first, end := bounds(t, s); first != 1 || end != last {
			t.Fatalf("offset %d: entries %d to %d are left, without an error", off, first, end)
		}
		for i := uint64(1); i <= last; i++ {
			var got raft.Log
			err := s.GetLog(i, &got)
			if err == nil {
				err = sameEntry(&got, entryOf(i, 1))
			} else if errors.Is(err, engine.ErrCorrupt) {
				unreadable++
				err = nil
			}
			if err != nil {
				t.Fatalf("offset %d, entry %d: %v", off, i, err)
			}
		}
		_ = s.Close()
	}
	t.Logf("%d bytes: opening was refused %d times, and %d entries were unreadable", size, refused, unreadable)
	if unreadable == 0 {
		t.Error("no entry was unreadable")
	}
}
