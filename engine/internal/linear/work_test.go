package linear

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
)

const (
	workers     = 6
	sharedPages = 3
	sharedRoots = 2
)

// optionSet is a set of options that makes rare things happen often.
type optionSet struct {
	name string
	o    engine.Options
	seam seam.Options
}

var optionSets = []optionSet{
	{name: "consolidate after 1", o: engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, ConsolidateAfter: 1,
		FlushEvery: time.Millisecond, SnapshotEvery: 200}},
	{name: "consolidate after 2, tiny cache", o: engine.Options{SegmentSize: 16 << 10, IOBuffers: 2,
		ConsolidateAfter: 2, CacheCapacity: 1, FlushEvery: 200 * time.Microsecond, IDPersistInterval: 10}},
	{name: "consolidate after 3, eager cleaner", o: engine.Options{SegmentSize: 16 << 10, IOBuffers: 3,
		ConsolidateAfter: 3, CacheCapacity: 4 << 10, FlushEvery: time.Microsecond, SnapshotEvery: 100},
		seam: seam.Options{Eager: true}},
	{name: "compressed, copied", o: engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, ConsolidateAfter: 3,
		CacheCapacity: 2 << 10, CopyOnRead: true, Compression: engine.CompressionZstd, CompressionLevel: 1,
		IO: engine.IOSyscall}},
	{name: "long chains", o: engine.Options{SegmentSize: 64 << 10, ConsolidateAfter: 50, CacheCapacity: 1,
		SnapshotEvery: 50}},
}

// options returns the options for an opening.
func (s *optionSet) options() *engine.Options {
	o := s.o
	return enginetest.WithSeam(&o, s.seam)
}

// work is one life of a store, in which goroutines call it.
type work struct {
	pc     *engine.PageCache[[]byte]
	seed   uint64
	life   uint64
	calls  int  // of each goroutine at most
	sync   bool // goroutines wait for durability
	start  time.Time
	shared [sharedPages]atomic.Uint64
	tokens atomic.Uint64
	stop   atomic.Bool
	// before and after are called around each call, by the goroutine that makes it, unless they are nil.
	before, after func(o *op)
}

// worker is one goroutine.
type worker struct {
	*work
	id    int
	rng   *rand.Rand
	tx    *engine.Tx[[]byte]
	ops   []*op
	ptrs  []held // versions seen, some of which are superseded
	batch *engine.Batch
	left  int // calls until the batch ends
	own   *op // its newest change of a page that it has not made durable
}

type held struct {
	page engine.PageID
	ptr  engine.PagePtr[[]byte]
}

func (w *work) now() int64 { return int64(time.Since(w.start)) }

// do makes a call and records it. f fills in the results.
func (w *worker) do(o *op, f func(o *op) error) error {
	w.record(o)
	o.From = w.now()
	if w.before != nil {
		w.before(o)
	}
	err := f(o)
	o.To = w.now()
	if err != nil {
		return fmt.Errorf("%v: %w", o, err)
	}
	if o.Done = true; w.after != nil {
		w.after(o)
	}
	return nil
}

// record adds a call to those that were made.
func (w *worker) record(o *op) *op {
	o.Client, o.Seq = w.id, len(w.ops)
	w.ops = append(w.ops, o)
	return o
}

// run makes calls until it has made enough or is stopped.
func (w *worker) run() error {
	for len(w.ops) < w.calls && !w.stop.Load() {
		err := w.do(&op{Call: callID}, func(o *op) (err error) {
			if w.tx, err = w.pc.Begin(); err == nil {
				o.Now = w.tx.TS()
			}
			return err
		})
		for n := 1 + w.rng.IntN(5); n > 0 && err == nil; n-- {
			err = w.step()
			if w.rng.IntN(8) == 0 {
				runtime.Gosched()
			}
		}
		if w.tx != nil {
			w.tx.End()
		}
		if err == nil && w.sync && w.batch == nil && w.rng.IntN(4) == 0 {
			err = w.durable()
		}
		if err != nil {
			return err
		}
	}
	if w.batch != nil {
		return w.seal()
	}
	return nil
}

