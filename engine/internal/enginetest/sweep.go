package enginetest

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"pagecache/internal/simdisk"
)

// patience is the number of seconds in which one step of a Sweep ends.
const patience = 60

// slack is what an opening may allocate besides what it allocates for the intact store and four times its files, in
// bytes: memory that the process keeps, such as the tables of a decompressor.
const slack = 256 << 10

// agreeing is what the openings of Agree together may allocate, io buffers and copies of the disk included, in bytes.
const agreeing = 32 << 20

// A Sweep corrupts a Specimen in many ways, on all processors.
type Sweep struct {
	s         *Specimen
	mu        sync.RWMutex // held for reading by all workers, so that one of them can be alone
	workers   []*Worker
	limit     uint64        // bytes that an opening may allocate (O7)
	usual     uint64        // bytes that an opening of the intact store allocates
	expects   atomic.Uint64 // bytes that all steps so far should have allocated together, and more
	next      atomic.Int64
	collected atomic.Uint64 // the bytes that were allocated before the last collection of garbage
	repeated  atomic.Int64  // steps that were repeated alone
	stopped   atomic.Bool
}

// A Worker is a goroutine of a Sweep. It has a copy of the store that is always put back.
type Worker struct {
	Disk     *simdisk.Disk
	Outcomes [outcomes]int

	w      *Sweep
	p      Pieces
	sample []metrics.Sample
	at     atomic.Int64 // the number of the step that it is at; negative: of none
	limit  uint64       // of this step
	// slowest is the time that the step with number slow has taken, which is the longest.
	slowest time.Duration
	slow    int
}

// Run calls step with all numbers below n, each once, on all processors. It reports the errors of the first steps that
// fail, panics, and steps that hang; name describes a step. It returns how many steps had each Outcome.
func (s *Specimen) Run(t testing.TB, n int, name func(int) string, step func(*Worker, int) error) (sum [outcomes]int) {
	t.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // see collect
	w := &Sweep{s: s}
	intact := w.worker()
	w.limit = 1 << 40
	for range 2 { // the first makes what the process keeps
		used, err := intact.alone(func() error { return intact.Shows() })
		if err != nil || intact.Outcomes[OutcomeWhole] == 0 {
			t.Fatalf("the intact store: outcomes %v, error %v", intact.Outcomes, err)
		}
		w.limit, w.usual = used+uint64(4*s.Size)+slack, used
	}
	failures := make(chan string, n)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		w.workers = append(w.workers, w.worker())
	}
	for _, k := range w.workers {
		wg.Go(func() { k.work(n, step, name, failures) })
	}
	go func() {
		wg.Wait()
		close(done)
	}()
	start := time.Now()
	w.wait(t, done, name)
	t.Logf("%d steps in %v, %v each; %d bytes allocated by each, %d steps measured alone", n, time.Since(start),
		time.Since(start)/time.Duration(n), w.usual, w.repeated.Load())
	for _, k := range w.workers {
		t.Logf("the slowest: %s, in %v", name(k.slow), k.slowest)
		for i, c := range k.Outcomes {
			sum[i] += c
		}
	}
	close(failures)
	report(t, failures)
	return sum
}

// report reports failures, of those that differ in numbers only the first.
func report(t testing.TB, failures chan string) {
	t.Helper()
	counts, first := map[string]int{}, map[string]string{}
	for f := range failures {
		kind := strings.Map(func(r rune) rune {
			if unicode.Is(unicode.ASCII_Hex_Digit, r) {
				return -1
			}
			return r
		}, f)
		if counts[kind]++; counts[kind] == 1 {
			first[kind] = f
		}
	}
	for kind, n := range counts {
		t.Errorf("%s (and %d more)", first[kind], n-1)
	}
}

func (w *Sweep) worker() *Worker {
	k := &Worker{Disk: w.s.Disk.Copy(), w: w, sample: []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}}
	k.Disk.SetFault(func(o simdisk.Op) error {
		if changes(o.Kind) {
			const text = "an opening that is read-only has written: %v %d bytes at %d of %s"
			return Violated(text, o.Kind, o.Len, o.Off, o.Name)
		}
		return nil
	})
	return k
}

