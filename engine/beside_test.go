package engine_test

import (
	"context"
	"errors"
	"flag"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

var (
	besideTime = flag.Duration("beside.time", 3*time.Second,
		"how long TestEveryCallBesideEvery works on page stores, and on logs [-short: 1s]")
	besideSeed = flag.Uint64("beside.seed", 1, "the first seed of TestEveryCallBesideEvery")
)

// beside is one life of a page store or log. All exported methods of it, and of the objects that it hands out, are
// called at the same time.
type beside struct {
	t       *testing.T
	pc      *engine.PageCache[[]byte]    // nil: a log
	log     *engine.Log                  // nil: a page store
	pids    [8]atomic.Uint64             // pages that all goroutines use; some are freed meanwhile
	batch   atomic.Pointer[engine.Batch] // the batch that all goroutines use
	closing atomic.Bool                  // Close was called
	closed  chan struct{}                // closed after Close has returned
	called  sync.WaitGroup               // ends when every method but Close was called once
}

// besideCall is one call of a method, and what its arguments are made from. It belongs to one goroutine.
type besideCall struct {
	*beside
	m    besideMethod
	rng  *rand.Rand
	tx   *engine.Tx[[]byte]
	pid  engine.PageID
	lsn  engine.LSN // of a record that was written for this call; 0: none yet
	ptr  engine.DiskPtr
	copy string // a directory that has what the call makes
}

// besideReceiver says how the tests get a value whose methods they call.
type besideReceiver struct {
	// get returns the value, or an error that allowedBeside knows.
	get func(c *besideCall) (any, error)
	// put ends what get has begun, after the method of that name was called.
	put func(c *besideCall, v any, method string)
}

// besideReceivers has the types whose methods are called. Every type with methods that a method returns by pointer is
// here.
var besideReceivers = map[reflect.Type]besideReceiver{
	reflect.TypeFor[*engine.PageCache[[]byte]](): {get: func(c *besideCall) (any, error) { return c.pc, nil }},
	reflect.TypeFor[*engine.Log]():               {get: func(c *besideCall) (any, error) { return c.log, nil }},
	reflect.TypeFor[*engine.Tx[[]byte]](): {
		get: func(c *besideCall) (any, error) { return c.pc.Begin() },
		put: func(c *besideCall, v any, method string) {
			if method != "End" { // the store may have given an ended Tx to another goroutine
				v.(*engine.Tx[[]byte]).End()
			}
		},
	},
	reflect.TypeFor[*engine.Batch](): {
		get: func(c *besideCall) (any, error) {
			if b := c.batch.Load(); b != nil && c.rng.IntN(4) > 0 {
				return b, nil
			}
			b, err := c.pin()
			if err == nil {
				c.endBatch(c.batch.Swap(b))
			}
			return b, err
		},
		put: func(c *besideCall, v any, method string) {
			if c.rng.IntN(4) == 0 {
				c.endBatch(v.(*engine.Batch))
			}
		},
	},
	reflect.TypeFor[*engine.Checkpoint](): {
		get: func(c *besideCall) (any, error) { return c.pc.Checkpoint(context.Background()) },
		put: func(c *besideCall, v any, method string) { v.(*engine.Checkpoint).Close() },
	},
	reflect.TypeFor[*engine.Reservation](): {
		get: func(c *besideCall) (any, error) {
			r, err := c.log.Reserve(1 + c.rng.IntN(100))
			if err == nil {
				copy(r.Bytes(), "record")
			}
			return r, err
		},
		put: func(c *besideCall, v any, method string) { _ = v.(*engine.Reservation).Abort() },
	},
	reflect.TypeFor[*engine.Stream](): {
		get: func(c *besideCall) (any, error) { return c.log.Stream(engine.StreamID(c.rng.IntN(3))) },
		put: func(c *besideCall, v any, method string) {},
	},
	reflect.TypeFor[*engine.Pin](): {
		get: func(c *besideCall) (any, error) { return c.log.Pin() },
		put: func(c *besideCall, v any, method string) { v.(*engine.Pin).End() },
	},
}

// besideArguments makes an argument of each type that a method takes.
var besideArguments = map[reflect.Type]func(c *besideCall) any{
	reflect.TypeFor[*engine.Tx[[]byte]](): func(c *besideCall) any {
		if c.tx == nil {
			var err error
			if c.tx, err = c.pc.Begin(); err != nil {
				c.allow("Begin for a call", err)
			}
		}
		return c.tx
	},
	reflect.TypeFor[engine.PageID](): func(c *besideCall) any {
		if c.pid = engine.PageID(c.pids[c.rng.IntN(len(c.pids))].Load()); c.rng.IntN(8) == 0 {
			c.pid = engine.PageID(c.rng.IntN(2)) // those of the store, and no root
		}
		return c.pid
	},
	reflect.TypeFor[[]engine.PageID](): func(c *besideCall) any {
		return []engine.PageID{engine.PageID(c.pids[0].Load()), engine.PageID(c.pids[1].Load()), c.pid + 1}
	},
	reflect.TypeFor[engine.PagePtr[[]byte]](): func(c *besideCall) any {
		if c.tx == nil {
			return engine.PagePtr[[]byte]{}
		}
		p, err := c.pc.Get(c.tx, c.pid)
		c.allow("Get for a call", err)
		return p.Ptr
	},
	reflect.TypeFor[func(*engine.Tx[[]byte]) error](): func(c *besideCall) any {
		from, to := engine.PageID(c.pids[0].Load()), engine.PageID(c.pids[1].Load())
		free := c.rng.IntN(8) == 0
		return func(tx *engine.Tx[[]byte]) error {
			p, err := tx.Get(from)
			if err == nil && free {
				err = tx.Free(to)
			} else if err == nil && p.Kind == engine.KindMaterialized {
				err = tx.Link(to, p.Value[:min(10, len(p.Value))])
			}
			if errors.Is(err, engine.ErrReadOnly) { // in a View
				err = nil
			}
			return err
		}
	},
	reflect.TypeFor[engine.LSN](): func(c *besideCall) any {
		if c.log == nil {
			return c.pc.StableLSN() + engine.LSN(c.rng.IntN(3)*1000)
		}
		return c.record().lsn
	},
	reflect.TypeFor[engine.DiskPtr](): func(c *besideCall) any { return c.record().ptr },
	reflect.TypeFor[context.Context](): func(c *besideCall) any {
		if c.m.closes() { // a Close that gives up leaves the store locked
			return context.Background()
		}
		if c.m.m.Name == "CopyTo" && c.rng.IntN(8) > 0 { // it waits for the disk several times
			return context.Background()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Millisecond)
		if c.rng.IntN(8) == 0 {
			cancel()
		}
		context.AfterFunc(ctx, cancel)
		return ctx
	},
	reflect.TypeFor[[]engine.Page[[]byte]](): func(c *besideCall) any { return []engine.Page[[]byte](nil) },
	reflect.TypeFor[io.Writer]():             func(c *besideCall) any { return io.Discard },

	reflect.TypeFor[engine.StreamID](): func(c *besideCall) any { return engine.StreamID(c.rng.IntN(3)) },
	reflect.TypeFor[[]engine.Note](): func(c *besideCall) any {
		note := engine.Note{Name: string(rune('a' + c.rng.IntN(3)))}
		if c.rng.IntN(4) > 0 { // otherwise it removes the note
			note.Value = []byte("value")
		}
		return []engine.Note{note}
	},
	reflect.TypeFor[engine.Seq](): func(c *besideCall) any {
		s, err := c.log.Stream(0)
		if err != nil {
			return engine.Seq(1)
		}
		first, last := s.Bounds()
		return first + engine.Seq(c.rng.Uint64N(uint64(last-min(first, last)+3)))
	},

	reflect.TypeFor[[]byte]():   func(c *besideCall) any { return c.value() },
	reflect.TypeFor[[][]byte](): func(c *besideCall) any { return [][]byte{c.value(), c.value()} },
	reflect.TypeFor[string](): func(c *besideCall) any {
		if c.m.m.Name == "CopyTo" {
			// In memory, so that the many syncs of a copy hold up no other call.
			dir, err := os.MkdirTemp("/dev/shm", "pagecache-beside.")
			if err != nil {
				dir = c.t.TempDir()
			}
			c.copy = dir
			return filepath.Join(dir, "copy")
		}
		return string(rune('a' + c.rng.IntN(3)))
	},
	reflect.TypeFor[*engine.Options](): func(c *besideCall) any { return (*engine.Options)(nil) },

	reflect.TypeFor[int]():    func(c *besideCall) any { return 1 + c.rng.IntN(200) },
	reflect.TypeFor[int64]():  func(c *besideCall) any { return int64(16+c.rng.IntN(64)) << 10 },
	reflect.TypeFor[uint64](): func(c *besideCall) any { return c.rng.Uint64N(100) },
}

// besideResults does with a result of each type what a caller would do: it ends what was begun and looks at the rest.
// Results that hold no pointer, function, channel or interface need no entry.
var besideResults = map[reflect.Type]func(c *besideCall, v any) error{
	reflect.TypeFor[error](): func(c *besideCall, v any) error {
		err, _ := v.(error)
		return err
	},
	reflect.TypeFor[*engine.Tx[[]byte]](): func(c *besideCall, v any) error {
		if tx := v.(*engine.Tx[[]byte]); tx != nil {
			tx.End()
		}
		return nil
	},
	reflect.TypeFor[*engine.Batch](): func(c *besideCall, v any) error {
		c.endBatch(v.(*engine.Batch))
		return nil
	},
	reflect.TypeFor[*engine.Checkpoint](): func(c *besideCall, v any) error {
		if k := v.(*engine.Checkpoint); k != nil {
			k.Close()
		}
		return nil
	},
	reflect.TypeFor[*engine.Reservation](): func(c *besideCall, v any) error {
		if r := v.(*engine.Reservation); r != nil {
			return r.Abort()
		}
		return nil
	},
	reflect.TypeFor[*engine.Stream](): func(c *besideCall, v any) error { return nil },
	reflect.TypeFor[*engine.Pin](): func(c *besideCall, v any) error {
		if p := v.(*engine.Pin); p != nil {
			p.End()
		}
		return nil
	},
	reflect.TypeFor[iter.Seq2[engine.PageID, engine.PageKind]](): func(c *besideCall, v any) error {
		for range v.(iter.Seq2[engine.PageID, engine.PageKind]) {
		}
		return nil
	},
	reflect.TypeFor[iter.Seq2[engine.Record, error]](): func(c *besideCall, v any) error {
		some := 1 + c.rng.IntN(100) // Follow has no end
		for _, err := range v.(iter.Seq2[engine.Record, error]) {
			if some--; err != nil || some == 0 {
				return err
			}
		}
		return nil
	},
	reflect.TypeFor[[]engine.Page[[]byte]](): func(c *besideCall, v any) error {
		for _, p := range v.([]engine.Page[[]byte]) {
			if p.Kind == engine.KindMaterialized && p.Ptr.IsZero() {
				return enginetest.Violated("a page of kind %v with the state %+v", p.Kind, p.Ptr)
			}
		}
		return nil
	},
	reflect.TypeFor[engine.PageID](): func(c *besideCall, v any) error {
		if pid := v.(engine.PageID); pid >= engine.FirstUserPage {
			c.pids[c.rng.IntN(len(c.pids))].Store(uint64(pid))
		}
		return nil
	},
}

// record writes a record to the log, unless this call has one.
func (c *besideCall) record() *besideCall {
	if c.lsn == 0 {
		var err error
		c.lsn, c.ptr, err = c.log.Write([]byte("a record"))
		c.allow("Write for a call", err)
	}
	return c
}

// value returns a value, which is now and then too long for the log, so that a page store makes it a blob.
func (c *besideCall) value() []byte {
	n := c.rng.IntN(400)
	if c.rng.IntN(32) == 0 {
		n = 5000
	}
	return make([]byte, n)
}

func (b *beside) pin() (*engine.Batch, error) {
	if b.log != nil {
		return b.log.PinLog()
	}
	return b.pc.PinLog()
}

// endBatch seals a batch, which another goroutine may have ended.
func (b *beside) endBatch(batch *engine.Batch) {
	if batch != nil {
		b.allow("Seal", batch.Seal())
	}
}

// allowedBeside has the errors that a call may return beside any other calls. Once Close was called, it may also return
// ErrClosed, and ErrTxEnded because there was no Tx to be had.
var allowedBeside = []error{
	engine.ErrNoRecord, engine.ErrSequence, engine.ErrTruncated, engine.ErrRootNotFound, engine.ErrDropped,
	engine.ErrReserved, engine.ErrConflict, engine.ErrNoPage, engine.ErrBatchEnded, engine.ErrReservationEnded,
	engine.ErrTooLarge, engine.ErrChain, context.DeadlineExceeded, context.Canceled,
}

// allow fails the test if a call returned an error that it may not return.
func (b *beside) allow(what string, err error) {
	if err == nil || b.closing.Load() && (errors.Is(err, engine.ErrClosed) || errors.Is(err, engine.ErrTxEnded)) {
		return
	}
	for _, e := range allowedBeside {
		if errors.Is(err, e) {
			return
		}
	}
	b.t.Errorf("%s: %v", what, err)
}

// besideMethod is a method of one of the types.
type besideMethod struct {
	recv reflect.Type
	m    reflect.Method
}

func (m besideMethod) String() string {
	return strings.TrimSuffix(m.recv.Elem().Name(), "[[]uint8]") + "." + m.m.Name
}

// closes reports whether the method closes the store. Such a method is called once in each life.
func (m besideMethod) closes() bool {
	return m.recv.Implements(reflect.TypeFor[enginetest.Store]()) && strings.HasPrefix(m.m.Name, "Close")
}

// holds reports whether a value of a type may hold something that must be ended or looked at.
func holds(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Func, reflect.Chan, reflect.Interface, reflect.UnsafePointer:
		return true
	}
	return false
}

