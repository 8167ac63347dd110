package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/trace"
	"time"

	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagemap"
	"pagecache/engine/internal/scope"
	"pagecache/engine/internal/snapshot"
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// A Batch is a part of the log that is recovered whole or not at all: every message written between PinLog and Seal, by
// any goroutine. Until Seal, no message written after PinLog becomes stable: MakeStable of such a message waits for the
// Seal, and a goroutine that waits for its own open batch waits for ever. A Batch ends with Seal or Abort. Safe for
// concurrent use.
type Batch struct {
	core *core
	b    *iobuf.Batch
}

// PinLog begins a batch. If open batches that overlap began before the last flush, or MakeStable waits for them, PinLog
// waits until all of them have ended, at most 100 ms. PinLog may be called within a batch, where it waits once at most.
// So batches of up to 100 ms that begin without a pause delay stability for the two longest of them at most. Longer
// ones can overlap without end, and delay it for as long as one is open. Errors are those of Link.
func (pc *PageCache[P]) PinLog() (*Batch, error) { return pc.core.pinLog() }

func (c *core) pinLog() (*Batch, error) {
	call, err := c.enter()
	if err != nil {
		return nil, describe("pin log", err)
	}
	defer call.End()
	b, err := c.store.Log.BeginBatch()
	if err != nil {
		return nil, describe("pin log", err)
	}
	return &Batch{c, b}, nil
}

// writeInBatch writes records of a standalone log in a batch, and returns their LSNs.
func (c *core) writeInBatch(records [][]byte, write func([]byte) (LSN, DiskPtr, error)) ([]LSN, error) {
	b, err := c.pinLog()
	if err != nil {
		return nil, err
	}
	lsns := make([]LSN, 0, len(records))
	for _, p := range records {
		lsn, _, err := write(p)
		if err != nil {
			return lsns, errors.Join(err, b.Abort())
		}
		lsns = append(lsns, lsn)
	}
	return lsns, b.Seal()
}

// LSN returns the LSN at which the batch begins.
func (b *Batch) LSN() LSN { return b.b.LSN() }

// Seal ends the batch. It is durable after MakeStable of any later LSN, or after Flush. While Close waits for Txs and
// batches, Seal works. ErrBatchEnded reports that the batch had ended already. After any other error, such as
// ErrNoSpace, the batch is still open and Seal may be tried again.
func (b *Batch) Seal() error { return b.end("seal batch") }

// Abort ends the batch without the all-or-nothing guarantee: its writes stay, as ordinary writes. It does not roll
// back. Errors are those of Seal.
func (b *Batch) Abort() error { return b.end("abort batch") }

// end writes the end marker. Everything between the markers is complete then, so it counts as ordinary writes too.
func (b *Batch) end(doing string) error {
	call := b.core.calls.Begin() // not enter: Close waits for the batch
	defer call.End()
	err := iobuf.ErrClosed
	if !b.core.shut.Load() { // after begin: Close sets it, then looks for calls
		_, err = b.b.End()
	} else if invariants.Enabled {
		b.core.left.Store(b.b, nil)
	}
	return describe(fmt.Sprintf("%s at LSN %d", doing, b.LSN()), err)
}

// closeGrace is the time that a Close with a context that has ended still waits for what does not depend on callers.
const closeGrace = 100 * time.Millisecond

// awaitCallers waits until no Tx or Pin of t and no batch is open and no call is under way, and returns how many of t
// are still open. It waits for scope.Patience at most, and leaves closeGrace of ctx to the rest of Close. Batches can
// be ended meanwhile, and none begin.
func (c *core) awaitCallers(ctx context.Context, t interface{ Wait(context.Context) int }) int {
	end := time.Now().Add(scope.Patience)
	if d, ok := ctx.Deadline(); ok && d.Add(-closeGrace).Before(end) {
		end = d.Add(-closeGrace)
	}
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	n := t.Wait(ctx)
	if !c.opts.seam.Impatient {
		c.store.Log.AwaitBatches(ctx)
	}
	c.calls.Wait(ctx) // calls that wait for the log end when it is closed
	return n
}

