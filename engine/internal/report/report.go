// Package report is the one way in which a store announces what happens to it, beside the errors of calls: to the
// callbacks of Options.Events and, as a line for each event, to Options.Logger. Every place of the engine that finds a
// failure which no call returns, that swallows an error, or that goes on with less than it could have, calls a method
// of its Reporter. No other package uses a Logger, which a test of internal/lint verifies. So a new kind of failure is
// announced in both ways or not at all.
//
// The methods of a Reporter only append to a queue, under a mutex that is held for nothing else. So they can be called
// with any lock held, and a callback or a log handler that blocks delays no other goroutine. A goroutine that lives
// while the queue is not empty announces the events in order.
//
// events.go has the events; report.go the queue and the methods.
package report

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"time"

	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

const (
	// mostQueued is the number of events that wait at most. Later ones are lost.
	mostQueued = 1024
	// mostSaid is the number of places that are remembered as announced. Then all are forgotten.
	mostSaid = 4096
	// flushLimit is the longest time that Flush waits.
	flushLimit = time.Second
	// settle is the time for which a condition must be over before its end is announced. On a full disk, each segment
	// that the cleaner frees would otherwise end it for a moment.
	settle = time.Second
)

// Config says where a Reporter announces events.
type Config struct {
	Logger *slog.Logger // nil: none
	Events Events
	// Announced reports whether the cause of an error was announced where it arose, such as a failed log or a full
	// disk. Background does not announce it again. nil: none was.
	Announced func(error) bool
}

// A Reporter announces the events of one opening of a store. Its methods never block, except Flush, and are safe for
// concurrent use. Those of a nil Reporter do nothing.
type Reporter struct {
	c Config

	mu         sync.Mutex // held for the fields below, and while no other lock is taken
	dir        string     // of the store
	queue      []Event
	lost       int                   // events that the queue had no room for
	delivering bool                  // a goroutine announces the queue, or one was started to
	idle       chan struct{}         // closed when delivering becomes false; nil before the first event
	said       map[string]bool       // keys of what is announced once
	conditions map[string]*condition // by the key of what lasts
}

// condition is something that begins and ends.
//
//	          begin                end                settled
//	over ────────────▶ lasting ──────────▶ ending ──────────────▶ over
//	                      ▲                   │
//	                      └───────────────────┘ begin
type condition struct {
	since  time.Time
	ending *time.Timer // nil while it lasts; then the condition is over when the timer fires
}

// New returns a Reporter. It starts nothing.
func New(c Config) *Reporter {
	r := &Reporter{c: c, said: map[string]bool{}, conditions: map[string]*condition{}}
	if c.Logger == nil {
		r.c.Logger = slog.New(slog.DiscardHandler)
	}
	return r
}

// silent reports whether nobody listens.
func (r *Reporter) silent() bool {
	return r.c.Logger.Handler() == slog.DiscardHandler && reflect.ValueOf(r.c.Events).IsZero()
}

// SetDir sets the directory that each line of the log names.
func (r *Reporter) SetDir(dir string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dir = dir
}

// post queues an event.
func (r *Reporter) post(e Event) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.postLocked(e)
}

func (r *Reporter) postLocked(e Event) {
	if len(r.queue) >= mostQueued {
		r.lost++
		return
	}
	if r.silent() {
		return
	}
	r.queue = append(r.queue, e)
	if !r.delivering {
		r.delivering, r.idle = true, make(chan struct{})
		r.start()
	}
}

// announcerLabels are the profiling labels of the goroutine that announces; it would have those of the one that
// reported the first event.
var announcerLabels = pprof.WithLabels(context.Background(), pprof.Labels("pagecache", "announcer"))

// start starts the goroutine that announces the queue.
func (r *Reporter) start() { go r.deliver() }

