package engine

import (
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/internal/simdisk"
)

// Of several Closes at once one closes, and the others say ErrClosed.
func TestOneCloses(t *testing.T) {
	open := map[string]func(o *Options) (interface{ Close() error }, error){
		"page store": func(o *Options) (interface{ Close() error }, error) { return Open("/store", Bytes{}, o) },
		"log":        func(o *Options) (interface{ Close() error }, error) { return OpenLog("/store", o) },
	}
	for name, f := range open {
		s, err := f(simOptions(simdisk.New(1, simdisk.Options{})))
		if err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, 8)
		for range cap(errs) {
			go func() { errs <- s.Close() }()
		}
		closed := 0
		for range cap(errs) {
			if err := <-errs; err == nil {
				closed++
			} else if !errors.Is(err, ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if closed != 1 {
			t.Errorf("%s: closed %d times", name, closed)
		}
	}
}

// While Close waits for a Tx, every call in it says ErrClosed, and so does the next Begin.
func TestCallsWhileClosing(t *testing.T) {
	pc := openSim(t, simdisk.New(2, simdisk.Options{}))
	tx := begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	batch, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- pc.Close() }()
	for !pc.core.closed.Load() {
		time.Sleep(time.Millisecond)
	}
	errs := map[string]error{}
	_, errs["Begin"] = pc.Begin()
	_, _, errs["Allocate"] = pc.Allocate(tx, nil)
	_, _, errs["Link"] = pc.Link(tx, pid, ptr, nil)
	_, _, errs["Replace"] = pc.Replace(tx, pid, ptr, nil)
	_, _, errs["Free"] = pc.Free(tx, pid, ptr)
	_, errs["Get"] = pc.Get(tx, pid)
	_, _, errs["Fragments"] = pc.Fragments(tx, pid)
	_, errs["Meta"] = pc.Meta(tx)
	_, errs["Root"] = pc.Root(tx, "r")
	_, _, errs["CASRoot"] = pc.CASRoot(tx, "r", 0, 2)
	_, errs["PinLog"] = pc.PinLog()
	_, errs["Flush"] = pc.Flush()
	_, errs["MakeStable"] = pc.MakeStable(ptr.LastLSN())
	_, errs["GenerateID"] = pc.GenerateID()
	errs["Seal"], errs["Abort"] = batch.Seal(), batch.Abort()
	errs["Close"] = pc.Close()
	for what, err := range errs {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s while the store closes: %v", what, err)
		}
	}
	pc.BumpReadTS(tx, pid, 7)
	if ts, ok := pc.ReadTS(tx, pid); ts != 0 || ok {
		t.Errorf("read timestamp %d, %v", ts, ok)
	}
	tx.End()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if s := pc.Stats(); s.Txs.Open != 0 || s.Pages.InUse != 1 || pc.StableLSN() < ptr.LastLSN() {
		t.Errorf("after Close: %+v", s)
	}
}

