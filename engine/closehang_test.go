package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// workOnPages writes, frees and moves pages, writes blobs and snapshots and empties segments, so that Close has work of
// every kind. It ends early if the store is closed meanwhile.
func workOnPages(pc *engine.PageCache[[]byte]) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	var pids []engine.PageID
	var ptrs []engine.PagePtr[[]byte]
	for i := range 200 {
		n := 1000
		if i%20 == 0 {
			n = 9000 // a blob
		}
		pid, ptr, err := pc.Allocate(tx, make([]byte, n))
		if err != nil {
			return err
		}
		pids, ptrs = append(pids, pid), append(ptrs, ptr)
		if i == 40 {
			if _, err := pc.Flush(); err != nil {
				return err
			}
			if err := pc.Snapshot(); err != nil {
				return err
			}
		}
	}
	for i, pid := range pids {
		if i%8 != 0 || i%20 == 0 {
			if _, _, err := pc.Free(tx, pid, ptrs[i]); err != nil {
				return err
			}
		}
	}
	tx.End() // else nothing is recycled
	if _, err := pc.Flush(); err != nil {
		return err
	}
	for range 30 {
		if _, err := pc.AttemptGC(); err != nil {
			return err
		}
	}
	return nil
}

// workOnLog writes records, and drops some.
func workOnLog(l *engine.Log) error {
	var last engine.LSN
	for range 90 {
		lsn, _, err := l.Write(make([]byte, 1000))
		if err != nil {
			return err
		}
		last = lsn
	}
	if _, err := l.MakeStable(last); err != nil {
		return err
	}
	if err := l.DropBelow(last - 20000); err != nil {
		return err
	}
	_, _, err := l.Write([]byte("not stable"))
	return err
}

// hangingStores open a store on a disk. work uses it.
var hangingStores = map[string]func(t *testing.T, d *simdisk.Disk) (s contextStore, work func() error){
	"PageCache": func(t *testing.T, d *simdisk.Disk) (contextStore, func() error) {
		pc := enginetest.OpenSim(t, d)
		return pc, func() error { return workOnPages(pc) }
	},
	"Log": func(t *testing.T, d *simdisk.Disk) (contextStore, func() error) {
		l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
		return l, func() error { return workOnLog(l) }
	},
}

// Whichever operation of the disk hangs, before Close or in it, Close ends soon after its context does. With enough
// time it then ends as ever once the disk goes on. Proves rule 18.
func TestCloseEndsWhileTheDiskHangs(t *testing.T) {
	t.Parallel()
	for name, open := range hangingStores {
		for kind := simdisk.OpWrite; kind <= simdisk.OpPunch; kind++ {
			t.Run(fmt.Sprintf("%s/%v", name, kind), func(t *testing.T) {
				t.Parallel()
				// Close waits for a second after its context has ended, so the stores are closed at the same time.
				_, count := closeWhileHanging(t, open, kind, math.MaxInt)
				var wg sync.WaitGroup
				n := 0
				next := func() {
					if testing.Short() {
						n += n
					}
					n++
				}
				for ; n < count; next() {
					at := n
					wg.Go(func() { closeWhileHanging(t, open, kind, at) })
				}
				wg.Wait()
				for hung := true; hung; next() { // in some schedules there are more
					hung, _ = closeWhileHanging(t, open, kind, n)
				}
				t.Logf("up to operation %d", n-1)
			})
		}
	}
}

// closeWhileHanging lets operation n of a kind after the opening hang, counted from 0, and all later ones of the kind.
// It reports whether any did, and how many operations of the kind there were.
func closeWhileHanging(t *testing.T, open func(*testing.T, *simdisk.Disk) (contextStore, func() error),
	kind simdisk.OpKind, n int) (hung bool, count int) {
	d := simdisk.New(1, simdisk.Options{})
	s, work := open(t, d)
	enginetest.NoCheck(t, s)
	left := n
	d.HangAt(func(o simdisk.Op) bool {
		if o.Kind == kind {
			left--
		}
		return o.Kind == kind && left < 0
	})
	worked := make(chan error, 1)
	go func() { worked <- work() }()
	for done := false; !done && d.Hanging() == 0; {
		select {
		case err := <-worked:
			if done = true; err != nil {
				t.Errorf("operation %d hangs later, and the work fails: %v", n, err)
			}
			worked <- err
		case <-time.After(100 * time.Microsecond):
		}
	}
	// The context ends because the disk hangs, and not because a Close takes its time on a busy machine.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	closed := make(chan struct{})
	go func() {
		for d.Hanging() == 0 {
			select {
			case <-closed:
				return
			case <-time.After(100 * time.Microsecond):
			}
		}
		time.Sleep(5 * time.Millisecond)
		cancel()
	}()
	var err error
	enginetest.Within(t, 10*time.Second, fmt.Sprintf("Close while %v %d hangs", kind, n), func() {
		err = s.CloseContext(ctx)
	})
	close(closed)
	hung = d.Hanging() > 0
	if hung && err == nil || err != nil && !hung {
		t.Errorf("operation %d hangs: %v, and Close returns %v", n, hung, err)
	}
	d.HangAt(nil)
	enginetest.Soon(t, "the calls under way", func() { <-worked })
	if err := s.CloseContext(t.Context()); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("a second Close returns %v", err)
	}
	return hung, n - left // no operation is under way
}