// deliver announces the queue until it is empty. If a callback ends the goroutine (runtime.Goexit), another one goes
// on with the next event.
func (r *Reporter) deliver() {
	pprof.SetGoroutineLabels(announcerLabels)
	done := false
	defer func() {
		if !done {
			r.start()
		}
	}()
	for e := r.next(); e != nil; e = r.next() {
		r.announce(e)
	}
	done = true
}

// next takes the first event off the queue. If there is none, the caller is no longer the one that delivers.
func (r *Reporter) next() Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) > 0 {
		e := r.queue[0]
		r.queue = r.queue[1:]
		return e
	}
	if n := r.lost; n > 0 {
		r.lost = 0
		return BackgroundErrorInfo{What: "events were lost", Err: fmt.Errorf("%d events came while a callback ran", n)}
	}
	r.queue, r.delivering = nil, false
	close(r.idle)
	return nil
}

// announce logs an event and calls its callback.
func (r *Reporter) announce(e Event) {
	r.contain("Logger", func() {
		r.mu.Lock()
		attrs := []slog.Attr{slog.String("dir", r.dir)}
		r.mu.Unlock()
		attrs = append(attrs, e.LogValue().Group()...)
		r.c.Logger.LogAttrs(context.Background(), e.Level(), e.title(), attrs...)
	})
	r.contain("callback of Options.Events", func() { e.deliver(&r.c.Events) })
}

// contain calls f, which is the embedder's code, and logs a panic in it.
func (r *Reporter) contain(what string, f func()) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		stack := debug.Stack()
		defer func() { _ = recover() }() // it was the Logger that panicked
		r.c.Logger.Error(what+" panicked", "value", p, "stack", string(stack))
	}()
	f()
}

// Flush returns once all events that were reported before were announced, or after a second: a callback may block.
func (r *Reporter) Flush() {
	if r == nil {
		return
	}
	r.mu.Lock()
	idle, delivering := r.idle, r.delivering
	r.mu.Unlock()
	if !delivering {
		return
	}
	t := time.NewTimer(flushLimit)
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C:
	}
}

// once reports whether it is called for the first time with this key.
func (r *Reporter) once(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.said[key] {
		return false
	}
	if len(r.said) >= mostSaid {
		clear(r.said)
	}
	r.said[key] = true
	return true
}

// begin posts e unless the condition lasts already.
func (r *Reporter) begin(key string, e Event) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.conditions[key]
	switch {
	case c == nil:
		r.conditions[key] = &condition{since: time.Now()}
		r.postLocked(e)
	case c.ending != nil:
		c.ending.Stop()
		c.ending = nil
	}
}

// end posts the event that over returns, unless the condition does not last, or begins again soon. over gets the time
// since the condition began.
func (r *Reporter) end(key string, over func(time.Duration) Event) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.conditions[key]
	if c == nil || c.ending != nil {
		return
	}
	var t *time.Timer
	t = time.AfterFunc(settle, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if c.ending == t && r.conditions[key] == c { // else it has begun again meanwhile
			delete(r.conditions, key)
			r.postLocked(over(time.Since(c.since)))
		}
	})
	c.ending = t
}

// LogFailed reports that the log has stopped because of err.
func (r *Reporter) LogFailed(err error) { r.post(LogFailedInfo{err}) }

// DiskFull reports that what found no room.
func (r *Reporter) DiskFull(what string, err error) { r.begin("room "+what, DiskFullInfo{what, err}) }

// Room reports that what found room. It costs little if it was never out of room.
func (r *Reporter) Room(what string) {
	r.end("room "+what, func(after time.Duration) Event { return SpaceAgainInfo{what, after} })
}

// CleaningStopped reports that nothing is cleaned because of err.
func (r *Reporter) CleaningStopped(err error) { r.begin("cleaning", CleaningStoppedInfo{err}) }

// CleaningGoesOn reports that the cleaner has made progress.
func (r *Reporter) CleaningGoesOn() {
	r.end("cleaning", func(after time.Duration) Event { return CleaningResumedInfo{after} })
}

