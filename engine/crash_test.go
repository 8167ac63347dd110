package engine

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/segments"
	"pagecache/segments/format"
)

var (
	crashSeeds = flag.Int("crash.seeds", 1500, "how many seeds TestCrash tries")
	crashFirst = flag.Uint64("crash.first", 1, "the first of them")
	crashSeed  = flag.Uint64("crash.seed", 0, "the one seed that TestCrash tries, over and over, if not 0")
)

// crashRun is the life of one disk: stores are opened on it, worked on, crashed or closed.
type crashRun struct {
	rng     *rand.Rand
	disk    *simdisk.Disk
	plant   planted
	h       *history
	o       Options
	limited bool // the disk's capacity is
	trace   func(format string, args ...any)
	crashes int
}

// crashRecycled is how many segments were recycled by all runs, crashBlobs how many blobs were left at their ends.
var crashRecycled, crashBlobs atomic.Int64

// planted is a fault that the harness has to find; the zero value is none.
type planted struct {
	fs   func(*simdisk.Disk) vfs.FS
	disk func(*simdisk.Disk, *rand.Rand)
	pc   func(*PageCache[[]byte])
}

func newCrashRun(seed uint64, plant planted) *crashRun {
	rng := rand.New(rand.NewPCG(seed, 7))
	o := simdisk.Options{Block: []int{512, 4096}[rng.IntN(2)], Depth: 1 + rng.IntN(4), NoRing: rng.IntN(3) == 0, NoDirect: rng.IntN(3) == 0}
	r := &crashRun{rng: rng, plant: plant, h: newHistory()}
	if rng.IntN(8) == 0 {
		o.Capacity, r.limited = int64(4+rng.IntN(10))*16<<10, true
	}
	r.o = Options{SegmentSize: 16 << 10, IOBuffers: 2 + rng.IntN(2), ConsolidateAfter: 1 + rng.IntN(8), FlushEvery: -1,
		IDPersistInterval: []uint64{1, 3, 10, 1000}[rng.IntN(4)], seam: seam.Options{Eager: rng.IntN(2) == 0}}
	if rng.IntN(4) == 0 {
		r.o.Compression, r.o.CompressionLevel = CompressionZstd, 1
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

// abandon ends a store whose disk has crashed.
func (r *crashRun) abandon(pc *PageCache[[]byte]) error {
	start := time.Now()
	err := pc.Close()
	if took := time.Since(start); took > time.Second {
		return violated("closing after a crash took %v", took)
	}
	if err == nil {
		return violated("closing after a crash reported no error")
	}
	return nil
}

// attempts is how many openings of a store may be crashed, one inside the other.
const attempts = 4

// reopen opens the store and asks the oracles. It crashes, now and then, inside of it and right after it.
func (r *crashRun) reopen() (*PageCache[[]byte], error) {
	for depth := 0; ; depth++ {
		end, found, err := scanEnd(r.disk, "/store")
		if err != nil {
			return nil, err
		}
		r.tracef("--- log ends at %d, acknowledged below %d", end, r.h.acked)
		if err := r.h.cut(end); err != nil {
			return nil, err
		}
		if depth < attempts && r.rng.IntN(2) == 0 {
			r.disk.CrashAfter(1 + r.rng.IntN(20))
		}
		r.o.seam.FS, r.o.seam.LogAlone = r.fs(), r.rng.IntN(4) == 0 // O6
		pc, err := Open("/store", Bytes{}, &r.o)
		r.disk.CrashAfter(0)
		if err != nil {
			switch {
			case r.disk.Crashed():
				r.crash()
			case r.limited && errors.Is(err, ErrNoSpace):
				r.disk.SetCapacity(0)
			default:
				return nil, err
			}
			continue
		}
		if pc.WasRecovered() != found {
			return nil, violated("WasRecovered is %v", !found)
		}
		if r.plant.pc != nil {
			r.plant.pc(pc)
		}
		// Whatever happened to the openings before this one, it shows the same (O4).
		if err := r.h.check(pc); err != nil {
			return nil, err
		}
		if depth < attempts && r.rng.IntN(4) == 0 {
			// The power is cut right after opening: it takes nothing away that was shown (rule 11).
			r.crash()
			if err := r.abandon(pc); err != nil {
				return nil, err
			}
			continue
		}
		return pc, nil
	}
}

// run does all that a seed stands for.
func (r *crashRun) run() error {
	for range 1 + r.rng.IntN(3) {
		pc, err := r.reopen()
		if err != nil {
			return err
		}
		if r.rng.IntN(8) > 0 {
			n := 1 + r.rng.IntN(60)
			if r.o.seam.Eager {
				n *= 1 + r.rng.IntN(5)
			}
			r.disk.CrashAfter(n)
		}
		if r.rng.IntN(6) == 0 {
			err = together(r.disk, pc, r.h, 2+r.rng.IntN(2), 10+r.rng.IntN(40), r.rng.Uint64())
			err = r.leave(pc, nil, err)
		} else {
			var d *driver
			if d, err = newDriver(pc, r.rng, r.h); err == nil {
				d.max, d.trace = []int{100, 3000, 9000, 16 << 10}[r.rng.IntN(4)], r.trace
				d.max = min(d.max, pc.core.store.Super.SegmentSize-200)
				n := 10 + r.rng.IntN(60)
				if r.o.seam.Eager {
					d.eager, d.patience, d.max, n = true, []int{1, 2, 8, 60}[r.rng.IntN(4)], max(d.max, 3000), 3*n
				}
				err = d.work(n)
			}
			err = r.leave(pc, d, err)
		}
		if err != nil {
			return err
		}
	}
	return r.usable()
}

// leave ends a life in which work ended with err.
func (r *crashRun) leave(pc *PageCache[[]byte], d *driver, err error) error {
	defer runtime.KeepAlive(d) // with the batches that are left open
	if d != nil {
		d.end()
		if d.changed != nil {
			return d.changed
		}
	}
	crashRecycled.Add(pc.cleaner.Stats().Recycled)
	if v := violation(""); errors.As(err, &v) {
		return err
	}
	if err != nil && !errors.Is(err, ErrNoSpace) && !(r.disk.Crashed() && (errors.Is(err, ErrFailed) || errors.Is(err, simdisk.ErrCrashed))) {
		return fmt.Errorf("work: %w", err)
	}
	if !r.disk.Crashed() && r.rng.IntN(3) > 0 {
		// Closing makes durable what is written, as far as no batch is open.
		bound, end := r.h.bound(), LSN(0)
		for _, e := range r.h.effects {
			if e.lsn < bound {
				end = max(end, e.lsn+1)
			}
		}
		if err := pc.Close(); err == nil {
			r.tracef("--- closed")
			r.h.ack(end)
			r.disk.CrashAfter(0)
			if r.disk.Crashed() || r.rng.IntN(2) == 0 {
				r.crash()
			}
			return nil
		} else if !r.disk.Crashed() {
			return fmt.Errorf("close: %w", err)
		}
		r.crash()
		return nil
	}
	r.crash()
	return r.abandon(pc)
}

// usable asks whether the store works after all that (O5).
func (r *crashRun) usable() error {
	pc, err := r.reopen()
	if err != nil {
		return err
	}
	r.disk.SetCapacity(0)
	d, err := newDriver(pc, r.rng, r.h)
	if err != nil {
		return err
	}
	d.trace = r.trace
	if err := d.work(20); err != nil {
		return err
	}
	for len(d.open) > 0 {
		if err := d.sealAt(0); err != nil {
			return err
		}
	}
	d.end()
	if _, err := pc.Flush(); err != nil {
		return err
	}
	if err := r.h.check(pc); err != nil {
		return err
	}
	if n := len(r.h.effects); n > 0 {
		r.h.ack(r.h.effects[n-1].lsn + 1)
	}
	if err := pc.Close(); err != nil {
		return err
	}
	if end, _, err := scanEnd(r.disk, "/store"); err != nil {
		return err
	} else if err := r.h.cut(end); err != nil {
		return err
	}
	for _, r.o.seam.LogAlone = range []bool{true, false} { // O6: the same with the snapshot of the closing
		if pc, err = Open("/store", Bytes{}, &r.o); err != nil {
			return err
		}
		if err := errors.Join(exactAccounts(pc), exactBlobs(pc), r.h.check(pc), pc.Close()); err != nil {
			return err
		}
	}
	return nil
}

// exactAccounts says whether the accounts of space and free ids are true (rule 7). Nothing is at work.
func exactAccounts(pc *PageCache[[]byte]) (violation error) {
	err := pc.pages.CheckAccounts(func(what string) { violation = violated("%s", what) })
	return errors.Join(err, violation)
}

// exactBlobs says whether the blobs on the disk are exactly those that pages refer to (trap 4). Nothing was written yet in this opening.
func exactBlobs(pc *PageCache[[]byte]) error {
	names, err := pc.core.store.FS.ReadDir(pc.blobs.Dir())
	if err = ignore(err, fs.ErrNotExist); err != nil {
		return err
	}
	live := map[format.BlobID]bool{}
	for pid := FirstUserPage; pid < pc.pages.IDs.Next(); pid++ {
		_, head, e := pc.pages.Find(pid)
		if err = errors.Join(err, e); head != nil {
			head.Refs(func(ref pagestack.Ref) {
				if ref.Ptr.Blob {
					ptr, e := pc.core.store.Blob(ref.LSN, ref.Ptr)
					live[ptr.ID], err = true, errors.Join(err, e)
				}
			})
		}
	}
	for _, name := range names {
		if id, ok := format.ParseBlobID(name); !ok || !live[id] {
			return violated("blob %s is not referred to", name)
		}
	}
	if len(names) != len(live) {
		return violated("%d blobs, of which %d are left", len(live), len(names))
	}
	crashBlobs.Add(int64(len(names)))
	return err
}

func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}

// crashSeedRun runs one seed. A run that does not end ends the process.
func crashSeedRun(seed uint64, plant planted, trace func(string, ...any)) error {
	r := newCrashRun(seed, plant)
	r.trace = trace
	hang := time.AfterFunc(20*time.Second, func() { debug.SetTraceback("all"); panic(fmt.Sprintf("crash seed %d hangs", seed)) })
	defer hang.Stop()
	if err := r.run(); err != nil {
		return fmt.Errorf("seed %d, %d crashes: %w\n%v", seed, r.crashes, err, r.h)
	}
	return nil
}

// Nothing that was acknowledged is lost, nothing is torn, no batch is half there, no id comes again, whatever a crash leaves of what was
// not durable; and so again if recovery is crashed. Proves rules 1, 5, 10 and 11; traps 1, 5, 7, 11, 12 and 13.
func TestCrash(t *testing.T) {
	if *crashSeed != 0 {
		// What the flusher does beside the caller is not in the seed, so it is tried often.
		for range 200 {
			var lines []string
			if err := crashSeedRun(*crashSeed, planted{}, func(f string, a ...any) { lines = append(lines, fmt.Sprintf(f, a...)) }); err != nil {
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
				if err := crashSeedRun(seed, planted{}, nil); err != nil {
					t.Errorf("%v\nreplay: go test ./engine -run 'TestCrash$' -args -crash.seed=%d", err, seed)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%.0f seeds/s, %d segments recycled", float64(next.Load()-*crashFirst)/time.Since(start).Seconds(), crashRecycled.Load())
	if *crashSeeds >= 1000 && crashBlobs.Load() < int64(*crashSeeds/20) {
		t.Error("too few blobs for this to prove anything about them")
	}
	if *crashSeeds >= 1000 && crashRecycled.Load() < int64(*crashSeeds/20) {
		t.Error("too few segments were recycled for this to prove anything about recycling")
	}
}

// together has several goroutines change the same pages. Only the first begins batches, and it waits for nothing while one is open.
func together(d *simdisk.Disk, pc *PageCache[[]byte], h *history, goroutines, n int, seed uint64) error {
	w := &workers{disk: d, pc: pc, h: h}
	for pid := FirstUserPage; pid < pc.pages.IDs.Next(); pid++ {
		w.pids = append(w.pids, pid)
	}
	errs := make([]error, goroutines)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() { errs[g] = w.work(g, n, rand.New(rand.NewPCG(seed, uint64(g)))) })
	}
	wg.Wait()
	for _, err := range errs {
		if v := violation(""); errors.As(err, &v) {
			return err
		}
	}
	return errors.Join(errs...)
}

// workers is what the goroutines of together share.
type workers struct {
	disk *simdisk.Disk
	pc   *PageCache[[]byte]
	mu   sync.Mutex
	h    *history // under mu
	pids []PageID // under mu
}

func (w *workers) did(e effect) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.h.effects = append(w.h.effects, e)
}

func (w *workers) pick(rng *rand.Rand) PageID {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pids) == 0 {
		return FirstUserPage
	}
	return w.pids[rng.IntN(len(w.pids))]
}

func (w *workers) work(g, n int, rng *rand.Rand) error {
	var batch *Batch
	var at int
	seal := func() error {
		lsn, err := batch.b.End()
		if errors.Is(err, segments.ErrNoRoom) { // others wait behind it
			w.disk.SetCapacity(0)
			lsn, err = batch.b.End()
		}
		if err != nil {
			return describe("seal", err)
		}
		w.mu.Lock()
		w.h.batches[at].end = lsn
		w.mu.Unlock()
		batch = nil
		return nil
	}
	for range n {
		lsn, err := w.one(rng)
		if err != nil {
			if batch != nil { // others may wait behind it
				err = errors.Join(err, seal())
			}
			return err
		}
		switch k := rng.IntN(6); {
		case k == 0 && g == 0 && batch == nil:
			// Under mu, as cut needs to know of every batch.
			if batch, err = w.pc.PinLog(); err != nil {
				return err
			}
			w.mu.Lock()
			at = len(w.h.batches)
			w.h.batches = append(w.h.batches, span{begin: batch.LSN()})
			w.mu.Unlock()
		case k < 3 && batch != nil:
			if err := seal(); err != nil {
				return err
			}
		case k == 3 && batch == nil && lsn > 0:
			if _, err := w.pc.MakeStable(lsn); err != nil {
				return err
			}
			w.mu.Lock()
			w.h.ack(lsn + 1)
			w.mu.Unlock()
		}
	}
	if batch != nil {
		return seal()
	}
	return nil
}

// one makes a change and returns its LSN, 0 if it was lost to another.
func (w *workers) one(rng *rand.Rand) (LSN, error) {
	tx, err := w.pc.Begin()
	if err != nil {
		return 0, err
	}
	defer tx.End()
	w.mu.Lock()
	w.h.nextID = max(w.h.nextID, tx.TS()+1)
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
	e := effect{pid: pid, val: v}
	var ptr PagePtr[[]byte]
	won := false
	switch k := rng.IntN(8); {
	case k == 0 || p.Kind != KindMaterialized:
		if e.pid, ptr, err = w.pc.Allocate(tx, v); err == nil {
			won = true
			w.mu.Lock()
			w.pids = append(w.pids, e.pid)
			w.mu.Unlock()
		}
	case k == 1:
		e.kind, e.val = effFree, nil
		ptr, won, err = w.pc.Free(tx, pid, p.Ptr)
	case k == 2 || len(p.Value) > 6000:
		ptr, won, err = w.pc.Replace(tx, pid, p.Ptr, v)
	default:
		e.kind = effLink
		ptr, won, err = w.pc.Link(tx, pid, p.Ptr, v)
	}
	if err != nil || !won {
		return 0, err
	}
	e.lsn = ptr.LastLSN()
	w.did(e)
	return e.lsn, nil
}