// besideMethods returns the exported methods of a type and of the types that they return. It fails the test if it does
// not know how to call one.
func besideMethods(t *testing.T, recv reflect.Type) (all []besideMethod) {
	t.Helper()
	done := map[reflect.Type]bool{recv: true}
	for todo := []reflect.Type{recv}; len(todo) > 0; todo = todo[1:] {
		r := todo[0]
		for i := range r.NumMethod() {
			m := besideMethod{r, r.Method(i)}
			all = append(all, m)
			f := m.m.Type
			for i := 1; i < f.NumIn(); i++ {
				if besideArguments[f.In(i)] == nil {
					t.Errorf("%v takes a %v: add a function that makes one to besideArguments in beside_test.go",
						m, f.In(i))
				}
			}
			for i := range f.NumOut() {
				out := f.Out(i)
				if besideResults[out] == nil && holds(out) {
					t.Errorf("%v returns a %v: add a function that ends or reads it to besideResults in beside_test.go",
						m, out)
				}
				if out.Kind() != reflect.Pointer || out.NumMethod() == 0 || done[out] {
					continue
				}
				if done[out] = true; besideReceivers[out].get == nil {
					t.Errorf("%v returns a %v, which has methods: add how to get one to besideReceivers in "+
						"beside_test.go", m, out)
					continue
				}
				todo = append(todo, out)
			}
		}
	}
	return all
}

