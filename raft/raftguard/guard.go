package raftguard

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Guard is the guard of one node. Safe for concurrent use.
type Guard struct {
	limit time.Duration
	epoch time.Time // of since
	// since is when the call that stores entries began, in nanoseconds since epoch; 0: there is none. Raft's main
	// goroutine stores it, and all that send load it. It publishes nothing. A stale one lets one message more pass, or
	// holds one back.
	since atomic.Int64

	mu sync.Mutex // never held for long; it guards all below
	// followed says of each node when it last followed this one.
	followed map[raft.ServerID]followed
	turn     chan struct{} // closed, and replaced, when followed changes
}

// followed says that a node took this one for the leader of a term at some moment after since.
type followed struct {
	term  uint64
	since time.Time
}

// New returns a guard. The limit is best the heartbeat timeout: then the others elect a leader after some three.
func New(limit time.Duration) *Guard {
	return &Guard{limit: limit, epoch: time.Now(), followed: map[raft.ServerID]followed{}, turn: make(chan struct{})}
}

// Followed returns how many of the nodes took this one for the leader of the term at some moment after since: they have
// answered a request that was sent after that. An answer alone says less: it may have waited for long, here or on its
// way, so that its sender has another leader by now. Raft's VerifyLeader counts such answers, too. The channel is
// closed when the result may have changed.
func (g *Guard) Followed(nodes []raft.ServerID, term uint64, since time.Time) (n int, turn <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, id := range nodes {
		if f := g.followed[id]; f.term == term && f.since.After(since) {
			n++
		}
	}
	return n, g.turn
}

// follow notes that a node has accepted a request of the term, which was sent at since.
func (g *Guard) follow(id raft.ServerID, term uint64, since time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f := g.followed[id]; f.term > term || f.term == term && f.since.After(since) {
		return // a later request was faster
	}
	g.followed[id] = followed{term, since}
	close(g.turn)
	g.turn = make(chan struct{})
}

// Waiting returns for how long the call that stores entries, if there is one, has been waiting for the disk.
func (g *Guard) Waiting() time.Duration {
	since := g.since.Load()
	if since == 0 {
		return 0
	}
	return time.Since(g.epoch) - time.Duration(since)
}

// err returns an error if the node must send nothing as a leader.
func (g *Guard) err() error {
	if waiting := g.Waiting(); waiting > g.limit {
		return fmt.Errorf("not sent: the disk of this node has been storing entries for %v",
			waiting.Round(time.Millisecond))
	}
	return nil
}

// Logs returns logs with its calls that store entries guarded, which only one goroutine, as raft's, makes at a time. It
// implements raft.MonotonicLogStore, and raft.CommitTrackingLogStore if logs does.
func (g *Guard) Logs(logs raft.LogStore) raft.LogStore {
	l := guardedLogs{logs, g}
	if t, ok := logs.(raft.CommitTrackingLogStore); ok {
		return trackingLogs{l, t}
	}
	return l
}

type guardedLogs struct {
	raft.LogStore
	g *Guard
}

// StoreLog implements raft.LogStore.
func (l guardedLogs) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore.
func (l guardedLogs) StoreLogs(entries []*raft.Log) error {
	l.g.since.Store(max(int64(time.Since(l.g.epoch)), 1))
	defer l.g.since.Store(0)
	return l.LogStore.StoreLogs(entries)
}

// IsMonotonic implements raft.MonotonicLogStore.
func (l guardedLogs) IsMonotonic() bool {
	m, ok := l.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// trackingLogs are guardedLogs that implement raft.CommitTrackingLogStore.
type trackingLogs struct {
	guardedLogs
	t raft.CommitTrackingLogStore
}

// StageCommitIndex implements raft.CommitTrackingLogStore.
func (l trackingLogs) StageCommitIndex(index uint64) error { return l.t.StageCommitIndex(index) }

// GetCommitIndex implements raft.CommitTrackingLogStore.
func (l trackingLogs) GetCommitIndex() (uint64, error) { return l.t.GetCommitIndex() }

// Transport returns t with what leaders send guarded. It implements raft.WithClose, and raft.WithPreVote if t does.
func (g *Guard) Transport(t raft.Transport) raft.Transport {
	trans := guardedTransport{t, g}
	if v, ok := t.(raft.WithPreVote); ok {
		return votingTransport{trans, v}
	}
	return trans
}

type guardedTransport struct {
	raft.Transport
	g *Guard
}

// AppendEntries implements raft.Transport. Heartbeats are such requests, too.
func (t guardedTransport) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest,
	resp *raft.AppendEntriesResponse) error {
	if err := t.g.err(); err != nil {
		return err
	}
	since := time.Now() // before the request is sent
	err := t.Transport.AppendEntries(id, to, args, resp)
	if err == nil && resp.Success {
		t.g.follow(id, args.Term, since)
	}
	return err
}

// InstallSnapshot implements raft.Transport.
func (t guardedTransport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest,
	resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if err := t.g.err(); err != nil {
		return err
	}
	return t.Transport.InstallSnapshot(id, to, args, resp, data)
}

// AppendEntriesPipeline implements raft.Transport.
func (t guardedTransport) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	p, err := t.Transport.AppendEntriesPipeline(id, to)
	if err != nil {
		return nil, err
	}
	return guardedPipeline{p, t.g}, nil
}

// Close implements raft.WithClose.
func (t guardedTransport) Close() error {
	if c, ok := t.Transport.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}

// votingTransport is a guardedTransport that implements raft.WithPreVote.
type votingTransport struct {
	guardedTransport
	raft.WithPreVote
}

type guardedPipeline struct {
	raft.AppendPipeline
	g *Guard
}

// AppendEntries implements raft.AppendPipeline.
func (p guardedPipeline) AppendEntries(args *raft.AppendEntriesRequest,
	resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if err := p.g.err(); err != nil {
		return nil, err
	}
	return p.AppendPipeline.AppendEntries(args, resp)
}
