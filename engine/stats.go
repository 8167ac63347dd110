package engine

import (
	"fmt"
	"strings"
	"sync/atomic"

	"pagecache/internal/vfs"
	"pagecache/lru"
	"pagecache/segments/format"
)

// counts are a page store's own; one goroutine's writes do not slow another's reads.
type counts struct {
	pulls          atomic.Int64
	merges         atomic.Int64
	consolidations atomic.Int64
	hits           atomic.Int64 // told in steps of lru.HitsLen
	rewritten      atomic.Int64 // bytes of messages, by consolidations
	misses         atomic.Int64
	cold           atomic.Int64 // of pulls
	evicted        atomic.Int64
	reclaimed      atomic.Int64 // bytes, by those who passed the bound
}

// Stats says what a store has done since it was opened, and what it stands on. Bytes are bytes on disk unless said
// otherwise.
type Stats struct {
	Device        string // one line: what writes the log, and why nothing better
	Dir           string // where the store lies
	StableLSN     LSN
	Generation    uint64
	BytesGiven    int64 // of messages that callers wrote, blobs not included
	BytesWritten  int64 // given to the device, padding included
	BytesPadded   int64
	Flushes       int64 // device writes
	BufferWaits   int64 // times a writer had to wait for an io buffer
	Segments      int   // slots of the log file
	SegmentsInUse int
	LiveBytes     int64 // of messages that are current
	// WriteAmplification is BytesWritten for each byte of BytesGiven, SpaceAmplification what the segments in use and the blobs take for each live byte
	// in them; 0 where nothing was written, or is alive.
	WriteAmplification float64
	SpaceAmplification float64
	Draining           int   // segments in which nothing is current, that cannot be recycled yet
	Recycled           int64 // segments recycled in this opening
	Cleaned            int64 // segments whose live contents were moved
	BytesMoved         int64 // by that
	Blobs              int   // files, those included that are to be removed
	BlobBytes          int64 // in them
	Snapshots          int64 // written in this opening
	Pages              int64 // page ids handed out and not freed
	PagesFree          int64 // ids that will be handed out again
	Pulls              int64 // fragments read from the log
	Merges             int64
	Consolidations     int64
	OpenTxs            int
	OldestTx           uint64 // timestamp of the oldest open Tx, 0 if there is none
	// HeapResident and MappedResident are the bytes of pages in memory, up to a sixty-fourth of CacheCapacity wrong: values in the Go heap, their entries
	// included, and values that are views of the mapped file, which GOMEMLIMIT does not see (trap 21).
	HeapResident   int64
	MappedResident int64
	Hits           int64     // Gets of resident pages, counted in steps of 64 for each Tx
	Misses         int64     // Gets that had to read
	PullsCold      int64     // of Pulls: something had to be brought into the page cache, or was taken to, as for those before
	PullsWarm      int64     // of Pulls: from the page cache, or an io buffer
	Evictions      int64     // pages that were paged out, whoever did it
	Reclaimed      int64     // bytes of them, paged out by calls that passed the bound
	Cache          lru.Stats // the eviction policy's state
}

// Stats returns the store's counts. Safe for concurrent use; the counts are read one after another.
func (pc *PageCache[P]) Stats() Stats {
	st := pc.stats()
	st.PagesFree = pc.pages.spare.Load()
	st.Pages = int64(pc.pages.next.Load()) - int64(FirstUserPage) - st.PagesFree
	st.Pulls, st.Merges, st.Consolidations = pc.counts.pulls.Load(), pc.counts.merges.Load(), pc.counts.consolidations.Load()
	st.HeapResident, st.MappedResident = pc.budget.Resident()
	st.Hits, st.Misses, st.Evictions = pc.counts.hits.Load(), pc.counts.misses.Load(), pc.counts.evicted.Load()
	st.PullsCold = pc.counts.cold.Load()
	st.PullsWarm = st.Pulls - st.PullsCold
	st.Reclaimed, st.Cache = pc.counts.reclaimed.Load(), pc.policy.Stats()
	c := &pc.cleaner
	st.Recycled, st.Cleaned, st.BytesMoved = c.recycled.Load(), c.cleaned.Load(), c.moved.Load()
	st.Blobs, st.BlobBytes = pc.blobs.count()
	st.Snapshots = pc.snaps.written.Load()
	st.Draining = int(c.draining.Load())
	st.OpenTxs, st.OldestTx = pc.txs.oldest()
	if st.BytesGiven = pc.txs.written(); st.BytesGiven > 0 {
		st.WriteAmplification = float64(st.BytesWritten) / float64(st.BytesGiven)
	}
	if live := st.LiveBytes + st.BlobBytes; live > 0 {
		used := int64(st.SegmentsInUse)*int64(pc.super.SegmentSize) + st.BlobBytes
		st.SpaceAmplification = float64(used) / float64(live)
	}
	return st
}

// SegmentStats says what a slot of the log file holds.
type SegmentStats struct {
	Slot      int
	State     string // free, active, inactive or draining
	Base      LSN    // of its first byte; meaningless if it is free
	LiveBytes int64
	Size      int
}

// Segments returns what each slot of the log file holds, in the order of the file. Safe for concurrent use; the slots are looked at one after another.
func (pc *PageCache[P]) Segments() []SegmentStats {
	slots, _, _ := pc.space.Totals()
	all := make([]SegmentStats, slots)
	for i := range all {
		g := pc.space.Segment(format.SegmentID(i))
		all[i] = SegmentStats{Slot: i, State: g.State().String(), Base: g.Base(), LiveBytes: g.Live(), Size: pc.super.SegmentSize}
	}
	return all
}

func (s *store) stats() Stats {
	l := s.log.Stats()
	device := "none: read only"
	if !s.opts.ReadOnly {
		device = deviceLine(s.report)
	}
	st := Stats{Device: device, Dir: s.dir, StableLSN: l.StableEnd - 1, Generation: uint64(s.super.Generation),
		BytesWritten: l.BytesWritten, BytesPadded: l.BytesPadded, Flushes: l.Flushes, BufferWaits: l.BufferWaits}
	st.Segments, st.SegmentsInUse, st.LiveBytes = s.space.Totals()
	return st
}

func deviceLine(r vfs.DeviceReport) string {
	use := []string{"system calls", "through the page cache with RWF_DSYNC"}
	if r.Ring {
		use[0] = "io_uring"
	}
	if r.Direct {
		use[1] = "O_DIRECT with RWF_DSYNC"
	}
	if r.FixedFile {
		use = append(use, "registered file")
	}
	if r.FixedBuffer {
		use = append(use, "registered buffers")
	}
	line := fmt.Sprintf("%s, blocks of %d", strings.Join(use, ", "), r.Block)
	if r.Reason != "" {
		line += " (" + r.Reason + ")"
	}
	return line
}
