package engine

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

	"pagecache/engine/internal/iobuf"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// What is durable of a batch after a crash: nothing until it is sealed and made stable, then all; what lies before it is not touched by
// it. An aborted one is ordinary writes. Empty ones and such within others are no matter. Trap 1.
func TestBatchesAfterACrash(t *testing.T) {
	for _, c := range []struct {
		name  string
		end   func(outer, inner *Batch) error
		whole bool
	}{
		{"dropped", func(outer, inner *Batch) error { return nil }, false},
		{"the inner one sealed", func(outer, inner *Batch) error { return inner.Seal() }, false},
		{"the outer one sealed", func(outer, inner *Batch) error { return outer.Seal() }, false},
		{"both sealed", func(outer, inner *Batch) error { return errors.Join(inner.Seal(), outer.Seal()) }, true},
		{"the outer one sealed first", func(outer, inner *Batch) error { return errors.Join(outer.Seal(), inner.Seal()) }, true},
		{"both aborted", func(outer, inner *Batch) error { return errors.Join(inner.Abort(), outer.Abort()) }, true},
	} {
		d := simdisk.New(1, simdisk.Options{})
		pc := openSim(t, d)
		tx := begin(t, pc)
		allocate := func(v string) PageID {
			pid, _, err := pc.Allocate(tx, []byte(v))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
		pin := func() *Batch {
			b, err := pc.PinLog()
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		pages := []PageID{allocate("0")}
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		before := pc.StableLSN()
		outer := pin()
		pages = append(pages, allocate("1"))
		inner := pin()
		if outer.LSN() <= before || inner.LSN() <= outer.LSN() {
			t.Errorf("batches at %d and %d, stable up to %d", outer.LSN(), inner.LSN(), before)
		}
		pages = append(pages, allocate("2"))
		if err := c.end(outer, inner); err != nil {
			t.Fatal(c.name, err)
		}
		pages = append(pages, allocate("3"))
		if err := pin().Seal(); err != nil { // an empty one
			t.Fatal(err)
		}
		if err := pc.core.store.Log.MakeDurable(math.MaxInt64); err != nil { // what the flusher may do at any time
			t.Fatal(err)
		}
		if stable := pc.StableLSN() >= inner.LSN(); stable != c.whole {
			t.Errorf("%s: stable up to %d, batches at %d and %d", c.name, pc.StableLSN(), outer.LSN(), inner.LSN())
		}
		d = d.Crash(1)
		tx.End()
		_ = pc.Close()
		runtime.KeepAlive([]*Batch{outer, inner})
		pc = openSim(t, d)
		tx = begin(t, pc)
		for i, pid := range pages {
			want := ""
			if c.whole || i == 0 {
				want = fmt.Sprint(i)
			}
			if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != want {
				t.Errorf("%s: page %d holds %q, want %q, %v", c.name, i, p.Value, want, err)
			}
		}
		tx.End()
		closeTest(t, pc)
	}
}

// Of many that end one batch at once, one does.
func TestBatchEndsOnce(t *testing.T) {
	pc := openSim(t, simdisk.New(2, simdisk.Options{}))
	defer closeTest(t, pc)
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
				} else if !errors.Is(err, ErrBatchEnded) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := ended.Load(); n != 1 {
			t.Fatalf("ended %d times", n)
		}
	}
	if _, err := pc.Flush(); err != nil {
		t.Error(err)
	}
}

