package raftlog_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/engine/pagetest"
	"pagecache/raft/raftlog"
)

// Keys have the values that they were given last, also after a crash. A key that was never set is not found, with the
// text that raft looks for.
func TestKeys(t *testing.T) {
	d := pagetest.NewDisk(1)
	s := openSim(t, d)
	if val, err := s.Get([]byte("none")); err != raftlog.ErrKeyNotFound || err.Error() != "not found" || len(val) > 0 {
		t.Errorf("a key that was never set: %q, %v", val, err)
	}
	wantNumber(t, s, "none", 0)
	must(t, s.Set([]byte("vote"), []byte("a")))
	must(t, s.Set([]byte("vote"), []byte("node 1")))
	must(t, s.Set([]byte("nothing"), nil))
	must(t, s.Set([]byte{}, []byte("of the empty key")))
	must(t, s.SetUint64([]byte("term"), 1<<63))
	must(t, s.SetUint64([]byte("term"), 7))
	for range 3 {
		wantValue(t, s, "vote", []byte("node 1"))
		wantValue(t, s, "nothing", []byte{})
		wantValue(t, s, "", []byte("of the empty key"))
		wantValue(t, s, "none", nil)
		wantNumber(t, s, "term", 7)
		if _, err := s.GetUint64([]byte("vote")); err == nil {
			t.Error("a vote is taken for a number")
		}
		d = d.Crash()
		_ = s.Close() // its disk has crashed
		s = openSim(t, d)
	}
	must(t, s.Close())
}

// Keys survive that the segments leave the log that they were set in, and that all entries are deleted.
func TestKeysOutliveEntries(t *testing.T) {
	d := pagetest.NewDisk(1)
	s := openSim(t, d)
	must(t, s.Set([]byte("vote"), []byte("node 1")))
	must(t, s.SetUint64([]byte("term"), 7))
	next := uint64(1)
	for range 20 {
		store(t, s, next, 200)
		next += 200
		must(t, s.DeleteRange(1, next-1))
		wantValue(t, s, "vote", []byte("node 1"))
	}
	if n := s.Log().Stats().Space.Recycled; n < 10 {
		t.Errorf("%d segments have left the log", n)
	}
	must(t, s.Close())
	s = openSim(t, d)
	wantValue(t, s, "vote", []byte("node 1"))
	wantNumber(t, s, "term", 7)
	wantEntries(t, s, 0, 0)
	must(t, s.Close())
}

// Keys and values have limits, and so have all of them together.
func TestKeyLimits(t *testing.T) {
	s := openSim(t, pagetest.NewDisk(1))
	closed(t, s)
	key, val := strings.Repeat("k", raftlog.MaxKey), strings.Repeat("v", raftlog.MaxValue)
	must(t, s.Set([]byte(key), []byte(val)))
	wantValue(t, s, key, []byte(val))
	for _, err := range []error{s.Set([]byte(key+"k"), nil), s.Set([]byte("k"), []byte(val+"v"))} {
		if !errors.Is(err, engine.ErrTooLarge) {
			t.Errorf("%v, want engine.ErrTooLarge", err)
		}
	}
	var err error
	n := 0
	for ; err == nil; n++ {
		err = s.Set(fmt.Append(nil, n), []byte(val))
	}
	if !errors.Is(err, engine.ErrTooLarge) || n > 16 {
		t.Errorf("%d values of 1 KiB: %v, want engine.ErrTooLarge beyond 4 KiB", n, err)
	}
	wantValue(t, s, key, []byte(val))
	store(t, s, 1, 10)
}

// wantCommit fails the test unless the store has this commit index.
func wantCommit(t *testing.T, s raft.CommitTrackingLogStore, want uint64) {
	t.Helper()
	if got, err := s.GetCommitIndex(); err != nil || got != want {
		t.Fatalf("commit index %d, %v, want %d", got, err, want)
	}
}

// A staged commit index is persisted with the next entries and not before, and is never above the last entry.
func TestCommitIndex(t *testing.T) {
	d := pagetest.NewDisk(1)
	s := openSim(t, d)
	crash := func() {
		t.Helper()
		d = d.Crash()
		_ = s.Close() // its disk has crashed
		s = openSim(t, d)
	}
	wantCommit(t, s, 0)
	must(t, s.StageCommitIndex(3))
	wantCommit(t, s, 0)
	crash()
	wantCommit(t, s, 0)
	store(t, s, 1, 10)
	wantCommit(t, s, 0) // it was lost

	must(t, s.StageCommitIndex(7))
	store(t, s, 11, 5)
	wantCommit(t, s, 7)
	must(t, s.StageCommitIndex(12))
	crash()
	wantCommit(t, s, 7)
	store(t, s, 16, 5)
	wantCommit(t, s, 7)
	must(t, s.StageCommitIndex(1000))
	store(t, s, 21, 4)
	wantCommit(t, s, 24)
	store(t, s, 25, 1)
	wantCommit(t, s, 24) // it was staged for the call before
	crash()
	wantCommit(t, s, 24)

	must(t, s.DeleteRange(20, 25)) // which raft does not do with committed entries
	wantCommit(t, s, 19)
	store(t, s, 20, 10)
	wantCommit(t, s, 19)
	must(t, s.DeleteRange(1, 29))
	wantCommit(t, s, 0)
	store(t, s, 5, 100)
	wantCommit(t, s, 4)
	must(t, s.StageCommitIndex(50))
	must(t, s.StageCommitIndex(60))
	store(t, s, 105, 2000) // in parts
	wantCommit(t, s, 60)
	crash()
	wantCommit(t, s, 60)
	must(t, s.Close())
}

// A call that fails leaves the staged commit index for the next one.
func TestCommitIndexAfterFailure(t *testing.T) {
	s := openSim(t, pagetest.NewDisk(1))
	closed(t, s)
	store(t, s, 1, 10)
	must(t, s.StageCommitIndex(10))
	if err := s.StoreLogs(entries(12, 1, 1)); !errors.Is(err, raftlog.ErrGap) {
		t.Fatal(err)
	}
	logs := entries(11, 200, 1)
	logs[199].Data = make([]byte, 2<<20) // the limit in segments of 16 KiB is 1 MiB
	if err := s.StoreLogs(logs); !errors.Is(err, engine.ErrTooLarge) {
		t.Fatal(err)
	}
	wantCommit(t, s, 0)
	store(t, s, 11, 1)
	wantCommit(t, s, 10)
}
