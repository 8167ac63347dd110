package mmapread

import (
	"math/rand/v2"
	"time"
)

// Blocks known to be warm are checked about every doubtEvery, doubtSample of them. One in doubtOdds calls of Warm that
// find everything warm looks at the clock for that.
const doubtEvery, doubtSample, doubtOdds = time.Second, 64, 1024

// If Doubt finds an evicted block twice within distrustFor, the kernel evicts quickly: memory is short, such as that of
// a cgroup. Then most of what was known to be warm a moment ago may be cold, and a page fault that reads from the disk
// blocks a P for as long as about 100 questions to the kernel. So Warm asks about each range, until Doubt has found
// nothing for distrustFor.
const distrustFor = 10 * time.Second

// doubtSometimes calls Doubt if the last call is long ago.
func (m *Map) doubtSometimes() {
	now, last := int64(time.Since(m.opened)), m.cold.doubted.Load()
	if now-last >= int64(doubtEvery) && m.cold.doubted.CompareAndSwap(last, now) && last != 0 {
		m.decideTrust(now, m.Doubt())
	}
}

// decideTrust decides whether blocks that are known to be warm are trusted, after Doubt has found one evicted or not.
// now is the time from Map.opened, in nanoseconds.
func (m *Map) decideTrust(now int64, evicted bool) {
	c := &m.cold
	if evicted {
		if found := c.found.Load(); found != 0 && now-found < int64(distrustFor) {
			c.distrust.Store(now + int64(distrustFor))
		}
		c.found.Store(now)
	} else if until := c.distrust.Load(); until != 0 && now >= until {
		c.distrust.Store(0)
	}
}

// Doubt asks the kernel about some of the blocks that are known to be warm. If it has evicted one of them, the map
// forgets all: Warm then asks about each block anew, which takes about a microsecond. Doubt returns whether that is so.
// Warm calls it about once a second; a program that knows of memory pressure may call it as well.
func (m *Map) Doubt() bool {
	bs, ws := m.cold.blocks.Load(), m.windows.Load()
	if bs == nil || ws == nil || len(*bs) == 0 {
		return false
	}
	var vec [1]byte
	for range doubtSample {
		i := rand.IntN(len(*bs))
		if (*bs)[i] == nil || i >= len(*ws) || (*ws)[i] == nil {
			continue
		}
		block := (*bs)[i].any()
		if block < 0 {
			continue
		}
		at := block << blockShift
		m.cold.mincores.Add(1)
		if w := (*ws)[i]; mincore(w[at:min(at+blockSize, int64(len(w)))], vec[:]) && vec[0]&1 == 0 {
			m.cold.doubts.Add(1)
			forget(*bs)
			return true
		}
	}
	return false
}

// forget clears every bit.
func forget(bs []blocks) {
	for _, b := range bs {
		for w := range b {
			b[w].Store(0)
		}
	}
}
