package engine

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/pagestack"
	"pagecache/lru"
	"pagecache/segments"
	"pagecache/segments/format"
)

// cleaner makes room: it moves what is live out of segments that hold little of it, and recycles those that hold nothing (rule 4).
//
//	C1  A segment is recycled only after everything that replaced its contents is stable, the segment after it has begun on the disk, every Tx
//	    that was open when it became empty has ended, and its header says so durably.
//	C2  Moving a page leaves its timestamp (rule 6), and what it puts into the table refers to the new place only (rule 3).
//	C3  It never waits for a batch or a Tx: what cannot be recycled yet is looked at again.
//
// (Segment cleaning by cost and benefit: Rosenblum and Ousterhout, The Design and Implementation of a Log-Structured File System, 1991.)
type cleaner struct {
	kick chan struct{} // room for one: a segment was opened
	quit chan struct{}
	done chan struct{}

	mu      sync.Mutex // held for a step
	buf     []byte     // a segment, once one was cleaned
	tx      Tx         // memory for encoding. It is never entered: what the cleaner looks at is recycled by nobody else
	drained []drained
	stuck   map[format.SegmentID]int64 // segments that could not be cleaned, and their live bytes then
	costly  map[format.SegmentID]int64 // segments of which cleaning writes as much as it frees, likewise
	budget  int64                      // how many bytes may be moved before more is written
	written int64                      // how many bytes had been written when that was last looked at
	live    int64                      // how many were live then
	pids    []PageID                   // memory for costs
	failed  error                      // why nothing is recycled any more

	spent    atomic.Bool  // budget is
	late     atomic.Bool  // writers wait. Written by the cleaner alone; a stale one costs or saves a nap
	draining atomic.Int64 // len(drained), for who does not hold mu
	moved    atomic.Int64 // bytes
	cleaned  atomic.Int64 // segments
	recycled atomic.Int64 // segments, in this opening
}

// drained is a Draining segment.
type drained struct {
	id    format.SegmentID
	base  format.LSN
	lsn   format.LSN // stable from here on: what replaced its contents is stable
	epoch uint64     // nobody inside entered before this: nobody sees its contents
}

const (
	// Space that is used for other things than live data, in percent of that, from which on segments below the threshold are cleaned, and from
	// which on any are.
	softSlack, hardSlack = 20, 36
	// While much is written a small store takes so many segments more than it needs, so that what is moved stays little; they are cleaned
	// when it calms down: when less than a calmShare of a segment is written in a cleanerRest.
	fewSegments, calmShare = 64, 1.0 / 64
	// behindSlack is from where on writers wait.
	behindSlack = 40
	// fewPulls pages are pulled one by one before their segment is read as a whole.
	fewPulls = 16
	// cleanerRest is how long the cleaner waits for something to happen.
	cleanerRest = 100 * time.Millisecond
)

func (s *store) kickCleaner() {
	select {
	case s.cleaner.kick <- struct{}{}:
	default:
	}
}

// startCleaner starts cleaning in the background.
func (pc *PageCache[P]) startCleaner() {
	c := &pc.cleaner
	c.quit, c.done = make(chan struct{}), make(chan struct{})
	used, _ := pc.space.Usage()
	c.budget = 2 * used
	if pc.opts.foreground || pc.opts.ReadOnly {
		close(c.done)
		return
	}
	go func() {
		defer close(c.done)
		t := time.NewTicker(cleanerRest)
		defer t.Stop()
		calm, written := false, int64(0)
		for {
			select {
			case <-c.quit:
				return
			case <-c.kick:
				calm = false
			case <-t.C:
				now := pc.txs.written()
				calm = float64(now-written) < calmShare*float64(pc.super.SegmentSize)
				written = now
			}
			for pc.cleanerWorks(calm) {
				c.late.Store(pc.behind())
			}
			c.late.Store(false)
		}
	}()
}

// cleanerWorks does a step, and reports whether another may be worth it.
func (pc *PageCache[P]) cleanerWorks(calm bool) bool {
	select {
	case <-pc.cleaner.quit:
		return false
	default:
	}
	did, err := pc.cleanStep(calm)
	return did && err == nil
}

// await waits for the end of something that was told to; false: it hangs, as everything does with the device.
func await(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-time.After(closePatience):
		return false
	}
}

// AttemptGC does one step of cleaning by hand: it recycles segments that hold nothing any more, or else moves what is live out of one that is
// worth it. It reports whether it did anything. Cleaning goes on in the background too. If SegmentMode is
// Linear only blobs that nothing points to are removed. Errors: ErrClosed,
// ErrNoSpace, ErrFailed, ErrCorrupt where a page that is to be moved is damaged. Safe for concurrent use.
func (pc *PageCache[P]) AttemptGC() (bool, error) {
	call, err := pc.enter()
	if err != nil {
		return false, logError("clean", err)
	}
	defer call.End()
	if pc.opts.ReadOnly {
		return false, logError("clean", ErrReadOnly)
	}
	return pc.cleanStep(true)
}

