package engine_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
)

var (
	crashSeeds = flag.Int("crash.seeds", 1500, "the number of seeds that TestCrash tries")
	crashFirst = flag.Uint64("crash.first", 1, "the first seed that TestCrash tries")
	crashSeed  = flag.Uint64("crash.seed", 0, "if not 0, the only seed that TestCrash tries, 200 times")
)

// crashSegment is the segment size of the stores that are crashed, in bytes.
const crashSegment = 16 << 10

// crashRun is the life of one disk. Stores are opened on it, changed, and crashed or closed.
type crashRun struct {
	rng     *rand.Rand
	disk    *simdisk.Disk
	plant   planted
	h       *enginetest.History
	o       engine.Options
	seam    seam.Options
	limited bool // the disk has a capacity
	deep    bool // the disk crashes in most openings
	trace   func(format string, args ...any)
	crashes int
	counts  *crashCounts

	// The store that was opened last, and what may be open in it, for drop.
	pc      *engine.PageCache[[]byte]
	driver  *enginetest.Driver
	workers *workers
}

// crashCounts are the counts of all runs of a test.
type crashCounts struct {
	recycled atomic.Int64 // segments
	blobs    atomic.Int64 // at the ends of the runs
}

// planted is a fault that the harness must find. The zero value is no fault.
type planted struct {
	fs   func(*simdisk.Disk) vfs.FS
	disk func(*simdisk.Disk, *rand.Rand)
	pc   func(*engine.PageCache[[]byte])
}

func newCrashRun(seed uint64, plant planted) *crashRun {
	rng := rand.New(rand.NewPCG(seed, 7))
	o := simdisk.Options{Block: []int{512, 4096}[rng.IntN(2)], Depth: 1 + rng.IntN(4), NoRing: rng.IntN(3) == 0,
		NoDirect: rng.IntN(3) == 0}
	r := &crashRun{rng: rng, plant: plant, h: enginetest.NewHistory(), counts: new(crashCounts)}
	if rng.IntN(8) == 0 {
		o.Capacity, r.limited = int64(4+rng.IntN(10))*crashSegment, true
	}
	r.o = engine.Options{SegmentSize: crashSegment, IOBuffers: 2 + rng.IntN(2), ConsolidateAfter: 1 + rng.IntN(8),
		FlushEvery: -1, IDPersistInterval: []uint64{1, 3, 10, 1000}[rng.IntN(4)]}
	r.seam.Eager = rng.IntN(2) == 0
	if seed%3 == 0 {
		r.seam.ZeroStep = o.Block * (1 + int(seed)%4)
	}
	if rng.IntN(4) == 0 {
		r.o.Compression, r.o.CompressionLevel = engine.CompressionZstd, 1
	}
	r.o.CacheCapacity = []int64{1, 1 << 10, 8 << 10, 0}[rng.IntN(4)]
	r.setDisk(simdisk.New(seed, o))
	return r
}

func (r *crashRun) setDisk(d *simdisk.Disk) {
	r.disk = d
	if r.plant.disk != nil {
		r.plant.disk(d, r.rng)
	}
}

func (r *crashRun) tracef(format string, args ...any) {
	if r.trace != nil {
		r.trace(format, args...)
	}
}

// crash cuts the power.
func (r *crashRun) crash() {
	r.setDisk(r.disk.Crash(r.rng.Uint64()))
	r.crashes++
	r.tracef("--- crash")
}

func (r *crashRun) fs() vfs.FS {
	if r.plant.fs != nil {
		return r.plant.fs(r.disk)
	}
	return r.disk
}

// open opens the store on the present disk. If alone is set, it ignores snapshots.
func (r *crashRun) open(alone bool) (*engine.PageCache[[]byte], error) {
	r.seam.FS, r.seam.LogAlone = r.fs(), alone
	pc, err := engine.Open("/store", engine.Bytes{}, enginetest.WithSeam(&r.o, r.seam))
	r.pc, r.driver, r.workers = pc, nil, nil
	return pc, err
}

// drive returns a Driver for the store.
func (r *crashRun) drive(pc *engine.PageCache[[]byte]) (*enginetest.Driver, error) {
	d, err := enginetest.NewDriver(pc, r.rng, r.h)
	r.driver = d
	return d, err
}

// drop closes the store of a run that has failed, so that what it leaves open is no fault. See invariants.Track.
func (r *crashRun) drop() {
	switch {
	case r.driver != nil:
		r.driver.Drop()
	case r.pc != nil:
		_ = r.pc.Close()
	}
	runtime.KeepAlive(r.workers) // with the batches that they could not seal
}

