//go:build invariants

package invariants

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
)

// Tracker finds an object that its owner drops without ending it. The object keeps its Tracker in a field; copies of
// the object share one. If all of them become garbage before Done, the process panics and shows where Track was
// called, unless the object is excused. The zero Tracker tracks nothing.
//
// An object that the store itself keeps reachable never becomes garbage. Report such an object with Begun.
type Tracker struct{ h *handle }

// handle is what becomes garbage. It must not be reachable from its record.
type handle struct {
	r       *record
	cleanup runtime.Cleanup
}

type record struct {
	name   string
	excuse Excuse
	stack  [16]uintptr
	depth  int
	ended  atomic.Bool // set once, by Done; publishes nothing
}

// Track begins to track an object; name is its type in the report. See Excuse for when a dropped one is no fault.
func Track(name string, excuse Excuse) Tracker {
	r := &record{name: name, excuse: excuse}
	r.depth = runtime.Callers(2, r.stack[:])
	h := &handle{r: r}
	h.cleanup = runtime.AddCleanup(h, (*record).dropped, r)
	return Tracker{h}
}

// Done ends the tracking. It panics if the object has ended already, as when two copies of it are ended.
func (t Tracker) Done() {
	if t.h == nil {
		return
	}
	if t.h.r.ended.Swap(true) {
		panic(fmt.Sprintf("invariants: %s ended twice; it was begun at\n%s", t.h.r.name, t.h.r.begun()))
	}
	t.h.cleanup.Stop()
	runtime.KeepAlive(t.h)
}

// Ended reports whether Done was called.
func (t Tracker) Ended() bool { return t.h != nil && t.h.r.ended.Load() }

// Begun returns where the object was begun, one frame a line.
func (t Tracker) Begun() string {
	if t.h == nil {
		return ""
	}
	return t.h.r.begun()
}

// onDropped handles the report of a dropped object. Tests replace it through CatchDropped.
var onDropped atomic.Pointer[func(report string)]

// CatchDropped has f called with the report of each dropped object, on a goroutine of the runtime, in place of a panic.
// It returns a function that restores the panic. For tests.
func CatchDropped(f func(report string)) (restore func()) {
	onDropped.Store(&f)
	return func() { onDropped.Store(nil) }
}

// dropped runs once the handle is garbage.
func (r *record) dropped() {
	if r.ended.Load() || r.excuse != nil && r.excuse.Load() {
		return
	}
	report := fmt.Sprintf("invariants: %s dropped without being ended; it was begun at\n%s", r.name, r.begun())
	if f := onDropped.Load(); f != nil {
		(*f)(report)
		return
	}
	panic(report)
}

func (r *record) begun() string {
	var b strings.Builder
	for frames, more := runtime.CallersFrames(r.stack[:r.depth]), r.depth > 0; more; {
		var f runtime.Frame
		f, more = frames.Next()
		fmt.Fprintf(&b, "\t%s\n\t\t%s:%d\n", f.Function, f.File, f.Line)
	}
	return b.String()
}
