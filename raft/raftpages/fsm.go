package raftpages

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/internal/osfs"
	"pagecache/internal/vfs"
)

// Errors of this package. Those of package engine come through, with errors.Is.
var (
	// ErrStopped reports that the FSM has stopped; the error wraps the cause.
	ErrStopped = errors.New("the FSM has stopped")
	// ErrApplied is the response to an entry that the store had already. The first response is not kept.
	ErrApplied = errors.New("entry was applied before")
	// ErrConfig reports a raft.Config, a log or a snapshot store that does not go with the FSM.
	ErrConfig = errors.New("unsuitable configuration of raft")
	// ErrSnapshot reports a snapshot that is not there any more, or never was.
	ErrSnapshot = errors.New("no such snapshot")
)

// Apply applies a committed command, entry.Data, to the pages. It must be deterministic: on each node, the changes may
// depend on the entry and the pages alone. It changes pages and roots with the calls of tx, not with Commit or End, and
// keeps neither tx nor entry. Roots whose names begin with Reserved are the FSM's.
//
// response is what raft.ApplyFuture.Response returns on the node where the command was given to raft. It may be an
// error, of a command that has changed nothing, for instance. It must not hold values that tx has returned, which are
// not valid any more.
//
// If err is one of Reject, nothing of the entry is done. It counts as applied, and the error is its response. Any other
// error, or a panic, stops the FSM: the entry is not applied, and the next start tries it again. So return errors of tx
// as they are: they are those of this node's disk, or mistakes of Apply.
//
// The ids of pages are not the same on all nodes, since a node uses those of freed pages again when its readers allow
// that. So pages may hold ids, but neither response nor rejection may depend on them.
//
// Apply may be called more than once for an entry. The changes and the response of the last call count. It is called by
// one goroutine at a time.
type Apply[P any] func(tx *engine.Tx[P], entry *raft.Log) (response any, err error)

// RejectedError is the response to an entry that Apply has rejected.
type RejectedError struct{ Err error }

func (e *RejectedError) Error() string { return fmt.Sprintf("rejected: %v", e.Err) }

// Unwrap returns the error that was given to Reject.
func (e *RejectedError) Unwrap() error { return e.Err }

// Reject returns the error with which Apply undoes what it has done for an entry. Whether it does must not depend on
// the node.
func Reject(err error) error { return &RejectedError{err} }

