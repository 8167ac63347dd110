package raftpages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hashicorp/raft"

	"pagecache/engine"
)

// SnapshotStore is the raft.SnapshotStore of an FSM. It has one snapshot: the store itself, which is on the disk up to
// the snapshot's index at least. Open streams the store as it is then, so what it returns may have a higher index than
// what List returned. Safe for concurrent use.
type SnapshotStore[P any] struct{ f *FSM[P] }

var _ raft.SnapshotStore = (*SnapshotStore[[]byte])(nil)

// Snapshots returns the snapshots of the FSM, for raft.NewRaft, raft.BootstrapCluster and raft.RecoverCluster.
func (f *FSM[P]) Snapshots() *SnapshotStore[P] { return &SnapshotStore[P]{f} }

// The ids of snapshots begin with what they are: the store, or one that was received.
const (
	ownID      = "store-"
	receivedID = "received-"
)

// meta describes a state as a snapshot.
func (s *state) meta(id string) *raft.SnapshotMeta {
	return &raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: fmt.Sprintf("%s%d-%d", id, s.term, s.index), Index: s.index, Term: s.term,
		Configuration: s.configuration(), ConfigurationIndex: s.confIndex,
	}
}

// errNoConf reports a store that has entries, but no configuration of raft.
var errNoConf = fmt.Errorf("%w: the store has entries of raft, but no configuration", ErrConfig)

// List returns the newest snapshot, or none if the store has no entry. After Open that is the store as it was opened,
// so raft goes on behind its last entry. The size of the snapshot is not known before Open. Errors: engine.ErrClosed.
func (s *SnapshotStore[P]) List() ([]*raft.SnapshotMeta, error) {
	f := s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return nil, fmt.Errorf("list snapshots: %w", engine.ErrClosed)
	case f.newest.index == 0:
		return nil, nil
	case f.newest.conf == nil:
		return nil, fmt.Errorf("list snapshots: %w", errNoConf)
	}
	return []*raft.SnapshotMeta{f.newest.meta(ownID)}, nil
}

// Open takes a checkpoint of the store and returns it as a stream of meta.Size bytes, for Create on another node, or
// for engine.Install, which makes a store without raft of it. Zeros may follow the checkpoint in the stream. Open
// takes as long as a flush, and an engine.Open after a clean Close. Until the stream is closed, the store grows by what
// is written to it, and View and Apply do not wait. A snapshot that Create has received is not a stream, but for
// FSM.Restore. Errors: ErrSnapshot, engine.ErrClosed, those of engine.PageCache.Checkpoint and engine.OpenCheckpoint,
// and one if the checkpoint would have less than the snapshot.
func (s *SnapshotStore[P]) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if strings.HasPrefix(id, receivedID) {
		return s.f.openReceived(id)
	}
	if !strings.HasPrefix(id, ownID) {
		return nil, nil, fmt.Errorf("open snapshot %q: %w", id, ErrSnapshot)
	}
	meta, r, err := s.f.stream()
	if err != nil {
		return nil, nil, fmt.Errorf("open snapshot %s: %w", id, err)
	}
	return meta, r, nil
}

// stream takes a checkpoint and returns it as a stream.
func (f *FSM[P]) stream() (*raft.SnapshotMeta, io.ReadCloser, error) {
	h, done, err := f.use()
	if err != nil {
		return nil, nil, err
	}
	f.mu.Lock()
	least := f.newest.index
	f.mu.Unlock()
	c, err := h.pc.Checkpoint(h.ctx)
	if err != nil {
		done()
		return nil, nil, err
	}
	meta, err := f.describe(c, least)
	if err != nil {
		c.Close()
		done()
		return nil, nil, err
	}
	meta.Size = c.Size()
	ctx, cancel := context.WithCancel(h.ctx)
	r, w := io.Pipe()
	x := &stream[P]{PipeReader: r, f: f, cancel: cancel, ended: make(chan struct{})}
	context.AfterFunc(ctx, func() { w.CloseWithError(engine.ErrClosed) }) // the reader may not read any more
	go func() {
		defer close(x.ended)
		defer done()
		defer c.Close()
		defer cancel()
		n, err := c.Write(ctx, w, 0)
		if err == nil {
			_, err = io.CopyN(w, zeros{}, meta.Size-n)
		}
		if err != nil && h.ctx.Err() != nil {
			err = engine.ErrClosed
		}
		w.CloseWithError(err)
	}()
	return meta, x, nil
}

// describe describes a checkpoint, which must have the entries up to least.
func (f *FSM[P]) describe(c *engine.Checkpoint, least uint64) (*raft.SnapshotMeta, error) {
	o := f.store
	pc, err := engine.OpenCheckpoint(c, f.m, &o)
	if err != nil {
		return nil, err
	}
	st, err := stateOf(pc)
	if err = errors.Join(err, pc.Close()); err != nil {
		return nil, err
	}
	if st.index < least || st.index == 0 {
		return nil, fmt.Errorf("the checkpoint ends after entry %d, the snapshot after entry %d", st.index, least)
	}
	if st.conf == nil {
		return nil, errNoConf
	}
	return st.meta(ownID), nil
}

// stream is a checkpoint while it is read.
type stream[P any] struct {
	*io.PipeReader
	f      *FSM[P]
	cancel context.CancelFunc
	ended  chan struct{} // closed when nothing is held any more
}

// Close ends the stream.
func (x *stream[P]) Close() error {
	x.cancel()
	err := x.PipeReader.Close()
	<-x.ended
	return err
}

// zeros is an endless stream of zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// Snapshot implements raft.FSM. It does nothing: raft calls Persist while entries are applied. Errors: ErrStopped,
// engine.ErrClosed.
func (f *FSM[P]) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.Err(); err != nil {
		return nil, err
	}
	return snapshot[P]{f}, nil
}

