package engine

import (
	"math"
	"slices"

	"pagecache/segments"
	"pagecache/segments/format"
)

const (
	// moveFactor is how much may be moved for what is written: where pages leave much of each segment unused, cleaning would otherwise never end.
	moveFactor = 4
	// worthless is the live share above which cleaning frees next to nothing.
	worthless = 0.95
	// fitTries is how many segments are looked at in one step of cleaning, to find one that is worth it when the file cannot grow.
	fitTries = 16
)

// leastGain is how many bytes of a segment cleaning it must free when the file cannot grow. A block is what a flush takes, and each such segment is flushed for.
func (s *store) leastGain() int {
	return max(s.super.SegmentSize/64, s.dev.Block())
}

// reserved is how many segments are kept for making room when the file cannot grow: some for the cleaner to move what is live into, and two for pages that are freed
// meanwhile; and for how many segments one more is. Of pages that are freed here and there a share of leastGain has to go before any segment is worth cleaning, and
// a quarter of what is gained is for what is written about that: enough for pages of 72 bytes and more.
func (s *store) reserved() (n, per int) {
	if s.super.Log || s.opts.SegmentMode == Linear { // nothing there makes room by writing; but it must be opened after a crash
		return 1, 0
	}
	return segments.KeptForCleaning + 2, 4 * s.super.SegmentSize / s.leastGain()
}

// victim picks the segment that is worth cleaning most, if there is need for room. tight: the file cannot grow.
func (pc *PageCache[P]) victim(calm, tight bool) (v segments.Candidate, ok bool) {
	c := &pc.cleaner
	size := int64(pc.super.SegmentSize)
	used, live := pc.space.Usage()
	pc.refill(used, live)
	if c.budget <= 0 && !pc.opts.eager {
		return v, false
	}
	if tight {
		return pc.tightVictim()
	}
	slack := used - live - int64(pc.opts.IOBuffers+2)*size - int64(len(c.drained))*size
	few := int64(fewSegments)
	if calm {
		few = 0
	}
	if slack <= max(live*softSlack/100, few*size) && !pc.opts.eager {
		return v, false
	}
	limit, oldest := pc.opts.CleanupThreshold, 1
	if slack > max(live*hardSlack/100, few*size) || pc.opts.eager {
		limit = worthless
	}
	pc.space.Inactive(func(v segments.Candidate) { oldest = max(oldest, v.Age) })
	return pc.best(nil, func(v segments.Candidate) float64 {
		share := float64(v.Live) / float64(size)
		skew := float64(pc.opts.CleanupSkew) / 100 * float64(v.Age) / float64(oldest)
		if share > min(limit+skew, worthless) {
			return -1
		}
		// The root of the age writes a twentieth less than the age itself, by a Zipf distribution, and no more where pages are equal.
		return (1 - share) * math.Sqrt(float64(v.Age)) / (1 + share)
	})
}

// best returns the segment with the highest score that is not negative. Those in over, and those that could not be cleaned, are passed over as long as as much of them is live.
func (pc *PageCache[P]) best(over map[format.SegmentID]int64, score func(v segments.Candidate) float64) (best segments.Candidate, ok bool) {
	highest := -1.0
	pc.space.Inactive(func(v segments.Candidate) {
		for _, over := range []map[format.SegmentID]int64{pc.cleaner.stuck, over} {
			if was, there := over[v.ID]; there && was == v.Live {
				return
			}
		}
		if s := score(v); s > highest {
			best, highest, ok = v, s, s >= 0
		}
	})
	return best, ok
}

// tightVictim picks the segment for which the least has to be moved, when there is hardly any room to move it to. It is a segment that leaves room: what makes it empty fits into
// another. None is picked while one that was emptied is not free yet: what a Tx or a batch holds up makes no room, and to go on would use up what is kept.
func (pc *PageCache[P]) tightVictim() (v segments.Candidate, ok bool) {
	c := &pc.cleaner
	if len(c.drained) > 0 {
		return v, false
	}
	limit := int64(pc.super.SegmentSize - pc.leastGain())
	for range fitTries {
		select {
		case <-c.quit:
			return v, false
		default:
		}
		v, ok = pc.best(c.costly, func(v segments.Candidate) float64 { return float64(limit - v.Live) })
		if !ok || pc.costs(v, limit) <= limit {
			return v, ok
		}
		if c.costly == nil {
			c.costly = map[format.SegmentID]int64{}
		}
		c.costly[v.ID] = v.Live
	}
	return v, false
}

// costs is how many bytes have to be written so that a segment is empty: whole pages, of which it may hold but a delta. Above limit it is only known to be more.
func (pc *PageCache[P]) costs(v segments.Candidate, limit int64) (sum int64) {
	c := &pc.cleaner
	from, to := pc.extent(v)
	pages, _, _ := pc.pagesIn(v) // who cleans it will tell what is damaged
	c.pids = slices.AppendSeq(c.pids[:0], pages.All())
	slices.Sort(c.pids)
	for _, pid := range slices.Compact(c.pids) {
		if pc.elsewhere(pid, from, to) {
			continue
		}
		select {
		case <-c.quit:
			return limit + 1
		default:
		}
		_, h, err := pc.head(pid)
		if err != nil || h == nil || !inside(h, from, to) {
			continue // likewise
		}
		n, blob := pc.rewrites(pid, h)
		if sum += n; blob || sum > limit {
			return limit + 1
		}
	}
	return sum
}

// rewrites is how many bytes move writes to the log for a page; blob: and a blob besides, for which there may be no room.
func (pc *PageCache[P]) rewrites(pid PageID, h *head) (n int64, blob bool) {
	if h.Depth() == 1 { // as it is, or a pointer to the same blob
		return int64(format.AlignUp(int(h.Ptr().Len))), false
	}
	whole, view, err := pc.whole(pid, h) // often less than its fragments
	if err != nil {
		return 0, false // likewise
	}
	tx, size := &pc.cleaner.tx, 0
	err = pc.looking(view, pid, func() error {
		b := pc.appended(tx, whole)
		if z := pc.zipped(tx, b); z != nil {
			b = z
		}
		size = len(b)
		return nil
	})
	return int64(format.AlignUp(format.HeaderSize + size)), err == nil && size > pc.inline
}

// refill lets as much more be moved as warrants what was written since, consolidations included, and what has died without, as freed pages do; but no more than
// twice all that is used.
func (pc *PageCache[P]) refill(used, live int64) {
	c := &pc.cleaner
	now := pc.txs.written() + pc.counts.rewritten.Load()
	c.budget = min(c.budget+moveFactor*(now-c.written+max(0, c.live-live)), 2*used)
	c.written, c.live = now, live
	c.spent.Store(c.budget <= 0)
}
