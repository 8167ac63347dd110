package engine

import (
	"context"
	"io"
	"time"

	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/checkpoint"
	"pagecache/engine/internal/latency"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/snapshot"
	"pagecache/lru"
	"pagecache/segments/format"
)

// Stats are the state of a store and its counts since it was opened. Bytes are bytes on disk unless a comment says
// otherwise.
type Stats struct {
	Dir        string // where the store lay when it was opened
	Generation uint64 // number of openings for writing
	// SuperblockMoves is the number of times that the superblock was written to a new file, since the disk did not take
	// one of its copies.
	SuperblockMoves int64
	Log             LogStats
	Space           SpaceStats
	Snapshots       int64 // written
	Snapshot        SnapshotStats
	Scrub           ScrubStats
	Pages           PageStats // zero in a standalone log
	Cache           CacheStats
	Txs             TxStats
	Scratch         ScratchStats
}

// SnapshotStats are the state of the snapshot that the store was opened from, and of the log since the newest one. They
// are zero in a standalone log.
type SnapshotStats struct {
	Since      int64 // messages in the log since the newest snapshot: the next Open has to apply them
	Rebuilding int64 // corrupt blocks whose pages are being looked up in the log; calls on these pages wait
	Rebuilt    int64 // corrupt blocks whose pages were looked up in the log
}

// ScrubStats are the counts of Scrub and Verify in this opening. They are zero in a standalone log.
type ScrubStats struct {
	Runs     int64 // that have ended
	Bytes    int64 // verified
	Problems int64 // found; each is a Corruption event
}

// LogStats are the counts of the log.
type LogStats struct {
	Device       string // one line: how the log is written, and why not in a faster way
	StableLSN    LSN    // of the last stable byte; −1 if there is none
	BytesGiven   int64  // of messages that callers wrote, without blobs; 0 in a standalone log
	BytesWritten int64  // given to the device, padding included
	BytesPadded  int64
	Flushes      int64 // device writes
	BufferWaits  int64 // times that a writer waited for an io buffer
	// OldestBatch is the open batch that began first. Nothing at or above its LSN becomes stable.
	OldestBatch Pending
	Batches     int // open
	// OldestReservation is the first place in the log that was reserved and not completed. Nothing at or above its LSN
	// becomes durable. Its age is counted from the first flush, or Stats, that found it.
	OldestReservation Pending
	// WriteAmplification is BytesWritten divided by BytesGiven; 0 if nothing was given.
	WriteAmplification float64
}

// Pending is something that has begun and not ended. It is zero if there is none.
type Pending struct {
	LSN LSN // at which it begins
	Age time.Duration
}

// SpaceStats are the state of the space and the counts of the cleaner. Those of the cleaner are zero in a standalone
// log.
type SpaceStats struct {
	Segments      int   // slots of the log file
	SegmentsInUse int   // slots that are not free
	OutOfUse      int   // slots that are not used, since they could not be written, or their headers not read
	LiveBytes     int64 // of messages that are current
	Draining      int   // segments in which nothing is current, that cannot be recycled yet
	Recycled      int64 // segments recycled
	Cleaned       int64 // segments whose live data was moved
	BytesMoved    int64 // of live data moved
	Blobs         int   // files of values that are too long for the log, including those to be deleted
	BlobBytes     int64
	FileBytes     int64 // that the log file occupies on the disk, free slots that are kept included
	// Amplification is FileBytes and BlobBytes divided by the live bytes in them; 0 if none are live.
	Amplification float64
}

// PageStats are the counts of pages and of the work on them.
type PageStats struct {
	InUse          int64 // ids that were handed out and not freed, without those of roots
	Roots          int64 // names that have a root; each takes an id
	Free           int64 // ids that will be handed out again
	Fetches        int64 // fragments read from the log or the page cache
	FetchesCold    int64 // of Fetches: read from disk, or assumed to be
	FetchesWarm    int64 // of Fetches: from the page cache or an io buffer
	Merges         int64
	Consolidations int64
}