// A PanicError reports that Apply has panicked.
type PanicError struct {
	Value any
	Stack []byte // as debug.Stack returns it
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Options configure an FSM. The zero value is the default.
type Options struct {
	// Store are the options of the store [those of engine.Open]. Neither ReadOnly nor Temporary can be set. If
	// SegmentSize is set, a snapshot of a store with another one cannot be installed.
	Store *engine.Options
	// OnFail is called once, in a goroutine of its own, when the FSM stops [it panics, which ends the process]. It
	// should shut raft down, so that the other nodes go on without this one, and then close the FSM. Err has the error.
	OnFail func(err error)

	// For tests.
	fs   vfs.FS
	room time.Duration // roomAtMost
}

// FSM is the state of one member of a raft group: a page store. It implements raft.BatchingFSM, whose methods raft
// alone calls. All other methods are safe for concurrent use.
type FSM[P any] struct {
	dir   string
	m     engine.Materializer[P]
	apply Apply[P]
	o     Options
	store engine.Options // of each opening of a store
	fs    vfs.FS
	files vfs.Dir // dir
	room  time.Duration

	// cur is the store in use, nil after Close. Restore and Close store it, and publish the opened store to readers.
	// A reader that has loaded an older one finds it retired, and loads again.
	cur atomic.Pointer[opened[P]]
	// applied is the index in st, for readers that must not wait for mu. A stale one makes them wait on turn.
	applied atomic.Uint64

	// writing is held while the store in use changes, or is replaced. It is locked before mu.
	writing sync.Mutex

	mu     sync.Mutex // never held for long; it guards all below. st, lsn and newest change with writing held, too.
	st     state      // of the store in use, as of its last commit
	lsn    engine.LSN // of that commit
	newest state      // the newest snapshot: at or below st, and on the disk
	// turn is closed, and replaced, when any of what mu guards changes that goroutines wait for.
	turn    chan struct{}
	failed  error // why the FSM has stopped; nil: it works
	closed  bool
	pending *received[P]   // the snapshot that was received last, until it is restored or replaced
	serial  int            // number of the newest directory of a store
	work    sync.WaitGroup // goroutines that close and remove stores

	reads barriers
	// started is the raft that NewRaft has started last, for Waiting and Read. It publishes its guard.
	started atomic.Pointer[started]
}

var _ raft.BatchingFSM = (*FSM[[]byte])(nil)

// opened is an open store. It is closed when it was retired and all that use it have ended.
type opened[P any] struct {
	pc     *engine.PageCache[P]
	number int
	ctx    context.Context // ends when the store is retired, so that streams of it end
	cancel context.CancelFunc

	mu      sync.RWMutex // read-locked while the store is used
	retired bool         // mu guards it
}

func newOpened[P any](pc *engine.PageCache[P], number int) *opened[P] {
	h := &opened[P]{pc: pc, number: number}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// close waits for those that use the store, and closes it.
func (h *opened[P]) close() error {
	h.cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.retired {
		return nil
	}
	h.retired = true
	return h.pc.Close()
}

// Open opens the FSM in dir, or makes one with an empty store. m is the Materializer of its pages, and o, which may be
// nil, has the options. Errors: those of engine.Open, bad options, and engine.ErrCorrupt if the file CURRENT is missing
// or corrupt, or its store is missing. Another opening, of any process, holds the store: engine.ErrLocked.
func Open[P any](dir string, m engine.Materializer[P], apply Apply[P], o *Options) (*FSM[P], error) {
	f := &FSM[P]{dir: dir, m: m, apply: apply, turn: make(chan struct{}), fs: osfs.OS}
	if o != nil {
		f.o = *o
	}
	f.room = cmp.Or(f.o.room, roomAtMost)
	if f.o.Store != nil {
		f.store = *f.o.Store
	}
	if f.o.fs != nil {
		f.fs = f.o.fs
		vfs.SetFS(&f.store, f.o.fs)
	}
	if f.store.ReadOnly || f.store.Temporary {
		return nil, fmt.Errorf("open FSM %s: the store of an FSM is neither ReadOnly nor Temporary", dir)
	}
	if err := f.fs.MkdirAll(dir); err != nil {
		return nil, err
	}
	files, err := f.fs.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	f.files = files
	if err := f.open(); err != nil {
		return nil, errors.Join(err, files.Close())
	}
	return f, nil
}

// path returns the path of a store.
func (f *FSM[P]) path(number int) string { return filepath.Join(f.dir, storeName(number)) }

// open opens the store that CURRENT names, or the first one, and removes all others.
func (f *FSM[P]) open() error {
	number, err := readCurrent(f.files)
	if err != nil {
		return err
	}
	for {
		h, st, err := f.openNamed(number)
		if err != nil {
			return err
		}
		// Another process may have held this store, and restored a snapshot, before it released it.
		now, err := readCurrent(f.files)
		if err == nil && now == number {
			if number == 0 {
				_, err = writeCurrent(f.files, h.number)
			}
			if err == nil {
				err = removeOthers(f.files, h.number)
			}
			if err == nil {
				f.cur.Store(h)
				f.st, f.newest, f.serial = st, st, h.number
				f.applied.Store(st.index)
				return nil
			}
		}
		if err = errors.Join(err, h.close()); err != nil {
			return err
		}
		number = now
	}
}

// openNamed opens the store that CURRENT names; 0: there is no CURRENT.
func (f *FSM[P]) openNamed(number int) (*opened[P], state, error) {
	const first = 1
	if number == 0 {
		names, err := f.files.ReadDir()
		if err != nil {
			return nil, state{}, err
		}
		for _, name := range names {
			if n, err := storeNumber(name); err == nil && n != first {
				return nil, state{}, fmt.Errorf("%s has the store %s, but no file %s: %w", f.dir, name, currentName,
					engine.ErrCorrupt)
			}
		}
		return f.openStore(first)
	}
	_, err := f.files.Identify(storeName(number))
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s names the store %s, which is missing: %w", filepath.Join(f.dir, currentName),
			storeName(number), engine.ErrCorrupt)
	}
	if err != nil {
		return nil, state{}, err
	}
	return f.openStore(number)
}