// step makes one call on a page or root, or begins or ends a batch.
func (w *worker) step() error {
	if w.batch != nil {
		if w.left--; w.left < 0 {
			return w.seal()
		}
	}
	switch k := w.rng.IntN(100); {
	case k < 3 && w.batch == nil:
		w.left = w.rng.IntN(8)
		return w.do(&op{Call: callPin}, func(o *op) (err error) {
			w.batch, err = w.pc.PinLog()
			return err
		})
	case k < 6:
		return w.do(&op{Call: callID}, func(o *op) (err error) {
			o.Now, err = w.pc.GenerateID()
			return err
		})
	case k < 18:
		return w.root()
	case k < 28 && len(w.ptrs) > 0:
		h := w.ptrs[w.rng.IntN(len(w.ptrs))] // it may be superseded, or its page freed and allocated again
		return w.change(h.page, h.ptr)
	}
	return w.page(w.rng.IntN(sharedPages))
}

// page reads a shared page, and perhaps changes it. It allocates one in the place of one that does not exist.
func (w *worker) page(i int) error {
	pid := engine.PageID(w.shared[i].Load())
	switch k := w.rng.IntN(10); {
	case k < 2 && pid != 0:
		return w.fragments(pid)
	case k < 4 && pid != 0:
		return w.blind(i, pid)
	}
	var p engine.Page[[]byte]
	if pid != 0 {
		err := w.do(&op{Call: callGet, Page: pid}, func(o *op) (err error) {
			if many := []engine.Page[[]byte]{{}}; w.rng.IntN(3) == 0 {
				many, err = w.pc.GetMany(w.tx, []engine.PageID{pid}, many[:0])
				p = many[0]
			} else {
				p, err = w.pc.Get(w.tx, pid)
			}
			o.Kind, o.Now, o.Sum = p.Kind, enginetest.Version(p.Ptr), sumOf(0, p.Value)
			o.First, o.Last = ends(p.Value)
			return err
		})
		if err != nil {
			return err
		}
	}
	if p.Kind != engine.KindMaterialized {
		return w.allocate(i, pid)
	}
	w.keep(pid, p.Ptr)
	switch w.rng.IntN(6) {
	case 0, 1:
		return nil
	case 2:
		return w.transact(pid, engine.PageID(w.shared[(i+1)%sharedPages].Load()))
	}
	return w.change(pid, p.Ptr)
}

// transact changes a page, or two, in a transaction: for each of them that is a Get, and a change from the version that
// it has returned.
func (w *worker) transact(pids ...engine.PageID) error {
	tx, err := w.pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	var changes []*op
	for _, pid := range pids {
		if pid == 0 || len(changes) > 0 && changes[0].Page == pid {
			continue
		}
		get, conflict := &op{Call: callGet, Page: pid}, false
		if err := w.do(get, func(o *op) error {
			p, err := tx.Get(pid)
			if conflict = errors.Is(err, engine.ErrConflict); conflict {
				p, err = w.pc.Get(tx, pid)
			}
			o.Kind, o.Now, o.Sum = p.Kind, enginetest.Version(p.Ptr), sumOf(0, p.Value)
			o.First, o.Last = ends(p.Value)
			return err
		}); err != nil || conflict {
			return err
		}
		if get.Kind == engine.KindMaterialized {
			changes = append(changes, &op{Call: callLink, Page: pid, Old: get.Now, Token: w.tokens.Add(1)})
		}
	}
	for _, o := range changes {
		if w.rng.IntN(3) == 0 {
			o.Call = callReplace
			err = errors.Join(err, tx.Replace(o.Page, fragment(o.Token)))
		} else {
			err = errors.Join(err, tx.Link(o.Page, fragment(o.Token)))
		}
	}
	if errors.Is(err, engine.ErrConflict) || len(changes) == 0 {
		return nil
	} else if err != nil {
		return err
	}
	return w.commit(tx, changes)
}

