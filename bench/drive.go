package bench

import (
	"errors"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Values are contents to write: a few buffers, prepared once and used again and again, as fio does. One goroutine's.
type Values struct {
	all [][]byte
	n   int
}

// NewValues prepares random buffers of so many bytes.
func NewValues(seed uint64, size int) *Values {
	const memory, most = 256 << 10, 16
	rng := rand.NewPCG(seed, uint64(size))
	v := &Values{all: make([][]byte, max(1, min(most, memory/size)))}
	for i := range v.all {
		b := make([]byte, size)
		for j := range b {
			b[j] = byte(rng.Uint64())
		}
		v.all[i] = b
	}
	return v
}

// Next returns the next buffer, which nobody may change.
func (v *Values) Next() []byte {
	if v.n++; v.n >= len(v.all) {
		v.n = 0
	}
	return v.all[v.n]
}

// Worker is a goroutine's source of pages and contents.
type Worker struct {
	rng    *rand.PCG
	zipf   *rand.Zipf // nil: uniform
	pages  uint64
	Values *Values
	Number int // of the goroutine
	ops    int64
	took   []int64 // nanoseconds of each operation, if they are wanted
}

// Page draws a page.
func (w *Worker) Page() int {
	if w.zipf != nil {
		const scatter = 0x9e3779b97f4a7c15 // so that the popular pages are not neighbours
		return int(w.zipf.Uint64() * scatter % w.pages)
	}
	hi, _ := bits.Mul64(w.rng.Uint64(), w.pages)
	return int(hi)
}

// Workload says what a run does.
type Workload struct {
	Goroutines int
	Pages      int
	Value      int     // bytes of what is written
	Zipf       float64 // exponent, above 1; 0: uniform
	Latencies  bool    // keep each operation's
	Seed       uint64
}

// Result says what a run did.
type Result struct {
	Ops     int64
	Elapsed time.Duration
	took    []int64
}

// Rate is operations per second.
func (r Result) Rate() float64 { return float64(r.Ops) / r.Elapsed.Seconds() }

// NanosPerOp is the time of an operation as one goroutine of n sees it.
func (r Result) NanosPerOp(n int) float64 {
	return float64(r.Elapsed.Nanoseconds()) * float64(n) / float64(r.Ops)
}

// Percentile is the time in nanoseconds that p percent of the operations were not above, if Latencies was set.
func (r Result) Percentile(p float64) float64 {
	if len(r.took) == 0 {
		return 0
	}
	slices.Sort(r.took)
	return float64(r.took[min(len(r.took)-1, int(p/100*float64(len(r.took))))])
}

// RunFor runs op in several goroutines until the time is over; then it runs end, which counts as part of the run.
func RunFor(l Workload, d time.Duration, op func(*Worker) error, end func() error) (Result, error) {
	const unbounded = 1 << 62
	return run(l, unbounded, d, op, end)
}

// Run runs op so many times in all, over several goroutines; then it runs end, which counts as part of the run.
func Run(l Workload, ops int64, op func(*Worker) error, end func() error) (Result, error) {
	const unbounded = 1 << 62
	return run(l, ops, unbounded, op, end)
}

func run(l Workload, ops int64, d time.Duration, op func(*Worker) error, end func() error) (Result, error) {
	var stop atomic.Bool
	var left atomic.Int64 // taken a few at a time, so that all end together
	left.Store(ops)
	workers, errs := make([]*Worker, l.Goroutines), make([]error, l.Goroutines)
	for i := range workers {
		w := &Worker{rng: rand.NewPCG(l.Seed, uint64(i)), pages: uint64(l.Pages), Number: i}
		if l.Value > 0 {
			w.Values = NewValues(l.Seed+uint64(i), l.Value)
		}
		if l.Zipf > 0 {
			w.zipf = rand.NewZipf(rand.New(w.rng), l.Zipf, 1, w.pages-1)
		}
		workers[i] = w
	}
	var wg sync.WaitGroup
	start := time.Now()
	timer := time.AfterFunc(d, func() { stop.Store(true) })
	defer timer.Stop()
	for i, w := range workers {
		wg.Go(func() {
			if errs[i] = w.loop(&stop, &left, l.Latencies, op); errs[i] != nil {
				stop.Store(true)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return Result{}, err
	}
	if end != nil {
		if err := end(); err != nil {
			return Result{}, err
		}
	}
	r := Result{Elapsed: time.Since(start)}
	for _, w := range workers {
		r.Ops += w.ops
		r.took = append(r.took, w.took...)
	}
	return r, nil
}

func (w *Worker) loop(stop *atomic.Bool, left *atomic.Int64, latencies bool, op func(*Worker) error) error {
	const chunk = 16
	for !stop.Load() {
		n := min(chunk, left.Add(-chunk)+chunk)
		if n <= 0 {
			return nil
		}
		for range n {
			if !latencies {
				if err := op(w); err != nil {
					return err
				}
			} else {
				start := time.Now()
				if err := op(w); err != nil {
					return err
				}
				w.took = append(w.took, int64(time.Since(start)))
			}
			w.ops++
			if stop.Load() {
				return nil
			}
		}
	}
	return nil
}
