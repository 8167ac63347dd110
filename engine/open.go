package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"reflect"
	"time"

	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/clean"
	"pagecache/engine/internal/compress"
	"pagecache/engine/internal/idgen"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/scope"
	"pagecache/engine/internal/scratch"
	"pagecache/engine/internal/snapshot"
	"pagecache/engine/internal/values"
	"pagecache/lru"
	"pagecache/segments/format"
)

// blobDir is the directory of blobs below the store's.
const blobDir = logstore.BlobDir

// Open opens the page store in dir, or makes one. opts nil means the defaults. It waits up to two seconds for another
// opening to release the store. If the directory is moved while the store is open, the store moves with it. It makes
// directories with mode 0755 and files with 0644, less the umask. Errors: bad options (all of them named), ErrLocked,
// ErrCorrupt, ErrNoSpace, ErrFormat, ErrKind, ErrUnsupported, and those of the operating system. After an error nothing
// stays open and no data was changed; an opening that is refused has written nothing at all.
func Open[P any](dir string, m Materializer[P], opts *Options) (*PageCache[P], error) {
	if m == nil {
		return nil, errors.New("open: no Materializer given")
	}
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	o := opts.withDefaults()
	defer o.report.Flush()
	pc, err := open(dir, m, o)
	if ce := (*CorruptError)(nil); errors.As(err, &ce) {
		// The blocks of a large snapshot are verified when they are used. If one turns out to be corrupt before Open
		// returns, the snapshot is skipped too: everything is in the log.
		if _, isSnapshot := format.ParseSnapshotName(filepath.Base(ce.File)); isSnapshot {
			o.report.Corruption("snapshot "+ce.File+" skipped", err)
			o.seam.LogAlone = true
			pc, again := open(dir, m, o)
			if again != nil {
				return nil, errors.Join(err, again)
			}
			return pc, nil
		}
	}
	return pc, o.report.Corrupt(err)
}

// open is one try of Open.
func open[P any](dir string, m Materializer[P], o Options) (*PageCache[P], error) {
	pc := &PageCache[P]{m: callerCode[P]{m}, cleaner: clean.New(), limit: min(o.ConsolidateAfter, pagestack.MaxDepth-1)}
	pc.core.opts = o
	pc.finder = finder{&pc.core, &pc.txs, &pc.pages}
	c := pc.core.prepare().storeConfig(false, pc.cleaner.Kick)
	var err error
	if c.Format, err = formatOf(m); err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	store, err := logstore.Open(dir, c)
	if err != nil {
		return nil, err
	}
	pc.core.store, pc.flat = store, isFlat(reflect.TypeFor[P]())
	pc.useBytes(m)
	if o.seam.Verbatim {
		pc.limit = pagestack.MaxDepth // no chain exceeds it
	}
	pc.openMemory()
	if err := pc.recover(); err != nil {
		pc.core.scratch.Stop()
		pc.mem.policy.Close()
		store.Abandon()
		return nil, fmt.Errorf("open %s: %w", store.Dir, err)
	}
	pc.startBackground()
	return pc, nil
}

// openMemory prepares the cache's accounts and starts the eviction policy.
func (pc *PageCache[P]) openMemory() {
	y := &pc.mem
	y.m, y.pages, y.store, y.mapped, y.viewsOnly = pc.m, &pc.pages, pc.core.store, new(pagestack.Ext), pc.raw != nil
	y.exhausted.Store(-1)
	y.budget = lru.NewBudget(pc.core.opts.CacheCapacity)
	y.allowance = lru.NewAllowance(pc.core.opts.EvictionWrites, y.budget)
	pc.txs.Init(&pc.core.closed, pc.core.scratch, pc.core.opts.report)
	pc.txs.New = pc.newScope
	pc.txs.Budget, pc.txs.HandOver, pc.txs.Buffers = y.budget, y.handOver, scratch.NewBuffers(pc.core.scratch)
	y.policy = lru.New(y.budget, evictor[P]{pc}, lru.Options{Passive: pc.core.opts.seam.Foreground})
}

