package engine_test

import (
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// Of several concurrent Closes, one closes the store and the others return ErrClosed.
func TestConcurrentClose(t *testing.T) {
	disk := func() *engine.Options { return enginetest.SimOptions(simdisk.New(1, simdisk.Options{})) }
	for name, s := range map[string]enginetest.Store{
		"page store": enginetest.Open(t, "/store", disk()),
		"log":        enginetest.OpenLog(t, "/store", disk()),
	} {
		errs := make(chan error, 8)
		for range cap(errs) {
			go func() { errs <- s.Close() }()
		}
		closed := 0
		enginetest.Soon(t, "closing the "+name, func() {
			for range cap(errs) {
				if err := <-errs; err == nil {
					closed++
				} else if !errors.Is(err, engine.ErrClosed) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
		if closed != 1 {
			t.Errorf("%s: %d Closes succeeded, want 1", name, closed)
		}
	}
}

// While Close waits for a Tx and a batch, they can be ended, and Begin and every other call return ErrClosed. Trap 39.
func TestCallsWhileClosing(t *testing.T) {
	pc := enginetest.OpenSim(t, simdisk.New(2, simdisk.Options{}))
	tx := enginetest.Begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	batch, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- pc.Close() }()
	errs := map[string]error{}
	enginetest.Soon(t, "Begin beside Close", func() { // until it returns ErrClosed
		for errs["Begin"] == nil {
			var other *engine.Tx[[]byte]
			if other, errs["Begin"] = pc.Begin(); other != nil {
				other.End()
			}
		}
	})
	_, _, errs["Allocate"] = pc.Allocate(tx, nil)
	_, _, errs["Link"] = pc.Link(tx, pid, ptr, nil)
	_, _, errs["Replace"] = pc.Replace(tx, pid, ptr, nil)
	_, _, errs["Free"] = pc.Free(tx, pid, ptr)
	_, errs["Get"] = pc.Get(tx, pid)
	_, _, errs["State"] = pc.State(tx, pid)
	_, errs["GetMany"] = pc.GetMany(tx, []engine.PageID{pid}, nil)
	_, _, errs["Fragments"] = pc.Fragments(tx, pid)
	_, errs["Meta"] = pc.Meta(tx)
	_, errs["Root"] = pc.Root(tx, "r")
	_, _, errs["CASRoot"] = pc.CASRoot(tx, "r", 0, 2)
	_, errs["PinLog"] = pc.PinLog()
	_, errs["Flush"] = pc.Flush()
	_, errs["MakeStable"] = pc.MakeStable(ptr.LastLSN())
	_, errs["GenerateID"] = pc.GenerateID()
	errs["Close"] = pc.Close()
	for what, err := range errs {
		if !errors.Is(err, engine.ErrClosed) {
			t.Errorf("%s beside Close: error %v, want ErrClosed", what, err)
		}
	}
	pc.BumpReadTS(tx, pid, 7)
	if ts, ok := pc.ReadTS(tx, pid); ts != 0 || ok {
		t.Errorf("ReadTS beside Close: %d, %v; want 0, false", ts, ok)
	}
	if err := batch.Seal(); err != nil {
		t.Errorf("Seal beside Close: %v", err)
	}
	if err := batch.Abort(); !errors.Is(err, engine.ErrBatchEnded) {
		t.Errorf("Abort beside Close, after Seal: %v", err)
	}
	tx.End()
	enginetest.Soon(t, "Close after the last Tx has ended", func() { err = <-done })
	if err != nil {
		t.Errorf("Close: %v", err)
	}
	if s := pc.Stats(); s.Txs.Open != 0 || s.Pages.InUse != 1 || pc.StableLSN() < ptr.LastLSN() {
		t.Errorf("stats after Close: %+v", s)
	}
}

// Every call on a closed log returns ErrClosed. An iteration that began before Close ends with it.
func TestCallsOnClosedLog(t *testing.T) {
	l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(simdisk.New(3, simdisk.Options{})))
	var lsn engine.LSN
	var ptr engine.DiskPtr
	for i := range 3 {
		var err error
		if lsn, ptr, err = l.Write(fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.MakeStable(lsn); err != nil {
		t.Fatal(err)
	}
	next, stop := iter.Pull2(l.Records(0))
	defer stop()
	if _, err, ok := next(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	enginetest.Close(t, l)
	errs := map[string]error{"Close": l.Close()}
	_, errs["Reserve"] = l.Reserve(1)
	_, _, errs["Write"] = l.Write(nil)
	_, errs["WriteBatch"] = l.WriteBatch([][]byte{nil})
	_, errs["PinLog"] = l.PinLog()
	_, errs["Read"] = l.Read(lsn, ptr)
	_, errs["Flush"] = l.Flush()
	_, errs["MakeStable"] = l.MakeStable(lsn)
	r, err, ok := next()
	if !ok || r.Bytes != nil {
		t.Errorf("iteration after Close: more %v, record %q; want ErrClosed and no record", ok, r.Bytes)
	}
	errs["Records, begun before"] = err
	if _, err, ok := next(); ok {
		t.Errorf("iteration goes on after its error: %v", err)
	}
	for r, err := range l.Records(0) {
		if r.Bytes != nil {
			t.Errorf("Records of a closed log yields %q", r.Bytes)
		}
		errs["Records"] = err
	}
	for what, err := range errs {
		if !errors.Is(err, engine.ErrClosed) {
			t.Errorf("%s after Close: error %v, want ErrClosed", what, err)
		}
	}
	_ = l.Stats()
}

// untilClosed calls each of fs in a loop until it returns ErrClosed, in one goroutine each. The function returned waits
// for all of them.
func untilClosed(t *testing.T, fs ...func(i int) error) func() {
	var wg sync.WaitGroup
	for _, f := range fs {
		wg.Go(func() {
			for i := 0; ; i++ {
				if err := f(i); err != nil {
					if !errors.Is(err, engine.ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	return func() {
		t.Helper()
		enginetest.Soon(t, "calls beside Close", wg.Wait)
	}
}

// written has the values that were acknowledged as written. Safe for concurrent use.
type written[K comparable] struct {
	mu sync.Mutex
	m  map[K]string
}

func (w *written[K]) add(k K, v string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m == nil {
		w.m = map[K]string{}
	}
	w.m[k] = v
}

// Every write that returned without an error before or beside Close is there after reopening. Calls that need no Tx may
// run beside Close. Ids are not handed out again. Proves rule 11.
func TestCloseBesideWriters(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		d, dir := simdisk.New(seed, simdisk.Options{}), "/store"
		o := enginetest.SimOptions(d)
		if seed%2 == 0 { // on a simulated disk, Close does not wait for batches
			o, dir = &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1}, t.TempDir()
		}
		o.IDPersistInterval = 1 + seed%3
		pc := enginetest.Open(t, dir, o)
		var pages written[engine.PageID]
		next := uint64(0)
		allocate := func(i int) error {
			tx, err := pc.Begin()
			if err != nil {
				return err
			}
			defer tx.End()
			v := fmt.Sprint(tx.TS())
			pid, _, err := pc.Allocate(tx, []byte(v))
			if err == nil {
				pages.add(pid, v)
			}
			return err
		}
		generate := func(i int) error {
			id, err := pc.GenerateID()
			if err == nil {
				next = id + 1
			}
			return err
		}
		batch := func(i int) error {
			b, err := pc.PinLog()
			if err == nil {
				err = b.Abort() // the pages stay, as ordinary writes
			}
			return err
		}
		fs := []func(int) error{allocate, allocate, generate}
		if seed%2 == 0 { // no pages: Close drops those that are written after the begin of an open batch
			pages.m, fs = nil, []func(int) error{batch, batch, generate}
		}
		wait := untilClosed(t, fs...)
		time.Sleep(time.Duration(seed) * 20 * time.Microsecond)
		enginetest.Close(t, pc)
		wait()
		if o = enginetest.SimOptions(d.Crash(seed)); seed%2 == 0 {
			o = nil
		}
		pc = enginetest.Open(t, dir, o)
		tx := enginetest.Begin(t, pc)
		for pid, v := range pages.m {
			if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != v {
				t.Fatalf("seed %d: page %d: %q, want %q, error %v", seed, pid, p.Value, v, err)
			}
		}
		if n := pc.Stats().Pages.InUse; n != int64(len(pages.m)) || tx.TS() < next {
			t.Errorf("seed %d: %d pages, want %d; timestamp %d, want %d or more",
				seed, n, len(pages.m), tx.TS(), next)
		}
		tx.End()
		enginetest.Close(t, pc)
	}
}

// Exactly the records that were written or completed before or beside Close of a log are there after reopening. Reads
// may run beside Close.
func TestCloseBesideLogWriters(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		d := simdisk.New(seed, simdisk.Options{})
		l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
		var records written[engine.LSN]
		wait := untilClosed(t, func(i int) error {
			v := fmt.Sprint("one", i)
			lsn, ptr, err := l.Write([]byte(v))
			if err == nil {
				records.add(lsn, v)
				_, err = l.Read(lsn, ptr)
			}
			return err
		}, func(i int) error {
			r, err := l.Reserve(3)
			if err == nil {
				records.add(r.LSN(), "two")
				copy(r.Bytes(), "two")
				_, _, err = r.Complete()
			}
			return err
		}, func(i int) error {
			for _, err := range l.Records(0) {
				if err != nil {
					return err
				}
			}
			return nil
		})
		time.Sleep(time.Duration(seed) * 20 * time.Microsecond)
		var err error
		enginetest.Soon(t, "Close beside reservations", func() {
			for err = l.Close(); err != nil && strings.Contains(err.Error(), "reservations"); {
				err = l.Close()
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		wait()
		l = enginetest.OpenLog(t, "/store", enginetest.SimOptions(d.Crash(seed)))
		n := 0
		for r, err := range l.Records(0) {
			if err != nil {
				t.Fatalf("seed %d: after %d records: %v", seed, n, err)
			}
			if records.m[r.LSN] != string(r.Bytes) {
				t.Errorf("seed %d: record %q at LSN %d, want %q", seed, r.Bytes, r.LSN, records.m[r.LSN])
			}
			n++
		}
		if n != len(records.m) {
			t.Fatalf("seed %d: %d records, want %d", seed, n, len(records.m))
		}
		enginetest.Close(t, l)
	}
}

// Close drops a batch that was not ended, and everything that was written after its begin. Their page ids are handed
// out again. A batch that was ended survives. Trap 1.
func TestCloseWithOpenBatch(t *testing.T) {
	for _, end := range []string{"", "seal", "abort"} {
		d := simdisk.New(4, simdisk.Options{})
		pc := enginetest.OpenSim(t, d)
		tx := enginetest.Begin(t, pc)
		allocate := func(v string) engine.PageID {
			pid, _, err := pc.Allocate(tx, []byte(v))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
		before := allocate("before")
		b, err := pc.PinLog()
		if err != nil {
			t.Fatal(err)
		}
		inside := allocate("inside")
		switch end {
		case "seal":
			err = b.Seal()
		case "abort":
			err = b.Abort()
		}
		if err != nil {
			t.Fatal(err)
		}
		tx.End()
		if end == "" {
			enginetest.CloseInBatch(t, pc, b.LSN())
		} else {
			enginetest.Close(t, pc)
		}
		if err := b.Seal(); !errors.Is(err, engine.ErrClosed) {
			t.Errorf("Seal after Close: error %v, want ErrClosed", err)
		}
		for range 2 {
			pc = enginetest.OpenSim(t, d)
			tx = enginetest.Begin(t, pc)
			want := map[engine.PageID]string{before: "before"}
			if end != "" {
				want[inside] = "inside"
			}
			for pid := before; pid <= inside; pid++ {
				if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != want[pid] {
					t.Errorf("batch end %q: page %d is %v %q, want %q, error %v",
						end, pid, p.Kind, p.Value, want[pid], err)
				}
			}
			if s := pc.Stats(); s.Pages.InUse != int64(len(want)) || s.Pages.Free != 0 {
				t.Errorf("batch end %q: %d pages, want %d; %d free, want 0",
					end, s.Pages.InUse, len(want), s.Pages.Free)
			}
			tx.End()
			enginetest.Close(t, pc)
		}
	}
}

// Writes that overlap with a batch that is ended while Close waits are there after reopening. Those that overlap with
// one that is not ended are missing, and Close says from where on. Proves rule 18, trap 39.
func TestCloseKeepsWhatIsComplete(t *testing.T) {
	t.Parallel()
	for _, sealed := range []bool{true, false} {
		if !sealed && testing.Short() {
			continue // Close waits for the batch for 5 s
		}
		dir, o := t.TempDir(), &engine.Options{SegmentSize: 16 << 10}
		pc := enginetest.Open(t, dir, o)
		tx := enginetest.Begin(t, pc)
		put := func() engine.PageID {
			pid, _, err := pc.Allocate(tx, []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
		pin := func() *engine.Batch {
			b, err := pc.PinLog()
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		before := put()
		a := pin()
		pids := []engine.PageID{put()}
		b := pin()
		pids = append(pids, put())
		if err := a.Seal(); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, put())
		tx.End()
		if sealed {
			done := make(chan error, 1)
			go func() { done <- pc.Close() }()
			enginetest.Soon(t, "PinLog beside Close", func() { // until it returns ErrClosed
				for {
					c, err := pc.PinLog()
					if errors.Is(err, engine.ErrClosed) {
						return
					}
					if err == nil {
						err = c.Seal()
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
			if err := b.Seal(); err != nil {
				t.Errorf("Seal beside Close: %v", err)
			}
			if err := <-done; err != nil {
				t.Errorf("Close beside Seal: %v", err)
			}
		} else {
			enginetest.CloseInBatch(t, pc, a.LSN()) // a and b overlap
		}
		pc = enginetest.Open(t, dir, o)
		tx = enginetest.Begin(t, pc)
		for _, pid := range append(pids, before) {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			want := engine.KindUnallocated
			if sealed || pid == before {
				want = engine.KindMaterialized
			}
			if p.Kind != want {
				t.Errorf("batch sealed %v: page %d is %v, want %v", sealed, pid, p.Kind, want)
			}
		}
		tx.End()
		enginetest.Close(t, pc)
	}
}

// A goroutine that waits in a Tx for a batch, which another one seals once Close waits for that Tx, holds Close up no
// longer than that. Proves rule 18, trap 39.
func TestSealBesideCloseInTx(t *testing.T) {
	pc := enginetest.Open(t, t.TempDir(), &engine.Options{SegmentSize: 16 << 10})
	b, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	tx := enginetest.Begin(t, pc)
	_, ptr, err := pc.Allocate(tx, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	stable := make(chan error, 1)
	go func() {
		_, err := pc.MakeStable(ptr.LastLSN())
		tx.End()
		stable <- err
	}()
	closed := make(chan error, 1)
	go func() { closed <- pc.Close() }()
	enginetest.Soon(t, "Begin beside Close", func() { // until it returns ErrClosed
		for {
			other, err := pc.Begin()
			if err != nil {
				return
			}
			other.End()
		}
	})
	start := time.Now()
	if err := b.Seal(); err != nil {
		t.Errorf("Seal: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-stable; err != nil && !errors.Is(err, engine.ErrClosed) { // ErrClosed: MakeStable came after Close
		t.Errorf("MakeStable: %v", err)
	}
	if took := time.Since(start); took > 4*time.Second { // the patience of Close is 5 s
		t.Errorf("Close took %v after Seal", took)
	}
}

// Stats and Segments, which need no Tx and work after Close, may run beside it. Calls that come too late, however many,
// do not hold Close up. Trap 41.
func TestStatsBesideClose(t *testing.T) {
	t.Parallel()
	for range 5 {
		pc := enginetest.Open(t, t.TempDir(), &engine.Options{SegmentSize: 16 << 10, FlushEvery: time.Millisecond})
		l := enginetest.OpenLog(t, t.TempDir(), &engine.Options{SegmentSize: 16 << 10})
		enginetest.AllocateMany(t, pc, 20, 700)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for _, call := range []func(){
			func() { pc.Stats() }, func() { pc.Segments() }, func() { pc.StableLSN() }, func() { l.Stats() },
			func() { _, _ = pc.AttemptGC() }, func() { _, _ = l.Reserve(-1) },
			func() {
				if tx, err := pc.Begin(); err == nil {
					tx.End()
				}
			},
		} {
			for range 2 {
				wg.Go(func() {
					for done := false; !done; {
						select {
						case <-stop:
							done = true // once more after Close
						default:
						}
						call()
						runtime.Gosched() // else Close, which hands on many times, waits for 14 time slices each time
					}
				})
			}
		}
		enginetest.Soon(t, "Close beside Stats", func() {
			enginetest.Close(t, pc)
			enginetest.Close(t, l)
		})
		close(stop)
		wg.Wait()
	}
}
