package raftpages

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/raft/raftguard"
)

// View calls fn, once, with a Tx that shows the pages as they are on this node at one moment, which may be behind other
// nodes. It returns the index of the last entry that fn saw the changes of. It waits for nobody, and nobody waits for
// it. Values that fn reads are valid until it returns; a snapshot that is restored meanwhile does not change what fn
// sees, and the store before it stays until fn has returned. Errors are that of fn, that of ctx if it has ended before,
// and engine.ErrClosed. A FSM that has stopped shows what it has.
func (f *FSM[P]) View(ctx context.Context, fn func(tx *engine.Tx[P]) error) (index uint64, err error) {
	h, done, err := f.use()
	if err != nil {
		return 0, err
	}
	defer done()
	err = h.pc.View(ctx, func(tx *engine.Tx[P]) (err error) {
		if index, err = readNumber(tx.Root, indexRoot); err != nil {
			return err
		}
		return fn(tx)
	})
	return index, err
}

// Read is View that shows everything that was acknowledged anywhere before Read began: it is linearizable. r must be
// the leader, otherwise the error is raft.ErrNotLeader, or raft.ErrLeadershipLost; then ask the leader. Read asks a
// majority of the nodes whether r still leads, and waits until this node has applied what was committed. The first Read
// of a term, and the first one after a call of raft.Raft.Barrier, also waits for a Barrier. If r was not made by
// NewRaft, each Read waits for a Barrier, which takes a write of each node. Other errors are those of View, of ctx, of
// raft, and one that wraps ErrStopped if the FSM has stopped.
func (f *FSM[P]) Read(ctx context.Context, r *raft.Raft, fn func(tx *engine.Tx[P]) error) (index uint64, err error) {
	if err := f.catchUp(ctx, r); err != nil {
		return 0, fmt.Errorf("read: %w", err)
	}
	return f.View(ctx, fn)
}

// VerifyLeader returns nil if r was the leader at some moment during the call. Unlike that of raft, it does not count
// answers of the others to requests that were sent before it. If r was not made by NewRaft, it waits for a Barrier.
// Errors: raft.ErrNotLeader, raft.ErrLeadershipLost, that of ctx, and others of raft. Safe for concurrent use.
func (f *FSM[P]) VerifyLeader(ctx context.Context, r *raft.Raft) error {
	s := f.started.Load()
	if s == nil || s.raft != r {
		_, err := barrier(ctx, r)
		return err
	}
	for {
		term := r.CurrentTerm()
		if err := verify(ctx, r, s.guard, term); err != nil || r.CurrentTerm() == term {
			return err
		}
	}
}

