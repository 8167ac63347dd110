package enginetest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"

	"pagecache/engine"
)

// Internals are facts about a store that the exported API does not show. The tests of package engine set them.
var Internals struct {
	// EndBatch seals a batch and returns the LSN of its end marker.
	EndBatch func(*engine.Batch) (engine.LSN, error)
	// RootPage returns the page that holds the root of a name, or 0 if there is none.
	RootPage func(pc *engine.PageCache[[]byte], name string) engine.PageID
	// NewestLSN returns the LSN of a page's newest message.
	NewestLSN func(*engine.PageCache[[]byte], engine.PageID) engine.LSN
	// SegmentSize returns the segment size in bytes.
	SegmentSize func(*engine.PageCache[[]byte]) int
	// Unnoted reports whether the log has refused to note ids, so that timestamps may repeat after a crash.
	Unnoted func(*engine.PageCache[[]byte]) bool
}

// Driver does random things to a store and checks each answer against the history. It belongs to one goroutine, and no
// other goroutine changes the store meanwhile.
type Driver struct {
	PC    *engine.PageCache[[]byte]
	H     *History
	Max   int                              // the longest value in bytes
	Syncs bool                             // it waits for stability at times
	Trace func(format string, args ...any) // nil: none

	// Eager gives segments every chance to be recycled. Its Txs end after about Patience attempts then.
	Eager    bool
	Patience int

	Alive   []engine.PageID // the pages in use
	Batches []OpenBatch
	Changed error // a Violation: a value changed after it was read
	Cleaned int   // steps of cleaning that made progress
	NoSpace int   // calls that failed with ErrNoSpace

	rng   *rand.Rand
	ptrs  map[engine.PageID]engine.PagePtr[[]byte]
	stale []OldState
	txs   []driverTx
	ticks int
	freed map[engine.PageID]int // the tick at which the page was freed
}

// OldState is a version of a page that may be superseded.
type OldState struct {
	Page engine.PageID
	Ptr  engine.PagePtr[[]byte]
}

// OpenBatch is a batch that was not ended.
type OpenBatch struct {
	b *engine.Batch
	i int // in History.Batches
}

// driverTx is an open Tx of a Driver.
type driverTx struct {
	tx    *engine.Tx[[]byte]
	since int // the tick at which it began
	held  []heldValue
}

// heldValue is a value that was read, with a copy. The value must not change before the Tx ends.
type heldValue struct {
	pid       engine.PageID
	was, read []byte
}

// NewDriver returns a Driver for a store that holds the contents that h describes. It returns a Driver after an error,
// too, for End.
func NewDriver(pc *engine.PageCache[[]byte], rng *rand.Rand, h *History) (*Driver, error) {
	d := &Driver{PC: pc, rng: rng, H: h, Max: 200, Syncs: true, ptrs: map[engine.PageID]engine.PagePtr[[]byte]{},
		freed: map[engine.PageID]int{}}
	tx, err := d.Tx()
	if err != nil {
		return d, err
	}
	for pid, p := range h.Now.Pages {
		if p.Kind == engine.KindMaterialized {
			d.Alive = append(d.Alive, pid)
		}
	}
	slices.Sort(d.Alive)
	for _, pid := range d.Alive {
		p, err := pc.Get(tx, pid)
		if err != nil {
			return d, err
		}
		d.ptrs[pid] = p.Ptr
		d.hold(tx, pid, p.Value)
	}
	return d, nil
}

// Tx returns an open Tx: usually the last one, sometimes a new one beside it or instead of it.
func (d *Driver) Tx() (*engine.Tx[[]byte], error) {
	if n := len(d.txs); n > 0 {
		switch k := d.rng.IntN(8); {
		case k > 1 || n < 3 && d.Patience > 2:
			return d.txs[n-1].tx, nil
		case k == 1 || n > 3:
			i := d.rng.IntN(n)
			d.finish(&d.txs[i])
			if d.txs = slices.Delete(d.txs, i, i+1); n > 1 {
				return d.txs[n-2].tx, nil
			}
		}
	}
	tx, err := d.PC.Begin()
	if err != nil {
		return nil, err
	}
	d.txs = append(d.txs, driverTx{tx: tx, since: d.ticks})
	if next := d.H.NextID; Internals.Unnoted(d.PC) {
		defer func() { d.H.NextID = next }()
	}
	return tx, d.H.Seen(tx.TS())
}

// finish ends a Tx. It sets Changed if a value that was read in it has changed (trap 9).
func (d *Driver) finish(t *driverTx) {
	for _, h := range t.held {
		if d.Changed == nil && !bytes.Equal(h.was, h.read) {
			d.Changed = Violated("a value of page %d changed before its Tx ended: %s, was %s",
				h.pid, Brief(h.read), Brief(h.was))
		}
	}
	t.tx.End()
}

// hold keeps a value that was read in tx.
func (d *Driver) hold(tx *engine.Tx[[]byte], pid engine.PageID, v []byte) {
	for i := range d.txs {
		if d.txs[i].tx == tx {
			d.txs[i].held = append(d.txs[i].held, heldValue{pid, bytes.Clone(v), v})
		}
	}
}

// End ends all Txs. Batches stay open.
func (d *Driver) End() {
	for i := range d.txs {
		d.finish(&d.txs[i])
	}
	d.txs = nil
}