type snapshot[P any] struct{ f *FSM[P] }

// Persist says that the sink takes the store itself as a snapshot. Its Close makes the store durable.
func (s snapshot[P]) Persist(to raft.SnapshotSink) error {
	k, ok := to.(*sink[P])
	if !ok || k.f != s.f {
		return fmt.Errorf("persist snapshot: %w: the snapshot store is not that of the FSM", ErrConfig)
	}
	return k.keep()
}

func (snapshot[P]) Release() {}

// Create implements raft.SnapshotStore. The sink takes what Open has returned on some node: Write writes it to the
// disk and verifies it, and Close returns when all of it is verified and durable, as a store beside the one in use.
// FSM.Restore, which raft calls next, puts it in that one's place. Until then a crash, or another snapshot, removes it.
// A raft.FSMSnapshot of the FSM writes nothing: Close makes the store in use durable, and raft's index with it. Errors
// of Create: ErrConfig; of Write: those of engine.Install; of Close: those, those of engine.Open, and, for the store in
// use, ErrStopped and those of engine.PageCache.MakeStable.
func (s *SnapshotStore[P]) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != raft.SnapshotVersionMax {
		return nil, fmt.Errorf("create snapshot: %w: version %d has no configuration; use raft.ProtocolVersionMax",
			ErrConfig, version)
	}
	k := &sink[P]{f: s.f, st: state{index: index, term: term}}
	k.st.setConf(configurationIndex, configuration)
	k.f.mu.Lock()
	defer k.f.mu.Unlock()
	if k.f.closed {
		return nil, fmt.Errorf("create snapshot: %w", engine.ErrClosed)
	}
	k.f.serial++
	k.number = k.f.serial
	return k, nil
}

// sink takes a snapshot. It belongs to one goroutine.
type sink[P any] struct {
	f      *FSM[P]
	st     state // as raft has given it
	number int   // of the store, if one is received

	own    bool           // it is the store in use
	ended  bool           // Close or Cancel was called
	in     *io.PipeWriter // to install; nil: nothing was written
	result chan error     // of install
}

// ID returns the id of the snapshot.
func (k *sink[P]) ID() string {
	if k.own {
		return k.st.meta(ownID).ID
	}
	return fmt.Sprintf("%s-%d", k.st.meta(receivedID).ID, k.number)
}

var errEnded = errors.New("the snapshot was closed or cancelled before")

// keep makes the sink one of the store in use.
func (k *sink[P]) keep() error {
	if k.ended || k.in != nil {
		return errEnded
	}
	k.own = true
	return nil
}

// Write implements raft.SnapshotSink.
func (k *sink[P]) Write(p []byte) (int, error) {
	if k.ended || k.own {
		return 0, errEnded
	}
	if k.in == nil {
		k.install()
	}
	return k.in.Write(p)
}

// install begins to make a store of what is written.
func (k *sink[P]) install() {
	r, w := io.Pipe()
	k.in, k.result = w, make(chan error, 1)
	go func() {
		o := k.f.store
		_, err := engine.Install(context.Background(), k.f.path(k.number), &o, r)
		if err == nil {
			_, err = io.Copy(io.Discard, r) // the zeros behind the checkpoint
		}
		r.CloseWithError(err) // if it is nil, nobody writes any more
		k.result <- err
	}()
}

// Close implements raft.SnapshotSink.
func (k *sink[P]) Close() error {
	if k.ended {
		return nil
	}
	k.ended = true
	if k.own {
		return k.f.keepStore(&k.st)
	}
	if k.in == nil {
		return fmt.Errorf("close snapshot %s: nothing was written: %w", k.ID(), io.ErrUnexpectedEOF)
	}
	_ = k.in.Close() // it returns no error
	err := <-k.result
	if err == nil {
		err = k.f.receive(k)
	}
	if err != nil {
		return fmt.Errorf("close snapshot %s: %w", k.ID(), errors.Join(err, k.f.remove(k.number)))
	}
	return nil
}

// Cancel implements raft.SnapshotSink.
func (k *sink[P]) Cancel() error {
	if k.ended {
		return nil
	}
	k.ended = true
	if k.in == nil {
		return nil
	}
	k.in.CloseWithError(errEnded)
	<-k.result
	return k.f.remove(k.number)
}

// keepStore makes the store in use durable, as a snapshot of the state that raft has given. Raft counts entries that
// the FSM is not shown, so its index may be the higher one; and entries may have been applied since.
func (f *FSM[P]) keepStore(given *state) error {
	f.writing.Lock()
	next, lsn := f.st, f.lsn
	h, done, err := f.use()
	if err == nil {
		defer done()
		if err = f.Err(); err == nil {
			if next.index < given.index {
				next.index, next.term = given.index, given.term
			}
			if next.confIndex <= given.index { // no newer configuration was applied since
				next.confIndex, next.conf = given.confIndex, given.conf
			}
			if !next.equal(&f.st) {
				lsn, err = f.note(h, &next)
			}
		}
	}
	f.writing.Unlock()
	if err == nil {
		if _, err = h.pc.MakeStable(lsn); errors.Is(err, engine.ErrFailed) && f.cur.Load() == h {
			err = f.stop(err)
		}
	}
	if err != nil {
		return fmt.Errorf("take snapshot: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cur.Load() == h && f.newest.index <= next.index {
		f.newest = next
	}
	return nil
}

// note writes a state to the store in use. writing is held.
func (f *FSM[P]) note(h *opened[P], next *state) (engine.LSN, error) {
	was := f.st
	lsn, err := h.pc.Update(h.ctx, func(tx *engine.Tx[P]) error { return was.write(tx, next) })
	if err == nil {
		f.changed(*next, lsn)
	}
	return lsn, err
}
