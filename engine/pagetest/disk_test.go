package pagetest_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/engine"
	"pagecache/engine/pagetest"
)

const dir = "/db"

// small are the options of a small store on a disk.
func small(d *pagetest.Disk) *engine.Options {
	return d.Options(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1})
}

func open(t testing.TB, d *pagetest.Disk) (*engine.PageCache[[]byte], *engine.Options) {
	t.Helper()
	o := small(d)
	pc, err := engine.Open(dir, engine.Bytes{}, o)
	if err != nil {
		t.Fatal(err)
	}
	return pc, o
}

// add allocates a page and makes it durable.
func add(pc *engine.PageCache[[]byte], v []byte) (engine.PageID, error) {
	tx, err := pc.Begin()
	if err != nil {
		return 0, err
	}
	defer tx.End()
	pid, ptr, err := pc.Allocate(tx, v)
	if err == nil {
		_, err = pc.MakeStable(ptr.LastLSN())
	}
	return pid, err
}

// get returns a copy of the value of a page.
func get(pc *engine.PageCache[[]byte], pid engine.PageID) ([]byte, error) {
	tx, err := pc.Begin()
	if err != nil {
		return nil, err
	}
	defer tx.End()
	page, err := pc.Get(tx, pid)
	return slices.Clone(page.Value), err
}

func value(i int) []byte { return []byte(strings.Repeat(fmt.Sprintf("value %d ", i), 450)) }

// Acknowledged pages survive a crash at every operation, and whatever the crash does to the rest. The same seed and
// the same calls give the same outcome.
func TestCrashAtEachOperation(t *testing.T) {
	outcomes := map[string]bool{}
	for n := 1; ; n++ {
		run := func() (string, bool) {
			d := pagetest.NewDisk(7)
			d.CrashAfter(n)
			var pids []engine.PageID
			pc, err := engine.Open(dir, engine.Bytes{}, small(d))
			for i := 0; err == nil && i < 6; i++ {
				var pid engine.PageID
				if pid, err = add(pc, value(i)); err == nil {
					pids = append(pids, pid)
				}
			}
			if pc != nil {
				err = errors.Join(err, pc.Close())
			}
			crashed := d.Crashed()
			if crashed != errors.Is(err, pagetest.ErrCrashed) && err != nil {
				t.Fatalf("operation %d: crashed %t, error %v", n, crashed, err)
			}
			pc, o := open(t, d.Crash())
			for i, pid := range pids {
				if v, err := get(pc, pid); err != nil || string(v) != string(value(i)) {
					t.Fatalf("operation %d: page %d is %.20q, error %v", n, pid, v, err)
				}
			}
			outcome := fmt.Sprint(len(pids), pc.StableLSN(), pc.Stats().Pages.InUse)
			pagetest.Close(t, pc, o)
			return outcome, crashed
		}
		first, crashed := run()
		if second, _ := run(); second != first {
			t.Fatalf("operation %d: %s, then %s", n, first, second)
		}
		if outcomes[first] = true; !crashed {
			break
		}
	}
	if len(outcomes) < 6 {
		t.Errorf("only %d outcomes", len(outcomes))
	}
}

// Crashing the same disk again may give another outcome, and each is lawful.
func TestCrashOutcomes(t *testing.T) {
	d := pagetest.NewDisk(1)
	pc, _ := open(t, d)
	pid, err := add(pc, value(0))
	if err != nil {
		t.Fatal(err)
	}
	d.Hang()
	done := make(chan error)
	go func() {
		_, err := add(pc, value(1))
		done <- err
	}()
	for ops := d.Ops(); d.Ops() == ops; {
		time.Sleep(time.Millisecond)
	}
	outcomes := map[int64]int{}
	for range 20 {
		next, o := open(t, d.Crash())
		if v, err := get(next, pid); err != nil || string(v) != string(value(0)) {
			t.Fatalf("the acknowledged page is %.20q, %v", v, err)
		}
		outcomes[next.Stats().Pages.InUse]++
		pagetest.Close(t, next, o)
	}
	if err := <-done; !errors.Is(err, pagetest.ErrCrashed) && !errors.Is(err, engine.ErrFailed) {
		t.Error(err)
	}
	_ = pc.Close()
	if len(outcomes) != 2 {
		t.Errorf("pages after the crash: %v, want 1 at times and 2 at others", outcomes)
	}
}

// Each fault shows as the engine documents it. Lies are noticed when the bytes are read.
func TestFaults(t *testing.T) {
	isLog := func(o pagetest.Op) bool { return o.Kind == pagetest.KindWrite && o.Path == dir+"/log" }
	for fault, want := range map[pagetest.Fault]error{
		pagetest.FaultError: engine.ErrFailed, pagetest.FaultTorn: engine.ErrCorrupt,
		pagetest.FaultLost: engine.ErrCorrupt, pagetest.FaultMisdirected: engine.ErrCorrupt,
	} {
		t.Run(fault.String(), func(t *testing.T) {
			d := pagetest.NewDisk(3)
			pc, _ := open(t, d)
			for i := range 3 {
				if _, err := add(pc, value(i)); err != nil {
					t.Fatal(err)
				}
			}
			hit := 0
			d.SetFaults(func(o pagetest.Op) pagetest.Fault {
				if !isLog(o) || hit > 0 {
					return pagetest.FaultNone
				}
				hit++
				return fault
			})
			_, err := add(pc, value(3))
			for i := 4; err == nil && i < 8; i++ {
				_, err = add(pc, value(i))
			}
			if hit != 1 {
				t.Fatalf("%d writes were hit", hit)
			}
			if fault == pagetest.FaultError {
				if !errors.Is(err, want) || !errors.Is(err, syscall.EIO) {
					t.Errorf("the write that failed: %v", err)
				}
				_ = pc.Close()
				return
			}
			if err != nil {
				t.Fatalf("a lie was noticed: %v", err)
			}
			d = d.Crash()
			_ = pc.Close()
			pc, err = engine.Open(dir, engine.Bytes{}, small(d))
			for i := 0; err == nil && i < 8; i++ {
				var v []byte
				v, err = get(pc, engine.FirstUserPage+engine.PageID(i))
				if err == nil && string(v) != string(value(i)) {
					t.Fatalf("page %d has the wrong value %.20q", i, v)
				}
			}
			if !errors.Is(err, want) {
				t.Errorf("reading after the lie: %v, want %v", err, want)
			}
			if pc != nil {
				_ = pc.Close()
			}
		})
	}
}

