// Package clean makes room: it moves live data out of segments that hold little of it, and recycles those that hold
// none (rule 4).
//
//	C1  A segment is recycled only after everything that replaced its contents is stable, the segment after it has
//	    begun on the disk, every Tx that was open when it became empty has ended, and its header says so durably.
//	C2  Moving a page leaves its timestamp (rule 6), and the new entry refers to the new place only (rule 3).
//	C3  The cleaner never waits for a batch or a Tx: it looks again later at segments that cannot be recycled yet.
//	C4  A page that is resident, or in the kernel's page cache, is there as well after it was moved (trap 53).
//	C5  What a segment says about messages in others, that commits in parts have taken effect, is written again before
//	    the segment begins to leave (Config.Keep).
//
// cleaner.go is the loop and its steps; victim.go chooses segments, as pure functions over candidates; move.go empties
// a segment; gain.go measures whether that makes room on a full disk; pace.go decides when writers wait; warmth.go
// keeps moved pages in the kernel's page cache.
//
// (Segment cleaning by cost and benefit: Rosenblum and Ousterhout, The Design and Implementation of a Log-Structured
// File System, 1991.)
package clean

import (
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"runtime/trace"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/engine/internal/epoch"
	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/report"
	"pagecache/segments"
	"pagecache/segments/format"
)

// Pages is what the cleaner needs of the pages.
type Pages interface {
	// In calls visit with each page of the list that may have a message in e, until visit returns false. A page may
	// come more than once.
	In(list segments.PageList, e Extent, visit func(pid format.PageID) bool)
	// Cost returns how many bytes Move would write to the log for the page; 0 if the page has nothing in e. blob says
	// that Move would also write a blob.
	Cost(pid format.PageID, e Extent) (n int64, blob bool)
	// Move writes the page anew if it has a message in e, and returns how many bytes it wrote to the log. cold says
	// that it read messages of the page, from disk or the page cache.
	Move(pid format.PageID, e Extent) (n int64, cold bool, err error)
	// Unknown reports whether it is not known what some pages consist of. Nothing is cleaned or recycled meanwhile,
	// and Move of such a page returns ErrUnknown.
	Unknown() bool
	// Written returns how many bytes of messages callers, and consolidations on their behalf, have written so far.
	Written() int64
	// WrittenByCallers is Written without consolidations.
	WrittenByCallers() int64
	// Settle is called at the end of each step.
	Settle()
}

// Blobs is what the cleaner needs of the blobs.
type Blobs interface {
	// Reap deletes the blobs that nothing needs any more and returns how many.
	Reap(stable format.LSN, oldest uint64) int
	// Waiting returns how many blobs Reap will delete later.
	Waiting() int
}

// Options tune a Cleaner.
type Options struct {
	Threshold float64 // live fraction below which a segment is worth cleaning
	Skew      int     // percent by which the threshold rises for the oldest segment
	IOBuffers int
	Linear    bool // recycle nothing
	Eager     bool // clean every segment that can be cleaned; for tests
	ByHand    bool // run no loop: only Step cleans
}

// Config is what a Cleaner works on.
type Config struct {
	Options Options
	Store   *logstore.Store
	Pages   Pages
	// Contained is Pages whose methods return panics of the caller's code as errors: the loop uses it, and Step uses
	// Pages.
	Contained Pages
	Blobs     Blobs
	Readers   *epoch.Domain // of the Txs
	// Held reports whether something else than a Tx may look at a drained segment; nil: nothing does.
	Held   func(logstore.Drained) bool
	Report *report.Reporter
	// Keep is called before the segment with the given base, in which nothing is live, begins to leave the log. After
	// an error the segment stays for now. nil: nothing of it must be kept.
	Keep func(base format.LSN) error
}

// Cleaner cleans the segments of one page store. Its exported methods are safe for concurrent use.
type Cleaner struct {
	c    Config
	kick chan struct{} // has room for one; full when a segment was opened
	quit chan struct{} // closed by Stop
	done chan struct{} // closed when the loop has ended

	mu       sync.Mutex // held for a step; guards the fields down to found
	pages    Pages      // Config.Pages or Contained
	later    int        // steps in a row that have ended with ErrLater
	recycler *logstore.Recycler
	buf      []byte               // a segment's length, once a segment was read
	stuck    skipped              // segments that could not be cleaned
	costly   skipped              // segments whose cleaning writes as much as it frees
	budget   budget               // bytes that may be moved
	idle     budget               // bytes that may be moved while the store is idle
	gain     gain                 // room that cleaning has made
	mode     mode                 // of the step
	tidied   bool                 // nothing was left to do when the store was last idle
	tidiedAt int64                // bytes that callers had written then
	looked   time.Time            // when an idle step last looked for space to give back
	looks    int                  // such looks in a row that found none
	pids     []format.PageID      // scratch memory of cost
	found    []segments.Candidate // scratch memory of candidates

	spent   atomic.Bool  // budget is used up. Written under mu; a stale value delays writers, or spares them a nap
	late    atomic.Bool  // writers wait. Written by the loop and by Pace; a stale value costs or spares a nap
	ended   atomic.Bool  // the loop has ended. Written by it, before its last write of late: so Pace undoes its own
	opened  atomic.Bool  // a segment was opened since Pace looked last. A stale value delays a look
	moved   atomic.Int64 // bytes
	cleaned atomic.Int64 // segments
}

