package raftlog_test

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/engine/pagetest"
	"pagecache/raft/raftlog"
)

// fill stores entries from index next on until the disk is full, and returns the next index.
func fill(t *testing.T, s *raftlog.Store, next uint64) uint64 {
	t.Helper()
	for _, size := range []int{3000, 200, 0} { // the smallest entries fill what the larger ones leave
		for {
			logs := []*raft.Log{{Index: next, Term: 1, Data: make([]byte, size)}, {Index: next + 1, Term: 1}}
			err := s.StoreLogs(logs)
			if errors.Is(err, engine.ErrNoSpace) {
				break
			}
			must(t, err)
			next += 2
		}
	}
	return next
}

// On a disk that the log has filled, StoreLogs fails and leaves nothing behind. Terms and votes are set, the last
// entries and then the first ones are deleted, and the log goes on in the same opening. Each durable write takes a
// block of a segment, so the number of votes depends on the length of segments. Proves rule 9.
func TestFullDisk(t *testing.T) {
	t.Run("segment=16KiB", func(t *testing.T) { fullDisk(t, 16<<10, 12, 1) })
	t.Run("segment=512KiB", func(t *testing.T) { fullDisk(t, 512<<10, 3, 50) })
}

// fullDisk fills a disk and sets votes on it, as often as rounds says.
func fullDisk(t *testing.T, segment, rounds, votes int) {
	d := pagetest.NewDisk(4)
	d.SetCapacity(30 * int64(segment))
	o := small()
	o.SegmentSize = segment
	open := func() *raftlog.Store {
		s, err := raftlog.Open(simDir, &raftlog.Options{Log: d.Options(o)})
		must(t, err)
		return s
	}
	s := open()
	next, term := uint64(1), uint64(0)
	for round := range rounds {
		next = fill(t, s, next)
		if _, last := bounds(t, s); last != next-1 {
			t.Fatalf("round %d: the last entry is %d, want %d", round, last, next-1)
		}
		for range votes {
			term++
			must(t, s.SetUint64([]byte("CurrentTerm"), term))
			must(t, s.Set([]byte("LastVoteCand"), []byte("node 2")))
		}
		first, _ := bounds(t, s)
		must(t, s.GetLog(first, new(raft.Log)))
		must(t, s.DeleteRange(next-1, next-1))
		next--
		must(t, s.DeleteRange(first, next-3))
		term++
		must(t, s.SetUint64([]byte("CurrentTerm"), term))
		must(t, s.StoreLog(&raft.Log{Index: next, Term: 1, Data: make([]byte, 3000)}))
		next++
		if round%4 == 3 {
			must(t, s.Close())
			s = open()
		}
		wantNumber(t, s, "CurrentTerm", term)
	}
	must(t, s.Close())
}

// A call whose entries take several segments, and whose first ones fit the disk, leaves none of them behind once there
// is room to remove them, and the next call begins where it has begun.
func TestFullDiskInTheMiddle(t *testing.T) {
	d := pagetest.NewDisk(4)
	d.SetCapacity(40 * 16 << 10)
	s := openSim(t, d)
	store(t, s, 1, 100)
	if err := s.StoreLogs(entries(101, 4000, 1)); !errors.Is(err, engine.ErrNoSpace) {
		t.Fatalf("%v, want ErrNoSpace", err)
	}
	_, last := bounds(t, s)
	t.Logf("the last entry is %d", last)
	must(t, s.DeleteRange(1, 90))
	d.SetCapacity(0)
	store(t, s, 101, 10)
	wantEntries(t, s, 91, 110)
	must(t, s.Close())
	s = openSim(t, d)
	wantEntries(t, s, 91, 110)
	must(t, s.Close())
}
