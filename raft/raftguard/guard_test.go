package raftguard_test

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"pagecache/raft/raftguard"
)

const heartbeat = 100 * time.Millisecond

// hanging is a log in memory that can be made to hang.
type hanging struct {
	*raft.InmemStore
	gate sync.RWMutex // locked while it hangs
}

func (h *hanging) StoreLog(l *raft.Log) error { return h.StoreLogs([]*raft.Log{l}) }

func (h *hanging) StoreLogs(l []*raft.Log) error {
	h.gate.RLock()
	defer h.gate.RUnlock()
	return h.InmemStore.StoreLogs(l)
}

type node struct {
	raft  *raft.Raft
	logs  *hanging
	guard *raftguard.Guard
}

// cluster starts three nodes.
func cluster(t *testing.T) (nodes []*node) {
	var conf raft.Configuration
	var all []*raft.InmemTransport
	for i := range 3 {
		id := fmt.Sprint("node", i)
		_, trans := raft.NewInmemTransportWithTimeout(raft.ServerAddress(id), heartbeat)
		for _, other := range all {
			trans.Connect(other.LocalAddr(), other)
			other.Connect(trans.LocalAddr(), trans)
		}
		all = append(all, trans)
		conf.Servers = append(conf.Servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
	}
	for i, trans := range all {
		c := raft.DefaultConfig()
		c.LocalID = conf.Servers[i].ID
		c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = heartbeat, heartbeat, heartbeat
		c.CommitTimeout, c.Logger = 5*time.Millisecond, hclog.NewNullLogger()
		n := &node{logs: &hanging{InmemStore: raft.NewInmemStore()}, guard: raftguard.New(heartbeat)}
		r, err := raft.NewRaft(c, &raft.MockFSM{}, n.guard.Logs(n.logs), n.logs, raft.NewDiscardSnapshotStore(),
			n.guard.Transport(trans))
		if err != nil {
			t.Fatal(err)
		}
		n.raft = r
		nodes = append(nodes, n)
		t.Cleanup(func() { _ = r.Shutdown().Error() })
	}
	if err := nodes[0].raft.BootstrapCluster(conf).Error(); err != nil {
		t.Fatal(err)
	}
	return nodes
}

// leads waits until a node that is not one of without leads and has committed an entry, and returns it.
func leads(t *testing.T, nodes []*node, without *node) *node {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, n := range nodes {
			if n != without && n.raft.State() == raft.Leader && n.raft.Apply(nil, time.Second).Error() == nil {
				return n
			}
		}
	}
	t.Fatal("no node leads")
	return nil
}

// A leader whose disk hangs loses the leadership, and follows the new leader once its disk answers again.
func TestHangingLeader(t *testing.T) {
	nodes := cluster(t)
	old := leads(t, nodes, nil)
	if w := old.guard.Waiting(); w != 0 {
		t.Errorf("waiting for %v", w)
	}
	old.logs.gate.Lock()
	f := old.raft.Apply([]byte("lost"), 0)
	began := time.Now()
	next := leads(t, nodes, old)
	t.Logf("another node leads after %v", time.Since(began))
	if w := old.guard.Waiting(); w < heartbeat {
		t.Errorf("waiting for %v, want %v at least", w, heartbeat)
	}
	old.logs.gate.Unlock()
	if err := f.Error(); err == nil {
		t.Error("the old leader has acknowledged an entry")
	}
	if err := next.raft.Apply([]byte("last"), time.Second).Error(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); old.raft.AppliedIndex() != next.raft.AppliedIndex(); {
		if time.Now().After(end) {
			t.Fatalf("the old leader has applied entry %d, the new one %d", old.raft.AppliedIndex(),
				next.raft.AppliedIndex())
		}
		time.Sleep(5 * time.Millisecond)
	}
	if w := old.guard.Waiting(); w != 0 {
		t.Errorf("waiting for %v", w)
	}
}

// A disk that answers within the limit changes nothing.
func TestSlowLeader(t *testing.T) {
	nodes := cluster(t)
	n := leads(t, nodes, nil)
	term := n.raft.CurrentTerm()
	for range 10 {
		n.logs.gate.Lock()
		f := n.raft.Apply(nil, 0)
		time.Sleep(heartbeat / 4)
		n.logs.gate.Unlock()
		if err := f.Error(); err != nil {
			t.Fatal(err)
		}
	}
	if now := n.raft.CurrentTerm(); now != term {
		t.Skipf("term %d, was %d: the machine is too slow", now, term)
	}
}

// parts counts what reaches a transport that supports neither votes before elections nor Close.
type parts struct {
	raft.Transport // nil
	sent           int
}

func (p *parts) AppendEntries(raft.ServerID, raft.ServerAddress, *raft.AppendEntriesRequest,
	*raft.AppendEntriesResponse) error {
	p.sent++
	return nil
}

func (p *parts) InstallSnapshot(raft.ServerID, raft.ServerAddress, *raft.InstallSnapshotRequest,
	*raft.InstallSnapshotResponse, io.Reader) error {
	p.sent++
	return nil
}

func (p *parts) AppendEntriesPipeline(_ raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	if to == "" {
		return nil, errRefused
	}
	return &pipeline{p: p}, nil
}

type pipeline struct {
	raft.AppendPipeline // nil
	p                   *parts
}

func (p *pipeline) AppendEntries(*raft.AppendEntriesRequest, *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	p.p.sent++
	return nil, nil
}

var errRefused = errors.New("refused")