// shutBatches lets no batch end any more, and returns a BatchOpenError if one is open.
func (c *core) shutBatches(ctx context.Context) error {
	c.shut.Store(true)
	c.calls.Wait(ctx) // for those that have not seen it
	if lsn, open := c.store.Log.MissingFrom(); open && !c.opts.Temporary {
		return &BatchOpenError{LSN: lsn}
	}
	return nil
}

// Flush makes everything written so far stable and returns how many bytes of the log became stable meanwhile. It waits
// for open batches to end. Errors: ErrFailed, ErrClosed. Safe for concurrent use.
func (pc *PageCache[P]) Flush() (int, error) { return pc.core.flush(context.Background()) }

// FlushContext is Flush that stops waiting, with the context's error, when ctx ends. The writes may still become
// stable.
func (pc *PageCache[P]) FlushContext(ctx context.Context) (int, error) { return pc.core.flush(ctx) }

// MakeStable waits until the message at lsn is stable: on stable storage together with all messages before it, and in
// no open batch. It returns how many bytes of the log became stable meanwhile. If lsn was not handed out yet, it waits
// for everything written so far. Concurrent callers share device writes. While a full disk is cleaned, it may wait up
// to a second longer, so that padding takes no room. It may wait without limit for an open Batch or Reservation
// (Stats().Log.OldestBatch, OldestReservation), or for a disk that hangs: MakeStableContext limits the wait. Errors:
// ErrFailed, ErrClosed. Safe for concurrent use.
func (pc *PageCache[P]) MakeStable(lsn LSN) (int, error) {
	return pc.core.makeStable(context.Background(), lsn)
}

// MakeStableContext is MakeStable that stops waiting, with the context's error, when ctx ends. The message may still
// become stable. If ctx can end, another goroutine drives the device, which adds a hand-over to the latency.
func (pc *PageCache[P]) MakeStableContext(ctx context.Context, lsn LSN) (int, error) {
	return pc.core.makeStable(ctx, lsn)
}

// StableLSN returns the LSN of the last stable byte of the log, −1 if there is none. The message at an LSN is stable if
// the LSN is at or below it. Safe for concurrent use.
func (pc *PageCache[P]) StableLSN() LSN { return pc.core.store.Log.StableLSN() }

func (c *core) flush(ctx context.Context) (int, error) {
	if c.closed.Load() {
		return 0, fmt.Errorf("flush: %w", ErrClosed)
	}
	before := c.store.Log.StableEnd()
	if c.store.Log.Tail() <= before { // it need not wait
		return 0, describe("flush", c.store.Log.FlushContext(ctx))
	}
	region, start := trace.StartRegion(ctx, "pagecache: commit"), time.Now()
	err := c.store.Log.FlushContext(ctx)
	return c.committed(before, start, region, err), describe("flush", err)
}

// committed counts a commit that began at start, when the log was stable up to before, and returns by how many bytes it
// has become stable since then.
func (c *core) committed(before LSN, start time.Time, region *trace.Region, err error) int {
	region.End()
	n := int(c.store.Log.StableEnd() - before)
	if err == nil && n > 0 {
		c.store.Times.Commits.Add(time.Since(start))
	}
	return n
}

func (c *core) makeStable(ctx context.Context, lsn LSN) (int, error) {
	if c.closed.Load() {
		return 0, fmt.Errorf("make stable: %w", ErrClosed)
	}
	before := c.store.Log.StableEnd()
	if before > lsn {
		return 0, nil
	}
	region, start := trace.StartRegion(ctx, "pagecache: commit"), time.Now()
	err := c.store.Log.MakeStableContext(ctx, lsn)
	n := c.committed(before, start, region, err)
	if err != nil {
		return n, describe(fmt.Sprintf("make LSN %d stable", lsn), err)
	}
	return n, nil
}

// Err returns why the log has stopped: an error that wraps ErrFailed and its cause, or ErrClosed after Close; nil while
// the log works. A ReadOnly store has no log that could stop. It does not block. Safe for concurrent use.
func (pc *PageCache[P]) Err() error { return pc.core.err() }

// Err returns why the log has stopped; see PageCache.Err.
func (l *Log) Err() error { return l.core.err() }

func (c *core) err() error {
	if err := c.store.Log.Err(); errors.Is(err, ErrFailed) {
		return err
	}
	if c.closed.Load() {
		return ErrClosed
	}
	return nil
}

