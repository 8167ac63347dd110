package engine_test

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/iobuf"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// After a crash, a batch that was sealed and made stable is whole, and any other batch is absent. Writes before it are
// kept. The writes of an aborted batch are ordinary writes. Nested and empty batches change nothing of this. Trap 1.
func TestBatchesAfterCrash(t *testing.T) {
	for _, c := range []struct {
		name  string
		end   func(outer, inner *engine.Batch) error
		whole bool
	}{
		{"none ended", func(outer, inner *engine.Batch) error { return nil }, false},
		{"inner sealed", func(outer, inner *engine.Batch) error { return inner.Seal() }, false},
		{"outer sealed", func(outer, inner *engine.Batch) error { return outer.Seal() }, false},
		{"both sealed, inner first", func(outer, inner *engine.Batch) error {
			return errors.Join(inner.Seal(), outer.Seal())
		}, true},
		{"both sealed, outer first", func(outer, inner *engine.Batch) error {
			return errors.Join(outer.Seal(), inner.Seal())
		}, true},
		{"both aborted", func(outer, inner *engine.Batch) error {
			return errors.Join(inner.Abort(), outer.Abort())
		}, true},
	} {
		d := simdisk.New(1, simdisk.Options{})
		pc := enginetest.OpenSim(t, d)
		tx := enginetest.Begin(t, pc)
		allocate := func(v string) engine.PageID {
			pid, _, err := pc.Allocate(tx, []byte(v))
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
		pages := []engine.PageID{allocate("0")}
		enginetest.Flush(t, pc)
		before := pc.StableLSN()
		outer := pin()
		pages = append(pages, allocate("1"))
		inner := pin()
		if outer.LSN() <= before || inner.LSN() <= outer.LSN() {
			t.Errorf("%s: batches at %d and %d, stable LSN %d", c.name, outer.LSN(), inner.LSN(), before)
		}
		pages = append(pages, allocate("2"))
		if err := c.end(outer, inner); err != nil {
			t.Fatal(c.name, err)
		}
		pages = append(pages, allocate("3"))
		if err := pin().Seal(); err != nil { // an empty batch
			t.Fatal(err)
		}
		if err := engine.StoreOf(pc).Log.MakeDurable(math.MaxInt64); err != nil { // the flusher may do so at any time
			t.Fatal(err)
		}
		if stable := pc.StableLSN() >= inner.LSN(); stable != c.whole {
			t.Errorf("%s: stable LSN %d, batches at %d and %d", c.name, pc.StableLSN(), outer.LSN(), inner.LSN())
		}
		d = d.Crash(1)
		tx.End()
		_ = pc.Close()
		runtime.KeepAlive([]*engine.Batch{outer, inner})
		pc = enginetest.OpenSim(t, d)
		tx = enginetest.Begin(t, pc)
		for i, pid := range pages {
			want := ""
			if c.whole || i == 0 {
				want = fmt.Sprint(i)
			}
			if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != want {
				t.Errorf("%s: page %d holds %q, want %q, error %v", c.name, i, p.Value, want, err)
			}
		}
		tx.End()
		enginetest.Close(t, pc)
	}
}

// Of several concurrent Seals and Aborts of a batch, one succeeds and the others return ErrBatchEnded.
func TestBatchEndsOnce(t *testing.T) {
	pc := enginetest.OpenSim(t, simdisk.New(2, simdisk.Options{}))
	defer enginetest.Close(t, pc)
	for range 20 {
		b, err := pc.PinLog()
		if err != nil {
			t.Fatal(err)
		}
		var ended atomic.Int32
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				end := b.Seal
				if i%2 == 0 {
					end = b.Abort
				}
				if err := end(); err == nil {
					ended.Add(1)
				} else if !errors.Is(err, engine.ErrBatchEnded) {
					t.Error(err)
				}
			})
		}
		enginetest.Soon(t, "ending the batch", wg.Wait)
		if n := ended.Load(); n != 1 {
			t.Fatalf("batch ended %d times", n)
		}
	}
	enginetest.Flush(t, pc)
}