// Every call on a closed log says ErrClosed, and an iterator stops with it.
func TestClosedLog(t *testing.T) {
	l, err := OpenLog("/store", simOptions(simdisk.New(3, simdisk.Options{})))
	if err != nil {
		t.Fatal(err)
	}
	var lsn LSN
	var ptr DiskPtr
	for i := range 3 {
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
	closeTest(t, l)
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
		t.Errorf("an iteration goes on after Close, or ends without an error: %q", r.Bytes)
	}
	errs["Records, begun before"] = err
	if _, err, ok := next(); ok {
		t.Errorf("an iteration goes on after its error: %v", err)
	}
	for r, err := range l.Records(0) {
		if r.Bytes != nil {
			t.Errorf("record %q of a closed log", r.Bytes)
		}
		errs["Records"] = err
	}
	for what, err := range errs {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	_ = l.Stats()
}

// untilClosed has each of fs called again and again, by a goroutine of its own, until it says ErrClosed. It returns the wait for all.
func untilClosed(t *testing.T, fs ...func(i int) error) func() {
	var wg sync.WaitGroup
	for _, f := range fs {
		wg.Go(func() {
			for i := 0; ; i++ {
				if err := f(i); err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	return wg.Wait
}

// written is what was acknowledged as written, by several goroutines.
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

// What a writer was told is written before it heard ErrClosed is there after reopening, however close the Close was; nothing is taken
// away under calls that need no Tx. Ids do not come again. Proves rule 11.
func TestCloseBesideWriters(t *testing.T) {
	for seed := range uint64(40) {
		d := simdisk.New(seed, simdisk.Options{})
		o := simOptions(d)
		o.IDPersistInterval = 1 + seed%3
		pc := openTest(t, "/store", o)
		var pages written[PageID]
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
		if seed%2 == 0 { // a batch that Close leaves open takes pages with it
			pages.m, fs = nil, []func(int) error{batch, batch, generate}
		}
		wait := untilClosed(t, fs...)
		time.Sleep(time.Duration(seed) * 20 * time.Microsecond)
		closeTest(t, pc)
		wait()
		pc = openSim(t, d.Crash(seed))
		tx := begin(t, pc)
		for pid, v := range pages.m {
			if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != v {
				t.Fatalf("seed %d: page %d: %q, want %q, %v", seed, pid, p.Value, v, err)
			}
		}
		if n := pc.Stats().Pages.InUse; n != int64(len(pages.m)) || tx.TS() < next {
			t.Errorf("seed %d: %d pages, want %d; timestamp %d, want %d or more", seed, n, len(pages.m), tx.TS(), next)
		}
		tx.End()
		closeTest(t, pc)
	}
}

// The same for a log: what was written or completed is there, and nothing else; reading beside Close is safe.
func TestCloseBesideLogWriters(t *testing.T) {
	for seed := range uint64(40) {
		d := simdisk.New(seed, simdisk.Options{})
		l, err := OpenLog("/store", simOptions(d))
		if err != nil {
			t.Fatal(err)
		}
		var records written[LSN]
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
		for err = l.Close(); err != nil && strings.Contains(err.Error(), "reservations"); {
			err = l.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		wait()
		if l, err = OpenLog("/store", simOptions(d.Crash(seed))); err != nil {
			t.Fatal(err)
		}
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
		closeTest(t, l)
	}
}

// A batch that nobody ended before Close is not there after it, with all that was written behind its beginning; the ids of its pages
// are handed out again. A batch that was ended is. Trap 1.
func TestCloseWithOpenBatch(t *testing.T) {
	for _, end := range []string{"", "seal", "abort"} {
		d := simdisk.New(4, simdisk.Options{})
		pc := openSim(t, d)
		tx := begin(t, pc)
		allocate := func(v string) PageID {
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
		closeTest(t, pc)
		if err := b.Seal(); !errors.Is(err, ErrClosed) {
			t.Errorf("Seal after Close: %v", err)
		}
		for range 2 {
			pc = openSim(t, d)
			tx = begin(t, pc)
			want := map[PageID]string{before: "before"}
			if end != "" {
				want[inside] = "inside"
			}
			for pid := before; pid <= inside; pid++ {
				if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != want[pid] {
					t.Errorf("%q: page %d is %v %q, %v", end, pid, p.Kind, p.Value, err)
				}
			}
			if s := pc.Stats(); s.Pages.InUse != int64(len(want)) || s.Pages.Free != 0 {
				t.Errorf("%q: %d pages, %d free", end, s.Pages.InUse, s.Pages.Free)
			}
			tx.End()
			closeTest(t, pc)
		}
	}
}

type slowDecode struct {
	Bytes
	slow *atomic.Bool
}

func (s slowDecode) Decode(b []byte) ([]byte, error) {
	if s.slow.Swap(false) {
		time.Sleep(7 * time.Second)
	}
	return b, nil
}

// A Get that is under way when Close loses its patience goes on reading from what it has found.
func TestCloseUnderGet(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for Close to lose its patience")
	}
	slow := new(atomic.Bool)
	pc, err := Open(t.TempDir(), slowDecode{slow: slow}, &Options{FlushEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := pc.Begin()
	if err != nil {
		t.Fatal(err)
	}
	pid, ptr, err := pc.Allocate(tx, []byte("base"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err = pc.Link(tx, pid, ptr, []byte("delta")); err != nil {
		t.Fatal(err)
	}
	pc.mem.evict(tx, pid, true)
	slow.Store(true)
	done := make(chan error)
	go func() {
		p, err := pc.Get(tx, pid)
		if err == nil && string(p.Value) != "basedelta" {
			err = fmt.Errorf("%q", p.Value)
		}
		done <- err
	}()
	time.Sleep(100 * time.Millisecond)
	if err := pc.Close(); err == nil {
		t.Error("Close says nothing of the Tx")
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	tx.End()
}