// Snapshot writes a snapshot now, so that the next Open reads only the log written from here on. It blocks no other
// call. If a batch stays open for some seconds, it fails. Errors: ErrReadOnly, ErrClosed, ErrFailed, ErrNoSpace,
// ErrCorrupt. Safe for concurrent use.
func (pc *PageCache[P]) Snapshot() error { return pc.SnapshotContext(context.Background()) }

// SnapshotContext is Snapshot that gives up, with the context's error, when ctx ends, and a second later if the disk
// does not answer.
func (pc *PageCache[P]) SnapshotContext(ctx context.Context) error {
	if pc.core.opts.ReadOnly {
		return fmt.Errorf("snapshot: %w", ErrReadOnly)
	}
	call, err := pc.core.enter()
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return within(ctx, "snapshot", func() error {
		defer call.End()
		return describe("snapshot", pc.snaps.Write(ctx, pc.core.store.Log, &pc.pages, snapshot.Pause))
	})
}

// diskPatience is the time for which a call that has a context waits for the disk after the context has ended.
const diskPatience = time.Second

// within calls f, which ends soon after ctx unless the disk does not answer, and returns its error. In that case within
// returns without f, which goes on in a goroutine of its own. If ctx cannot end, within waits as long as f takes.
func within(ctx context.Context, doing string, f func() error) error {
	if ctx.Done() == nil {
		return f()
	}
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	t := time.NewTimer(diskPatience)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		return fmt.Errorf("%s: the disk does not answer: %w", doing, context.Cause(ctx))
	}
}

// lastSnapshot writes the snapshot of a closing. If that fails, the next Open takes longer, and no more.
func (c *core) lastSnapshot(ctx context.Context, snaps *snapshot.Store, pages *pagemap.Map) {
	err := snaps.Write(ctx, c.store.Log, pages, 0)
	if err != nil && !errors.Is(err, iobuf.ErrClosed) { // ErrClosed: a batch was left open
		c.opts.report.Background("snapshot not written", snaps.Dir(), err)
	}
}

// GenerateID returns an id that was never returned before in the life of the store and is higher than all of them. A
// crash skips up to twice IDPersistInterval ids. It blocks only when a note of ids is overdue. Errors: ErrClosed,
// ErrReadOnly, and those of the log if ids cannot be noted. Safe for concurrent use.
func (pc *PageCache[P]) GenerateID() (uint64, error) {
	if pc.core.closed.Load() {
		return 0, fmt.Errorf("generate id: %w", ErrClosed)
	}
	if pc.core.opts.ReadOnly {
		return 0, fmt.Errorf("generate id: %w", ErrReadOnly)
	}
	id, ok := pc.ids.Try()
	if !ok {
		if err := pc.ids.Approve(id); err != nil {
			return 0, describe("generate id", err)
		}
	}
	if pc.core.closed.Load() { // Close may not have counted the id: see Draw
		return 0, fmt.Errorf("generate id: %w", ErrClosed)
	}
	return id, nil
}

// noteID writes id v to page 1.
func (pc *PageCache[P]) noteID(v uint64) (LSN, error) {
	call, err := pc.core.enter()
	if err != nil {
		return 0, err
	}
	defer call.End()
	c := change[P]{kind: format.KindCounter, on: ifOwned, counter: v}
	c.payload.Body = format.AppendCounter(nil, v)
	s := pc.pages.Table.Make(format.CounterPage)
	h, _, err := pc.apply(call, page{id: format.CounterPage, slot: s}, &c)
	if err != nil {
		return 0, err
	}
	return h.LSN, nil
}

// A Reservation is a place in the log that one goroutine fills. It must end in exactly one Complete or Abort, soon:
// until then no record behind it becomes stable. It belongs to one goroutine.
type Reservation struct {
	tracker invariants.Tracker
	open    *logstore.Gate // the reservations of the log that have not ended
	r       iobuf.Reservation
	lsn     LSN // kept here because r cannot be asked once it has ended
	ptr     DiskPtr
	ended   bool
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
	r.open.Leave()
	return r.lsn, r.ptr, nil
}

// Abort releases the place; readers of the log skip it. Errors are those of Complete.
func (r *Reservation) Abort() error {
	if err := r.end(); err != nil {
		return err
	}
	r.r.Abort()
	r.open.Leave()
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
