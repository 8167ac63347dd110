package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/stream"
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// A Log is a standalone ordered log of records, without pages. DropBelow drops them. Safe for concurrent use.
type Log struct {
	core core
	open logstore.Gate // the reservations that have not ended
	// first is the base of the lowest segment that was not dropped. Only DropBelow raises it, before it recycles.
	first    atomic.Int64
	drop     chan struct{} // full while a DropBelow is under way
	recycler *logstore.Recycler
	pins     logstore.Pins
	streams  *stream.Set

	segmentSize int // of the store, whose superblock Close writes
}

// OpenLog opens the standalone log in dir, or makes one. Its segments are kept in order whatever opts.SegmentMode says.
// The disk must hold at least six segments: a full one, the active one (a full segment can only be dropped after
// another has begun), one for notes and truncations on a full disk, two for drops, and one for the next opening. Errors
// are those of Open.
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
	if err == nil {
		err = store.Prepare(found)
	}
	if err == nil {
		l.streams = stream.New(store)
		found.Beside = func() { l.streams.Load(found.Scan.Segments, found.LogEnd()) }
		err = store.Start(found)
	}
	if l.core.opts.report.Corrupt(err) != nil {
		store.Abandon()
		return nil, fmt.Errorf("open %s: %w", store.Dir, err)
	}
	l.core.store, l.recycler, l.segmentSize = store, logstore.NewRecycler(store), store.SegmentSize()
	l.first.Store(int64(store.Space.First()))
	return l, nil
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
	if !l.open.Enter() {
		r.Abort()
		return nil, describe("reserve", ErrClosed)
	}
	tracker := invariants.Track("engine.Reservation", &l.core.closed)
	return &Reservation{tracker: tracker, open: &l.open, r: r, lsn: r.LSN(), ptr: r.Ptr()}, nil
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
// than a quarter of a segment, they delay nobody else's stability, and after an error nothing was done. Longer ones
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
// valid until Close or until the record is dropped, or, beside a Pin, until that ends. It must not be modified. A
// ReadOnly log ends at the stable LSN; reading beyond it is an error. Errors: ErrCorrupt, ErrDropped, ErrClosed.
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

// Seq is the number of a record in its Stream: 1 or more. 0 stands for no record.
type Seq = format.Seq

// A Record is a record of a log and its place.
type Record struct {
	LSN   LSN
	Ptr   DiskPtr
	Seq   Seq    // of a record of a Stream; else 0
	Bytes []byte // valid as the result of Get or Read is; it must not be modified
}

// Records returns the stable records at or above from, in the order of the log, as far as the log is stable when the
// iteration begins. from need not be a record's LSN; 0 means the beginning, or FirstLSN. An error, which comes
// with a zero Record, ends the iteration. Errors are those of Read.
func (l *Log) Records(from LSN) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		call, err := l.core.enter()
		if err != nil {
			yield(Record{}, fmt.Errorf("iterate at LSN %d: %w", from, err))
			return
		}
		end := l.core.store.Log.StableEnd()
		size := LSN(l.core.store.SegmentSize()) // within the call: Close writes the superblock
		call.End()
		// Message boundaries are known only at the beginning of a segment.
		for pos := max(from, l.FirstLSN()) / size * size; ; {
			if pos%size == 0 {
				pos += format.SegmentStart
			}
			if pos >= end {
				return
			}
			r, next, err := l.next(pos)
			if err != nil {
				yield(Record{}, fmt.Errorf("iterate at LSN %d: %w", pos, err))
				return
			}
			if r.Ptr.Len > 0 && r.LSN >= from && !yield(r, nil) {
				return
			}
			pos = next
		}
	}
}

// next reads the message at pos and returns the boundary after it. The Record is zero for other messages.
func (l *Log) next(pos LSN) (Record, LSN, error) {
	call, err := l.core.enter()
	if err != nil {
		return Record{}, pos, err
	}
	defer call.End()
	if size := LSN(l.core.store.SegmentSize()); pos/size*size < l.FirstLSN() {
		return Record{}, pos, ErrDropped
	}
	m, lsn, ptr, next, err := l.core.store.Next(pos)
	if err != nil || m.Kind != format.KindData {
		return Record{}, next, l.core.opts.report.Corrupt(err)
	}
	return Record{LSN: lsn, Ptr: ptr, Bytes: m.Body}, next, nil
}

