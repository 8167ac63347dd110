package clean

import (
	"time"

	"pagecache/segments"
)

// minGap is the least number of slots by which the file is longer than it needs to be before live data at its end is
// moved.
const minGap = 4

// enter begins a step. The idle budget is for the time in which the store has become idle: once nothing was left to do
// then, and callers write again, what was written before counts no more. mu is held.
func (c *Cleaner) enter(m mode) {
	c.mode = m
	if m == modeBusy && c.tidied && c.wroteSince(c.tidiedAt) {
		_, live := c.c.Store.Space.Usage()
		c.tidied, c.idle = false, budget{written: c.tidiedAt, live: live}
	}
}

// wroteSince reports whether callers have written more than a little since they had written given bytes.
func (c *Cleaner) wroteSince(given int64) bool {
	return float64(c.c.Pages.WrittenByCallers()-given) >= calmShare*float64(c.c.Store.SegmentSize())
}

// shrink makes the file smaller, when there is nothing to clean. An idle store moves the segments at the end of the
// file to slots before them, and gives the space of free slots back. mu is held.
func (c *Cleaner) shrink(diskFull bool) (bool, error) {
	if c.mode == modeBusy || diskFull {
		return c.c.Store.Shrink()
	}
	if did, err := c.moveEnd(); did || err != nil {
		return did, err
	}
	if c.mode == modeIdle && !c.tidied {
		c.tidied, c.tidiedAt = true, c.c.Pages.WrittenByCallers()
	}
	if now := time.Now(); c.mode == modeByHand || now.Sub(c.looked) >= giveBackAfter {
		c.looked = now
		c.looks++
		return c.c.Store.GiveBackUnused()
	}
	return false, nil
}

// moveEnd empties the last segment of the file if the file is longer than it needs to be and there is room for the
// segment before it. A segment that is still being written to is ended first. mu is held.
func (c *Cleaner) moveEnd() (bool, error) {
	s := c.c.Store.Space
	slots, used, _ := s.Totals()
	need := used + s.Kept() + 1
	if slots-need < max(minGap, need/4) || !c.mayMove(c.mode, false) || c.recycler.Waiting() > 0 {
		return false, nil
	}
	last, ok := s.Last()
	if !ok {
		return false, nil
	}
	v := last.Candidate
	switch last.State {
	case segments.StateActive:
		if !last.Newest {
			return false, nil // it is not durable yet
		}
		return true, c.c.Store.Log.EndSegment()
	case segments.StateInactive:
		if last.Newest || c.stuck.has(v) {
			return false, nil
		}
		return c.cleanVictim(v, false)
	}
	return false, nil
}

// RecycleEmpty frees the slots of segments in which nothing is live, as far as that is possible at once, and moves
// nothing. It is for Close, after the loop has ended.
func (c *Cleaner) RecycleEmpty() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c.Options.Linear || c.recycler.Err() != nil || c.c.Pages.Unknown() {
		return c.recycler.Err()
	}
	if c.drain(); c.recycler.Waiting() == 0 {
		return nil
	}
	unseen := c.unseen()
	for {
		did, err := c.recycler.Recycle(unseen)
		if err != nil {
			return err
		}
		finished, err := c.recycler.Finish()
		if err != nil || !did && !finished {
			return err
		}
	}
}