// A full disk refuses writes, and takes them again when there is room. Unreadable and flipped bytes are found.
func TestFullUnreadableAndFlipped(t *testing.T) {
	d := pagetest.NewDisk(1)
	pc, o := open(t, d)
	d.SetCapacity(256 << 10)
	var pids []engine.PageID
	err := error(nil)
	for i := 0; err == nil; i++ {
		var pid engine.PageID
		if pid, err = add(pc, value(i%5)); err == nil {
			pids = append(pids, pid)
		}
	}
	if !errors.Is(err, engine.ErrNoSpace) || len(pids) < 20 {
		t.Fatalf("after %d pages: %v", len(pids), err)
	}
	d.SetCapacity(0)
	if _, err := add(pc, value(0)); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	pagetest.Close(t, pc, o)
	const log = dir + "/log"
	size := d.Files()[log]
	check := func() (problems int) {
		report, err := engine.Check(dir, small(d), func(error) {})
		if err != nil {
			return 1
		}
		return report.Problems
	}
	d.SetUnreadable(log, 0, size)
	if check() == 0 {
		t.Error("the log is unreadable, and Check found nothing")
	}
	if d.SetUnreadable(log, 0, 0); check() != 0 {
		t.Error("the log is readable again, and Check found problems")
	}
	d.FlipBit(log, size/2+100, 3)
	if check() == 0 {
		t.Error("Check found no flipped bit")
	}
}

// HangAt stops the operations that it is asked to, and no others, until it is resumed.
func TestHangAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := pagetest.NewDisk(1)
		pc, o := open(t, d)
		pid, err := add(pc, value(0))
		if err != nil {
			t.Fatal(err)
		}
		d.HangAt(func(o pagetest.Op) bool { return o.Kind == pagetest.KindSync })
		done := make(chan error)
		go func() { done <- pc.Snapshot() }()
		synctest.Wait()
		if n := d.Hanging(); n != 1 {
			t.Errorf("%d operations hang, want 1", n)
		}
		if v, err := get(pc, pid); err != nil || string(v) != string(value(0)) {
			t.Errorf("while a snapshot hangs, the page is %.20q, %v", v, err)
		}
		select {
		case err := <-done:
			t.Fatal("the snapshot has ended: ", err)
		default:
		}
		d.Resume()
		if err := <-done; err != nil || d.Hanging() != 0 {
			t.Errorf("%v, %d operations hang", err, d.Hanging())
		}
		pagetest.Close(t, pc, o)
	})
}

// In a bubble, a store has the bubble's time: writes become durable after FlushEvery, and a disk that hangs for an hour
// is announced, without a moment of waiting. The store closes, and leaves no goroutine in the bubble.
func TestTimeInABubble(t *testing.T) {
	start := time.Now()
	synctest.Test(t, func(t *testing.T) {
		d := pagetest.NewDisk(1)
		slow := make(chan engine.SlowWriteInfo, 1)
		o := d.Options(&engine.Options{FlushEvery: time.Minute, SlowWrite: 10 * time.Second,
			Events: engine.Events{SlowWrite: func(e engine.SlowWriteInfo) {
				select {
				case slow <- e:
				default:
				}
			}}})
		pc, err := engine.Open(dir, engine.Bytes{}, o)
		if err != nil {
			t.Fatal(err)
		}
		tx, err := pc.Begin()
		if err != nil {
			t.Fatal(err)
		}
		_, ptr, err := pc.Allocate(tx, []byte("a page"))
		tx.End()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Second)
		if pc.StableLSN() >= ptr.LastLSN() {
			t.Error("the page is durable before FlushEvery")
		}
		time.Sleep(20 * time.Second)
		if pc.StableLSN() < ptr.LastLSN() {
			t.Error("the page is not durable after FlushEvery")
		}
		d.Hang()
		done := make(chan error)
		go func() {
			_, err := add(pc, value(1))
			done <- err
		}()
		time.Sleep(time.Hour)
		select {
		case <-slow:
		default:
			t.Error("a write that takes an hour is not announced")
		}
		d.Resume()
		if err := <-done; err != nil {
			t.Error(err)
		}
		d.SetDelay(time.Second)
		before := time.Now()
		_, err = add(pc, value(2))
		if took := time.Since(before); err != nil || took < time.Second || took > time.Minute {
			t.Errorf("a commit on a slow disk took %v, %v", took, err)
		}
		d.SetDelay(0)
		pagetest.Close(t, pc, o)
	})
	if took := time.Since(start); took > time.Minute {
		t.Errorf("the test took %v", took)
	}
}