// CacheStats are the state of the cache. Bytes are bytes of memory, accurate to a 64th of the capacity.
type CacheStats struct {
	Capacity       int64 // Options.CacheCapacity, its default for this machine, or that of SetCacheCapacity
	HeapResident   int64 // of values on the Go heap, including their entries
	MappedResident int64 // of values that are views of the mapped file, which GOMEMLIMIT does not see (trap 21)
	// Hits are Gets and Fragments of resident pages, in steps of 64 for each Tx, and of pages to be merged only.
	// Misses are those that had to read, from the kernel's page cache or the disk.
	Hits, Misses   int64
	Evictions      int64 // pages evicted
	Reclaimed      int64 // bytes evicted by foreground calls that exceeded the capacity
	BytesRewritten int64 // written to the log by evictions; see Options.EvictionWrites
	Policy         PolicyStats
}

// PolicyStats are the state and the counts of the eviction policy; see package lru.
type PolicyStats struct {
	Active     bool  // the adviser is running
	Capacity   int64 // bytes
	Heap       int64 // settled resident bytes on the heap
	Mapped     int64 // settled resident bytes of the mapping
	Keys       int64 // keys that the adviser knows
	Cost       int64 // bytes of those keys
	Idle       int64 // hits recorded while the adviser was not running
	Taken      int64 // hits fed to the adviser
	Hits       int64 // of Taken: the key was known and its cost unchanged
	Dropped    int64 // hits dropped because the queue was full
	Evictions  int64 // keys that the adviser evicted
	Rejections int64 // keys that the adviser did not admit
	Busy       int64 // attempts to evict a page whose writes were not stable
	Swept      int64 // bytes evicted by clock
}

var _ = PolicyStats(lru.Stats{}) // the same fields

// TxStats are the state of the Txs.
type TxStats struct {
	Open   int
	Oldest uint64 // timestamp of the oldest open Tx; 0 if there is none
	// Age is the time since that Tx was first seen, a quarter of a second after it began at most.
	Age  time.Duration
	Kept int // in memory: open, or kept for the next Begin
	// Views are open. Versions of pages are kept for them, in some 250 bytes of memory each, and 16 for each message;
	// the capacity of the cache does not limit that.
	Views, Versions int64
}

// ScratchStats are the state of the memory that calls work in, beside the cache: for encoding, compressing and
// decompressing values. It is kept for later calls, and released after a second or two without use.
type ScratchStats struct {
	Bytes int64 // kept, or used again by calls that are under way
	Limit int64 // the most bytes that are kept
}

// Stats returns the store's state and counts. Safe for concurrent use; the counts are read one after another.
func (pc *PageCache[P]) Stats() Stats {
	st := pc.core.stats()
	st.Snapshots = pc.snaps.Written()
	st.Snapshot = SnapshotStats{
		Since: pc.snaps.Since(pc.core.store.Log), Rebuilding: pc.snaps.Rebuilding(), Rebuilt: pc.snaps.Rebuilt(),
	}
	n, e := &pc.mem.counts, &pc.mem.evictions
	free, roots := pc.pages.IDs.Spare(), int64(pc.pages.Roots.Len())
	st.Pages = PageStats{
		InUse: max(0, int64(pc.pages.IDs.Next())-int64(FirstUserPage)-free-roots), Roots: roots, Free: free,
		Fetches: n.fetches.Load(), FetchesCold: n.cold.Load(),
		Merges: n.merges.Load(), Consolidations: n.consolidations.Load(),
	}
	st.Pages.FetchesWarm = st.Pages.Fetches - st.Pages.FetchesCold
	st.Cache = CacheStats{
		Capacity: pc.mem.budget.Capacity(),
		Hits:     n.hits.Load() + n.merged.Load(), Misses: n.read.Load(), Evictions: e.pages.Load(),
		Reclaimed: e.reclaimed.Load(), BytesRewritten: pc.mem.allowance.Written(),
		Policy: PolicyStats(pc.mem.policy.Stats()),
	}
	st.Cache.HeapResident, st.Cache.MappedResident = pc.mem.budget.Resident()
	x := pc.txs.Look()
	st.Txs = TxStats{Open: x.Open, Oldest: x.Oldest, Age: x.Age, Kept: x.Kept,
		Views: int64(pc.pages.Clock.Open()), Versions: pc.pages.Clock.Kept()}
	c := pc.cleaner.Stats()
	st.Space.Draining, st.Space.Recycled = c.Draining, c.Recycled
	st.Space.Cleaned, st.Space.BytesMoved = c.Cleaned, c.Moved
	st.Space.Blobs, st.Space.BlobBytes = pc.blobs.Count()
	if st.Log.BytesGiven = pc.txs.Written(); st.Log.BytesGiven > 0 {
		st.Log.WriteAmplification = float64(st.Log.BytesWritten) / float64(st.Log.BytesGiven)
	}
	st.Space.amplify()
	return st
}