// abandon closes a store whose disk has crashed. Close must fail, and must not wait as long as its patience of 5 s.
func (r *crashRun) abandon(pc *engine.PageCache[[]byte]) error {
	start := time.Now()
	err := pc.Close()
	if took := time.Since(start); took > 4*time.Second {
		return enginetest.Violated("closing after a crash took %v", took)
	}
	if err == nil {
		return enginetest.Violated("closing after a crash reported no error")
	}
	return nil
}

// attempts is the number of openings of a store that may be crashed, one after another.
const attempts = 4

// reopen opens the store and asks the oracles. At times the disk crashes during the opening, and right after it.
func (r *crashRun) reopen() (*engine.PageCache[[]byte], error) {
	for depth := 0; ; depth++ {
		end, found, err := enginetest.LogEnd(r.disk, "/store")
		if err != nil {
			return nil, err
		}
		r.tracef("--- log ends at %d, acknowledged below %d", end, r.h.Acked)
		if err := r.h.Cut(end); err != nil {
			return nil, err
		}
		if depth < attempts && (r.rng.IntN(2) == 0 || r.deep) {
			r.disk.CrashAfter(1 + r.rng.IntN(20))
		}
		pc, err := r.open(r.rng.IntN(4) == 0) // O6
		r.disk.CrashAfter(0)
		if err != nil {
			switch {
			case r.disk.Crashed():
				r.crash()
			case r.limited && errors.Is(err, engine.ErrNoSpace):
				r.disk.SetCapacity(0)
			default:
				return nil, err
			}
			continue
		}
		if pc.WasRecovered() != found {
			return nil, enginetest.Violated("WasRecovered is %v", !found)
		}
		if r.plant.pc != nil {
			r.plant.pc(pc)
		}
		// The store shows the same contents, however the openings before this one ended (O4).
		if err := r.h.Check(pc); err != nil {
			return nil, err
		}
		if depth < attempts && r.rng.IntN(4) == 0 {
			// A power cut right after the opening takes away nothing that the opening showed (rule 11).
			r.crash()
			if err := r.abandon(pc); err != nil {
				return nil, err
			}
			continue
		}
		return pc, nil
	}
}

// run does everything that follows from the seed.
func (r *crashRun) run() (err error) {
	defer func() {
		if err != nil {
			r.drop()
		}
	}()
	for range 1 + r.rng.IntN(3) {
		if err := r.life(); err != nil {
			return err
		}
	}
	return r.usable()
}

// life opens the store, changes it, and closes or crashes it.
func (r *crashRun) life() error {
	pc, err := r.reopen()
	if err != nil {
		return err
	}
	if r.rng.IntN(8) > 0 {
		n := 1 + r.rng.IntN(60)
		if r.seam.Eager {
			n *= 1 + r.rng.IntN(5)
		}
		r.disk.CrashAfter(n)
	}
	if r.rng.IntN(6) == 0 {
		r.workers = &workers{disk: r.disk, pc: pc, h: r.h}
		err = r.workers.run(2+r.rng.IntN(2), 10+r.rng.IntN(40), r.rng.Uint64())
		return r.leave(pc, nil, err)
	}
	d, err := r.drive(pc)
	if err == nil {
		d.Max, d.Trace = []int{100, 3000, 9000, 16 << 10}[r.rng.IntN(4)], r.trace
		d.Max = min(d.Max, crashSegment-200)
		n := 10 + r.rng.IntN(60)
		if r.seam.Eager {
			d.Eager, d.Patience = true, []int{1, 2, 8, 60}[r.rng.IntN(4)]
			d.Max, n = max(d.Max, 3000), 3*n
		}
		err = d.Work(n)
	}
	return r.leave(pc, d, err)
}

// lawful reports whether work may fail with err: the disk is full, or has crashed.
func (r *crashRun) lawful(err error) bool {
	return err == nil || errors.Is(err, engine.ErrNoSpace) ||
		r.disk.Crashed() && (errors.Is(err, engine.ErrFailed) || errors.Is(err, simdisk.ErrCrashed))
}

// leave closes or crashes a store. err is the error that ended the work on it.
func (r *crashRun) leave(pc *engine.PageCache[[]byte], d *enginetest.Driver, err error) error {
	if d != nil {
		d.End()
		if d.Changed != nil {
			return d.Changed
		}
	}
	r.counts.recycled.Add(pc.Stats().Space.Recycled)
	if v := enginetest.Violation(""); errors.As(err, &v) {
		return err
	}
	if !r.lawful(err) {
		return fmt.Errorf("work: %w", err)
	}
	if !r.disk.Crashed() && r.rng.IntN(3) > 0 {
		return r.close(pc)
	}
	r.crash()
	return r.abandon(pc)
}