// skipped maps segments that are not worth another try to the live bytes that they had then. A segment counts as
// skipped until its live bytes change.
type skipped map[format.SegmentID]int64

func (s skipped) has(v segments.Candidate) bool {
	live, ok := s[v.ID]
	return ok && live == v.Live
}

const (
	// tick is the time that the loop waits for something to happen. It is calm if callers write less than a calmShare
	// of a segment. The store is idle after idleTicks calm ones.
	tick, calmShare, idleTicks = 100 * time.Millisecond, 1.0 / 64, 10
	// firstSteps is enough for some segments to be cleaned and recycled.
	firstSteps = 24
	// giveBackAfter is the time for which a slot is free before an idle store gives its space back. enoughLooks in a
	// row that found none show that there is none: a slot must be free at two of them.
	giveBackAfter, enoughLooks = time.Second, 2
)

// mode says how much a step does.
type mode int

const (
	modeBusy   mode = iota // no more than is needed
	modeIdle               // what makes the file smaller, too, as far as what callers have written pays for it
	modeByHand             // what is needed, and then what makes the file smaller
)

// String returns the name of the mode.
func (m mode) String() string {
	if names := [...]string{"busy", "idle", "by hand"}; m >= 0 && int(m) < len(names) {
		return names[m]
	}
	return "invalid mode"
}

// New returns a cleaner that does nothing until Start. Kick may be called at once.
func New() *Cleaner {
	return &Cleaner{
		kick: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
		stuck: skipped{}, costly: skipped{},
	}
}

// Start gives the cleaner its work, and starts the loop unless cfg.Options.ByHand is set. Stop ends the loop.
func (c *Cleaner) Start(cfg Config) {
	c.c, c.pages, c.recycler = cfg, cfg.Pages, logstore.NewRecycler(cfg.Store)
	used, live := cfg.Store.Space.Usage()
	written, given := cfg.Pages.Written(), cfg.Pages.WrittenByCallers()
	c.looked = time.Now() // callers may need the slots that earlier openings have left
	c.budget = budget{left: 2 * used, written: written, live: live}
	c.idle = budget{left: used - live, written: given, live: live} // earlier openings have left it
	c.gain = gain{highest: c.account().gained()}
	if cfg.Options.ByHand {
		close(c.done)
	} else {
		if !cfg.Options.Linear && !cfg.Pages.Unknown() {
			c.drain() // no Tx has begun yet that could hold back what earlier openings have left
		}
		go c.run()
	}
}

// Kick notifies the loop that a segment was opened. It does not block.
func (c *Cleaner) Kick() {
	c.opened.Store(true)
	c.wake()
}

// wake makes the loop take a step.
func (c *Cleaner) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// Stop makes the loop end, and long steps break off. It does not wait for them.
func (c *Cleaner) Stop() { close(c.quit) }

// Done returns a channel that is closed once the loop has ended.
func (c *Cleaner) Done() <-chan struct{} { return c.done }

// Hold cuts the log at its stable end and keeps what lies below from being recycled.
func (c *Cleaner) Hold() *logstore.Hold { return c.recycler.Hold() }

// Stats are the cleaner's counts in this opening.
type Stats struct {
	Draining int   // segments in which nothing is live, that cannot be recycled yet
	Recycled int64 // segments
	Cleaned  int64 // segments whose live data was moved
	Moved    int64 // bytes of that
}

// Stats returns the counts.
func (c *Cleaner) Stats() Stats {
	return Stats{
		Draining: c.recycler.Waiting(), Recycled: c.recycler.Recycled(),
		Cleaned: c.cleaned.Load(), Moved: c.moved.Load(),
	}
}

// cleanerLabels are the profiling labels of the cleaner; it would have those of the goroutine that started it.
var cleanerLabels = pprof.WithLabels(context.Background(), pprof.Labels("pagecache", "cleaner"))

