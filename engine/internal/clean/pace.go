package clean

import "time"

// spareSegments is the number of segments, beside the io buffers, that may be in use without live data before writers
// wait.
const spareSegments = 8

// behind decides whether writers wait for the cleaner: there is more garbage than there should ever be, and the cleaner
// could clean it. Nobody waits for segments that Txs or batches hold back.
func (c *Cleaner) behind() bool {
	return c.usage(spareSegments).above(behindSlack, fewSegments+2) && !c.spent.Load()
}

// Pace delays a writer, for some milliseconds at most, while the cleaner is behind.
func (c *Cleaner) Pace() {
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