// close closes the store. The disk may crash meanwhile, or right afterwards.
func (r *crashRun) close(pc *engine.PageCache[[]byte]) error {
	err := r.h.Closed(pc.Close())
	switch {
	case err == nil:
		r.tracef("--- closed")
		r.h.AckClosed()
		r.disk.CrashAfter(0)
		if r.disk.Crashed() || r.rng.IntN(2) == 0 {
			r.crash()
		}
		return nil
	case r.disk.Crashed():
		r.crash()
		return nil
	}
	return fmt.Errorf("close: %w", err)
}

// usable checks that the store can be changed, closed and opened again after all crashes (O5).
func (r *crashRun) usable() error {
	pc, err := r.reopen()
	if err != nil {
		return err
	}
	r.disk.SetCapacity(0)
	d, err := r.drive(pc)
	if err != nil {
		return err
	}
	d.Trace = r.trace
	if err := d.Work(20); err != nil {
		return err
	}
	if err := d.SealAll(); err != nil {
		return err
	}
	d.End()
	if d.Changed != nil {
		return d.Changed
	}
	if _, err := pc.Flush(); err != nil {
		return err
	}
	if err := r.h.Check(pc); err != nil {
		return err
	}
	r.h.AckAll()
	if err := pc.Close(); err != nil {
		return err
	}
	if end, _, err := enginetest.LogEnd(r.disk, "/store"); err != nil {
		return err
	} else if err := r.h.Cut(end); err != nil {
		return err
	}
	for _, alone := range []bool{true, false} { // O6: with the snapshot of the closing, too
		if err := r.exact(alone); err != nil {
			return err
		}
	}
	return enginetest.Problems("/store", &r.o)
}

// exact opens the store and checks its contents, its accounts and its blobs.
func (r *crashRun) exact(alone bool) error {
	pc, err := r.open(alone)
	if err != nil {
		return err
	}
	blobs, err := engine.ExactBlobs(pc)
	r.counts.blobs.Add(int64(blobs))
	return errors.Join(engine.ExactAccounts(pc), err, r.h.Check(pc), pc.Close())
}

// crashSeedRun runs one seed. It panics if the run does not end.
func crashSeedRun(seed uint64, plant planted, counts *crashCounts, trace func(string, ...any)) error {
	r := newCrashRun(seed, plant)
	r.trace, r.counts = trace, counts
	hang := time.AfterFunc(20*time.Second, func() {
		debug.SetTraceback("all")
		panic(fmt.Sprintf("crash seed %d hangs", seed))
	})
	defer hang.Stop()
	if err := r.run(); err != nil {
		return fmt.Errorf("seed %d, %d crashes: %w\n%v", seed, r.crashes, err, r.h)
	}
	return nil
}

// Crashes lose nothing that was acknowledged, tear nothing, leave no batch in part and repeat no id, whichever part of
// the writes that were not durable they keep; crashes during recovery, too. Proves rules 1, 5, 10 and 11; traps 1, 5,
// 7, 11, 12 and 13.
func TestCrash(t *testing.T) {
	t.Parallel()
	counts := new(crashCounts)
	if *crashSeed != 0 {
		// The seed does not decide what the flusher does beside the caller, so one run of it may not fail.
		for range 200 {
			var lines []string
			trace := func(f string, a ...any) { lines = append(lines, fmt.Sprintf(f, a...)) }
			if err := crashSeedRun(*crashSeed, planted{}, counts, trace); err != nil {
				for _, l := range lines {
					t.Log(l)
				}
				t.Fatal(err)
			}
		}
		return
	}
	start := time.Now()
	var next atomic.Uint64
	next.Store(*crashFirst)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := next.Add(1) - 1; seed < *crashFirst+uint64(*crashSeeds) && !t.Failed(); seed = next.Add(1) - 1 {
				if err := crashSeedRun(seed, planted{}, counts, nil); err != nil {
					t.Errorf("%v\nreplay: go test ./engine -run 'TestCrash$' -args -crash.seed=%d", err, seed)
				}
			}
		})
	}
	wg.Wait()
	seconds := time.Since(start).Seconds()
	t.Logf("%.0f seeds/s, %d segments recycled", float64(next.Load()-*crashFirst)/seconds, counts.recycled.Load())
	if least := int64(*crashSeeds / 20); *crashSeeds >= 1000 {
		if n := counts.blobs.Load(); n < least {
			t.Errorf("%d blobs, want at least %d to prove anything about blobs", n, least)
		}
		if n := counts.recycled.Load(); n < least {
			t.Errorf("%d segments were recycled, want at least %d to prove anything about recycling", n, least)
		}
	}
}

// workers are goroutines that change the same pages of a store. Only the first begins batches. It waits for nothing
// while one of its batches is open.
type workers struct {
	disk *simdisk.Disk
	pc   *engine.PageCache[[]byte]
	mu   sync.Mutex
	h    *enginetest.History // under mu
	pids []engine.PageID     // under mu

	unsealed []*workersBatch // under mu; their seals failed
}