// amplify computes Amplification.
func (s *SpaceStats) amplify() {
	if live := s.LiveBytes + s.BlobBytes; live > 0 {
		s.Amplification = float64(s.FileBytes+s.BlobBytes) / float64(live)
	}
}

func (c *core) stats() Stats {
	l := c.store.Log.Stats()
	device := "none: read only"
	if !c.opts.ReadOnly {
		device = logstore.DeviceLine(c.store.Report())
	}
	st := Stats{Dir: c.store.Dir, Generation: uint64(c.store.Super.Generation)}
	st.SuperblockMoves = c.store.SuperMoves()
	st.Log = LogStats{
		Device: device, StableLSN: l.StableEnd - 1, BytesWritten: l.BytesWritten, BytesPadded: l.BytesPadded,
		Flushes: l.Flushes, BufferWaits: l.BufferWaits,
	}
	if call, err := c.enter(); err == nil { // it looks at the io buffers
		st.Log.OldestReservation = Pending(c.store.Log.OldestReservation())
		call.End()
	}
	oldest, n := c.store.Log.OldestBatch()
	st.Log.OldestBatch, st.Log.Batches = Pending(oldest), n
	st.Space.Segments, st.Space.SegmentsInUse, st.Space.LiveBytes = c.store.Space.Totals()
	st.Space.OutOfUse = c.store.Space.OutOfUse()
	st.Space.FileBytes = c.store.Occupied()
	st.Scrub = ScrubStats(c.store.Scrubs.Load())
	st.Scratch = ScratchStats{Bytes: c.scratch.Bytes(), Limit: c.scratch.Limit()}
	return st
}

// Latencies have counts of calls, reads and writes by their duration, since the store was opened, without those that
// failed.
type Latencies struct {
	Commit Histogram // calls of MakeStable and Flush that had to wait
	// Read has the reads from disk that a call waited for: all messages of a page or of a GetMany at once, a blob, a
	// part of the snapshot. It includes those of the cleaner and of Open, but nothing that was read ahead.
	Read   Histogram
	Device Histogram // writes of the log to the device
}

// A Histogram has counts of durations by their length, in the form of a native histogram of Prometheus with schema 3.
type Histogram struct {
	Count int64         // of all durations
	Sum   time.Duration // of all durations
	// Buckets has the counts that are not zero: that of i is of durations longer than 2^((i−1)/8) seconds and not
	// longer than 2^(i/8) seconds. The lowest one, −216, has everything below 7.5 ns, and the highest one, 64,
	// everything above 256 s.
	Buckets map[int]int64
}

// Quantile returns a duration that a share of q of all durations do not exceed, 0 ≤ q ≤ 1: the upper end of its bucket,
// which is at most 9 % too long. It returns 0 if there are none.
func (h Histogram) Quantile(q float64) time.Duration { return latency.Histogram(h).Quantile(q) }

// Latencies returns how long commits, reads from disk and device writes have taken. Counting them takes no lock, and
// costs a Get of a resident page nothing. Safe for concurrent use, also after Close; the counts are read one after
// another.
func (pc *PageCache[P]) Latencies() Latencies { return pc.core.latencies() }

// Latencies returns how long commits and device writes have taken; see PageCache.Latencies. Read has only reads of
// Open.
func (l *Log) Latencies() Latencies { return l.core.latencies() }

func (c *core) latencies() Latencies {
	t := &c.store.Times
	return Latencies{
		Commit: Histogram(t.Commits.Load()), Read: Histogram(t.Reads.Load()),
		Device: Histogram(c.store.Log.Writes()),
	}
}

// SegmentStats describe one slot of the log file.
type SegmentStats struct {
	Slot      int
	State     string // free, active, inactive or draining
	Base      LSN    // of its first byte; meaningless if it is free
	LiveBytes int64
	Size      int // bytes
}

