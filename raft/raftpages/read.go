package raftpages

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/engine"
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
// of a term, and the first one after a call of raft.Raft.Barrier, also waits for a Barrier. Other errors are those of
// View, of ctx, of raft, and one that wraps ErrStopped if the FSM has stopped.
func (f *FSM[P]) Read(ctx context.Context, r *raft.Raft, fn func(tx *engine.Tx[P]) error) (index uint64, err error) {
	if err := f.catchUp(ctx, r); err != nil {
		return 0, fmt.Errorf("read: %w", err)
	}
	return f.View(ctx, fn)
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
	mu          sync.Mutex // held while one goroutine waits for a barrier; it guards all below
	r           *raft.Raft
	term, index uint64
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
	for {
		term := r.CurrentTerm()
		passed, err := f.barrier(ctx, r, term, 0)
		if err != nil {
			return err
		}
		index := r.CommitIndex()
		if err := wait(ctx, r.VerifyLeader()); err != nil {
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

// barrier returns the index of a barrier of this term that has passed and is not below index. It makes one if needed.
func (f *FSM[P]) barrier(ctx context.Context, r *raft.Raft, term, index uint64) (uint64, error) {
	b := &f.reads
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.r == r && b.term == term && b.index >= index {
		return b.index, nil
	}
	if r.State() != raft.Leader {
		return 0, raft.ErrNotLeader
	}
	future := r.Barrier(0)
	if err := wait(ctx, future); err != nil {
		return 0, err
	}
	at, ok := future.(raft.IndexFuture)
	if !ok {
		return 0, fmt.Errorf("%w: a barrier of raft has no index", ErrConfig)
	}
	if r.CurrentTerm() == term { // so it is the barrier's
		b.r, b.term, b.index = r, term, at.Index()
	}
	return at.Index(), nil
}

// wait waits for a future of raft, which ends at the latest when the leader notices that it does not lead any more.
func wait(ctx context.Context, future raft.Future) error {
	ended := make(chan error, 1)
	go func() { ended <- future.Error() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