// Wait waits until this node has applied the entry at index, so that a View shows it. It must be the entry of a
// command: raft.ApplyFuture.Index of the node that has given it to raft. Errors: that of ctx, engine.ErrClosed, and one
// that wraps ErrStopped if the FSM has stopped before that entry.
func (f *FSM[P]) Wait(ctx context.Context, index uint64) error {
	for f.applied.Load() < index {
		f.mu.Lock()
		turn, is, err := f.turn, f.st.index, f.errLocked()
		f.mu.Unlock()
		if is >= index {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// barriers remembers the last barrier that has passed: all entries below it are applied.
type barriers struct {
	mu          sync.Mutex // never held for long; it guards all below
	r           *raft.Raft
	term, index uint64
}

// passed returns the index of the last barrier of this term, 0 if none has passed.
func (b *barriers) passed(r *raft.Raft, term uint64) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.r != r || b.term != term {
		return 0
	}
	return b.index
}

// pass notes that a barrier has passed.
func (b *barriers) pass(r *raft.Raft, term, index uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.r != r || b.term < term || b.term == term && b.index < index {
		b.r, b.term, b.index = r, term, index
	}
}

// hiddenAfter is the time after which an entry that was not applied is taken for one that the FSM is not shown, so that
// a barrier decides.
const hiddenAfter = 20 * time.Millisecond

// catchUp returns once this node has applied all that was committed before the call.
//
// That is the read index of raft's dissertation, section 6.4: a leader that has committed an entry of its own term
// knows the commit index of the group. It notes that index, and learns from a majority that it was still the leader
// afterwards. The barrier of the term is its entry. Raft does not say in which term the leader is that a future was
// answered by, so the current term is read before and after: it only grows.
func (f *FSM[P]) catchUp(ctx context.Context, r *raft.Raft) error {
	started := f.started.Load()
	if started == nil || started.raft != r {
		_, err := barrier(ctx, r)
		return err
	}
	for {
		term := r.CurrentTerm()
		passed, err := f.barrier(ctx, r, term, 0)
		if err != nil {
			return err
		}
		index := r.CommitIndex()
		if err := verify(ctx, r, started.guard, term); err != nil {
			return err
		}
		if r.CurrentTerm() != term {
			continue // it leads another term, or has just lost this one: then the next turn fails
		}
		if index <= passed {
			return nil
		}
		// Raft does not show all entries to an FSM, and the one at index may be such one.
		soon, cancel := context.WithTimeout(ctx, hiddenAfter)
		err = f.Wait(soon, index)
		cancel()
		if err == nil || !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
		_, err = f.barrier(ctx, r, term, index)
		return err
	}
}

// verify returns nil once a majority of the nodes has taken r for the leader of the term after the call, or if that is
// not the term any more. VerifyLeader alone counts answers to requests that were sent before: a leader that was stopped
// for a while finds them when it goes on, although the others have another leader by then.
func verify(ctx context.Context, r *raft.Raft, guard *raftguard.Guard, term uint64) error {
	since := time.Now()
	for {
		if _, err := call(ctx, r, r.VerifyLeader); err != nil { // which sends requests
			return err
		}
		conf := r.GetConfiguration()
		if err := conf.Error(); err != nil {
			return err
		}
		_, self := r.LeaderWithID()
		voters, others := 0, []raft.ServerID(nil)
		for _, s := range conf.Configuration().Servers {
			if s.Suffrage != raft.Voter {
				continue
			}
			voters++
			if s.ID != self {
				others = append(others, s.ID)
			}
		}
		followers, turn := guard.Followed(others, term, since)
		if voters-len(others)+followers > voters/2 || r.CurrentTerm() != term {
			return nil
		}
		// A node that follows answers soon. If none does, VerifyLeader says after a while whether r leads.
		select {
		case <-turn:
		case <-time.After(hiddenAfter):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// barrier returns the index of a barrier of this term that has passed and is not below index. It makes one if needed.
func (f *FSM[P]) barrier(ctx context.Context, r *raft.Raft, term, index uint64) (uint64, error) {
	if passed := f.reads.passed(r, term); passed != 0 && passed >= index {
		return passed, nil
	}
	if r.State() != raft.Leader {
		return 0, raft.ErrNotLeader
	}
	future, err := barrier(ctx, r)
	if err != nil {
		return 0, err
	}
	at, ok := future.(raft.IndexFuture)
	if !ok {
		return 0, fmt.Errorf("%w: a barrier of raft has no index", ErrConfig)
	}
	if r.CurrentTerm() == term { // so it is the barrier's
		f.reads.pass(r, term, at.Index())
	}
	return at.Index(), nil
}

// barrier makes a barrier, and waits until it has passed.
func barrier(ctx context.Context, r *raft.Raft) (raft.Future, error) {
	return call(ctx, r, func() raft.Future { return r.Barrier(0) })
}

// call calls raft, and waits for the future that it returns. Raft answers at the latest when the leader notices that it
// does not lead any more, but for calls that it has not looked at when it is shut down: those it never answers.
func call[F raft.Future](ctx context.Context, r *raft.Raft, f func() F) (future F, err error) {
	type answer struct {
		future F
		err    error
	}
	if r.State() == raft.Shutdown { // else f may leave a call that nothing looks at
		return future, raft.ErrRaftShutdown
	}
	ended := make(chan answer, 1)
	go func() { // f waits, too, while raft's disk hangs
		future := f()
		ended <- answer{future, future.Error()}
	}()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for others := 0; ; {
		select {
		case a := <-ended:
			return a.future, a.err
		case <-ctx.Done():
			return future, context.Cause(ctx)
		case <-look.C:
			switch r.State() {
			case raft.Shutdown:
				return future, raft.ErrRaftShutdown
			case raft.Leader:
				others = 0
			default: // one that runs has answered by now; one that is being shut down may show any state
				if others++; others > 1 {
					return future, raft.ErrLeadershipLost
				}
			}
		}
	}
}