// Segments describes each slot of the log file, in the order of the file. Safe for concurrent use; the slots are read
// one after another.
func (pc *PageCache[P]) Segments() []SegmentStats {
	slots, _, _ := pc.core.store.Space.Totals()
	all, size := make([]SegmentStats, slots), pc.core.store.SegmentSize()
	for i := range all {
		g := pc.core.store.Space.Segment(format.SegmentID(i))
		all[i] = SegmentStats{Slot: i, State: g.State().String(), Base: g.Base(), LiveBytes: g.Live(), Size: size}
	}
	return all
}

// ScrubReport says what Scrub has verified.
type ScrubReport = checkpoint.ScrubReport

// Scrub verifies what the store has on the disk while it goes on: every message of the segments that are not being
// written, every blob, and the snapshots, past the page cache if the file system supports that. So corruption of data
// that nobody reads is found while backups still have it. Each problem is a Corruption event, and counted in Stats. It
// reads rate bytes a second; with 0, as much as callers leave room for. It works in the caller's goroutine, holds
// nothing, and delays nobody. Errors: ErrClosed, the context's, and those of the operating system; not problems.
func (pc *PageCache[P]) Scrub(ctx context.Context, rate int64) (ScrubReport, error) {
	return pc.core.scrub(ctx, max(rate, 0), pc.blobs, pc.snaps)
}

// Verify is Scrub without pauses.
func (pc *PageCache[P]) Verify(ctx context.Context) (ScrubReport, error) {
	return pc.core.scrub(ctx, -1, pc.blobs, pc.snaps)
}

func (c *core) scrub(ctx context.Context, rate int64, blobs *blob.Store, snaps *snapshot.Store) (ScrubReport, error) {
	counts := &c.store.Scrubs
	r, err := checkpoint.Scrub(ctx, checkpoint.ScrubConfig{
		Store: c.store, Blobs: blobs, Snaps: snaps, Enter: c.enter, Rate: rate,
		Found: func(problem error) {
			counts.Problems.Add(1)
			c.opts.report.Corruption("scrub has found corrupt data", problem)
		},
	})
	counts.Bytes.Add(r.Bytes)
	if err == nil {
		counts.Runs.Add(1)
	}
	return r, describe("scrub", err)
}

// A Checkpoint is a store as it was at one moment, while the store goes on. It has everything that was stable then,
// each batch and transaction as a whole or not at all, and nothing else. As long as it is open, the space of the
// segments and blobs that it shows is not used again, so the store grows by what is written meanwhile; callers do not
// wait for it. A ReadOnly store has checkpoints, too. Safe for concurrent use.
type Checkpoint struct{ k *checkpoint.Checkpoint }

// LSN returns where the checkpoint ends: it has everything that was written below this LSN, and nothing else.
func (c *Checkpoint) LSN() LSN { return c.k.LSN() }

// WriteTo writes the checkpoint to w as one stream, for Install. It returns the number of bytes written. It is Write
// with a context that does not end, of a complete stream.
func (c *Checkpoint) WriteTo(w io.Writer) (int64, error) { return c.Write(context.Background(), w, 0) }

// Write is WriteTo that gives up, with the context's error, when ctx ends. If since is not 0, it is the LSN of an older
// checkpoint of the store: the stream has only what is newer, and Install needs the stream of the older checkpoint as
// well. Write verifies every byte that it reads. While callers write to the store, it uses a tenth of a processor.
// Streams are written one at a time. Errors: ErrClosed if the checkpoint or the store was closed, ErrCorrupt if a part
// of the checkpoint is, ErrChain if since is too high, those of reading, and those of w. After an error the stream is
// of no use.
func (c *Checkpoint) Write(ctx context.Context, w io.Writer, since LSN) (int64, error) {
	n, err := c.k.Write(ctx, w, since)
	return n, describe("write checkpoint", err)
}

// Close ends the checkpoint: nothing is held for it any more. A Write that is under way fails with ErrClosed once w has
// returned, and Close waits for that. More than one call does no harm, nor does a call after the store was closed.
func (c *Checkpoint) Close() { c.k.Close() }
