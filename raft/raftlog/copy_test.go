package raftlog_test

import (
	"context"
	"errors"
	"testing"

	"github.com/hashicorp/raft"

	"pagecache/engine/pagetest"
	"pagecache/raft/raftlog"
)

// A copy has the entries, the term and the vote of another store, also after a crash.
func TestCopyFrom(t *testing.T) {
	for _, n := range []int{0, 1, 3000} {
		from := raft.NewInmemStore()
		if n > 0 {
			store(t, from, 500, n)
			must(t, from.SetUint64([]byte("CurrentTerm"), 7))
			must(t, from.SetUint64([]byte("LastVoteTerm"), 6))
			must(t, from.Set([]byte("LastVoteCand"), []byte("node 3")))
		}
		d := pagetest.NewDisk(1)
		s := openSim(t, d)
		must(t, s.CopyFrom(context.Background(), from, from))
		d = d.Crash()
		_ = s.Close() // its disk has crashed
		s = openSim(t, d)
		if n == 0 {
			wantEntries(t, s, 0, 0)
			wantValue(t, s, "LastVoteCand", nil)
			wantNumber(t, s, "CurrentTerm", 0)
		} else {
			wantEntries(t, s, 500, uint64(500+n-1))
			wantValue(t, s, "LastVoteCand", []byte("node 3"))
			wantNumber(t, s, "CurrentTerm", 7)
			wantNumber(t, s, "LastVoteTerm", 6)
			if err := s.CopyFrom(context.Background(), from, from); err == nil {
				t.Error("a store that is not empty was copied to")
			}
		}
		must(t, s.Close())
	}
}

// gaps is a log in which entries are missing.
type gaps struct {
	raft.LogStore
	missing [][2]uint64
}

func (g gaps) GetLog(i uint64, l *raft.Log) error {
	for _, m := range g.missing {
		if i >= m[0] && i <= m[1] {
			return raft.ErrLogNotFound
		}
	}
	return g.LogStore.GetLog(i, l)
}

// If entries are missing, a copy has those behind the last gap. A log without its last entry is refused.
func TestCopyGaps(t *testing.T) {
	from := raft.NewInmemStore()
	store(t, from, 1, 300)
	s := openSim(t, pagetest.NewDisk(1))
	must(t, s.CopyFrom(context.Background(), gaps{from, [][2]uint64{{2, 2}, {50, 60}, {120, 254}}}, from))
	wantEntries(t, s, 255, 300)
	must(t, s.Close())
	s = openSim(t, pagetest.NewDisk(1))
	err := s.CopyFrom(context.Background(), gaps{from, [][2]uint64{{300, 300}}}, from)
	if !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("%v, want raft.ErrLogNotFound", err)
	}
	must(t, s.Close())
}

// A copy that was interrupted, by an error or by a crash at any operation of the disk, is not taken for a store.
func TestCopyInterrupted(t *testing.T) {
	from := raft.NewInmemStore()
	store(t, from, 1, 200)
	must(t, from.SetUint64([]byte("CurrentTerm"), 7))
	complete := false
	for at := 1; !complete; at++ {
		d := pagetest.NewDisk(uint64(at))
		s := openSim(t, d)
		d.CrashAfter(at)
		err := s.CopyFrom(context.Background(), from, from)
		complete = err == nil
		d = d.Crash()
		_ = s.Close() // its disk has crashed
		s, err = raftlog.Open(simDir, &raftlog.Options{Log: d.Options(small())})
		switch {
		case err == nil:
			if first, _ := bounds(t, s); first != 0 || complete {
				wantEntries(t, s, 1, 200)
				wantNumber(t, s, "CurrentTerm", 7)
			} else { // the crash was before the copy
				wantNumber(t, s, "CurrentTerm", 0)
			}
			must(t, s.Close())
		case !errors.Is(err, raftlog.ErrCopying):
			t.Fatalf("crash at %d: %v", at, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	d := pagetest.NewDisk(1)
	s := openSim(t, d)
	if err := s.CopyFrom(ctx, from, from); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that of the context", err)
	}
	must(t, s.Close())
}
