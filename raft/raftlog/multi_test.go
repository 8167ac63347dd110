package raftlog_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"pagecache/engine"
	"pagecache/engine/pagetest"
	"pagecache/raft/raftlog"
)

func openMulti(t testing.TB, d *pagetest.Disk) *raftlog.Multi {
	t.Helper()
	m, err := raftlog.OpenMulti(simDir, &raftlog.Options{Log: d.Options(small())})
	must(t, err)
	return m
}

func group(t testing.TB, m *raftlog.Multi, id raftlog.GroupID) *raftlog.Store {
	t.Helper()
	s, err := m.Group(id)
	must(t, err)
	return s
}

// Groups have their own entries, keys and commit indexes, also after a crash. Group 0 is what Open opens.
func TestGroups(t *testing.T) {
	d := pagetest.NewDisk(1)
	m := openMulti(t, d)
	ids := []raftlog.GroupID{0, 1, 7, raftlog.MaxGroupID}
	for range 2 {
		for i, id := range ids {
			s := group(t, m, id)
			first, last := bounds(t, s)
			if first == 0 {
				last = uint64(100 * i)
			}
			must(t, s.StageCommitIndex(last+1))
			store(t, s, last+1, 50+i)
			must(t, s.SetUint64([]byte("term"), uint64(id)))
			must(t, s.Set([]byte("vote"), fmt.Append(nil, "of group ", id)))
		}
		d = d.Crash()
		_ = m.Close() // its disk has crashed
		m = openMulti(t, d)
	}
	if got := m.Groups(); !slices.Equal(got, ids) {
		t.Errorf("groups %v, want %v", got, ids)
	}
	for i, id := range ids {
		s := group(t, m, id)
		first := uint64(100*i + 1)
		last := first + 2*uint64(50+i) - 1
		wantEntries(t, s, first, last)
		wantNumber(t, s, "term", uint64(id))
		wantValue(t, s, "vote", fmt.Append(nil, "of group ", id))
		wantCommit(t, s, last-uint64(50+i)+1)
	}
	if _, err := m.Group(raftlog.MaxGroupID + 1); !errors.Is(err, engine.ErrPageRange) {
		t.Errorf("a group above the highest: %v", err)
	}
	must(t, m.Close())
	s := openSim(t, d)
	wantEntries(t, s, 1, 100)
	must(t, s.Close())
}

// A group is open once at a time. Closing it leaves the others open; closing the Multi closes all.
func TestGroupsClose(t *testing.T) {
	m := openMulti(t, pagetest.NewDisk(1))
	a, b := group(t, m, 1), group(t, m, 2)
	if _, err := m.Group(1); !errors.Is(err, raftlog.ErrGroupOpen) {
		t.Errorf("group 1 was opened twice: %v", err)
	}
	store(t, a, 1, 10)
	store(t, b, 1, 10)
	must(t, a.Close())
	must(t, a.Close())
	if err := a.StoreLog(entryOf(11, 1)); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("StoreLog after Close: %v", err)
	}
	store(t, b, 11, 10)
	a = group(t, m, 1)
	wantEntries(t, a, 1, 10)
	must(t, m.Close())
	must(t, m.Close())
	for _, s := range []*raftlog.Store{a, b} {
		if err := s.StoreLog(entryOf(21, 1)); !errors.Is(err, engine.ErrClosed) {
			t.Errorf("StoreLog after Close of the Multi: %v", err)
		}
		must(t, s.Close())
	}
	if _, err := m.Group(3); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("Group after Close: %v", err)
	}
	if err := m.Remove(3); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("Remove after Close: %v", err)
	}
}

// A removed group is as one that never was, and its space is free.
func TestRemoveGroup(t *testing.T) {
	d := pagetest.NewDisk(1)
	m := openMulti(t, d)
	a, b := group(t, m, 1), group(t, m, 2)
	must(t, a.Set([]byte("vote"), []byte("x")))
	must(t, a.StageCommitIndex(5))
	store(t, a, 1, 2000)
	store(t, b, 1, 10)
	if err := m.Remove(1); !errors.Is(err, raftlog.ErrGroupOpen) {
		t.Errorf("an open group was removed: %v", err)
	}
	must(t, a.Close())
	must(t, m.Remove(1))
	must(t, m.Remove(99))
	if n := m.Log().Stats().Space.Recycled; n == 0 {
		t.Error("no segment has left the log")
	}
	d = d.Crash()
	_ = m.Close() // its disk has crashed
	m = openMulti(t, d)
	if got := m.Groups(); !slices.Equal(got, []raftlog.GroupID{2}) {
		t.Errorf("groups %v, want group 2", got)
	}
	a = group(t, m, 1)
	wantEntries(t, a, 0, 0)
	wantValue(t, a, "vote", nil)
	wantCommit(t, a, 0)
	wantEntries(t, group(t, m, 2), 1, 10)
	must(t, m.Close())
}

// An idle group with few entries does not keep the segments that others have filled and dropped.
func TestIdleGroup(t *testing.T) {
	d := pagetest.NewDisk(1)
	m := openMulti(t, d)
	idle, busy := group(t, m, 1), group(t, m, 2)
	store(t, idle, 1, 5)
	must(t, idle.Set([]byte("vote"), []byte("x")))
	most := 0
	for next := uint64(1); next < 20_000; next += 100 {
		store(t, busy, next, 100)
		if next > 200 {
			must(t, busy.DeleteRange(1, next-200))
		}
		most = max(most, m.Log().Stats().Space.SegmentsInUse)
	}
	if most > 24 {
		t.Errorf("the log had %d segments", most)
	}
	wantEntries(t, idle, 1, 5)
	must(t, m.Close())
	m = openMulti(t, d)
	idle = group(t, m, 1)
	wantEntries(t, idle, 1, 5)
	wantValue(t, idle, "vote", []byte("x"))
	must(t, m.Close())
}

// Groups store entries, set keys and delete at the same time.
func TestGroupsTogether(t *testing.T) {
	dir := t.TempDir() + "/raft"
	m, err := raftlog.OpenMulti(dir, &raftlog.Options{Log: small()})
	must(t, err)
	const groups, rounds = 16, 40
	var wg sync.WaitGroup
	for id := range raftlog.GroupID(groups) {
		s := group(t, m, id)
		wg.Go(func() {
			next := uint64(1)
			for round := range uint64(rounds) {
				err := s.StoreLogs(entries(next, 10, 1))
				next += 10
				if err == nil {
					err = s.SetUint64([]byte("term"), round)
				}
				if err == nil && round%5 == 4 {
					err = s.DeleteRange(1, next-20)
				}
				if err != nil {
					t.Errorf("group %d, round %d: %v", id, round, err)
					return
				}
			}
		})
	}
	wg.Wait()
	must(t, m.Close())
	m, err = raftlog.OpenMulti(dir, &raftlog.Options{Log: small()})
	must(t, err)
	for id := range raftlog.GroupID(groups) {
		s := group(t, m, id)
		wantEntries(t, s, 10*rounds-18, 10*rounds)
		wantNumber(t, s, "term", rounds-1)
	}
	must(t, m.Close())
}