// Where there is no room for its end, a batch stays open, holds up what it must, and can be sealed once there is room. Where the log has
// stopped it cannot. Proves rules 8 and 9.
func TestSealThatFails(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	pc := openSim(t, d)
	tx := begin(t, pc)
	b, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	d.SetCapacity(1)
	var ptr, last PagePtr[[]byte]
	for _, size := range []int{4000, 100, 1, 0} { // until there is no room for the smallest
		for err = nil; err == nil; {
			if _, ptr, err = pc.Allocate(tx, make([]byte, size)); err == nil {
				last = ptr
			}
		}
		if !errors.Is(err, ErrNoSpace) {
			t.Fatal(err)
		}
	}
	for _, size := range []int{4000, 100, 1, 0} { // not even what is kept for it
		for err = nil; err == nil; {
			var r iobuf.Reservation
			if r, err = pc.core.store.Log.ReserveUrgent(format.KindFree, 0, size); err == nil {
				r.Abort()
			}
		}
	}
	for range 2 {
		if err := b.Seal(); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("Seal: %v", err)
		}
	}
	if _, err := pc.PinLog(); !errors.Is(err, ErrNoSpace) {
		t.Errorf("PinLog: %v", err)
	}
	if pc.StableLSN() >= b.LSN() {
		t.Errorf("stable up to %d with a batch open from %d", pc.StableLSN(), b.LSN())
	}
	d.SetCapacity(0)
	if err := b.Seal(); err != nil {
		t.Fatal(err)
	}
	if _, err := pc.MakeStable(last.LastLSN()); err != nil || pc.StableLSN() < last.LastLSN() {
		t.Errorf("%v, stable up to %d", err, pc.StableLSN())
	}
	if b, err = pc.PinLog(); err != nil {
		t.Fatal(err)
	}
	failOn(d, simdisk.OpDeviceWrite, 1, syscall.EIO)
	if err := pc.core.store.Log.MakeDurable(math.MaxInt64); !errors.Is(err, ErrFailed) {
		t.Fatal(err)
	}
	if err := b.Seal(); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) || errors.Is(err, ErrBatchEnded) {
		t.Errorf("Seal: %v", err)
	}
	if _, err := pc.PinLog(); !errors.Is(err, ErrFailed) {
		t.Errorf("PinLog: %v", err)
	}
	tx.End()
	if err := pc.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("Close: %v", err)
	}
}

// A write becomes stable by itself within FlushEvery; with a negative one never.
func TestFlushEvery(t *testing.T) {
	for _, every := range []time.Duration{time.Millisecond, -1} {
		o := simOptions(simdisk.New(4, simdisk.Options{}))
		o.FlushEvery = every
		pc := openTest(t, "/store", o)
		tx := begin(t, pc)
		_, ptr, err := pc.Allocate(tx, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		tx.End()
		if every < 0 {
			time.Sleep(20 * time.Millisecond)
			if pc.StableLSN() >= ptr.LastLSN() || pc.Stats().Log.Flushes != 0 {
				t.Error("flushed by itself")
			}
		} else {
			soon(t, "flushing", func() {
				for pc.StableLSN() < ptr.LastLSN() {
					time.Sleep(time.Millisecond)
				}
			})
		}
		closeTest(t, pc)
	}
}

// The stable LSN never goes back, and is at or above whatever MakeStable and Flush have returned for. Any LSN not handed out yet stands
// for all that is written. The bytes that calls report in a single thread add up to all of them. Proves rule 5.
func TestStableRises(t *testing.T) {
	pc := openSim(t, simdisk.New(5, simdisk.Options{}))
	defer closeTest(t, pc)
	var stop atomic.Bool
	var watcher, writers sync.WaitGroup
	watcher.Go(func() {
		for last := LSN(-1); !stop.Load(); {
			now := pc.StableLSN()
			if now < last {
				t.Errorf("stable up to %d after %d", now, last)
			}
			last = now
		}
	})
	for g := range 3 {
		writers.Go(func() {
			for i := range 60 {
				tx := begin(t, pc)
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
					t.Errorf("stable up to %d, want %d, %v", pc.StableLSN(), ptr.LastLSN(), err)
				}
			}
		})
	}
	writers.Wait()
	stop.Store(true)
	watcher.Wait()
	start, sum := pc.StableLSN(), 0
	tx := begin(t, pc)
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
				t.Errorf("%d bytes became stable, again %v, %v", n, again, err)
			}
		}
	}
	if LSN(sum) != pc.StableLSN()-start {
		t.Errorf("%d bytes became stable, the stable LSN rose by %d", sum, pc.StableLSN()-start)
	}
}