// If the disk has no space for its end marker, a batch stays open, nothing after its begin becomes stable, and Seal
// works once there is space. If the log has failed, Seal fails too. Proves rules 8 and 9.
func TestSealErrors(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	tx := enginetest.Begin(t, pc)
	b, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	d.SetCapacity(1)
	var ptr, last engine.PagePtr[[]byte]
	for _, size := range []int{4000, 100, 1, 0} { // until not even an empty page fits
		for err = nil; err == nil; {
			if _, ptr, err = pc.Allocate(tx, make([]byte, size)); err == nil {
				last = ptr
			}
		}
		if !errors.Is(err, engine.ErrNoSpace) {
			t.Fatalf("Allocate on a full disk: error %v, want ErrNoSpace", err)
		}
	}
	for _, size := range []int{4000, 100, 1, 0} { // until the reserve is used up too
		for err = nil; err == nil; {
			var r iobuf.Reservation
			if r, err = engine.StoreOf(pc).Log.ReserveUrgent(format.KindFree, 0, size); err == nil {
				r.Abort()
			}
		}
	}
	for range 2 {
		if err := b.Seal(); !errors.Is(err, engine.ErrNoSpace) {
			t.Fatalf("Seal on a full disk: error %v, want ErrNoSpace", err)
		}
	}
	if _, err := pc.PinLog(); !errors.Is(err, engine.ErrNoSpace) {
		t.Errorf("PinLog on a full disk: error %v, want ErrNoSpace", err)
	}
	if pc.StableLSN() >= b.LSN() {
		t.Errorf("stable LSN %d with a batch open from %d", pc.StableLSN(), b.LSN())
	}
	d.SetCapacity(0)
	if err := b.Seal(); err != nil {
		t.Fatal(err)
	}
	if _, err := pc.MakeStable(last.LastLSN()); err != nil || pc.StableLSN() < last.LastLSN() {
		t.Errorf("stable LSN %d, want %d or more, error %v", pc.StableLSN(), last.LastLSN(), err)
	}
	if b, err = pc.PinLog(); err != nil {
		t.Fatal(err)
	}
	d.FailFrom(simdisk.OpDeviceWrite, 1, syscall.EIO)
	if err := engine.StoreOf(pc).Log.MakeDurable(math.MaxInt64); !errors.Is(err, engine.ErrFailed) {
		t.Fatalf("flush with failing writes: error %v, want ErrFailed", err)
	}
	err = b.Seal()
	if !errors.Is(err, engine.ErrFailed) || !errors.Is(err, syscall.EIO) || errors.Is(err, engine.ErrBatchEnded) {
		t.Errorf("Seal on a failed log: error %v, want ErrFailed and EIO", err)
	}
	if _, err := pc.PinLog(); !errors.Is(err, engine.ErrFailed) {
		t.Errorf("PinLog on a failed log: error %v, want ErrFailed", err)
	}
	tx.End()
	if err := pc.Close(); !errors.Is(err, engine.ErrFailed) {
		t.Errorf("Close of a failed log: error %v, want ErrFailed", err)
	}
}