// commit commits a transaction that makes changes. All of them have the time of the commit. After a conflict nothing
// was done, and each of them is a look at its page.
func (w *worker) commit(tx *engine.Tx[[]byte], changes []*op) error {
	for _, o := range changes {
		if w.record(o).From = w.now(); w.before != nil {
			w.before(o)
		}
	}
	lsn, err := tx.Commit()
	conflict := errors.Is(err, engine.ErrConflict)
	for _, o := range changes {
		if conflict {
			var ptr engine.PagePtr[[]byte]
			o.Call, o.Token = callState, 0
			ptr, o.Kind, err = w.pc.State(tx, o.Page)
			o.Old, o.Now = 0, enginetest.Version(ptr)
		} else {
			o.Now, o.Won, o.LSN, w.own = o.Old+1, true, lsn, o
		}
		if err != nil {
			return fmt.Errorf("%v: %w", o, err)
		}
		o.To, o.Done = w.now(), true
		if w.after != nil {
			w.after(o)
		}
	}
	return nil
}

// keep remembers a version.
func (w *worker) keep(pid engine.PageID, ptr engine.PagePtr[[]byte]) {
	if len(w.ptrs) < 6 {
		w.ptrs = append(w.ptrs, held{pid, ptr})
	} else {
		w.ptrs[w.rng.IntN(len(w.ptrs))] = held{pid, ptr}
	}
}

// blind changes a shared page from the state that State returns, or allocates one in the place of one that does not
// exist.
func (w *worker) blind(i int, pid engine.PageID) error {
	var ptr engine.PagePtr[[]byte]
	var kind engine.PageKind
	err := w.do(&op{Call: callState, Page: pid}, func(o *op) (err error) {
		ptr, kind, err = w.pc.State(w.tx, pid)
		o.Kind, o.Now = kind, enginetest.Version(ptr)
		return err
	})
	switch {
	case err != nil:
		return err
	case kind != engine.KindMaterialized:
		return w.allocate(i, pid)
	}
	w.keep(pid, ptr)
	return w.change(pid, ptr)
}

func (w *worker) fragments(pid engine.PageID) error {
	return w.do(&op{Call: callFragments, Page: pid}, func(o *op) error {
		ptr, frags, err := w.pc.Fragments(w.tx, pid)
		slices.Reverse(frags)
		v := slices.Concat(frags...)
		o.Now, o.None, o.Sum = enginetest.Version(ptr), ptr.IsZero(), sumOf(0, v)
		o.First, o.Last = ends(v)
		return err
	})
}

// change tries to change a page from a version.
func (w *worker) change(pid engine.PageID, ptr engine.PagePtr[[]byte]) error {
	o := &op{Call: callLink, Page: pid, Old: enginetest.Version(ptr), Token: w.tokens.Add(1)}
	switch k := w.rng.IntN(20); {
	case k < 6:
		o.Call = callReplace
	case k < 8:
		o.Call = callFree
	}
	frag := fragment(o.Token)
	return w.do(o, func(o *op) (err error) {
		switch o.Call {
		case callLink:
			ptr, o.Won, err = w.pc.Link(w.tx, pid, ptr, frag)
		case callReplace:
			ptr, o.Won, err = w.pc.Replace(w.tx, pid, ptr, frag)
		default:
			ptr, o.Won, err = w.pc.Free(w.tx, pid, ptr)
		}
		o.Now, o.None = enginetest.Version(ptr), ptr.IsZero()
		if o.Won {
			o.LSN, w.own = ptr.LastLSN(), o
		}
		return err
	})
}