// wait waits until done is closed. It fails the test if a worker is at the same step for too many seconds. They are
// counted: the clock may be set, and the machine may stop for a while.
func (w *Sweep) wait(t testing.TB, done chan struct{}, name func(int) string) {
	t.Helper()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	at, seconds := make([]int64, len(w.workers)), make([]int, len(w.workers))
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		for i, k := range w.workers {
			now := k.at.Load()
			if seconds[i]++; now != at[i] || now < 0 {
				at[i], seconds[i] = now, 0
			}
			if seconds[i] > patience {
				w.stopped.Store(true)
				t.Fatalf("%s: hangs", name(int(now)))
			}
		}
	}
}

// work does steps until none is left.
func (k *Worker) work(n int, step func(*Worker, int) error, name func(int) string, failures chan string) {
	for i := int(k.w.next.Add(1)) - 1; i < n && !k.w.stopped.Load(); i = int(k.w.next.Add(1)) - 1 {
		k.at.Store(int64(i))
		start := time.Now()
		err := k.measured(func() error { return step(k, i) })
		if d := time.Since(start); d > k.slowest {
			k.slowest, k.slow = d, i
		}
		k.collect()
		if err != nil {
			failures <- fmt.Sprintf("%s: %v", name(i), err)
		}
	}
	k.at.Store(-1)
}

// measured calls f and returns an error if it panics, or allocates more than the limit. The memory that other
// workers allocate meanwhile counts too, so f is called again, alone, if the sum is higher than expected.
func (k *Worker) measured(f func() error) error {
	w := k.w
	w.mu.RLock()
	k.limit = w.limit
	before, expected := k.allocated(), w.expects.Load()
	err := guarded(f)
	used := k.allocated() - before
	w.mu.RUnlock()
	if k.limit == agreeing {
		w.expects.Add(agreeing)
	} else {
		w.expects.Add(2 * w.usual)
	}
	others := w.expects.Load() - expected + uint64(len(w.workers))*w.limit // those under way have not been added
	if err != nil || used <= k.limit+others {
		return err
	}
	counts := k.Outcomes
	used, err = k.alone(f)
	k.Outcomes = counts
	w.repeated.Add(1)
	if err == nil && used > k.limit {
		err = Violated("%d bytes allocated, at most %d expected for files of %d bytes", used, k.limit, w.s.Size)
	}
	return err
}

// alone calls f while all other workers wait, and returns how many bytes were allocated.
func (k *Worker) alone(f func() error) (uint64, error) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := guarded(f)
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc, err
}

// collect collects garbage after every 128 MiB. If the collector decided when, the heap would grow without bound: a
// sync.Pool that was used keeps its store until the second collection after that, so the stores of all steps since the
// last collection count as memory in use.
func (k *Worker) collect() {
	const every = 128 << 20
	now, last := k.allocated(), k.w.collected.Load()
	if now-last > every && k.w.collected.CompareAndSwap(last, now) {
		runtime.GC()
	}
}

func (k *Worker) allocated() uint64 {
	metrics.Read(k.sample)
	return k.sample[0].Value.Uint64()
}

// guarded returns the error of f, or that it panics.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = Violated("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}

// Shows opens the store on Disk read-only, as it is now, and returns an error if it shows what it must not show.
func (k *Worker) Shows() error {
	refused, err := k.w.s.look(k.Disk, &k.p)
	if err != nil {
		return err
	}
	outcome, err := k.w.s.judge(refused, &k.p)
	if err == nil {
		k.Outcomes[outcome]++
	}
	return err
}

// Agree is Specimen.Agree, and counts the outcome.
func (k *Worker) Agree(hurt func(*simdisk.Disk)) error { return k.agree(k.w.s.Agree, hurt) }

// AgreeRoughly is Specimen.AgreeRoughly, and counts the outcome.
func (k *Worker) AgreeRoughly(hurt func(*simdisk.Disk)) error {
	return k.agree(k.w.s.AgreeRoughly, hurt)
}

func (k *Worker) agree(agree func(func(*simdisk.Disk)) (Outcome, error), hurt func(*simdisk.Disk)) error {
	k.limit = agreeing
	outcome, err := agree(hurt)
	if err == nil {
		k.Outcomes[outcome]++
	}
	return err
}
