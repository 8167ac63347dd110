package report

import (
	"sync/atomic"
	"time"
)

// A Watch calls a function again and again while something is open that callers open and close too often for a look at
// the clock each time. Nothing polls while nothing is open, except for one more call. Safe for concurrent use.
type Watch struct {
	every time.Duration
	look  func() (open bool)
	// on says that look will be called. Written by start and run; publishes nothing. A caller of Opened that reads a
	// stale true has what it opened found by the look that follows the store of false, or by the one before.
	on atomic.Bool
	// timer is that of the next call, so that Stop releases what look refers to.
	timer   atomic.Pointer[time.Timer]
	stopped atomic.Bool
}

// Init makes the Watch call look after each interval until look returns that nothing is open. To be called before the
// Watch is shared. look must not block.
func (w *Watch) Init(every time.Duration, look func() (open bool)) { w.every, w.look = every, look }

// Opened notes that something was opened, which look finds from now on. It costs one load, unless nothing was open.
func (w *Watch) Opened() {
	if !w.on.Load() {
		w.start()
	}
}

// Stop ends the calls. One that is under way goes on.
func (w *Watch) Stop() {
	w.stopped.Store(true)
	if t := w.timer.Load(); t != nil {
		t.Stop()
	}
}

func (w *Watch) start() {
	if w.on.CompareAndSwap(false, true) {
		w.arm()
	}
}

// arm has run called later.
func (w *Watch) arm() {
	w.timer.Store(time.AfterFunc(w.every, w.run))
	if w.stopped.Load() { // Stop may have looked for the timer before
		w.Stop()
	}
}

func (w *Watch) run() {
	if w.stopped.Load() {
		return
	}
	if w.look() {
		w.arm()
		return
	}
	w.on.Store(false)
	if w.look() { // it was opened before the store above, by a caller that saw true
		w.start()
	}
}
