package raftpages_test

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"

	"pagecache/raft/raftpages"
)

// NewRaft refuses a log that has lost the term in which the pages were changed, and its votes with it.
func TestNewRaftRefusesLogWithoutTerm(t *testing.T) {
	f, _ := opened(t)
	fill(f, model{}, 2, 20)
	_, term := f.Applied()
	conf := raft.DefaultConfig()
	conf.LocalID, conf.LogLevel = "node 0", "ERROR"
	for _, known := range []uint64{0, term - 1, term} {
		logs := raft.NewInmemStore()
		must(t, logs.SetUint64([]byte("CurrentTerm"), known))
		_, trans := raft.NewInmemTransport("")
		r, err := f.NewRaft(conf, logs, logs, trans)
		if refused := errors.Is(err, raftpages.ErrConfig); refused != (known < term) {
			t.Errorf("a log of term %d beside pages of term %d: %v", known, term, err)
		}
		if err == nil {
			must(t, r.Shutdown().Error())
		}
	}
}

// Two stores that end with the same index, but with entries of other terms, are not the same: Restore replaces one by
// the other.
func TestRestoreOfOtherTerm(t *testing.T) {
	f, _ := opened(t)
	m := model{}
	last := fill(f, m, 2, 20)
	must(t, take(f, last))
	g, _ := opened(t)
	fill(g, model{}, 2, 19)
	other := entry(last, command{Op: "set", Key: "other", Value: "other"})
	other.Term--
	if err, failed := g.Apply(other).(error); failed {
		t.Fatal(err)
	}
	must(t, send(f, g, nil))
	want(t, g, m, last)
}
