//go:build invariants

package iobuf

import (
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// catchDropped returns a function that collects garbage until an object is reported as dropped.
func catchDropped(t *testing.T) (next func() string) {
	reports := make(chan string, 16)
	t.Cleanup(invariants.CatchDropped(func(report string) { reports <- report }))
	return func() string {
		for deadline := time.Now().Add(hangLimit / 2); time.Now().Before(deadline); {
			runtime.GC()
			select {
			case r := <-reports:
				return r
			case <-time.After(time.Millisecond):
			}
		}
		t.Fatal("a dropped object is not reported")
		return ""
	}
}

// dropReservation reserves a place and drops the reservation. It returns an untracked copy, with which the place can be
// ended.
//
//go:noinline
func dropReservation(t *testing.T, r *rig) Reservation {
	res, err := r.Reserve(format.KindAppend, 1, 10)
	if err != nil {
		t.Fatal(err)
	}
	res.tracker = invariants.Tracker{}
	return res
}

//go:noinline
func dropBatch(t *testing.T, r *rig) {
	if _, err := r.BeginBatch(); err != nil {
		t.Fatal(err)
	}
}

// A Reservation and a Batch that are dropped while the log runs are reported with the place where they were begun. A
// batch that is still open when the log has closed is not.
func TestDroppedReservationAndBatchAreReported(t *testing.T) {
	next := catchDropped(t)
	r := newRig(t, setup{})
	res := dropReservation(t, r)
	if s := next(); !strings.Contains(s, "iobuf.Reservation dropped") || !strings.Contains(s, "dropReservation") {
		t.Error(s)
	}
	res.Abort()
	dropBatch(t, r)
	if s := next(); !strings.Contains(s, "iobuf.Batch dropped") || !strings.Contains(s, "dropBatch") {
		t.Error(s)
	}
	open, err := r.BeginBatch()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(open)
	r = newRig(t, setup{}) // its report comes after that of open would have
	res = dropReservation(t, r)
	if s := next(); !strings.Contains(s, "iobuf.Reservation dropped") {
		t.Error(s)
	}
	res.Complete()
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// Ending two copies of a Reservation panics before it corrupts the log.
func TestEndingTwoCopiesPanics(t *testing.T) {
	r := newRig(t, setup{})
	res, err := r.Reserve(format.KindAppend, 1, 10)
	if err != nil {
		t.Fatal(err)
	}
	twin := res
	res.Complete()
	func() {
		defer func() {
			if s, _ := recover().(string); !strings.Contains(s, "iobuf.Reservation ended twice") {
				t.Errorf("got %q", s)
			}
		}()
		twin.Complete()
	}()
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// Every rare path of the package that is named by invariants.Sometimes is taken by these workloads.
func TestRarePathsAreTaken(t *testing.T) {
	seed := uint64(100)
	never := invariants.Reach("iobuf: ", hangLimit/2, func() {
		seed++
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS([]int{2, 8}[seed%2]))
		testWriters(t, 512, seed)
		testRoomIsForOneSegment(t)
		slowOwner(t, seed)
		twoEnds(t, seed)
		askTail(t, seed)
	})
	if len(never) > 0 {
		t.Errorf("never taken: %q", never)
	}
}

// slowOwner makes the leader wait for a message whose owner takes its time.
func slowOwner(t *testing.T, seed uint64) {
	r := newRig(t, setup{seed: seed})
	slow, err := r.Reserve(format.KindAppend, 1, 10)
	if err != nil {
		t.Fatal(err)
	}
	lsn, err := r.put(format.KindAppend, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.MakeStable(lsn) }()
	r.untilWaiting(1)
	time.Sleep(time.Millisecond) // not needed for the outcome, but the leader shall run idle
	slow.Complete()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// twoEnds has goroutines end the same batches.
func twoEnds(t *testing.T, seed uint64) {
	r := newRig(t, setup{seed: seed})
	for range 50 {
		b, err := r.BeginBatch()
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { _, _ = b.End() })
		}
		wg.Wait()
		if _, err := b.End(); err != ErrBatchEnded {
			t.Errorf("a batch that has ended ends with %v", err)
		}
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// askTail asks for the tail while buffers are retired and opened.
func askTail(t *testing.T, seed uint64) {
	r := newRig(t, setup{seed: seed})
	done := make(chan struct{})
	go func() {
		defer close(done)
		rng := rand.New(rand.NewPCG(seed, 3))
		for range 300 {
			lsn, err := r.put(format.KindAppend, 1, make([]byte, 7000+rng.IntN(1000)))
			if err == nil && rng.IntN(2) == 0 {
				err = r.MakeDurable(lsn)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for asking := true; asking; {
		select {
		case <-done:
			asking = false
		default:
			r.Tail()
		}
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}