// run lets goroutines make n changes each.
func (w *workers) run(goroutines, n int, seed uint64) error {
	for pid := engine.FirstUserPage; pid < enginetest.NextPage(w.pc); pid++ {
		w.pids = append(w.pids, pid)
	}
	errs := make([]error, goroutines)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() { errs[g] = w.work(g, n, rand.New(rand.NewPCG(seed, uint64(g)))) })
	}
	wg.Wait()
	for _, err := range errs {
		if v := enginetest.Violation(""); errors.As(err, &v) {
			return err
		}
	}
	return errors.Join(errs...)
}

func (w *workers) pick(rng *rand.Rand) engine.PageID {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pids) == 0 {
		return engine.FirstUserPage
	}
	return w.pids[rng.IntN(len(w.pids))]
}

// workersBatch is the open batch of a goroutine.
type workersBatch struct {
	b *engine.Batch
	i int // in History.Batches
}

// pin begins a batch. The lock makes the history know the batch before the other goroutines can record later changes.
func (w *workers) pin() (*workersBatch, error) {
	b, err := w.pc.PinLog()
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.h.Batches = append(w.h.Batches, enginetest.Span{Begin: b.LSN()})
	return &workersBatch{b, len(w.h.Batches) - 1}, nil
}

// seal ends a batch. On a full disk it makes room first, because other goroutines wait behind the batch.
func (w *workers) seal(b *workersBatch) error {
	lsn, err := engine.EndBatch(b.b)
	if errors.Is(err, engine.ErrNoSpace) {
		w.disk.SetCapacity(0)
		lsn, err = engine.EndBatch(b.b)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.unsealed = append(w.unsealed, b)
		return err
	}
	w.h.Batches[b.i].End = lsn
	return nil
}

// work makes n changes. The goroutine with number 0 begins batches, too.
func (w *workers) work(g, n int, rng *rand.Rand) (err error) {
	var batch *workersBatch
	defer func() {
		if batch != nil { // other goroutines may wait behind it
			err = errors.Join(err, w.seal(batch))
		}
	}()
	for range n {
		lsn, err := w.one(rng)
		if err != nil {
			return err
		}
		switch k := rng.IntN(6); {
		case k == 0 && g == 0 && batch == nil:
			if batch, err = w.pin(); err != nil {
				return err
			}
		case k < 3 && batch != nil:
			sealed := batch
			batch = nil
			if err := w.seal(sealed); err != nil {
				return err
			}
		case k == 3 && batch == nil && lsn > 0:
			if _, err := w.pc.MakeStable(lsn); err != nil {
				return err
			}
			w.mu.Lock()
			w.h.Ack(lsn + 1)
			w.mu.Unlock()
		}
	}
	return nil
}

// one makes a change and returns its LSN, or 0 if another goroutine changed the page first.
func (w *workers) one(rng *rand.Rand) (engine.LSN, error) {
	tx, err := w.pc.Begin()
	if err != nil {
		return 0, err
	}
	defer tx.End()
	w.mu.Lock()
	if !enginetest.Internals.Unnoted(w.pc) {
		w.h.NextID = max(w.h.NextID, tx.TS()+1)
	}
	w.mu.Unlock()
	v := make([]byte, rng.IntN(300))
	for i := range v {
		v[i] = byte(rng.Uint32())
	}
	pid := w.pick(rng)
	p, err := w.pc.Get(tx, pid)
	if err != nil {
		return 0, err
	}
	e := enginetest.Effect{Page: pid, Val: v}
	var ptr engine.PagePtr[[]byte]
	won, allocated := false, false
	switch k := rng.IntN(8); {
	case k == 0 || p.Kind != engine.KindMaterialized:
		e.Page, ptr, err = w.pc.Allocate(tx, v)
		won, allocated = err == nil, true
	case k == 1:
		e.Kind, e.Val = enginetest.EffectFree, nil
		ptr, won, err = w.pc.Free(tx, pid, p.Ptr)
	case k == 2 || len(p.Value) > 6000:
		ptr, won, err = w.pc.Replace(tx, pid, p.Ptr, v)
	default:
		e.Kind = enginetest.EffectLink
		ptr, won, err = w.pc.Link(tx, pid, p.Ptr, v)
	}
	if err != nil || !won {
		return 0, err
	}
	e.LSN = ptr.LastLSN()
	w.mu.Lock()
	defer w.mu.Unlock()
	if allocated {
		w.pids = append(w.pids, e.Page)
	}
	w.h.Effects = append(w.h.Effects, e)
	return e.LSN, nil
}