// A Pin keeps the bytes valid that Get, Read and Records return while it is open. Safe for concurrent use.
type Pin = logstore.Pin

// Pin begins a pin, which must end with End. Records can be dropped while it is open. The space of those that were in
// the log when it began is freed by a DropBelow after its End. Errors: ErrClosed.
func (l *Log) Pin() (*Pin, error) {
	call, err := l.core.enter()
	if err != nil {
		return nil, describe("pin", err)
	}
	defer call.End()
	return l.pins.Begin(l.FirstLSN), nil
}

// SegmentSize returns the size of the log's segments in bytes.
func (l *Log) SegmentSize() int { return l.segmentSize }

// FirstLSN returns the LSN below which everything was dropped.
func (l *Log) FirstLSN() LSN { return LSN(l.first.Load()) }

// DropBelow discards every whole, stable segment whose records all lie below lsn and frees its space. Larger values of
// lsn are clamped to the end of the log. LSNs are not renumbered; FirstLSN reports how far the log was truncated. Data
// previously returned for dropped records is invalid. After a crash or error the next opening may report a lower
// FirstLSN. While a batch or a Reservation is open, the space may be freed by a later call only. Segments that a Stream
// has records in are kept; if Stream fails with ErrCorrupt, so are all that may have some. Errors: ErrReadOnly,
// ErrClosed, ErrNoSpace, ErrFailed, and those of freeing slots, which are sticky for DropBelow only.
func (l *Log) DropBelow(lsn LSN) error {
	return l.dropBelow(context.Background(), lsn)
}

// dropBelow drops segments below lsn that no stream needs. ctx ends its wait for others.
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
	// Calls that began before first was raised may still read the segments. They are short.
	epoch := l.core.calls.Domain.Retire()
	if !l.core.calls.Await(ctx, func() bool { return l.core.calls.Domain.Oldest() >= epoch }) {
		return describe("drop", ctx.Err())
	}
	l.streams.Forget(l.FirstLSN()) // not before: readers of records that were carried forward look there
	call, err := l.core.enter()
	if err != nil {
		return describe("drop", err)
	}
	defer call.End()
	busy := func() bool { return l.open.Open() > 0 } // the reservation may be the caller's
	unpinned := func(d logstore.Drained) bool { return d.Base < l.pins.Low() }
	if err = l.recycler.All(unpinned, busy); err == nil {
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
	if err := l.streams.CarryRecords(lsn); err != nil && !logstore.IsNoSpace(err) {
		return err
	}
	lsn = min(lsn, l.streams.Low())
	if err := l.streams.CarryNotes(lsn); err != nil {
		return err
	}
	l.recycler.DrainBelow(lsn, l.FirstLSN(), func(first LSN) { l.first.Store(int64(first)) })
	return nil
}

// Close makes everything durable, marks the log as closed cleanly and releases it. It waits for calls under way, and up
// to 5 s for open batches and Pins to end. While reservations are open it fails and closes nothing. If a Pin stays
// open, the log is closed all the same, but its memory map and its lock stay until the process ends, and the error says
// so. Other errors are those of PageCache.Close.
func (l *Log) Close() error { return l.CloseContext(context.Background()) }

// CloseContext is Close that stops waiting when ctx ends; see PageCache.CloseContext.
func (l *Log) CloseContext(ctx context.Context) error {
	if n, shut := l.open.Shut(); n > 0 { // calls and iterations beside this one notice nothing
		return fmt.Errorf("close: %d reservations still open", n)
	} else if !shut {
		return fmt.Errorf("close: %w", ErrClosed)
	}
	l.core.closed.Store(true)
	l.streams.Wake()
	early, cancel := withGrace(ctx)
	defer cancel()
	l.core.calls.Wait(early)
	l.core.store.Log.RefuseBatches()
	return within(ctx, "close", func() error {
		n := l.core.awaitCallers(ctx, &l.pins)
		graced, cancel := withGrace(ctx)
		defer cancel()
		left := l.core.shutBatches(graced)
		l.core.store.SealTail(ctx)
		end, err := l.core.store.Log.CloseContext(graced)
		if n > 0 {
			left = errors.Join(left, fmt.Errorf("close: %d pins still open; the memory map is left in place", n))
		}
		e := logstore.Ending{End: end, KeepMapped: n > 0}
		return errors.Join(left, describe("close", l.core.finish(graced, e, err)))
	})
}
