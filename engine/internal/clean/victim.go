package clean

import (
	"math"

	"pagecache/segments"
	"pagecache/segments/format"
)

const (
	// Garbage, in percent of the live data: above softSlack, segments below the threshold are cleaned; above hardSlack,
	// any segment is; above behindSlack, writers wait. In an idle store, any segment is cleaned above idleSlack.
	softSlack, hardSlack, behindSlack, idleSlack = 20, 43, 47, 5
	// Everything that is not live may take wholeSlack percent of the live data less wholeSegments: garbage, segments
	// that cannot be cleaned, and slots that are kept. It lowers the other limits in a store of few segments. The
	// cleaner may exceed it by wholeSegments before writers wait for it.
	wholeSlack, wholeSegments = 69, 4
	// A small store may take smallSlack percent of its live data for all that, as far as its file stays below
	// smallStore segments: as many as a store takes that is just not small. The emptier the segments are that are
	// cleaned, the less is moved, and segments that cannot be cleaned count for more in a small store. In any case it
	// may have fewSegments of garbage.
	smallSlack, smallStore, fewSegments = 200, 37, 2
	// fewWaiting is the number of segments that wait for the next flush, which writers cause, while space is short.
	fewWaiting = 1
	// behindSegments is the number of segments by which the cleaner may exceed its limit before writers wait.
	behindSegments = 1
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
	uncleanable int64 // of used: segments that cleaning cannot free
	waiting     int64 // of used: segments that were emptied, and wait to be recycled
	kept        int64 // beside used: slots that the next segments need, or that are kept for urgent writes
	segment     int64 // what a segment holds
}

// usage returns the present state. Cleaning cannot free the segments that are being written, and, in a busy store, one
// more that will be next.
func (c *Cleaner) usage(m mode) usage {
	s := c.c.Store
	_, used, live := s.Space.Totals()
	holds, segment := int64(s.SegmentHolds()), format.LSN(s.SegmentSize())
	busy := 1
	if m == modeBusy {
		busy = 2 + min(int(s.Log.Tail()/segment-s.Log.DurableEnd()/segment), c.c.Options.IOBuffers-1)
	}
	return usage{used: int64(used) * holds, live: live, uncleanable: int64(busy) * holds,
		waiting: int64(c.recycler.Waiting()) * holds, kept: int64(s.Space.Kept()+1) * holds, segment: holds}
}

// slack returns the garbage that cleaning could free.
func (u usage) slack() int64 { return u.used - u.live - u.uncleanable - u.waiting }

// above reports whether the slack of a busy store is above its limit of percent of the live data, and by more segments.
func (u usage) above(percent, more int64) bool {
	rest := u.uncleanable + u.kept
	limit := min(u.live*percent/100, u.large()-rest)
	return u.slack() > max(limit, u.small()-rest, fewSegments*u.segment)+more*u.segment
}

// large returns what everything that is not live may take in a store that is not small.
func (u usage) large() int64 { return u.live*wholeSlack/100 - wholeSegments*u.segment }

// small returns what everything that is not live may take in a small store. In other stores it is less than large.
func (u usage) small() int64 { return min(u.live*smallSlack/100, smallStore*u.segment-u.live) }

// whole reports whether everything that is not live is above its limit.
func (u usage) whole() bool { return u.used+u.kept-u.live > max(u.large(), u.small()) }

// aboveIdle reports whether the slack of an idle store is above its limit.
func (u usage) aboveIdle() bool { return u.slack() > u.live*idleSlack/100 }

// policy is the part of the options that the choice of a victim depends on.
type policy struct {
	threshold float64
	skew      float64 // fraction by which the threshold rises for the oldest segment
	eager     bool
}

// limit returns the live share up to which segments are cleaned now; false if none needs cleaning.
func (p policy) limit(u usage, m mode) (limit float64, need bool) {
	switch {
	case p.eager, u.above(hardSlack, 0), m == modeIdle && u.aboveIdle():
		return hopeless, true
	case u.above(softSlack, 0):
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
func (c *Cleaner) victim(m mode, diskFull bool) (v segments.Candidate, ok bool) {
	u := c.usage(m)
	c.refill(u, diskFull)
	if !c.mayMove(m, diskFull) {
		return v, false
	}
	if diskFull {
		return c.victimOnFullDisk()
	}
	p := policy{c.c.Options.Threshold, float64(c.c.Options.Skew) / 100, c.c.Options.Eager}
	limit, need := p.limit(u, m)
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

// moveFactor is the number of bytes that may be moved for each byte that is written. In an idle store it is idleFactor
// for each byte that callers have written since it was last idle.
const moveFactor, idleFactor = 4, 1.5

// refill credits factor bytes for each byte written or freed since the last call. The budget never exceeds twice the
// space in use.
func (b *budget) refill(factor float64, u usage, written int64) {
	b.left = min(b.left+int64(factor*float64(written-b.written+max(0, b.live-u.live))), 2*u.used)
	b.written, b.live = written, u.live
}

// refill credits both budgets. On a full disk, cleaning that makes room pays for itself: it goes on until callers have
// room to write, however much of each segment is live.
func (c *Cleaner) refill(u usage, diskFull bool) {
	if diskFull {
		c.budget.left += gainFactor * c.gain.update(c.account())
	}
	c.budget.refill(moveFactor, u, c.c.Pages.Written())
	c.idle.refill(idleFactor, u, c.c.Pages.WrittenByCallers())
	c.spent.Store(c.budget.left <= 0)
}

// spend takes n bytes that were moved from the budgets.
func (c *Cleaner) spend(n int64, diskFull bool) {
	c.budget.left -= n
	if c.mode == modeIdle && !diskFull {
		c.idle.left -= n
	}
}

// mayMove reports whether the budgets allow to move anything. A store may be idle because callers wait for room.
func (c *Cleaner) mayMove(m mode, diskFull bool) bool {
	return c.c.Options.Eager || c.budget.left > 0 && (m != modeIdle || diskFull || c.idle.left > 0)
}

// An Extent is the part of the log file that a segment occupies.
type Extent struct {
	From, To format.Offset
	Base     format.LSN // of From
}

// End returns the LSN behind the segment.
func (e Extent) End() format.LSN { return e.Base + format.LSN(e.To-e.From) }

// Contains reports whether off lies in the extent.
func (e Extent) Contains(off format.Offset) bool { return off >= e.From && off < e.To }

// extent returns where a segment lies in the file.
func (c *Cleaner) extent(v segments.Candidate) Extent {
	from := v.ID.Offset(c.c.Store.SegmentSize())
	return Extent{from, from + format.Offset(c.c.Store.SegmentSize()), v.Base}
}