// recover finds a snapshot, reads the log, rebuilds the page table, and starts the log. It writes nothing before all
// checks have passed.
func (pc *PageCache[P]) recover() (err error) {
	store, o := pc.core.store, &pc.core.opts
	pc.blobs = blob.New(blob.Config{In: store.Held, Name: blobDir, Store: store.Super.Store,
		Timeline: store.Timeline, Device: o.device(), Reader: store.Reader, Report: o.report})
	store.Attach(pc.blobs)
	pc.values = values.IO{Store: store, Blobs: pc.blobs, IDs: &pc.ids, Cold: &pc.mem.counts.cold}
	pc.values.Inline = store.SegmentSize() / 4
	if pc.values.Unzip, err = compress.NewUnpacker(pc.core.scratch); err != nil {
		return err
	}
	if o.Compression == CompressionZstd {
		if pc.values.Zip, err = compress.New(o.CompressionLevel, pc.core.scratch); err != nil {
			return err
		}
	}
	if pc.snaps, err = openSnapshots(store, o); err != nil {
		return err
	}
	store.Attach(pc.snaps)
	if err := pc.blobs.Find(); err != nil {
		return err
	}
	if err := store.Distrust(); err != nil {
		return err
	}
	if err := pc.snaps.Find(o.seam.LogAlone); err != nil {
		return err
	}
	base, err := baseOf(pc.snaps)
	if err != nil {
		return err
	}
	found, err := store.Recover(base)
	if err != nil {
		return err
	}
	if err := store.Prepare(found); err != nil {
		return err
	}
	pc.pages.Init(store, pc.blobs, pc.snaps, &pc.txs.Domain)
	if err := pc.pages.Rebuild(found); err != nil {
		return err
	}
	pc.snaps.Applied(found.Scan.Messages())
	var strays []format.BlobID
	if !o.ReadOnly {
		if strays, err = pc.blobs.FindStrays(); err != nil {
			return err
		}
	}
	// Everything that may refuse the opening has been checked. From here on it writes (rule 17).
	if err := store.Start(found); err != nil {
		return err
	}
	if err := pc.blobs.RemoveStrays(strays); errors.Is(err, fs.ErrPermission) {
		o.report.Background("stray blobs not removed", "", err) // too late to refuse the opening
	} else if err != nil {
		return err
	}
	pc.ids.Start(idgen.Config{
		Next: found.NextID, Limit: found.IDLimit, Interval: o.IDPersistInterval, ReadOnly: o.ReadOnly,
		Closed: &pc.core.closed, Write: pc.noteID, MakeDurable: store.Log.MakeDurable,
		Failed: func(err error) { o.report.Background("ids not noted ahead", "", err) },
	})
	return nil
}

// openSnapshots returns the snapshots of a store. Nothing is read yet.
func openSnapshots(store *logstore.Store, o *Options) (*snapshot.Store, error) {
	c := snapshot.Config{
		In: store.Held, FS: store.FS, Lost: store.Lost, Store: store.Super.Store, SegmentSize: store.SegmentSize(),
		Lineage: store.Super.Lineage(), Timeline: store.Timeline, Reader: store.Reader, Report: o.report,
		Clean: store.Super.Clean, Unchecked: o.seam.Unchecked,
	}
	if o.SnapshotDir != "" {
		abs, err := store.FS.Abs(o.SnapshotDir)
		if err != nil {
			return nil, fmt.Errorf("snapshot directory %s: %w", o.SnapshotDir, err)
		}
		c.OwnDir = abs
	}
	return snapshot.New(c), nil
}

// baseOf returns what the snapshot that the store opens from says about the log.
func baseOf(snaps *snapshot.Store) (b logstore.Base, err error) {
	if snap := snaps.Base; snap != nil {
		b = logstore.Base{From: snap.From, Stable: snap.High, Counter: snap.Counter,
			Recycled: snap.Recycled, Left: snap.Left, Timeline: snap.Timeline}
		for _, g := range snap.Segments {
			b.Known = append(b.Known, g.Base)
		}
	}
	b.Others, err = snaps.Timelines()
	return b, err
}

// startBackground starts the cleaner and the snapshot writer.
func (pc *PageCache[P]) startBackground() {
	o := &pc.core.opts
	pages := &mover[P]{pc: pc, tx: pc.txs.Lone(), warmth: clean.Warmth{Store: pc.core.store}}
	pc.cleaner.Start(clean.Config{
		Store: pc.core.store, Pages: pages, Contained: containedMover[P]{pages}, Blobs: pc.blobs,
		Readers: &pc.txs.Domain, Report: o.report, Keep: pc.pages.KeepDecisions,
		Held: func(d logstore.Drained) bool { return pc.pages.Holds(d.Base, d.Epoch) },
		Options: clean.Options{
			Threshold: o.CleanupThreshold, Skew: o.CleanupSkew, IOBuffers: o.IOBuffers,
			Linear: o.SegmentMode == SegmentModeLinear, Eager: o.seam.Eager, ByHand: o.seam.Foreground || o.ReadOnly,
		},
	})
	if o.seam.Foreground || o.ReadOnly || o.Temporary {
		pc.snaps.NoRun()
	} else {
		go pc.snaps.Run(pc.core.store.Log, &pc.pages, o.SnapshotEvery)
	}
}

// WasRecovered reports whether the store existed before this opening.
func (pc *PageCache[P]) WasRecovered() bool { return pc.core.store.Found }

