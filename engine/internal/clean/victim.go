package clean

import (
	"math"

	"pagecache/segments"
	"pagecache/segments/format"
)

const (
	// Garbage, in percent of the live data: above softSlack, segments below the threshold are cleaned; above hardSlack,
	// any segment is; above behindSlack, writers wait.
	softSlack, hardSlack, behindSlack = 20, 36, 40
	// While much is written, a small store may use fewSegments more than it needs, so that little is moved. They are
	// cleaned when the store is calm: when less than a calmShare of a segment is written in an idle period.
	fewSegments, calmShare = 64, 1.0 / 64
	// hopeless is the live share above which cleaning frees next to nothing.
	hopeless = 0.95
	// fitTries is the most segments that one step looks at, to find one that is worth cleaning when the file cannot
	// grow.
	fitTries = 16
)

// usage is the state of the space that the choice of a victim depends on. All fields are bytes, without those of the
// segments' headers.
type usage struct {
	used, live  int64
	uncleanable int64 // of used: segments that cleaning cannot free now
	segment     int64 // what a segment holds
}

// usage returns the present state. Cleaning cannot free the io buffers, the segments that wait to be recycled, and
// spare more.
func (c *Cleaner) usage(spare int) usage {
	_, used, live := c.c.Store.Space.Totals()
	holds := int64(c.c.Store.SegmentHolds())
	return usage{int64(used) * holds, live, int64(c.c.Options.IOBuffers+spare+c.recycler.Waiting()) * holds, holds}
}

// slack returns the garbage that cleaning could free.
func (u usage) slack() int64 { return u.used - u.live - u.uncleanable }

// above reports whether the slack is above percent of the live data, and above few segments.
func (u usage) above(percent, few int64) bool {
	return u.slack() > max(u.live*percent/100, few*u.segment)
}

// policy is the part of the options that the choice of a victim depends on.
type policy struct {
	threshold float64
	skew      float64 // fraction by which the threshold rises for the oldest segment
	eager     bool
}

// limit returns the live share up to which segments are cleaned now; false if none needs cleaning.
func (p policy) limit(u usage, calm bool) (limit float64, need bool) {
	few := int64(fewSegments)
	if calm {
		few = 0
	}
	switch {
	case p.eager, u.above(hardSlack, few):
		return hopeless, true
	case u.above(softSlack, few):
		return p.threshold, true
	}
	return 0, false
}

// score values a segment by cost and benefit; negative means that it is too full. oldest is the age of the oldest
// segment.
func (p policy) score(v segments.Candidate, segment int64, limit float64, oldest int) float64 {
	share := float64(v.Live) / float64(segment)
	if share > min(limit+p.skew*float64(v.Age)/float64(oldest), hopeless) {
		return -1
	}
	// The root of the age writes a twentieth less than the age itself under a Zipf distribution, and no more where all
	// pages are equal.
	return (1 - share) * math.Sqrt(float64(v.Age)) / (1 + share)
}

// best returns the candidate with the highest score that is not negative.
func best(all []segments.Candidate, score func(segments.Candidate) float64) (best segments.Candidate, ok bool) {
	highest := -1.0
	for _, v := range all {
		if s := score(v); s > highest {
			best, highest, ok = v, s, s >= 0
		}
	}
	return best, ok
}

// candidates returns the segments that may be cleaned, without those that skip knows. The slice is valid until the next
// call.
func (c *Cleaner) candidates(skip ...skipped) []segments.Candidate {
	all := c.found[:0]
	c.c.Store.Space.Inactive(func(v segments.Candidate) {
		for _, s := range skip {
			if s.has(v) {
				return
			}
		}
		all = append(all, v)
	})
	c.found = all
	return all
}

// victim chooses the segment that is most worth cleaning, if room is needed.
func (c *Cleaner) victim(calm, diskFull bool) (v segments.Candidate, ok bool) {
	u := c.usage(2)
	c.budget.refill(u.used, u.live, c.c.Pages.Written())
	c.spent.Store(c.budget.left <= 0)
	if c.budget.left <= 0 && !c.c.Options.Eager {
		return v, false
	}
	if diskFull {
		return c.victimOnFullDisk()
	}
	p := policy{c.c.Options.Threshold, float64(c.c.Options.Skew) / 100, c.c.Options.Eager}
	limit, need := p.limit(u, calm)
	if !need {
		return v, false
	}
	oldest := 1
	all := c.candidates()
	for _, v := range all {
		oldest = max(oldest, v.Age)
	}
	return best(all, func(v segments.Candidate) float64 {
		if c.stuck.has(v) {
			return -1
		}
		return p.score(v, u.segment, limit, oldest)
	})
}

// victimOnFullDisk chooses the segment for which the least must be moved, when there is hardly any room to move it to.
// Only segments qualify whose relocation writes less than it frees. None is chosen while an emptied segment is not free
// yet: a segment that a Tx or a batch holds back makes no room, and to go on would use up the reserve.
func (c *Cleaner) victimOnFullDisk() (v segments.Candidate, ok bool) {
	if c.recycler.Waiting() > 0 {
		return v, false
	}
	limit := int64(c.c.Store.SegmentHolds() - c.c.Store.LeastGain())
	for range fitTries {
		if c.stopping() {
			return v, false
		}
		gain := func(v segments.Candidate) float64 { return float64(limit - v.Live) }
		v, ok = best(c.candidates(c.stuck, c.costly), gain)
		if !ok || c.cost(v, limit) <= limit {
			return v, ok
		}
		c.costly[v.ID] = v.Live
	}
	return v, false
}

// budget bounds how much is moved. Without it, cleaning would never end where pages leave much of each segment unused.
type budget struct {
	left    int64 // bytes that may be moved before more is written
	written int64 // bytes that had been written at the last refill
	live    int64 // bytes that were live at the last refill
}

// moveFactor is the number of bytes that may be moved for each byte that is written.
const moveFactor = 4

// refill credits moveFactor bytes for each byte written, consolidations included, or freed since the last call. The
// budget never exceeds twice the space in use.
func (b *budget) refill(used, live, written int64) {
	b.left = min(b.left+moveFactor*(written-b.written+max(0, b.live-live)), 2*used)
	b.written, b.live = written, live
}

// extent returns where a segment lies in the file.
func (c *Cleaner) extent(v segments.Candidate) Extent {
	from := v.ID.Offset(c.c.Store.SegmentSize())
	return Extent{from, from + format.Offset(c.c.Store.SegmentSize())}
}