// SnapshotsStopped reports that no snapshot could be written to dir because of err.
func (r *Reporter) SnapshotsStopped(dir string, err error) {
	r.begin("snapshots", SnapshotsStoppedInfo{dir, err})
}

// SnapshotWritten reports that a snapshot was written.
func (r *Reporter) SnapshotWritten() {
	r.end("snapshots", func(after time.Duration) Event { return SnapshotsResumedInfo{after} })
}

// SnapshotRebuilt reports that the pages of corrupt blocks were looked up in the log.
func (r *Reporter) SnapshotRebuilt(i SnapshotRebuiltInfo) { r.post(i) }

// TailDropped reports that a torn tail was cut off the log.
func (r *Reporter) TailDropped(end format.LSN, why string) { r.post(TailDroppedInfo{end, why}) }

// SlowWrite reports a slow device write.
func (r *Reporter) SlowWrite(i SlowWriteInfo) { r.post(i) }

// Degraded reports that a slower way is used, once for each what.
func (r *Reporter) Degraded(what, use, reason string) {
	if r != nil && reason != "" && r.once("degraded "+what) {
		r.post(DegradedInfo{what, use, reason})
	}
}

// BatchOpen reports a batch that is open for long.
func (r *Reporter) BatchOpen(lsn format.LSN, age time.Duration) { r.post(BatchOpenInfo{lsn, age}) }

// TxOpen reports a Tx that is open for long.
func (r *Reporter) TxOpen(ts uint64, age time.Duration) { r.post(TxOpenInfo{ts, age}) }

// Panic reports a panic of the Materializer, once for each page.
func (r *Reporter) Panic(i PanicInfo) {
	if r != nil && r.once(fmt.Sprint("panic ", i.Page)) {
		r.post(i)
	}
}

// Corrupt reports err if it says that data is corrupt or unreadable, once for each place, and returns err as it is. So
// a caller can report an error where it returns it. A nil error costs nothing.
func (r *Reporter) Corrupt(err error) error {
	if err != nil && r != nil && (errors.Is(err, recovery.ErrCorrupt) || vfs.IsUnreadable(err)) {
		r.corruption("corrupt data was found", err)
	}
	return err
}

// Corruption reports corruption that the store can live with. The text names the corrupt thing and what is done about
// it. An err that is not one of corruption is reported as a BackgroundError.
func (r *Reporter) Corruption(text string, err error) {
	isCorrupt := err == nil || errors.Is(err, recovery.ErrCorrupt) || errors.Is(err, format.ErrSnapshot) ||
		vfs.IsUnreadable(err)
	if !isCorrupt {
		r.Background(text, "", err)
		return
	}
	r.corruption(text, err)
}

// corruption posts a CorruptionInfo. The event gets a copy of the place, since callers add to the place of err.
func (r *Reporter) corruption(what string, err error) {
	i := CorruptionInfo{What: what, Err: err}
	ce := (*recovery.CorruptError)(nil)
	if errors.As(err, &ce) {
		found := *ce
		i.File, i.Place, i.Err = found.File, found.Place, &found
	}
	key := "corrupt " + what
	if err != nil {
		key = "corrupt " + i.Err.Error()
	}
	if r != nil && r.once(key) {
		r.post(i)
	}
}

// Background reports that something failed that no call returns, once for each error. file, a path, may be empty. It
// reports nothing if err is nil, or its cause was announced where it arose.
func (r *Reporter) Background(what, file string, err error) {
	switch {
	case r == nil, err == nil, r.c.Announced != nil && r.c.Announced(err):
	case errors.Is(err, recovery.ErrCorrupt):
		r.corruption(what, err)
	case r.once("background " + what + file + err.Error()):
		r.post(BackgroundErrorInfo{what, file, err})
	}
}

func (r *Reporter) path() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dir
}

// Profile logs the profile that Options.PrintProfileOnClose asks for. It is no event.
func (r *Reporter) Profile(stats string) { r.c.Logger.Info("profile", "dir", r.path(), "stats", stats) }
