package raftlog_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/raft/raftlog"
)

// Readers read entries while one goroutine stores them and rewrites the last ones, another deletes the first ones, and
// others set keys, as the goroutines of raft do. Every entry that is read is one that was stored, and none is missing
// that nobody deletes.
func TestConcurrentUse(t *testing.T) {
	s, err := raftlog.Open(t.TempDir()+"/raft", &raftlog.Options{Log: &engine.Options{SegmentSize: 64 << 10}})
	must(t, err)
	const kept = 200 // the deleter leaves this number of entries
	var (
		wg     sync.WaitGroup
		stop   atomic.Bool
		stored atomic.Uint64 // the last entry that was stored and is not rewritten
		reads  atomic.Int64
	)
	run := func(name string, step func(i int) error) {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				if err := step(i); err != nil {
					t.Errorf("%s: %v", name, err)
					stop.Store(true)
				}
			}
		})
	}
	next := uint64(1)
	run("store", func(i int) error {
		n := 1 + i%32
		if err := s.StoreLogs(entries(next, n, 1)); err != nil {
			return err
		}
		next += uint64(n)
		if i%50 == 49 {
			if err := s.DeleteRange(next-5, next-1); err != nil {
				return err
			}
			if last, err := s.LastIndex(); err != nil || last != next-6 {
				return fmt.Errorf("the last entry is %d, %v, want %d", last, err, next-6)
			}
			if err := s.StoreLogs(entries(next-5, 5, 1)); err != nil {
				return err
			}
		}
		stored.Store(max(next, 6) - 6)
		return nil
	})
	run("delete", func(int) error {
		last := stored.Load()
		if last < 2*kept {
			time.Sleep(time.Millisecond)
			return nil
		}
		if err := s.DeleteRange(1, last-kept); err != nil {
			return err
		}
		if first, err := s.FirstIndex(); err != nil || first != last-kept+1 {
			return fmt.Errorf("the first entry is %d, %v, want %d", first, err, last-kept+1)
		}
		return nil
	})
	for range 3 {
		var l raft.Log
		run("read", func(i int) error {
			last := stored.Load()
			if last < kept {
				return nil
			}
			index := last - uint64(i)%kept
			switch err := s.GetLog(index, &l); {
			case err == raft.ErrLogNotFound:
				if first, err := s.FirstIndex(); err != nil || first <= index {
					return fmt.Errorf("entry %d is missing, the first is %d, %v", index, first, err)
				}
				return nil
			case err != nil:
				return err
			}
			reads.Add(1)
			return sameEntry(&l, entryOf(index, 1))
		})
	}
	run("vote", func(i int) error {
		if err := s.SetUint64([]byte("CurrentTerm"), uint64(i)); err != nil {
			return err
		}
		if got, err := s.GetUint64([]byte("CurrentTerm")); err != nil || got != uint64(i) {
			return fmt.Errorf("term %d, %v, want %d", got, err, i)
		}
		if err := s.StageCommitIndex(stored.Load()); err != nil {
			return err
		}
		_, err := s.GetCommitIndex()
		return err
	})
	long := 4 * time.Second
	if testing.Short() {
		long = time.Second
	}
	time.Sleep(long)
	for end := time.Now().Add(time.Minute); reads.Load() < 100 && !stop.Load() && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond) // a slow machine
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d entries, %d reads", next, reads.Load())
	if reads.Load() == 0 {
		t.Error("nothing was read")
	}
	must(t, s.Close())
}

// Close beside all other calls: each succeeds or fails with engine.ErrClosed.
func TestCloseBesideCalls(t *testing.T) {
	for range 10 {
		m, err := raftlog.OpenMulti(t.TempDir()+"/raft", &raftlog.Options{Log: small()})
		must(t, err)
		a, b := group(t, m, 1), group(t, m, 2)
		var wg sync.WaitGroup
		for _, s := range []*raftlog.Store{a, b} {
			for _, step := range []func(i uint64) error{
				func(i uint64) error { return s.StoreLogs(entries(3*i+1, 3, 1)) },
				func(i uint64) error { return s.DeleteRange(1, i) },
				func(i uint64) error { return s.SetUint64([]byte("term"), i) },
				func(i uint64) error {
					if err := s.GetLog(i+1, new(raft.Log)); err != raft.ErrLogNotFound {
						return err
					}
					return nil
				},
			} {
				wg.Go(func() {
					for i := uint64(0); ; i++ {
						if err := step(i); err != nil {
							if !errors.Is(err, engine.ErrClosed) {
								t.Error(err)
							}
							return
						}
					}
				})
			}
		}
		time.Sleep(10 * time.Millisecond)
		must(t, a.Close())
		a, err = m.Group(1)
		must(t, err)
		must(t, m.Close())
		wg.Wait()
		must(t, a.Close())
	}
}
