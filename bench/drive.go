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

// Values are contents to write: a few buffers that are prepared once and used in turns, as fio does. They belong to
// one goroutine.
type Values struct {
	all [][]byte
	n   int
}

// NewValues prepares random buffers of size bytes each.
func NewValues(seed uint64, size int) *Values {
	const memory, maxBuffers = 256 << 10, 16
	rng := rand.NewPCG(seed, uint64(size))
	v := &Values{all: make([][]byte, max(1, min(maxBuffers, memory/size)))}
	for i := range v.all {
		b := make([]byte, size)
		for j := range b {
			b[j] = byte(rng.Uint64())
		}
		v.all[i] = b
	}
	return v
}

// Next returns the next buffer. The caller must not modify it.
func (v *Values) Next() []byte {
	if v.n++; v.n >= len(v.all) {
		v.n = 0
	}
	return v.all[v.n]
}

// Worker is one goroutine of a run: its source of pages and contents, and its counts.
type Worker struct {
	rng    *rand.PCG
	zipf   *rand.Zipf // nil: uniform
	pages  uint64
	Values *Values
	Number int // of the goroutine
	ops    int64
	took   []int64 // nanoseconds of each operation, if Workload.Latencies is set
}

// Page draws a page number.
func (w *Worker) Page() int {
	if w.zipf != nil {
		const scatter = 0x9e3779b97f4a7c15 // spreads the popular pages
		return int(w.zipf.Uint64() * scatter % w.pages)
	}
	hi, _ := bits.Mul64(w.rng.Uint64(), w.pages)
	return int(hi)
}

// Uint64 draws a number.
func (w *Worker) Uint64() uint64 { return w.rng.Uint64() }

// Float64 draws a number from 0 to 1, without 1.
func (w *Worker) Float64() float64 { return float64(w.rng.Uint64()>>11) / (1 << 53) }

// Workload describes a run.
type Workload struct {
	Goroutines int
	Pages      int
	Value      int     // bytes of each value written; 0: the run writes nothing
	Zipf       float64 // exponent, above 1; 0: uniform
	Latencies  bool    // record the time of each operation
	Seed       uint64
}

// Result is the outcome of a run.
type Result struct {
	Ops     int64
	Elapsed time.Duration
	took    []int64
}

// Rate returns the operations per second.
func (r Result) Rate() float64 { return float64(r.Ops) / r.Elapsed.Seconds() }

// NanosPerOp returns the time of one operation as each of n goroutines sees it.
func (r Result) NanosPerOp(n int) float64 {
	return float64(r.Elapsed.Nanoseconds()) * float64(n) / float64(r.Ops)
}

// Percentile returns the time in nanoseconds that p percent of the operations did not exceed. It returns 0 if
// Workload.Latencies was not set.
func (r Result) Percentile(p float64) float64 {
	if len(r.took) == 0 {
		return 0
	}
	slices.Sort(r.took)
	return float64(r.took[min(len(r.took)-1, int(p/100*float64(len(r.took))))])
}

// RunFor runs op in several goroutines for the time d, and then end, whose time counts as part of the run.
func RunFor(l Workload, d time.Duration, op func(*Worker) error, end func() error) (Result, error) {
	const unlimited = 1 << 62
	return run(l, unlimited, d, op, end)
}

// Run runs op ops times in total, in several goroutines, and then end, whose time counts as part of the run.
func Run(l Workload, ops int64, op func(*Worker) error, end func() error) (Result, error) {
	const unlimited = 1 << 62
	return run(l, ops, unlimited, op, end)
}

func run(l Workload, ops int64, d time.Duration, op func(*Worker) error, end func() error) (Result, error) {
	var stop atomic.Bool
	var left atomic.Int64 // operations left; workers take a few at a time, so that all end together
	left.Store(ops)
	workers, errs := make([]*Worker, l.Goroutines), make([]error, l.Goroutines)
	for i := range workers {
		workers[i] = newWorker(l, i)
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

func newWorker(l Workload, i int) *Worker {
	w := &Worker{rng: rand.NewPCG(l.Seed, uint64(i)), pages: uint64(l.Pages), Number: i}
	if l.Value > 0 {
		w.Values = NewValues(l.Seed+uint64(i), l.Value)
	}
	if l.Zipf > 0 {
		w.zipf = rand.NewZipf(rand.New(w.rng), l.Zipf, 1, w.pages-1)
	}
	return w
}

// loop runs op until stop is set or no operations are left, but some times at least: a rate of nothing is no figure.
func (w *Worker) loop(stop *atomic.Bool, left *atomic.Int64, latencies bool, op func(*Worker) error) error {
	const chunk = 16
	for first := true; first || !stop.Load(); first = false {
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