// call calls a method once, with arguments of its own, and returns the errors of its results.
func (b *beside) call(m besideMethod, rng *rand.Rand) (err error) {
	c := &besideCall{beside: b, m: m, rng: rng}
	r := besideReceivers[m.recv]
	v, err := r.get(c)
	if err != nil {
		return err
	}
	f := m.m.Type
	in := []reflect.Value{reflect.ValueOf(v)}
	for i := 1; i < f.NumIn(); i++ {
		in = append(in, reflect.ValueOf(besideArguments[f.In(i)](c)))
	}
	call := m.m.Func.Call
	if f.IsVariadic() {
		call = m.m.Func.CallSlice
	}
	for i, out := range call(in) {
		if result := besideResults[f.Out(i)]; result != nil {
			err = errors.Join(err, result(c, out.Interface()))
		}
	}
	if r.put != nil {
		r.put(c, v, m.m.Name)
	}
	if c.tx != nil {
		c.tx.End()
	}
	if c.copy != "" {
		err = errors.Join(err, os.RemoveAll(c.copy))
	}
	return err
}

// work calls a method until the store is closed, and once more.
func (b *beside) work(m besideMethod, rng *rand.Rand, succeeded *atomic.Int64) {
	for first, last := true, false; !last; first = false {
		select {
		case <-b.closed:
			last = true
		default:
		}
		err := b.call(m, rng)
		if b.allow(m.String(), err); err == nil {
			succeeded.Add(1)
		}
		if first {
			b.called.Done()
		}
		runtime.Gosched() // some calls are so short that others would hardly run
	}
}