// A write becomes stable without a call within FlushEvery. With a negative FlushEvery it does not.
func TestFlushEvery(t *testing.T) {
	for _, every := range []time.Duration{time.Millisecond, -1} {
		o := enginetest.SimOptions(simdisk.New(4, simdisk.Options{}))
		o.FlushEvery = every
		pc := enginetest.Open(t, "/store", o)
		tx := enginetest.Begin(t, pc)
		_, ptr, err := pc.Allocate(tx, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		tx.End()
		if every < 0 {
			time.Sleep(20 * time.Millisecond)
			if pc.StableLSN() >= ptr.LastLSN() || pc.Stats().Log.Flushes != 0 {
				t.Error("flushed although FlushEvery is negative")
			}
		} else {
			enginetest.Soon(t, "the flush after FlushEvery", func() {
				for pc.StableLSN() < ptr.LastLSN() {
					time.Sleep(time.Millisecond)
				}
			})
		}
		enginetest.Close(t, pc)
	}
}

// The stable LSN never falls. When MakeStable or Flush returns, it covers the LSN or all writes before the call. An LSN
// that was not handed out yet means all writes. In one goroutine, the bytes that the calls return add up to all that
// became stable. Proves rule 5.
func TestStableLSNRises(t *testing.T) {
	pc := enginetest.OpenSim(t, simdisk.New(5, simdisk.Options{}))
	defer enginetest.Close(t, pc)
	var stop atomic.Bool
	var watcher, writers sync.WaitGroup
	watcher.Go(func() {
		for last := engine.LSN(-1); !stop.Load(); {
			now := pc.StableLSN()
			if now < last {
				t.Errorf("stable LSN fell from %d to %d", last, now)
			}
			last = now
		}
	})
	for g := range 3 {
		writers.Go(func() {
			for i := range 60 {
				tx, err := pc.Begin()
				if err != nil {
					t.Error(err)
					return
				}
				_, ptr, err := pc.Allocate(tx, make([]byte, 100*g+i))
				tx.End()
				if err == nil {
					switch lsn := ptr.LastLSN(); (g + i) % 4 {
					case 0:
						_, err = pc.Flush()
					case 1:
						_, err = pc.MakeStable(lsn + 1<<40)
					default:
						_, err = pc.MakeStable(lsn)
					}
				}
				if err != nil || pc.StableLSN() < ptr.LastLSN() {
					t.Errorf("stable LSN %d, want %d or more, error %v", pc.StableLSN(), ptr.LastLSN(), err)
				}
			}
		})
	}
	enginetest.Soon(t, "writing", writers.Wait)
	stop.Store(true)
	enginetest.Soon(t, "reading the stable LSN", watcher.Wait)
	start, sum := pc.StableLSN(), 0
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	for i := range 9 {
		_, ptr, err := pc.Allocate(tx, make([]byte, 1000))
		if err != nil {
			t.Fatal(err)
		}
		for _, again := range []bool{false, true} {
			n, err := pc.MakeStable(ptr.LastLSN())
			if i%3 == 0 && !again {
				m, errFlush := pc.Flush()
				n, err = n+m, errors.Join(err, errFlush)
			}
			if sum += n; err != nil || again != (n == 0) {
				t.Errorf("page %d: %d bytes became stable, second call %v, error %v", i, n, again, err)
			}
		}
	}
	if engine.LSN(sum) != pc.StableLSN()-start {
		t.Errorf("%d bytes became stable, the stable LSN rose by %d", sum, pc.StableLSN()-start)
	}
}

// Ids and timestamps come from one counter. None is handed out twice, over reopening, crashes and changes of the
// interval. A clean close skips no id; a crash skips at most twice the larger interval.
func TestIDsAfterCrashes(t *testing.T) {
	t.Parallel()
	d := simdisk.New(6, simdisk.Options{})
	next, before, clean := uint64(0), uint64(0), true
	for round := range 60 {
		interval := []uint64{1, 2, 64, 3}[round%4]
		o := enginetest.SimOptions(d)
		o.IDPersistInterval = interval
		pc := enginetest.Open(t, "/store", o)
		first, skip := next, 2*max(interval, before)
		if clean {
			skip = 0
		}
		for i := range 2 * interval % 50 {
			id, err := pc.GenerateID()
			if i%2 == 1 {
				tx := enginetest.Begin(t, pc)
				id = tx.TS()
				tx.End()
			}
			if err != nil || id < next || i == 0 && id > first+skip {
				t.Fatalf("round %d: id %d, want %d … %d, error %v", round, id, next, first+skip, err)
			}
			next = id + 1
		}
		before, clean = interval, round%3 == 0
		if clean {
			enginetest.Close(t, pc)
			d = d.Crash(uint64(round))
		} else {
			d = d.Crash(uint64(round))
			_ = pc.Close()
		}
	}
}

// The name of a root may have any bytes. Many names, and long ones, need not fit one segment. A name that is too long
// is refused, and costs nothing. Stable roots survive a crash.
func TestManyRoots(t *testing.T) {
	d := simdisk.New(8, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	tx := enginetest.Begin(t, pc)
	const name = "\x00\xff\n"
	if now, won, err := pc.CASRoot(tx, name, 0, 2); err != nil || !won || now != 2 {
		t.Fatalf("root is %d, won %v, error %v", now, won, err)
	}
	if pid, err := pc.Root(tx, name); err != nil || pid != 2 {
		t.Errorf("root %q is %d, want 2, error %v", name, pid, err)
	}
	if _, err := pc.Root(tx, "\x00x\n"); !errors.Is(err, engine.ErrRootNotFound) {
		t.Errorf("missing root: error %v, want ErrRootNotFound", err)
	}
	const n = 300
	for i := range n - 1 {
		long := strings.Repeat("n", 200) + string([]byte{byte(i), byte(i >> 8)})
		if i%100 == 0 {
			long = fmt.Sprint(i) + long + strings.Repeat("n", engine.MaxRootName)
			long = long[:engine.MaxRootName]
		}
		if _, won, err := pc.CASRoot(tx, long, 0, engine.PageID(i)+1); err != nil || !won {
			t.Fatalf("root %d: won %v, error %v", i, won, err)
		}
	}
	before := pc.Stats().Log.BytesGiven
	for _, old := range []engine.PageID{0, 1} {
		_, _, err := pc.CASRoot(tx, strings.Repeat("n", engine.MaxRootName+1), old, 2)
		if !errors.Is(err, engine.ErrTooLarge) || pc.Stats().Log.BytesGiven != before {
			t.Errorf("a name that is too long: error %v, want ErrTooLarge", err)
		}
	}
	enginetest.Flush(t, pc)
	if _, _, err := pc.CASRoot(tx, "", 0, 3); err != nil { // not flushed: lost in the crash
		t.Errorf("CASRoot of a short name: %v", err)
	}
	d = d.Crash(1)
	tx.End()
	_ = pc.Close()
	pc = enginetest.OpenSim(t, d)
	defer enginetest.Close(t, pc)
	tx = enginetest.Begin(t, pc)
	defer tx.End()
	if m, err := pc.Meta(tx); err != nil || len(m) != n || m["\x00\xff\n"] != 2 {
		t.Errorf("%d roots, want %d, error %v", len(m), n, err)
	}
}

// Of several concurrent CASRoots of one root, one wins. The others get the current value, from which they can retry.
func TestConcurrentCASRoot(t *testing.T) {
	pc := enginetest.OpenSim(t, simdisk.New(9, simdisk.Options{}))
	defer enginetest.Close(t, pc)
	const each = 50
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			tx, err := pc.Begin()
			if err != nil {
				t.Error(err)
				return
			}
			defer tx.End()
			now := engine.PageID(0)
			for range each {
				for won := false; !won; {
					var err error
					if now, won, err = pc.CASRoot(tx, "n", now, now+1); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	enginetest.Soon(t, "swapping the root", wg.Wait)
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	if pid, err := pc.Root(tx, "n"); err != nil || pid != 4*each {
		t.Errorf("root is %d, want %d, error %v", pid, 4*each, err)
	}
}