// Ids and timestamps are drawn from one source: none comes twice, over closings and crashes, whatever the interval. A clean close
// skips none, a crash at most twice the larger interval.
func TestIDsOverCrashes(t *testing.T) {
	d := simdisk.New(6, simdisk.Options{})
	next, before, clean := uint64(0), uint64(0), true
	for round := range 60 {
		interval := []uint64{1, 2, 64, 3}[round%4]
		o := simOptions(d)
		o.IDPersistInterval = interval
		pc := openTest(t, "/store", o)
		first, skip := next, 2*max(interval, before)
		if clean {
			skip = 0
		}
		for i := range 2 * interval % 50 {
			id, err := pc.GenerateID()
			if i%2 == 1 {
				tx := begin(t, pc)
				id = tx.TS()
				tx.End()
			}
			if err != nil || id < next || i == 0 && id > first+skip {
				t.Fatalf("round %d: id %d, want %d … %d, %v", round, id, next, first+skip, err)
			}
			next = id + 1
		}
		before, clean = interval, round%3 == 0
		if clean {
			closeTest(t, pc)
			d = d.Crash(uint64(round))
		} else {
			d = d.Crash(uint64(round))
			_ = pc.Close()
		}
	}
}

// A counter on disk that would bring ids to their end is damage, not a panic and no id that comes again. Proves rule 12.
func TestHostileIDs(t *testing.T) {
	first, _ := dirtyStore(t, simdisk.New(7, simdisk.Options{}))
	good, err := format.DecodeSuperblock(first.ReadDurable("/store/superblock"))
	if err != nil {
		t.Fatal(err)
	}
	for i, change := range []func(sb *format.Superblock){
		func(sb *format.Superblock) { sb.NextID = math.MaxUint64 },
		func(sb *format.Superblock) { sb.NextID = 1 << 63 },
		func(sb *format.Superblock) { sb.IDInterval = math.MaxUint64 },
		func(sb *format.Superblock) { sb.IDInterval = 1 << 62 },
	} {
		d, sb := first.Crash(1), good
		change(&sb)
		d.WriteFile("/store/superblock", sb.Append(nil))
		before := fmt.Sprint(files(t, d))
		if _, err := Open("/store", Bytes{}, simOptions(d)); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "out of bounds") {
			t.Errorf("change %d: %v", i, err)
		}
		if fmt.Sprint(files(t, d)) != before {
			t.Errorf("change %d: files were changed", i)
		}
	}
}

// Names of roots are any bytes. Many fit; where one more does not, it is refused and the others
// stay. What was made stable is there after a crash.
func TestManyRoots(t *testing.T) {
	d := simdisk.New(8, simdisk.Options{})
	pc := openSim(t, d)
	tx := begin(t, pc)
	const name = "\x00\xff\n"
	if now, won, err := pc.CASRoot(tx, name, 0, 2); err != nil || !won || now != 2 {
		t.Fatal(now, won, err)
	}
	if pid, err := pc.Root(tx, name); err != nil || pid != 2 {
		t.Error(pid, err)
	}
	if _, err := pc.Root(tx, "\x00x\n"); !errors.Is(err, ErrRootNotFound) {
		t.Error(err)
	}
	n, err := 0, error(nil)
	for ; err == nil; n++ {
		_, _, err = pc.CASRoot(tx, strings.Repeat("n", 200)+string([]byte{byte(n), byte(n >> 8)}), 0, PageID(n)+1)
	}
	if !errors.Is(err, ErrTooLarge) || n < 50 {
		t.Errorf("after %d roots: %v", n, err)
	}
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := pc.CASRoot(tx, "", 0, 3); err != nil { // not flushed
		t.Error(err)
	}
	d = d.Crash(1)
	tx.End()
	_ = pc.Close()
	pc = openSim(t, d)
	defer closeTest(t, pc)
	tx = begin(t, pc)
	defer tx.End()
	if m, err := pc.Meta(tx); err != nil || len(m) != n || m["\x00\xff\n"] != 2 {
		t.Errorf("%d roots, want %d, %v", len(m), n, err)
	}
}

// Of many that swap one root at once, one wins each time, and those that lose are told what to begin with.
func TestRootWinners(t *testing.T) {
	pc := openSim(t, simdisk.New(9, simdisk.Options{}))
	defer closeTest(t, pc)
	const each = 50
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			tx := begin(t, pc)
			defer tx.End()
			now := PageID(0)
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
	wg.Wait()
	tx := begin(t, pc)
	defer tx.End()
	if pid, err := pc.Root(tx, "n"); err != nil || pid != 4*each {
		t.Errorf("%d swaps were won, want %d, %v", pid, 4*each, err)
	}
}
