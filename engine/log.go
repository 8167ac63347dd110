package engine

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/stream"
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// A Log is a standalone ordered log of records, without pages. DropBelow drops them. Safe for concurrent use.
type Log struct {
	core core
	open atomic.Int64 // the number of reservations that have not ended
	// first is the base of the lowest segment that was not dropped. Only DropBelow raises it, before it recycles.
	first    atomic.Int64
	drop     chan struct{} // full while a DropBelow is under way
	recycler *logstore.Recycler
	streams  *stream.Set
}

// OpenLog opens the standalone log in dir, or makes one. Its segments are kept in order whatever opts.SegmentMode says.
// The disk must hold at least four segments: a full one, the active one (a full segment can only be dropped after
// another has begun), one to note that a segment is dropped, and one for the next opening. Errors are those of Open.
func OpenLog(dir string, opts *Options) (*Log, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	l := &Log{drop: make(chan struct{}, 1), core: core{opts: opts.withDefaults()}}
	store, err := logstore.Open(dir, l.core.prepare().storeConfig(true, nil))
	if err != nil {
		return nil, err
	}
	var found *logstore.Recovered
	if err = store.Distrust(); err == nil {
		found, err = store.Recover(logstore.Base{})
	}
	for _, step := range []func(*logstore.Recovered) error{store.Prepare, store.Start} {
		if err == nil {
			err = step(found)
		}
	}
	if l.core.opts.report.Corrupt(err) != nil {
		store.Abandon()
		return nil, fmt.Errorf("open %s: %w", store.Dir, err)
	}
	l.core.store, l.recycler = store, logstore.NewRecycler(store)
	l.first.Store(int64(store.Space.First()))
	bases := make([]LSN, len(found.Scan.Segments))
	for i, g := range found.Scan.Segments {
		bases[i] = g.Base
	}
	l.streams = stream.New(store, bases)
	return l, nil
}

// A Reservation is a place in the log that one goroutine fills. It must end in exactly one Complete or Abort, soon:
// until then no record behind it becomes stable. It belongs to one goroutine.
type Reservation struct {
	tracker invariants.Tracker
	l       *Log
	r       iobuf.Reservation
	lsn     LSN // kept here because r cannot be asked once it has ended
	ptr     DiskPtr
	ended   bool
}

// Reserve takes a place for a record of n bytes, to be written to Bytes. It blocks while all io buffers are full. After
// an error nothing was done. Errors: ErrNoSpace, ErrTooLarge, ErrFailed, ErrClosed, ErrReadOnly.
func (l *Log) Reserve(n int) (*Reservation, error) {
	call, err := l.core.enter()
	if err != nil {
		return nil, describe("reserve", err)
	}
	defer call.End()
	r, err := l.core.store.Log.Reserve(format.KindData, 0, n)
	if err != nil {
		return nil, describe("reserve", err)
	}
	l.open.Add(1)
	tracker := invariants.Track("engine.Reservation", &l.core.closed)
	return &Reservation{tracker: tracker, l: l, r: r, lsn: r.LSN(), ptr: r.Ptr()}, nil
}

// Bytes returns the memory for the record; nil once the reservation has ended.
func (r *Reservation) Bytes() []byte {
	if r.ended {
		return nil
	}
	return r.r.Body()
}

// LSN returns the record's LSN.
func (r *Reservation) LSN() LSN { return r.lsn }

// Complete commits the record and returns its place. It fails with ErrReservationEnded if Complete or Abort was called.
func (r *Reservation) Complete() (LSN, DiskPtr, error) {
	if err := r.end(); err != nil {
		return 0, DiskPtr{}, err
	}
	r.r.Complete()
	r.l.open.Add(-1)
	return r.lsn, r.ptr, nil
}

// Abort releases the place; readers of the log skip it. Errors are those of Complete.
func (r *Reservation) Abort() error {
	if err := r.end(); err != nil {
		return err
	}
	r.r.Abort()
	r.l.open.Add(-1)
	return nil
}

