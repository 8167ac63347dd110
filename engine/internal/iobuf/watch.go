package iobuf

import (
	"sync"
	"sync/atomic"
	"time"

	"pagecache/engine/internal/report"
)

// watch reports device writes that take long. Its timer runs only while writes are in flight, and for one interval
// after that. So it costs a busy log one wake-up in each interval, and an idle one nothing.
type watch struct {
	log  *Log
	slow time.Duration // from which on a write is reported; 0: never

	mu       sync.Mutex
	oldest   deviceWrite // the oldest write in flight; zero if there is none
	reported deviceWrite // the write that was reported last
	armed    bool        // look will be called
	timer    *time.Timer // that calls look
	stopped  bool        // look does nothing more

	// spoke is set once, with the first report. Publishes nothing. A stale false omits the report that a write has
	// ended.
	spoke atomic.Bool
}

func (w *watch) init(l *Log, slow time.Duration) { w.log, w.slow = l, slow }

// sinceBegan returns the time since the log was opened, which is never 0.
func (l *Log) sinceBegan() time.Duration { return max(1, time.Since(l.began)) }

// is reports whether two writes are the same one.
func (w *deviceWrite) is(x *deviceWrite) bool {
	return w.began == x.began && w.off == x.off && w.to == x.to
}

// begun notes that the last n of the pending writes begin now. The leader calls it.
func (w *watch) begun(pending []deviceWrite, n int) {
	now := w.log.sinceBegan()
	for i := len(pending) - n; i < len(pending); i++ {
		pending[i].began = now
	}
	w.inFlight(pending)
}

// inFlight notes which writes are in flight. The leader calls it.
func (w *watch) inFlight(pending []deviceWrite) {
	if w.slow <= 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.oldest = (deviceWrite{}); len(pending) == 0 {
		return
	}
	if w.oldest = pending[0]; !w.armed {
		w.armed = true
		w.arm(w.slow)
	}
}

// look reports the oldest write in flight if it takes long already.
func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.oldest.began == 0 || w.stopped {
		w.armed = false
		return
	}
	next := w.slow
	if age := w.log.sinceBegan() - w.oldest.began; age < w.slow {
		next -= age
	} else if !w.reported.is(&w.oldest) {
		w.reported = w.oldest
		w.spoke.Store(true)
		w.report(&w.reported, age, false)
	}
	w.arm(next)
}

// arm has look called after d.
func (w *watch) arm(d time.Duration) { w.timer = time.AfterFunc(d, w.look) }

// stop ends the looks, so that no timer keeps a closed log in memory.
func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped = true; w.timer != nil {
		w.timer.Stop()
	}
}

// ended reports that a write has ended, if it was reported as slow. The leader calls it.
func (w *watch) ended(x *deviceWrite) {
	if !w.spoke.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reported.is(x) {
		w.report(x, w.log.sinceBegan()-x.began, true)
	}
}

func (w *watch) report(x *deviceWrite, took time.Duration, ended bool) {
	w.log.report.SlowWrite(report.SlowWriteInfo{Offset: x.off, Bytes: x.to - x.from, Took: took, Ended: ended})
}

// batchPatience is the age from which on an open batch is reported.
const batchPatience = time.Second

// lookLocked has the open batches looked at after d, unless that will happen anyway. No timer runs while no batch is
// open, except until the next look. state.mu is held.
func (l *Log) lookLocked(d time.Duration) {
	if !l.state.looking {
		l.state.looking = true
		l.state.look = time.AfterFunc(d, l.lookAtBatches)
	}
}

// lookAtBatches reports the batches that have been open for long, each once.
func (l *Log) lookAtBatches() {
	s := &l.state
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looking = false; s.err != nil {
		return // the batches will not end
	}
	now, next := l.sinceBegan(), time.Duration(0)
	for _, b := range s.batches.open {
		if b.reported {
			continue
		}
		age := now - b.since
		if b.reported = age >= batchPatience; b.reported {
			l.report.BatchOpen(b.lsn, age)
		} else if left := batchPatience - age; next == 0 || left < next {
			next = left
		}
	}
	if next > 0 {
		l.lookLocked(next)
	}
}