// close closes the store by one of its methods, beside other calls of it. It reports whether this call closed it.
func (b *beside) close(m besideMethod, rng *rand.Rand) bool {
	for {
		b.closing.Store(true)
		err := b.call(m, rng)
		if err == nil {
			return true
		}
		if errors.Is(err, engine.ErrClosed) {
			return false
		}
		if !strings.Contains(err.Error(), "reservations") { // of other goroutines, which go on
			b.t.Errorf("%v: %v", m, err)
			return true
		}
	}
}

// besideOpen opens a page store or a log in dir.
func besideOpen(t *testing.T, dir string, log bool) *beside {
	t.Helper()
	b := &beside{t: t, closed: make(chan struct{})}
	o := besideOptions
	var err error
	if log {
		b.log, err = engine.OpenLog(dir, &o)
	} else {
		b.pc, err = engine.Open(dir, engine.Bytes{}, &o)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range b.pids {
		if b.pc != nil {
			pid, _ := enginetest.Allocate(t, b.pc, make([]byte, 100*i))
			b.pids[i].Store(uint64(pid))
		}
	}
	return b
}

// besideOptions make everything that happens in the background happen often.
var besideOptions = engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, CacheCapacity: 64 << 10, ConsolidateAfter: 3,
	FlushEvery: time.Millisecond, SnapshotEvery: 50, IDPersistInterval: 20}