func (pc *PageCache[P]) cleanStep(calm bool) (bool, error) {
	c := &pc.cleaner
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() {
		c.draining.Store(int64(len(c.drained)))
		if pc.budget.Settle(&c.tx.account) != lru.PressureNone {
			pc.policy.Kick()
		}
	}()
	if c.failed != nil {
		return false, logError("clean", c.failed)
	}
	if pc.opts.SegmentMode == Linear {
		return pc.blobs.reap(pc.log.StableEnd(), pc.txs.domain.Oldest()) > 0, nil
	}
	if err := pc.hasten(); err != nil {
		return false, logError("clean", err)
	}
	n, err := pc.recycle()
	if err != nil {
		if !errors.Is(err, errLater) {
			c.failed = err
		}
		return false, logError("clean", err)
	}
	n += pc.blobs.reap(pc.log.StableEnd(), pc.txs.domain.Oldest())
	if pc.drain() > 0 || n > 0 {
		return true, nil
	}
	tight := pc.space.DiskFull()
	victim, ok := pc.victim(calm, tight)
	if !ok {
		return pc.shrink()
	}
	return pc.cleanVictim(victim, tight)
}

// cleanVictim cleans a segment, and remembers if that was in vain.
func (pc *PageCache[P]) cleanVictim(v segments.Candidate, tight bool) (bool, error) {
	c := &pc.cleaner
	err := pc.cleanSegment(v, tight)
	if err != nil && isNoSpace(err) { // it may work later
		return false, logError("clean", err)
	}
	if err == nil && !tight && pc.space.DiskFull() {
		return true, nil // it was left, and may be picked again
	}
	if live := pc.space.Segment(v.ID).Live(); err != nil || live == v.Live {
		if c.stuck == nil {
			c.stuck = map[format.SegmentID]int64{}
		}
		c.stuck[v.ID] = live
		return false, logError("clean", err)
	}
	c.cleaned.Add(1)
	return true, nil
}

// drain finds the segments in which nothing is live any more. What has replaced their contents was reserved before the end of the log that is
// noted, and whoever may still look at them entered before the epoch that is noted.
func (pc *PageCache[P]) drain() int {
	c := &pc.cleaner
	first := len(c.drained)
	pc.space.Inactive(func(v segments.Candidate) {
		if v.Live == 0 && pc.space.Drain(v.ID) {
			delete(c.stuck, v.ID)
			delete(c.costly, v.ID)
			c.drained = append(c.drained, drained{id: v.ID, base: v.Base})
		}
	})
	if first == len(c.drained) {
		return 0
	}
	lsn, epoch := pc.log.Tail(), pc.txs.domain.Retire()
	for i := first; i < len(c.drained); i++ {
		c.drained[i].lsn, c.drained[i].epoch = lsn, epoch
	}
	return len(c.drained) - first
}

// hasten makes durable what has replaced the contents of Draining segments, when the file cannot grow: whoever else would do that may be waiting for room.
func (pc *PageCache[P]) hasten() error {
	d := pc.cleaner.drained
	if len(d) == 0 || !pc.space.DiskFull() {
		return nil
	}
	return pc.log.MakeDurable(d[len(d)-1].lsn - 1)
}

// recycle makes the Draining segments free that may be, and returns how many.
func (pc *PageCache[P]) recycle() (n int, err error) {
	c := &pc.cleaner
	size := format.LSN(pc.super.SegmentSize)
	stable, oldest := pc.log.StableEnd(), pc.txs.domain.Oldest()
	var ready []format.SegmentID
	for _, d := range c.drained {
		// The first block of the next segment is stable too, so that a scan finds where the log goes on.
		if stable >= d.lsn && stable > d.base+size+format.SegmentHeaderSize && d.epoch <= oldest {
			ready = append(ready, d.id)
		}
	}
	for ids := range slices.Chunk(ready, recycleAtOnce) {
		if err := pc.recycleSlots(ids, stable-1); err != nil {
			return n, err
		}
		n += len(ids)
		c.recycled.Add(int64(len(ids)))
		c.drained = slices.DeleteFunc(c.drained, func(d drained) bool { return slices.Contains(ids, d.id) })
	}
	return n, nil
}