func (r *Reservation) end() error {
	if r.ended {
		return ErrReservationEnded
	}
	r.ended = true
	r.tracker.Done()
	return nil
}

// Write appends a record. It is in memory when Write returns; MakeStable makes it durable. Errors are those of Reserve.
func (l *Log) Write(p []byte) (LSN, DiskPtr, error) {
	call, err := l.core.enter()
	if err != nil {
		return 0, DiskPtr{}, describe("write", err)
	}
	defer call.End()
	r, err := l.core.store.Log.Reserve(format.KindData, 0, len(p))
	if err != nil {
		return 0, DiskPtr{}, describe("write", err)
	}
	copy(r.Body(), p)
	lsn, ptr := r.LSN(), r.Ptr()
	r.Complete()
	return lsn, ptr, nil
}

// WriteBatch appends records that are recovered all or none, and returns their LSNs. Unless they are longer together
// than a quarter of a segment, they delay nobody else's durability, and after an error nothing was done. Longer ones
// become a Batch, and after an error those written before it stay as single records. Errors are those of Reserve.
func (l *Log) WriteBatch(records [][]byte) ([]LSN, error) {
	if len(records) == 0 {
		return nil, nil
	}
	call, err := l.core.enter()
	if err != nil {
		return nil, describe("write batch", err)
	}
	defer call.End()
	lsns, err := l.core.store.Log.WriteGroup(records)
	if errors.Is(err, ErrTooLarge) {
		return l.core.writeInBatch(records, l.Write)
	}
	return lsns, describe("write batch", err)
}

// PinLog begins a batch; see Batch. Errors are those of Reserve.
func (l *Log) PinLog() (*Batch, error) { return l.core.pinLog() }

// Flush makes everything written so far stable; see PageCache.Flush.
func (l *Log) Flush() (int, error) { return l.core.flush(context.Background()) }

// FlushContext is Flush that stops waiting, with the context's error, when ctx ends.
func (l *Log) FlushContext(ctx context.Context) (int, error) { return l.core.flush(ctx) }

// MakeStable waits until the record at lsn is stable; see PageCache.MakeStable.
func (l *Log) MakeStable(lsn LSN) (int, error) { return l.core.makeStable(context.Background(), lsn) }

// MakeStableContext is MakeStable that stops waiting, with the context's error, when ctx ends.
func (l *Log) MakeStableContext(ctx context.Context, lsn LSN) (int, error) {
	return l.core.makeStable(ctx, lsn)
}

// StableLSN returns the LSN of the last stable byte of the log, −1 if there is none.
func (l *Log) StableLSN() LSN { return l.core.store.Log.StableLSN() }

// Stats returns the log's state and counts.
func (l *Log) Stats() Stats {
	st := l.core.stats()
	st.Space.Draining, st.Space.Recycled = l.recycler.Waiting(), l.recycler.Recycled()
	return st
}

// Read returns the record at lsn and ptr, as Write or Complete returned them, in this opening or an earlier one. It is
// valid until Close or until the record is dropped, and must not be modified. A ReadOnly log ends at the stable LSN;
// reading beyond it is an error. Errors: ErrCorrupt, ErrDropped, ErrClosed.
func (l *Log) Read(lsn LSN, ptr DiskPtr) ([]byte, error) {
	call, err := l.core.enter()
	if err != nil {
		return nil, describe("read", err)
	}
	defer call.End()
	if lsn < l.FirstLSN() {
		return nil, fmt.Errorf("read LSN %d: %w", lsn, ErrDropped)
	}
	if end := l.core.store.Log.StableEnd(); l.core.opts.ReadOnly && lsn >= end {
		return nil, fmt.Errorf("read LSN %d: the log ends at LSN %d", lsn, end)
	}
	m, err := l.core.store.Read(lsn, l.core.store.Locate(lsn, ptr))
	if err != nil {
		return nil, l.core.opts.report.Corrupt(err)
	}
	if m.Kind != format.KindData {
		return nil, fmt.Errorf("read LSN %d: a %v message, not a record", lsn, m.Kind)
	}
	return m.Body, nil
}

