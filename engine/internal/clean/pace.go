package clean

import "time"

// behind decides whether writers wait for the cleaner: there is more garbage than there should ever be, and the cleaner
// could clean it. Nobody waits for segments that Txs or batches hold back.
func (c *Cleaner) behind() bool {
	if c.spent.Load() {
		return false
	}
	u := c.usage(modeBusy)
	u.waiting = int64(c.recycler.Held()) * u.segment
	return u.above(behindSlack, behindSegments)
}

// Pace delays a writer, for some milliseconds at most, while the cleaner is behind. The first writer after a segment
// was opened looks whether it is: the loop may be waiting for a processor.
func (c *Cleaner) Pace() {
	o := &c.c.Options
	if c.opened.Load() && c.opened.Swap(false) && !o.ByHand && !o.Linear && c.behind() {
		c.late.Store(true)
		if c.ended.Load() { // after late: then end has cleared that before, or does now
			c.late.Store(false)
		}
		c.wake()
	}
	if c.late.Load() {
		c.nap()
	}
}

func (c *Cleaner) nap() {
	const length, times = 500 * time.Microsecond, 8
	for range times {
		if time.Sleep(length); !c.late.Load() {
			return
		}
	}
}