// live calls the methods at the same time, closes the store meanwhile, and checks it.
func (b *beside) live(dir string, seed uint64, methods []besideMethod, succeeded map[string]*atomic.Int64) {
	b.t.Helper()
	rng := rand.New(rand.NewPCG(seed, 16))
	b.called.Add(1) // until all goroutines are started
	some := 0       // of the other methods: all, or a few, which then meet more often
	if seed%2 == 0 {
		some = 2 + rng.IntN(3)
	}
	var wg, closers sync.WaitGroup
	var closed atomic.Int64
	wait := time.Duration(rng.IntN(10_000)) * time.Microsecond
	for i, at := range rng.Perm(len(methods)) {
		m, rng := methods[at], rand.New(rand.NewPCG(seed, uint64(at)))
		switch {
		case m.closes():
			closers.Go(func() {
				b.called.Wait()
				time.Sleep(wait)
				if b.close(m, rng) {
					closed.Add(1)
					succeeded[m.String()].Add(1)
				}
			})
		case some == 0 || i < some:
			b.called.Add(1)
			wg.Go(func() { b.work(m, rng, succeeded[m.String()]) })
		}
	}
	b.called.Done()
	enginetest.Soon(b.t, "Close beside all calls", closers.Wait)
	close(b.closed)
	enginetest.Soon(b.t, "calls beside Close", wg.Wait)
	if closed.Load() != 1 {
		b.t.Errorf("%d calls closed the store, want 1", closed.Load())
	}
	if err := enginetest.Problems(dir, &besideOptions); err != nil {
		b.t.Errorf("check of the closed store: %v", err)
	}
}

// allSucceeded reports whether each method has returned without an error.
func allSucceeded(by map[string]*atomic.Int64) bool {
	for _, n := range by {
		if n.Load() == 0 {
			return false
		}
	}
	return true
}

// Every exported method of page stores, logs, Txs, batches and reservations runs beside every other, beside Close and
// after it: no race, no panic, no wait that does not end, no error but those that are documented, and the store is
// intact. The methods are those that the types have: a new one is called without further work. Proves rule 11; trap 41.
func TestEveryCallBesideEvery(t *testing.T) {
	t.Parallel()
	for _, recv := range []reflect.Type{
		reflect.TypeFor[*engine.PageCache[[]byte]](), reflect.TypeFor[*engine.Log](),
	} {
		t.Run(strings.TrimSuffix(recv.Elem().Name(), "[[]uint8]"), func(t *testing.T) {
			methods := besideMethods(t, recv)
			if t.Failed() {
				return
			}
			succeeded := map[string]*atomic.Int64{}
			for _, m := range methods {
				succeeded[m.String()] = new(atomic.Int64)
			}
			long := *besideTime
			if testing.Short() {
				long = min(long, time.Second)
			}
			dir, seed := "", *besideSeed
			const most = 2000 // lives, and no time: on a busy machine each takes longer
			for start := time.Now(); !t.Failed() && seed-*besideSeed < most; seed++ {
				if time.Since(start) > long && allSucceeded(succeeded) {
					break
				}
				if dir == "" || seed%16 == 0 {
					dir = t.TempDir()
				}
				b := besideOpen(t, dir, recv == reflect.TypeFor[*engine.Log]())
				b.live(dir, seed, methods, succeeded)
			}
			if t.Failed() {
				t.Logf("replay: go test -race ./engine -run '%s' -args -beside.seed=%d -beside.time=1m",
					t.Name(), seed-1)
				return
			}
			var calls int64
			for name, n := range succeeded {
				if calls += n.Load(); n.Load() == 0 {
					t.Errorf("%s never succeeded: what besideArguments makes for it does not fit", name)
				}
			}
			t.Logf("%d methods, %d lives, %d calls that returned no error", len(methods), seed-*besideSeed, calls)
		})
	}
}