// FirstLSN returns the LSN below which everything was dropped.
func (l *Log) FirstLSN() LSN { return LSN(l.first.Load()) }

// DropBelow discards every whole, stable segment whose records all lie below lsn and frees its space. Larger values of
// lsn are clamped to the end of the log. LSNs are not renumbered; FirstLSN reports how far the log was truncated. Data
// previously returned for dropped records is invalid. After a crash or error the next opening may report a lower
// FirstLSN. While a batch or a Reservation is open, the space may be freed by a later call only. Segments that a Stream
// has records in are kept; if Stream fails with ErrCorrupt, so are all that may have some. Errors: ErrReadOnly,
// ErrClosed, ErrNoSpace, ErrFailed, and those of freeing slots, which are sticky for DropBelow only.
func (l *Log) DropBelow(lsn LSN) error {
	return l.dropBelow(context.Background(), min(lsn, l.streams.Low()))
}

// dropBelow drops segments below lsn, at or above which all records of streams lie. ctx ends its wait for others.
func (l *Log) dropBelow(ctx context.Context, lsn LSN) error {
	if l.core.opts.ReadOnly {
		return describe("drop", ErrReadOnly)
	}
	select {
	case l.drop <- struct{}{}:
	case <-ctx.Done():
		return describe("drop", ctx.Err())
	}
	defer func() { <-l.drop }()
	if err := l.drain(lsn); err != nil || l.recycler.Waiting() == 0 {
		return describe("drop", err)
	}
	l.streams.Forget(l.FirstLSN())
	// Calls that began before first was raised may still read the segments. They are short.
	epoch := l.core.calls.Domain.Retire()
	if !l.core.calls.Await(ctx, func() bool { return l.core.calls.Domain.Oldest() >= epoch }) {
		return describe("drop", ctx.Err())
	}
	call, err := l.core.enter()
	if err != nil {
		return describe("drop", err)
	}
	defer call.End()
	busy := func() bool { return l.open.Load() > 0 } // the reservation may be the caller's
	if err = l.recycler.All(busy); err == nil {
		err = l.core.store.Dropped()
	}
	return describe("drop", err)
}

// drain lets the segments wholly below lsn wait to be recycled, and raises first above them.
func (l *Log) drain(lsn LSN) error {
	call, err := l.core.enter()
	if err != nil {
		return err
	}
	defer call.End()
	if err := errors.Join(l.core.store.Log.Err(), l.recycler.Err()); err != nil {
		return err
	}
	l.recycler.DrainBelow(lsn, l.FirstLSN(), func(first LSN) { l.first.Store(int64(first)) })
	return nil
}

// Close makes everything durable, marks the log as closed cleanly and releases it. It waits for calls under way, and up
// to 5 s for open batches to end. While reservations are open it fails and closes nothing. Other errors are those of
// PageCache.Close.
func (l *Log) Close() error { return l.CloseContext(context.Background()) }

// CloseContext is Close that stops waiting when ctx ends; see PageCache.CloseContext.
func (l *Log) CloseContext(ctx context.Context) error {
	if l.core.closed.Swap(true) {
		return fmt.Errorf("close: %w", ErrClosed)
	}
	l.streams.Wake()
	early, cancel := withGrace(ctx)
	defer cancel()
	l.core.calls.Wait(early)
	if n := l.open.Load(); n != 0 {
		l.core.closed.Store(false)
		return fmt.Errorf("close: %d reservations still open", n)
	}
	l.core.store.Log.RefuseBatches()
	return within(ctx, "close", func() error {
		l.core.awaitCallers(ctx, &l.core.calls)
		graced, cancel := withGrace(ctx)
		defer cancel()
		left := l.core.shutBatches(graced)
		end, err := l.core.store.Log.CloseContext(graced)
		return errors.Join(left, describe("close", l.core.finish(graced, logstore.Ending{End: end}, err)))
	})
}
