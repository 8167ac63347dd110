package raftpages

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"pagecache/engine"
)

// received is a store that a snapshot has made, open and durable, until Restore puts it in the place of the one in use.
type received[P any] struct {
	id string
	h  *opened[P]
	st state
}

// discard closes and removes the store.
func (p *received[P]) discard(f *FSM[P]) error { return errors.Join(p.h.close(), f.remove(p.h.number)) }

// remove removes a store that is not in use, or what there is of one.
func (f *FSM[P]) remove(number int) error {
	return errors.Join(removeTree(f.files, storeName(number)), removeTree(f.files, storeName(number)+installing))
}

// installing is what engine.Install has more in the name of a directory until the store is complete.
const installing = ".installing"

// receive opens the store that a sink has installed, and gives it the state that raft has given to the sink.
func (f *FSM[P]) receive(k *sink[P]) error {
	h, st, err := f.openStore(k.number)
	if err != nil {
		return err
	}
	if !st.equal(&k.st) { // raft.Raft.Restore gives the entries of another group a new index
		var lsn engine.LSN
		lsn, err = h.pc.Update(context.Background(), func(tx *engine.Tx[P]) error { return st.write(tx, &k.st) })
		if err == nil {
			_, err = h.pc.MakeStable(lsn)
		}
	}
	p := &received[P]{id: k.ID(), h: h, st: k.st}
	if err == nil {
		f.mu.Lock()
		if f.closed {
			err = engine.ErrClosed
		} else {
			f.pending, p = p, f.pending
		}
		f.mu.Unlock()
	}
	if err != nil {
		return errors.Join(err, h.close())
	}
	if p != nil {
		return p.discard(f)
	}
	return nil
}

// openReceived returns the snapshot that was received last, for Restore.
func (f *FSM[P]) openReceived(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pending
	if p == nil || p.id != id {
		return nil, nil, fmt.Errorf("open snapshot %s: %w", id, ErrSnapshot)
	}
	meta := p.st.meta(receivedID)
	meta.ID = id
	return meta, &arrived[P]{f, p}, nil
}

// arrived is a snapshot that was received, as raft passes it from SnapshotStore.Open to FSM.Restore.
type arrived[P any] struct {
	f *FSM[P]
	p *received[P]
}

func (*arrived[P]) Read([]byte) (int, error) {
	return 0, fmt.Errorf("read snapshot: %w: only FSM.Restore can use what was received", ErrConfig)
}

func (*arrived[P]) Close() error { return nil }

// Restore implements raft.FSM: it puts the store of a snapshot that was received in the place of the one in use. It
// waits for Apply, but for no reader: calls of View that are under way go on with the store as it was, which is removed
// once they have returned. As raft asks, the store is as the snapshot afterwards, also if it was newer: raft applies
// the entries behind it again, and what the store had may be of a leader that others have not followed. Only if both
// are of the same entry, of the same term, the store stays, and becomes durable. If it cannot be told which of the two
// stores the next Open will find, the FSM stops. Errors: ErrConfig for a snapshot of another SnapshotStore,
// ErrSnapshot, ErrStopped, engine.ErrClosed, and those of the operating system.
func (f *FSM[P]) Restore(r io.ReadCloser) error {
	for {
		w, ok := r.(raft.ReadCloserWrapper)
		if !ok {
			break
		}
		r = w.WrappedReadCloser()
	}
	var err error
	switch x := r.(type) {
	case *stream[P]:
		if x.f == f {
			return nil
		}
		err = fmt.Errorf("%w: the snapshot is of another FSM", ErrConfig)
	case *arrived[P]:
		err = f.restore(x.p)
	default:
		err = fmt.Errorf("%w: the snapshot store is not that of the FSM", ErrConfig)
	}
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	return nil
}

// restore puts a store in the place of the one in use.
func (f *FSM[P]) restore(p *received[P]) error {
	f.writing.Lock()
	defer f.writing.Unlock()
	f.mu.Lock()
	mine, err := f.pending == p, f.errLocked()
	same, lsn := p.st.index == f.st.index && p.st.term == f.st.term, f.lsn
	if err == nil && mine {
		f.pending = nil
	}
	f.mu.Unlock()
	switch {
	case err != nil:
		return err
	case !mine:
		return ErrSnapshot
	case same: // raft removes the entries from its log
		_, err = f.cur.Load().pc.MakeStable(lsn)
		return errors.Join(err, p.discard(f))
	}
	if begun, err := writeCurrent(f.files, p.h.number); err != nil {
		if begun { // the next Open may find it
			return errors.Join(f.stop(err), p.h.close())
		}
		return errors.Join(err, p.discard(f))
	}
	if !f.replace(p) { // it was closed meanwhile; the next Open finds the store
		return errors.Join(engine.ErrClosed, p.h.close())
	}
	return nil
}

// replace makes a store the one in use, and lets a goroutine remove the one before. It returns false if the FSM was
// closed. writing is held.
func (f *FSM[P]) replace(p *received[P]) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	old := f.cur.Swap(p.h)
	f.st, f.newest, f.lsn = p.st, p.st, p.h.pc.StableLSN()
	f.applied.Store(f.st.index)
	f.wakeLocked()
	f.work.Go(func() {
		// If one of them fails, the next Open removes the store.
		if old.close() == nil {
			_ = f.remove(old.number)
		}
	})
	return true
}