// Drop ends the Txs and closes the store of a run that has failed, so that the batches, too, which it leaves open are
// no fault. See invariants.Track.
func (d *Driver) Drop() {
	d.End()
	_ = d.PC.Close()
	runtime.KeepAlive(d) // with the batches
}

// Work calls Step n times. It counts calls that fail with ErrNoSpace, and returns any other error.
func (d *Driver) Work(n int) error {
	for range n {
		if err := d.Step(); errors.Is(err, engine.ErrNoSpace) {
			d.NoSpace++
		} else if err != nil {
			return err
		}
	}
	return nil
}

// Step does one thing. It returns a Violation if the answer is wrong, and otherwise the error of the store.
func (d *Driver) Step() error {
	d.ticks++
	if d.Changed != nil {
		return d.Changed
	}
	if d.Eager && d.rng.IntN(4) == 0 {
		return d.recycle()
	}
	tx, err := d.Tx()
	if err != nil {
		return err
	}
	switch k := d.rng.IntN(100); {
	case k < 14 || len(d.Alive) == 0:
		return d.Allocate(tx)
	case k < 50:
		return d.Link(tx)
	case k < 60:
		return d.Replace(tx)
	case k < 66:
		return d.Free(tx)
	case k < 70:
		return d.old(tx)
	case k < 76:
		return d.get(tx)
	case k < 80:
		return d.Root(tx)
	case k < 84:
		return d.ID()
	case k < 88:
		return d.Pin()
	case k < 93:
		return d.seal()
	case k < 95:
		return d.clean()
	case k < 96:
		return d.snapshot()
	}
	if !d.Syncs {
		return nil
	}
	return d.sync()
}

// snapshot writes a snapshot, unless a batch is open, for which it would wait.
func (d *Driver) snapshot() error {
	if len(d.Batches) > 0 {
		return nil
	}
	d.tracef("snapshot")
	err := d.PC.Snapshot()
	if errors.Is(err, engine.ErrNoSpace) {
		return nil
	}
	return err
}

func (d *Driver) tracef(format string, args ...any) {
	if d.Trace != nil {
		d.Trace(format, args...)
	}
}

// Pin begins a batch, unless three are open.
func (d *Driver) Pin() error {
	if len(d.Batches) > 2 {
		return nil
	}
	b, err := d.PC.PinLog()
	if err != nil {
		return err
	}
	d.tracef("%d: batch begins", b.LSN())
	d.Batches = append(d.Batches, OpenBatch{b, len(d.H.Batches)})
	d.H.Batches = append(d.H.Batches, Span{Begin: b.LSN()})
	return nil
}

// seal ends one of the open batches.
func (d *Driver) seal() error {
	if len(d.Batches) == 0 {
		return nil
	}
	return d.SealAt(d.rng.IntN(len(d.Batches)))
}

// SealAt ends the i-th open batch.
func (d *Driver) SealAt(i int) error {
	o := d.Batches[i]
	lsn, err := Internals.EndBatch(o.b)
	if err != nil {
		return err
	}
	d.tracef("%d: batch from %d ends", lsn, o.b.LSN())
	d.Batches = slices.Delete(d.Batches, i, i+1)
	d.H.Batches[o.i].End = lsn
	return nil
}

// SealAll ends all open batches.
func (d *Driver) SealAll() error {
	for len(d.Batches) > 0 {
		if err := d.SealAt(0); err != nil {
			return err
		}
	}
	return nil
}

// clean does a few steps of cleaning.
func (d *Driver) clean() error {
	for range 1 + d.rng.IntN(4) {
		did, err := d.PC.AttemptGC()
		if err != nil {
			return err
		}
		if !did {
			break
		}
		d.Cleaned++
	}
	return nil
}

// recycle lets segments be recycled: Txs end, written data becomes stable, and the cleaner runs.
func (d *Driver) recycle() error {
	if d.rng.IntN(d.Patience) == 0 {
		d.End()
	}
	if d.H.StableLimit() == Unlimited && d.rng.IntN(2) == 0 {
		if err := d.Flush(); err != nil {
			return err
		}
	}
	return d.clean()
}

// Flush makes all changes stable. It waits for open batches.
func (d *Driver) Flush() error {
	if _, err := d.PC.Flush(); err != nil {
		return err
	}
	d.H.AckAll()
	return nil
}

// sync waits until some changes are stable, or asks which are. It never waits for an open batch, which only this
// goroutine can end.
func (d *Driver) sync() error {
	limit := d.H.StableLimit()
	switch n := len(d.H.Effects); {
	case d.rng.IntN(4) == 0:
		d.H.Ack(d.PC.StableLSN() + 1)
	case d.rng.IntN(3) == 0 && limit == Unlimited:
		if err := d.Flush(); err != nil {
			return err
		}
	case n > 0:
		lsn := d.H.Effects[n-1-d.rng.IntN(min(n, 4))].LSN
		if lsn >= limit {
			return nil
		}
		if _, err := d.PC.MakeStable(lsn); err != nil {
			return err
		}
		d.H.Ack(lsn + 1)
	}
	if got := d.PC.StableLSN() + 1; got < d.H.Acked || got > limit {
		return Violated("stable below %d, acknowledged below %d, batch open from %d", got, d.H.Acked, limit)
	}
	d.tracef("stable below %d", d.H.Acked)
	return nil
}