// run is the loop. It counts the ticks since callers have written more than a little. A store that is never open for
// long is cleaned, too: the loop begins with a few steps.
func (c *Cleaner) run() {
	pprof.SetGoroutineLabels(cleanerLabels)
	defer close(c.done)
	defer func() {
		c.ended.Store(true)
		c.late.Store(false)
		if !c.stopping() { // code of the caller has called runtime.Goexit
			c.c.Report.CleaningStopped(errEnded)
		}
	}()
	for n := 0; n < firstSteps; n++ {
		if did, err := c.runStep(modeBusy); !did || err != nil {
			break
		}
	}
	t := time.NewTimer(tick)
	defer t.Stop()
	calm, written := 0, int64(0)
	var next <-chan struct{} // closed by the next write; nil unless nothing was left to do when the loop asked for it
	asleep := false          // the timer is stopped
	for {
		m := modeBusy
		select {
		case <-c.quit:
			return
		case <-c.kick:
		case <-next:
			next = nil
			if asleep {
				asleep = false
				t.Reset(tick)
			}
			continue
		case <-t.C:
			t.Reset(tick)
			if calm++; c.wroteSince(written) {
				calm = 0
			}
			if written = c.c.Pages.WrittenByCallers(); calm >= idleTicks {
				m = modeIdle
			}
		}
		asked := next != nil
		var err error
		for did := true; did && err == nil && (m != modeIdle || !c.wroteSince(written)); {
			did, err = c.runStep(m)
			c.late.Store(did && err == nil && c.behind())
		}
		c.late.Store(false)
		if asleep { // it was kicked
			asleep = false
			t.Reset(tick)
		}
		switch {
		case m != modeIdle || !c.maySleep(err):
			next = nil
		case asked: // nothing was written between two looks, so all that was written before is accounted for
			asleep = true
			t.Stop()
		default:
			next = c.c.Store.Log.NextWrite()
		}
	}
}

// runStep does a step and reports whether another may be worth it.
func (c *Cleaner) runStep(m mode) (did bool, err error) {
	if c.stopping() {
		return false, nil
	}
	return c.step(c.c.Contained, m)
}

