package raftpages

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/engine"
)

// Apply implements raft.FSM.
func (f *FSM[P]) Apply(entry *raft.Log) any { return f.ApplyBatch([]*raft.Log{entry})[0] }

// ApplyBatch implements raft.BatchingFSM: it applies the entries in one transaction. If they do not fit one, or Apply
// fails for one of them, they are applied in several. Entries that the store has already are left out: their response
// is ErrApplied. The response to a command that Apply has rejected is the error. While the disk is full, ApplyBatch
// waits for room, up to 10 s. After any other error it stops the FSM: then the response to each entry that is not
// applied is an error that wraps ErrStopped. It does not wait for the disk.
//
// A command that alone is too large for a transaction, or makes one root too many, is such an error, on every node and
// at each start. Apply must reject such commands, well below the limits of package engine: the FSM has roots of its
// own, and not always the same number on all nodes.
func (f *FSM[P]) ApplyBatch(entries []*raft.Log) []any {
	f.writing.Lock()
	defer f.writing.Unlock()
	responses := make([]any, len(entries))
	todo, into := entries, responses
	for len(todo) > 0 && todo[0].Index <= f.st.index {
		into[0] = ErrApplied
		todo, into = todo[1:], into[1:]
	}
	if len(todo) == 0 {
		return responses
	}
	done, err := f.applyAll(todo, into)
	if err != nil {
		err = f.stop(err)
		for i := done; i < len(into); i++ {
			into[i] = err
		}
	}
	return responses
}

// applyAll applies entries, in as few transactions as possible, and returns how many are applied. writing is held.
func (f *FSM[P]) applyAll(entries []*raft.Log, into []any) (done int, err error) {
	h, release, err := f.use()
	if err == nil {
		defer release()
		err = f.Err()
	}
	if err != nil {
		return 0, err
	}
	full := roomWait{closing: h.ctx, most: f.room}
	return split(len(entries), full.wait, func(from, n int, rejected bool) (bad int, err error) {
		some := into[from : from+n]
		if bad, err = f.commit(h, entries[from:from+n], some, rejected); bad >= 0 && isRejection(err) {
			some[bad] = err
		}
		return bad, err
	})
}

// split applies n entries in as few transactions as possible, and returns how many are applied.
//
// apply tries to apply some of them, in one transaction. If rejected, the last one was rejected before, and only
// counts. If one cannot be applied, bad is its index among them; if the transaction cannot be committed, bad is −1.
// room waits for room on a full disk, and returns false if there is no point in another try.
func split(n int, room func() bool, apply func(from, n int, rejected bool) (bad int, err error)) (done int, err error) {
	// Each try that fails leaves fewer entries to the next one, or one that is rejected, so the loop ends.
	most, rejected := n, false
	for done < n {
		bad, err := apply(done, most, rejected)
		switch {
		case err == nil:
			done += most
			most, rejected = n-done, false
		case bad >= 0 && isRejection(err):
			most, rejected = bad+1, true
		case bad > 0: // the entries before it are applied, and then this one alone
			most, rejected = bad, false
		case bad < 0 && most > 1 && errors.Is(err, engine.ErrTooLarge):
			most, rejected = most/2, false
		case errors.Is(err, engine.ErrNoSpace) && room():
		default:
			return done, err
		}
	}
	return done, nil
}

// isRejection reports whether Apply has rejected an entry. An error of this node's store is no reason for that.
func isRejection(err error) bool {
	var r *RejectedError
	if !errors.As(err, &r) {
		return false
	}
	for _, own := range []error{
		engine.ErrFailed, engine.ErrClosed, engine.ErrNoSpace, engine.ErrCorrupt, engine.ErrConflict, engine.ErrPanic,
	} {
		if errors.Is(err, own) {
			return false
		}
	}
	return true
}

// commit applies entries in one transaction. If rejected, Apply was called for the last one before. If Apply returns an
// error, bad is the index of the entry; if anything else fails, it is −1. writing is held.
func (f *FSM[P]) commit(h *opened[P], entries []*raft.Log, into []any, rejected bool) (bad int, err error) {
	last := len(entries) - 1
	var next state
	lsn, err := h.pc.Update(context.Background(), func(tx *engine.Tx[P]) error {
		bad, next = -1, f.st
		next.index, next.term = entries[last].Index, entries[last].Term
		for i, e := range entries {
			switch {
			case rejected && i == last:
			case e.Type == raft.LogConfiguration:
				next.confIndex, next.conf = e.Index, slices.Clone(e.Data)
			case e.Type == raft.LogCommand:
				var err error
				if into[i], err = f.call(tx, e); err != nil {
					bad = i
					return err
				}
			}
		}
		return f.st.write(tx, &next)
	})
	if err != nil {
		return bad, err
	}
	f.changed(next, lsn)
	return bad, nil
}

// call calls Apply. If somebody is told that the FSM stops, a panic is an error; otherwise it ends the process here,
// where its stack is.
func (f *FSM[P]) call(tx *engine.Tx[P], e *raft.Log) (response any, err error) {
	if f.o.OnFail != nil {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("apply entry %d: %w", e.Index, &PanicError{p, debug.Stack()})
			}
		}()
	}
	if response, err = f.apply(tx, e); err != nil && !isRejection(err) {
		err = fmt.Errorf("apply entry %d: %w", e.Index, err)
	}
	return response, err
}

// A full disk has roomAtMost to have room again, and is asked each roomEvery. The store's cleaner makes some.
const roomAtMost, roomEvery = 10 * time.Second, 50 * time.Millisecond

// roomWait waits for room on a full disk.
type roomWait struct {
	closing context.Context // of the store
	most    time.Duration
	until   time.Time // when the last wait ends
}

// wait waits a moment. It returns false if there is no point in another try.
func (w *roomWait) wait() bool {
	if w.until.IsZero() {
		w.until = time.Now().Add(w.most)
	}
	t := time.NewTimer(roomEvery)
	defer t.Stop()
	select {
	case <-t.C:
		return time.Now().Before(w.until)
	case <-w.closing.Done():
		return false
	}
}