// allocate allocates a page and shares it in the place of one that does not exist.
func (w *worker) allocate(i int, instead engine.PageID) error {
	o := &op{Call: callAllocate, Token: w.tokens.Add(1)}
	err := w.do(o, func(o *op) error {
		pid, ptr, err := w.pc.Allocate(w.tx, fragment(o.Token))
		o.Page, o.Now, o.Won, o.LSN = pid, enginetest.Version(ptr), true, ptr.LastLSN()
		return err
	})
	w.own = o
	w.shared[i].CompareAndSwap(uint64(instead), uint64(o.Page))
	return err
}

// root reads or changes a root.
func (w *worker) root() error {
	o := &op{Call: callRoot, Name: string(rune('a' + w.rng.IntN(sharedRoots)))}
	err := w.do(o, func(o *op) error {
		pid, err := w.pc.Root(w.tx, o.Name)
		if o.Now = uint64(pid); errors.Is(err, engine.ErrRootNotFound) {
			return nil
		}
		return err
	})
	if err != nil || w.rng.IntN(3) == 0 {
		return err
	}
	c := &op{Call: callCASRoot, Name: o.Name, Old: o.Now, New: w.tokens.Add(1) & (1<<30 - 1)}
	if w.rng.IntN(5) == 0 {
		c.New = 0
	}
	if c.New == c.Old {
		return nil // it would win or lose without a difference
	}
	return w.do(c, func(o *op) error {
		now, won, err := w.pc.CASRoot(w.tx, o.Name, engine.PageID(o.Old), engine.PageID(o.New))
		o.Now, o.Won = uint64(now), won
		return err
	})
}

// seal ends the batch.
func (w *worker) seal() error {
	b := w.batch
	w.batch = nil
	return w.do(&op{Call: callSeal}, func(o *op) error { return b.Seal() })
}

// durable waits until the newest change of this goroutine, or everything, is durable.
func (w *worker) durable() error {
	if w.own == nil || w.rng.IntN(3) == 0 {
		return w.do(&op{Call: callFlush}, func(o *op) error {
			_, err := w.pc.Flush()
			return err
		})
	}
	own := w.own
	w.own = nil
	return w.do(&op{Call: callStable, Page: own.Page, Now: own.Now}, func(o *op) error {
		_, err := w.pc.MakeStable(own.LSN)
		return err
	})
}

// housekeep cleans, writes snapshots and flushes until the workers are done.
func (w *work) housekeep() error {
	for i := 0; !w.stop.Load(); i++ {
		_, err := w.pc.AttemptGC()
		switch {
		case err != nil:
		case i%16 == 0:
			err = w.pc.Snapshot()
		case i%4 == 0:
			_, err = w.pc.Flush()
		}
		if err != nil {
			return fmt.Errorf("housekeeping: %w", err)
		}
		time.Sleep(100 * time.Microsecond)
	}
	return nil
}

// run lets the goroutines work on the store, which holds begin, and returns what they did.
func (w *work) run(begin map[place]*version) (*history, error) {
	w.start = time.Now()
	w.tokens.Store(w.life << 24)
	i := 0
	for p, v := range begin {
		if v.live() && i < sharedPages {
			w.shared[i].Store(uint64(p.page))
			i++
		}
	}
	ws, errs := make([]*worker, workers), make([]error, workers+1)
	var wg, keeper sync.WaitGroup
	for id := range ws {
		ws[id] = &worker{work: w, id: id, rng: rand.New(rand.NewPCG(w.seed, w.life<<8|uint64(id)))}
		wg.Go(func() { errs[id] = ws[id].run() })
	}
	keeper.Go(func() { errs[workers] = w.housekeep() })
	wg.Wait()
	w.stop.Store(true)
	keeper.Wait()
	h := &history{begin: begin}
	for _, x := range ws {
		h.ops = append(h.ops, x.ops...)
	}
	slices.SortFunc(h.ops, func(a, b *op) int { return cmp.Compare(a.From, b.From) })
	return h, errors.Join(errs...)
}