// maySleep reports whether there is nothing to do before the next write, if err is how the last step has ended.
// Whatever a Tx, the log or a scan of it holds back does not wait for a write, nor does the space that is to be given
// back.
func (c *Cleaner) maySleep(err error) bool {
	if err != nil {
		return errors.Is(err, iobuf.ErrFailed)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.looks >= enoughLooks && c.recycler.Waiting() == 0 && c.c.Blobs.Waiting() == 0 &&
		c.c.Readers.Readers() == 0 && !c.c.Pages.Unknown() && !c.c.Store.Space.DiskFull()
}

func (c *Cleaner) stopping() bool {
	select {
	case <-c.quit:
		return true
	default:
		return false
	}
}

// Step does one step of cleaning: it recycles segments that hold nothing, or else finds newly empty ones, or else moves
// the live data out of the segment that is most worth it, or else makes the file smaller. It reports whether it did
// anything.
func (c *Cleaner) Step() (bool, error) { return c.step(c.c.Pages, modeByHand) }

// step is Step that works on pages, in a mode.
func (c *Cleaner) step(pages Pages, m mode) (did bool, err error) {
	defer trace.StartRegion(context.Background(), "pagecache: cleaning step").End()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pages = pages
	c.enter(m)
	defer c.c.Pages.Settle()
	ofSegment := false // err concerns one segment, and others may be cleaned
	defer func() {
		if did || err != nil {
			c.looks = 0
		}
		if !ofSegment {
			c.report(did, err)
		}
	}()
	if err := c.recycler.Err(); err != nil {
		return false, err
	}
	if c.c.Pages.Unknown() {
		return false, nil
	}
	if c.c.Options.Linear {
		return c.reap() > 0, nil
	}
	// If the disk is full, the callers that would otherwise flush the log may be waiting for room.
	if c.c.Store.Space.DiskFull() || c.recycler.Waiting() > fewWaiting && (c.usage(m).whole() || c.behind()) {
		if err := c.recycler.Flush(); err != nil {
			return false, err
		}
	}
	n := c.reap() + c.drain()
	did, err = c.recycler.Recycle(c.unseen()) // C1
	if err != nil || did || n > 0 {
		return err == nil, err
	}
	diskFull := c.c.Store.Space.DiskFull()
	victim, ok := c.victim(m, diskFull)
	if !ok {
		if did, err := c.recycler.Finish(); did || err != nil {
			return did, err
		}
		return c.shrink(diskFull)
	}
	did, err = c.cleanVictim(victim, diskFull)
	ofSegment = err != nil && !errors.Is(err, iobuf.ErrFailed)
	if err != nil && logstore.IsNoSpace(err) { // the segments that are leaving make room
		if did, err := c.recycler.Finish(); did || err != nil {
			return did, err
		}
	}
	return did, err
}

// fewLater is the number of steps in a row that may end with ErrLater before that is reported.
const fewLater = 10

// report reports how a step has ended. Lack of room was reported when it arose, and the cleaner goes on once there is
// room.
func (c *Cleaner) report(did bool, err error) {
	if later := errors.Is(err, logstore.ErrLater); !later {
		c.later = 0
	} else if c.later++; c.later < fewLater {
		return
	}
	switch {
	case err == nil:
		if did {
			c.c.Report.CleaningGoesOn()
		}
	case errors.Is(err, iobuf.ErrClosed), logstore.IsNoSpace(err):
	default:
		c.c.Report.CleaningStopped(err)
	}
}

// unseen returns a function that reports whether nothing looks at a drained segment that was drained before the call.
func (c *Cleaner) unseen() func(logstore.Drained) bool {
	oldest := c.c.Readers.Oldest()
	return func(d logstore.Drained) bool {
		return d.Epoch <= oldest && (c.c.Held == nil || !c.c.Held(d)) // what is loose was held before
	}
}

func (c *Cleaner) reap() int {
	stable := c.c.Store.Log.StableEnd() // before the readers: a View that ends retires blobs at an LSN that is stable
	return c.c.Blobs.Reap(stable, c.c.Readers.Oldest())
}

// drain finds the segments in which nothing is live any more, and returns how many. Readers that may still look at them
// entered before the epoch noted here.
func (c *Cleaner) drain() int {
	var found []logstore.Drained
	c.c.Store.Space.Inactive(func(v segments.Candidate) {
		if v.Live == 0 && c.keep(v.Base) && c.c.Store.Space.Drain(v.ID) {
			delete(c.stuck, v.ID)
			delete(c.costly, v.ID)
			found = append(found, logstore.Drained{ID: v.ID, Base: v.Base})
		}
	})
	if len(found) == 0 {
		return 0
	}
	epoch := c.c.Readers.Retire()
	for i := range found {
		found[i].Epoch = epoch
	}
	c.recycler.Add(found...)
	return len(found)
}

// keep reports whether the segment with the given base may begin to leave the log. If there is no room for what must be
// kept of it, or the store is being closed, it stays.
func (c *Cleaner) keep(base format.LSN) bool { return c.c.Keep == nil || c.c.Keep(base) == nil }

// cleanVictim cleans a segment, and remembers it if that was in vain. diskFull is whether the file could grow when the
// victim was chosen.
func (c *Cleaner) cleanVictim(v segments.Candidate, diskFull bool) (bool, error) {
	if diskFull {
		c.c.Store.Log.LimitPadding(c.c.Store.PaddingAllowance())
		defer c.c.Store.Log.UnlimitPadding()
	}
	err := c.empty(v, diskFull)
	if errors.Is(err, ErrUnknown) || c.c.Pages.Unknown() {
		return false, nil // it may be chosen again
	}
	if err != nil && logstore.IsNoSpace(err) { // it may work later
		return false, err
	}
	if err == nil && !diskFull && c.c.Store.Space.DiskFull() {
		return true, nil // it was left alone, and may be chosen again
	}
	if live := c.c.Store.Space.Segment(v.ID).Live(); err != nil || live == v.Live {
		c.stuck[v.ID] = live
		if err != nil && !errors.Is(err, iobuf.ErrClosed) && !errors.Is(err, iobuf.ErrFailed) {
			c.c.Report.Corruption(fmt.Sprintf("segment in slot %v is not cleaned", v.ID), err)
		}
		return false, err
	}
	c.cleaned.Add(1)
	return true, nil
}

// ErrUnknown reports that it is not known what a page consists of.
var ErrUnknown = errors.New("the state of the page is not known yet")

// errStopping reports that Stop broke off a step.
var errStopping = errors.New("cleaning was stopped")

// errEnded reports that a call of runtime.Goexit has ended the loop.
var errEnded = errors.New("the cleaner's goroutine was ended")

// asClosed turns errStopping into the log's error of a closed store.
func asClosed(err error) error {
	if errors.Is(err, errStopping) {
		return iobuf.ErrClosed
	}
	return err
}