// Close makes everything written durable, marks the store as closed cleanly and releases it. Calls that are under way
// or come later fail with ErrClosed, but Txs and batches can be ended. Close waits up to 5 s for that. If a Tx does not
// end, the store is closed all the same, but its memory map stays until the process ends, so that the values that the
// Tx holds stay valid, and the error says so. If a batch does not end, it and all that was written after it began will
// be missing, and the error is a BatchOpenError. If the directory or the log file was removed since Open, nothing is
// written, and the error wraps fs.ErrNotExist. If the log has failed, Close returns ErrFailed with the cause; the next
// Open recovers the store. A second Close returns ErrClosed.
func (pc *PageCache[P]) Close() error { return pc.CloseContext(context.Background()) }

// CloseContext is Close that stops waiting when ctx ends. It waits for Txs and batches until 100 ms before the deadline
// of ctx, if it has one. Afterwards it waits for background work and the device for at least 100 ms, so that a store
// that does nothing else is closed completely even if ctx has ended. The error says what did not end in time. If calls,
// background work or device writes have not ended, the store is not marked as closed cleanly, and it stays locked until
// the process ends, since they may still write. If the disk does not answer, CloseContext returns a second after ctx
// has ended, at the latest, and closing ends when the disk answers.
func (pc *PageCache[P]) CloseContext(ctx context.Context) error {
	if pc.core.closed.Swap(true) {
		return fmt.Errorf("close: %w", ErrClosed)
	}
	return within(ctx, "close", func() error { return shut(ctx, pc) })
}

// shut closes a store. It blocks while the disk does not answer.
func shut[P any](ctx context.Context, pc *PageCache[P]) error {
	store := pc.core.store
	store.Log.RefuseBatches()
	pc.cleaner.Stop()
	evicted := make(chan struct{})
	go func() {
		pc.mem.policy.Close()
		close(evicted)
	}()
	idle := make(chan bool, 1)
	early, cancel := withGrace(ctx)
	defer cancel()
	go func() { idle <- pc.snaps.Stop(early) }() // it first wakes the Txs that wait for a scan of the log
	var left error
	var end logstore.Ending
	if n := pc.core.awaitCallers(ctx, &pc.txs); n > 0 {
		left = fmt.Errorf("close: %d transactions still open; the memory map is left in place", n)
		end.KeepMapped = true
	}
	ctx, cancelLate := withGrace(ctx)
	defer cancelLate()
	pc.txs.Watch.Stop()
	left = errors.Join(left, pc.core.shutBatches(ctx))
	ended := await(ctx, pc.cleaner.Done()) && await(ctx, evicted)
	if pc.core.opts.PrintProfileOnClose {
		pc.core.opts.report.Profile(fmt.Sprintf("%+v", pc.Stats()))
	}
	emptied := pc.core.recycleEmpty(pc.cleaner, ended && left == nil)
	ended = await(ctx, emptied) && ended
	var err error
	end.End, err = store.Log.CloseContext(ctx) // it wakes every waiter, such as a note of ids
	pc.ids.Stop()
	if !ended { // they may have waited for the log
		ended = await(ctx, pc.cleaner.Done()) && await(ctx, evicted) && await(ctx, emptied)
	}
	if idle := <-idle; !ended || !idle {
		end.Busy = true
		late := errors.New("close: cleaner, evictor or snapshot writer did not stop in time")
		left = errors.Join(left, late, context.Cause(ctx))
	}
	if err == nil && !end.Busy && !pc.core.opts.Temporary && !pc.core.opts.ReadOnly {
		pc.core.lastSnapshot(ctx, pc.snaps, &pc.pages)
	}
	if err == nil && left == nil {
		pc.blobs.Reap(store.Log.StableEnd(), math.MaxUint64) // an open batch still needs the blobs that it replaced
	}
	end.NextID, end.NextPage = pc.ids.Next(), pc.pages.IDs.Next()
	return errors.Join(left, describe("close", pc.core.finish(ctx, end, err)))
}

// withGrace returns a context that ends with ctx, but no sooner than closeGrace from now.
func withGrace(ctx context.Context) (context.Context, context.CancelFunc) {
	graced, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	grace := time.NewTimer(closeGrace)
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-grace.C:
			cancel(context.Cause(ctx))
		case <-graced.Done():
		}
	})
	return graced, func() {
		stop()
		grace.Stop()
		cancel(nil)
	}
}

// finish closes the page-less store. failed is the error of closing so far.
func (c *core) finish(ctx context.Context, end logstore.Ending, failed error) error {
	c.scratch.Stop()
	if n := c.calls.Wait(ctx); n > 0 {
		end.Busy = true
		failed = errors.Join(failed, fmt.Errorf("%d calls still running", n))
	}
	return c.store.Close(ctx, end, failed)
}

// await waits for done, for scope.Patience at most or until ctx ends. It returns false if done is still open: a device
// that hangs blocks everything.
func await(ctx context.Context, done <-chan struct{}) bool {
	t := time.NewTimer(scope.Patience)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-ctx.Done():
	case <-t.C:
	}
	select { // closed at the same moment
	case <-done:
		return true
	default:
		return false
	}
}
