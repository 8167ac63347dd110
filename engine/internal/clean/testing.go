package clean

import (
	"pagecache/segments"
)

// The methods below are for tests of the engine. No other code calls them.

// Pause waits for the step under way and lets none begin until resume is called.
func (c *Cleaner) Pause() (resume func()) {
	c.mu.Lock()
	return c.mu.Unlock
}

// ByHand ends the loop. From now on only Step cleans.
func (c *Cleaner) ByHand() {
	close(c.quit)
	<-c.done
	c.quit, c.c.Options.ByHand = make(chan struct{}), true
}

// RestartEager starts the loop of a cleaner that was started without it. The loop cleans every segment that it can.
func (c *Cleaner) RestartEager() {
	c.done, c.c.Options.Eager, c.c.Options.ByHand = make(chan struct{}), true, false
	c.Start(c.c)
}

// Behind reports whether writers would wait for the cleaner now.
func (c *Cleaner) Behind() bool { return c.behind() }

// BudgetSpent reports whether nothing more may be moved before more is written.
func (c *Cleaner) BudgetSpent() bool { return c.spent.Load() }

// Stopping reports whether Stop was called.
func (c *Cleaner) Stopping() bool { return c.stopping() }

// CostOf returns how many bytes must be written to empty a segment. The cleaner is paused.
func (c *Cleaner) CostOf(v segments.Candidate, limit int64) int64 { return c.cost(v, limit) }

// Empty moves every page that has a message in the segment. The cleaner is paused.
func (c *Cleaner) Empty(v segments.Candidate) error { return c.empty(v, false) }

// TryClean cleans a segment as a step does. The cleaner is paused.
func (c *Cleaner) TryClean(v segments.Candidate) (bool, error) { return c.cleanVictim(v, false) }

// IsStuck reports whether the segment could not be cleaned. The cleaner is paused.
func (c *Cleaner) IsStuck(v segments.Candidate) bool { return c.stuck.has(v) }

// PagesRead reads a segment and lists its pages. The cleaner is paused.
func (c *Cleaner) PagesRead(v segments.Candidate) (segments.PageList, error) { return c.readPages(v) }

// HasBuffer reports whether a segment was read. The cleaner is paused.
func (c *Cleaner) HasBuffer() bool { return len(c.buf) > 0 }

// MostSegments is the number of segments that a small store may use beside those that it needs, the io buffers, and
// those that wait to be recycled.
const MostSegments = fewSegments + behindSegments

// State returns whether writers wait for the cleaner, and whether its loop has ended.
func (c *Cleaner) State() (late, ended bool) { return c.late.Load(), c.ended.Load() }