// Whatever a leader sends is held back while its disk hangs, and only then.
func TestHeldBack(t *testing.T) {
	p, logs, guard := &parts{}, &hanging{InmemStore: raft.NewInmemStore()}, raftguard.New(20*time.Millisecond)
	trans, guarded := guard.Transport(p), guard.Logs(logs)
	if _, err := trans.AppendEntriesPipeline("", ""); !errors.Is(err, errRefused) {
		t.Errorf("pipeline: %v", err)
	}
	pipe, err := trans.AppendEntriesPipeline("", "other")
	if err != nil {
		t.Fatal(err)
	}
	send := func() (errs int) {
		_, err := pipe.AppendEntries(nil, nil)
		for _, err := range []error{
			err, trans.AppendEntries("", "", &raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{}),
			trans.InstallSnapshot("", "", nil, nil, nil),
		} {
			if err != nil {
				errs++
			}
		}
		return errs
	}
	if errs := send(); errs != 0 || p.sent != 3 {
		t.Errorf("%d errors, %d sent", errs, p.sent)
	}
	logs.gate.Lock()
	done := make(chan error, 1)
	go func() { done <- guarded.StoreLog(&raft.Log{Index: 1}) }()
	for guard.Waiting() <= 20*time.Millisecond {
		time.Sleep(time.Millisecond)
	}
	if errs := send(); errs != 3 || p.sent != 3 {
		t.Errorf("%d errors, %d sent while the disk hangs", errs, p.sent)
	}
	logs.gate.Unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if errs := send(); errs != 0 || p.sent != 6 {
		t.Errorf("%d errors, %d sent after the disk has answered", errs, p.sent)
	}
}

// tracking is a log that implements all that raft knows.
type tracking struct {
	raft.LogStore
	staged uint64
}

func (*tracking) IsMonotonic() bool                 { return true }
func (l *tracking) StageCommitIndex(i uint64) error { l.staged = i; return nil }
func (l *tracking) GetCommitIndex() (uint64, error) { return l.staged, nil }

// Raft finds what logs and transports implement behind the guard, and nothing else.
func TestInterfaces(t *testing.T) {
	guard := raftguard.New(time.Second)
	plain := guard.Logs(raft.NewInmemStore())
	if _, ok := plain.(raft.CommitTrackingLogStore); ok {
		t.Error("a log without a commit index has one")
	}
	if plain.(raft.MonotonicLogStore).IsMonotonic() {
		t.Error("a log with gaps has none")
	}
	full := guard.Logs(&tracking{LogStore: raft.NewInmemStore()})
	if !full.(raft.MonotonicLogStore).IsMonotonic() {
		t.Error("a log without gaps has some")
	}
	c, ok := full.(raft.CommitTrackingLogStore)
	if !ok {
		t.Fatal("a log with a commit index has none")
	}
	if err := c.StageCommitIndex(7); err != nil {
		t.Fatal(err)
	}
	if i, err := c.GetCommitIndex(); i != 7 || err != nil {
		t.Errorf("commit index %d, %v", i, err)
	}
	bare := guard.Transport(&parts{})
	if _, ok := bare.(raft.WithPreVote); ok {
		t.Error("a transport without votes before elections has them")
	}
	if err := bare.(raft.WithClose).Close(); err != nil {
		t.Error(err)
	}
	_, inmem := raft.NewInmemTransport("")
	rich := guard.Transport(inmem)
	if _, ok := rich.(raft.WithPreVote); !ok {
		t.Error("a transport with votes before elections has none")
	}
	if err := rich.(raft.WithClose).Close(); err != nil {
		t.Error(err)
	}
}

// answering is a transport whose nodes answer as told.
type answering struct {
	raft.Transport // nil
	success        bool
	err            error
	before         func() // called before the answer
}

func (a *answering) AppendEntries(_ raft.ServerID, _ raft.ServerAddress, _ *raft.AppendEntriesRequest,
	resp *raft.AppendEntriesResponse) error {
	if a.before != nil {
		a.before()
	}
	resp.Success = a.success
	return a.err
}

// An answer says that a node has followed in the term of the request, at some moment after it was sent.
func TestFollowed(t *testing.T) {
	a, guard := &answering{success: true}, raftguard.New(time.Minute)
	trans := guard.Transport(a)
	send := func(id raft.ServerID, term uint64) {
		_ = trans.AppendEntries(id, "", &raft.AppendEntriesRequest{Term: term}, &raft.AppendEntriesResponse{})
	}
	nodes := []raft.ServerID{"a", "b"}
	want := func(since time.Time, term uint64, want int) {
		t.Helper()
		if n, _ := guard.Followed(nodes, term, since); n != want {
			t.Errorf("%d nodes follow in term %d, want %d", n, term, want)
		}
	}
	began := time.Now()
	want(began, 7, 0)
	_, turn := guard.Followed(nodes, 7, began)
	send("a", 7)
	select {
	case <-turn:
	default:
		t.Error("a new follower is not told")
	}
	send("c", 7)
	want(began, 7, 1)
	want(began, 6, 0)
	want(began, 8, 0)
	send("a", 6) // a late one
	want(began, 7, 1)
	a.success = false
	send("b", 7)
	a.success, a.err = true, errRefused
	send("b", 7)
	want(began, 7, 1)
	a.err = nil
	var since time.Time
	a.before = func() { since = time.Now() }
	send("b", 7)
	want(began, 7, 2)
	want(since, 7, 0) // the answer is to an earlier request
	a.before = func() { a.before = nil; send("b", 7); since = time.Now() }
	send("b", 7)
	want(began, 7, 2)
}
