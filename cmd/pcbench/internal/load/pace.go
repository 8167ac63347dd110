package load

import (
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/cmd/pcbench/internal/job"
)

// pacer has the intended starts of the operations of one job. All goroutines of the job take from it, so the schedule
// does not depend on how long operations take: an open loop.
type pacer struct {
	mu       sync.Mutex
	rng      *rand.PCG
	poisson  bool
	next     [3]float64 // ns after the base
	interval [3]float64 // mean ns between operations; 0: not limited
}

// newPacer returns the pacer of a job, or nil for a closed loop.
func newPacer(s *job.Spec, rng *rand.PCG) *pacer {
	if !s.Pace.Open() {
		return nil
	}
	p := &pacer{rng: rng, poisson: s.Pace.Poisson}
	for _, d := range job.Dirs {
		if n := s.Pace.Rate[d]; n > 0 {
			p.interval[d] = 1e9 * s.OpSize(d) / float64(n)
		}
		if n := s.Pace.IOPS[d]; n > 0 {
			p.interval[d] = max(p.interval[d], 1e9/float64(n))
		}
	}
	return p
}

// take returns the intended start of the next operation, in ns after the base. Operations that are not limited have
// none, and it returns −1.
func (p *pacer) take(d job.Dir) int64 {
	if p.interval[d] == 0 {
		return -1
	}
	p.mu.Lock()
	at := p.next[d]
	step := p.interval[d]
	if p.poisson {
		u := float64(p.rng.Uint64()>>11+1) / (1 << 53) // above 0, at most 1
		step *= -math.Log(u)
	}
	p.next[d] = at + step
	p.mu.Unlock()
	return int64(at)
}

// both reports whether a job reads and writes, and both have rates. A nil pacer has none.
func (p *pacer) both(s *job.Spec) bool {
	return p != nil && s.Reads() && s.Writes() && p.interval[job.DirRead] > 0 && p.interval[job.DirWrite] > 0
}

// first returns the direction, read or write, whose next operation has the earliest intended start.
func (p *pacer) first() job.Dir {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next[job.DirWrite] < p.next[job.DirRead] {
		return job.DirWrite
	}
	return job.DirRead
}

// left returns the number of operations of a job that were due before a time, in ns after the base, and that no
// goroutine has taken. If their distances are random, it is the expected number.
func (p *pacer) left(s *job.Spec, at int64) (n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for d, interval := range p.interval {
		if s.Does[d] && interval > 0 {
			n += max(0, int64(math.Ceil((float64(at)-p.next[d])/interval)))
		}
	}
	return n
}

// shift moves all later starts, for pauses that are not made up for.
func (p *pacer) shift(ns int64) {
	p.mu.Lock()
	for d := range p.next {
		p.next[d] += float64(ns)
	}
	p.mu.Unlock()
}

// until waits until at, in ns after base, or until stop is set. It sleeps, and computes for the last part, since the
// kernel wakes a thread late.
func until(base time.Time, at int64, stop *atomic.Bool) {
	const late, longest = 70e3, 20e6 // ns
	for {
		left := at - int64(time.Since(base))
		switch {
		case left <= 0 || stop.Load():
			return
		case left > late+2e6:
			time.Sleep(time.Duration(min(left-late-1e6, longest)))
		case left > late:
			ts := unix.NsecToTimespec(left - late)
			_ = unix.Nanosleep(&ts, nil) // if a signal ends it early, the loop sleeps again
		default:
			runtime.Gosched()
		}
	}
}