// cleanSegment moves every page that has something in the segment. If that was picked while the file could grow, and it then cannot, the rest is left: what is kept
// is for segments that are worth it (tightVictim).
func (pc *PageCache[P]) cleanSegment(v segments.Candidate, tight bool) error {
	c := &pc.cleaner
	from, to := pc.extent(v)
	pages, listed, damage := pc.pagesIn(v)
	pulls := 0
	for pid := range pages.All() {
		if pc.elsewhere(pid, from, to) {
			continue
		}
		select {
		case <-c.quit:
			return iobuf.ErrClosed
		default:
		}
		if !tight && pc.space.DiskFull() {
			return damage
		}
		s, h, err := pc.head(pid)
		if err != nil {
			return err
		}
		if h == nil {
			continue
		}
		if h.Kind() == pagestack.KindOnDisk && listed && inside(h, from, to) {
			if pulls++; pulls == fewPulls {
				if err := pc.readSegment(v.ID); err != nil { // so that the next are no faults of their own
					return err
				}
			}
		}
		if err := pc.move(&c.tx, pid, s, from, to); err != nil {
			return err
		}
	}
	return damage
}

// elsewhere reports whether the page has nothing in [from, to), if that is seen at once. Most of what is cleaned is dead, and the loop that skips it is so
// short that the processor waits for several entries at a time.
func (pc *PageCache[P]) elsewhere(pid PageID, from, to format.Offset) bool {
	s := pc.table.Get(pid)
	if s == nil {
		return false
	}
	e := s.Load()
	if e == nil || e.Depth() != 1 || e.Kind() != pagestack.KindBase && e.Kind() != pagestack.KindFree && e.Kind() != pagestack.KindOnDisk {
		return false // not one message
	}
	off := e.Ptr().Off
	return off < from || off >= to
}

// readSegment reads a segment into the cleaner's buffer, and so into the page cache.
func (pc *PageCache[P]) readSegment(id format.SegmentID) error {
	c := &pc.cleaner
	if len(c.buf) == 0 {
		c.buf = make([]byte, pc.super.SegmentSize)
	}
	_, err := pc.file.ReadAt(c.buf, int64(id.Offset(pc.super.SegmentSize)))
	return err
}

// extent is where the segment lies in the file.
func (pc *PageCache[P]) extent(v segments.Candidate) (from, to format.Offset) {
	from = v.ID.Offset(pc.super.SegmentSize)
	return from, from + format.Offset(pc.super.SegmentSize)
}

// pagesIn lists the pages that have messages in a segment, current or not, some of them more than once; listed: that was in memory, else the segment was read. With an
// error it is of those before the place that is damaged.
func (pc *PageCache[P]) pagesIn(v segments.Candidate) (pages segments.PageList, listed bool, err error) {
	if pages, listed = pc.space.Segment(v.ID).Pages(); !listed {
		pages, err = pc.readPages(v)
	}
	return pages, listed, err
}

// readPages is pagesIn of a segment of which there is no list.
func (pc *PageCache[P]) readPages(v segments.Candidate) (pages segments.PageList, err error) {
	if err := pc.readSegment(v.ID); err != nil {
		return nil, err
	}
	from, seed, buf := v.ID.Offset(pc.super.SegmentSize), pc.space.Segment(v.ID).Seed(), pc.cleaner.buf
	for pos := format.SegmentHeaderSize; len(buf)-pos >= format.HeaderSize; {
		h, _, err := format.DecodeMessage(buf[pos:], v.Base+format.LSN(pos), seed)
		if err != nil {
			return pages, pc.corrupt(v.Base+format.LSN(pos), DiskPtr{Off: from + format.Offset(pos), Len: format.HeaderSize}, h, err)
		}
		pos += format.AlignUp(h.Len)
		if h.Kind.OfPage() {
			pages = pages.Append(h.Page)
		}
	}
	return pages, nil
}

// behind decides whether writers must wait for the cleaner: there is more to clean than there should ever be, and it is not held up by
// Txs or batches, for which nobody waits.
func (pc *PageCache[P]) behind() bool {
	c := &pc.cleaner
	used, live := pc.space.Usage()
	slack := used - live - (int64(pc.opts.IOBuffers+8)+c.draining.Load())*int64(pc.super.SegmentSize)
	return slack > max(live*behindSlack/100, (fewSegments+2)*int64(pc.super.SegmentSize)) && !c.spent.Load()
}

// pace counts what a writer writes, a body of n bytes, and makes it wait, for some milliseconds at most, while the cleaner is behind.
func (pc *PageCache[P]) pace(tx *Tx, n int) {
	tx.wrote(n)
	if !pc.cleaner.late.Load() {
		return
	}
	const nap, naps = 500 * time.Microsecond, 8
	for range naps {
		if time.Sleep(nap); !pc.cleaner.late.Load() {
			return
		}
	}
}