// openStore opens a store and reads its state.
func (f *FSM[P]) openStore(number int) (*opened[P], state, error) {
	o := f.store
	pc, err := engine.Open(f.path(number), f.m, &o)
	if err != nil {
		return nil, state{}, err
	}
	st, err := stateOf(pc)
	if err != nil {
		return nil, state{}, errors.Join(fmt.Errorf("open FSM %s: %w", f.path(number), err), pc.Close())
	}
	return newOpened(pc, number), st, nil
}

// stateOf reads the state of a store.
func stateOf[P any](pc *engine.PageCache[P]) (state, error) {
	tx, err := pc.Begin()
	if err != nil {
		return state{}, err
	}
	defer tx.End()
	meta, err := pc.Meta(tx)
	if err != nil {
		return state{}, err
	}
	return readState(meta)
}

// use returns the store in use, which is not closed before done was called.
func (f *FSM[P]) use() (h *opened[P], done func(), err error) {
	for {
		h := f.cur.Load()
		if h == nil {
			return nil, nil, engine.ErrClosed
		}
		// RLock would wait for those that use h, if close does.
		if h.mu.TryRLock() {
			if !h.retired {
				return h, h.mu.RUnlock, nil
			}
			h.mu.RUnlock()
		}
		// It is closed, or about to be, so another one is in use by now.
	}
}

// Applied returns the index and term of the last entry that the store has, or that a snapshot or a restored store
// counts as applied. Raft shows neither no-ops nor barriers to an FSM, so raft.Raft.AppliedIndex may be higher. The
// entry is not on the disk yet.
func (f *FSM[P]) Applied() (index, term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.st.index, f.st.term
}

// Err returns why the FSM has stopped: an error that wraps ErrStopped and its cause, or engine.ErrClosed after Close;
// nil while it works.
func (f *FSM[P]) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.errLocked()
}

func (f *FSM[P]) errLocked() error {
	if f.closed {
		return engine.ErrClosed
	}
	return f.failed
}

// Stats returns the state and counts of the store in use; zero after Close.
func (f *FSM[P]) Stats() (s engine.Stats) {
	if h, done, err := f.use(); err == nil {
		defer done()
		s = h.pc.Stats()
	}
	return s
}

// Latencies returns those of the store in use; zero after Close.
func (f *FSM[P]) Latencies() (l engine.Latencies) {
	if h, done, err := f.use(); err == nil {
		defer done()
		l = h.pc.Latencies()
	}
	return l
}

// Close waits for calls of View and Read that are under way, ends streams of snapshots, and closes the store, which
// makes all that was applied durable. Call it when raft has been shut down. Later calls fail with engine.ErrClosed.
// Errors are those of engine.PageCache.Close. Calls after the first return nil.
func (f *FSM[P]) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	h, p := f.cur.Swap(nil), f.pending
	f.pending = nil
	f.wakeLocked()
	f.mu.Unlock()
	err := h.close()
	if p != nil {
		err = errors.Join(err, p.discard(f))
	}
	f.work.Wait()
	return errors.Join(err, f.files.Close())
}

// wakeLocked wakes the goroutines that wait. mu is held.
func (f *FSM[P]) wakeLocked() {
	close(f.turn)
	f.turn = make(chan struct{})
}

// changed makes next the state, as of a commit at lsn. writing is held.
func (f *FSM[P]) changed(next state, lsn engine.LSN) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.st, f.lsn = next, lsn
	f.applied.Store(next.index)
	f.wakeLocked()
}

// stop stops the FSM because of err, unless it was closed, and returns the error of later calls.
func (f *FSM[P]) stop(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if was := f.errLocked(); was != nil {
		return was
	}
	f.failed = fmt.Errorf("%w after entry %d: %w", ErrStopped, f.st.index, err)
	f.wakeLocked()
	if f.o.OnFail == nil {
		panic(f.failed)
	}
	go f.o.OnFail(f.failed)
	return f.failed
}
