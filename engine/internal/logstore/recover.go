package logstore

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"pagecache/engine/internal/iobuf"
	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// Bounds of an id counter on disk (rule 12). Above MaxID, ids would wrap around and repeat.
const (
	MaxID         = 1<<63 - 1
	MaxIDInterval = MaxID / 4
)

// hugeTail is the length of a log's tail in bytes from which on it is worth huge pages. They take longer to touch.
const hugeTail = 1 << 20

// Base is the knowledge about the log that a snapshot provides. The zero Base means that there is no snapshot.
type Base struct {
	From     format.LSN      // messages below are known
	Stable   format.LSN      // the log was stable up to here
	Counter  uint64          // the highest noted id below From
	Known    []format.LSN    // bases of the segments that were in use
	Recycled uint64          // segments that had left the log
	Left     format.Identity // sum of their identities
	Timeline format.Timeline // of the opening that wrote the snapshot
	// Others are the timelines that own snapshots which are still to be removed. They are set without a snapshot, too.
	Others []format.Timeline
}

// Recovered is the result of Recover: the contents of the log, and where it goes on.
type Recovered struct {
	Scan *recovery.Result
	// NextPage is the lowest page id that was never handed out, if the store was closed cleanly with no batch open;
	// else 0.
	NextPage format.PageID
	// NextID is the next id, and IDLimit the lowest id that must not be handed out before a higher one is durable.
	NextID, IDLimit uint64
	// Beside, if the caller sets it, is called by Start while that waits for the disk, in a goroutine that ends before
	// Start returns. It may read the log, and Resumed, and writes nothing.
	Beside func()

	discard  []format.SegmentID // marked in use, but without valid contents
	outOfUse []format.SegmentID // left out of use by an earlier opening; Start tries to mark them as free
	unread   []format.SegmentID // left out of use by this one, since their headers cannot be read
	failed   []format.SegmentID // the same, since their headers cannot be written
	tail     *recovery.Segment  // the partly filled segment, if Scan.End lies inside one
	lost     error              // why the disk does not return a part of it; nil if it does
	listing  *iobuf.Listing     // of the tail of a standalone log; set by Start
	base     Base
	plan     // decided by Prepare
}

// LogEnd returns where the log goes on. Prepare decides that.
func (r *Recovered) LogEnd() format.LSN { return r.end }

// Recover reads the log, after Distrust. base is the knowledge that a snapshot provides.
func (s *Store) Recover(base Base) (*Recovered, error) {
	size, err := s.file.Size()
	if err != nil {
		return nil, err
	}
	if s.View, err = s.file.OpenMap(vfs.PatternRandom, s.Reader); err != nil {
		return nil, err
	}
	res, err := s.scan(base, size)
	if err != nil {
		return nil, err
	}
	if err := s.checkLog(res, size); err != nil {
		return nil, err
	}
	if res.Torn {
		s.c.Report.TailDropped(res.End, res.Why)
	}
	for _, err := range res.BadIndexes {
		s.c.Report.Corruption("index of a segment is of no use; its records were read instead", err)
		s.BadIndexes = append(s.BadIndexes, err)
	}
	r := &Recovered{Scan: res, base: base}
	if !res.Torn { // else it would count the pages of a dropped batch, of which nothing is in the log from now on
		r.NextPage = s.Super.NextPage
	}
	r.discard = append(slices.Clone(res.Void), res.Corrupt...)
	r.outOfUse = res.OutOfUse
	if len(res.Unreadable) > 0 { // writing to them may fail, and stop the log
		text := fmt.Sprintf("slots %v of the log cannot be read; they are left out of use", res.Unreadable)
		s.c.Report.Corruption(text, nil)
		r.discard = slices.DeleteFunc(r.discard, func(id format.SegmentID) bool {
			return slices.Contains(res.Unreadable, id)
		})
		r.unread = res.Unreadable
	}
	if int64(res.End)%int64(s.Super.SegmentSize) != 0 {
		r.tail = &r.Scan.Segments[len(r.Scan.Segments)-1]
	}
	return r, s.recoverIDs(r)
}

// scan reads the segments and decides where the log ends.
func (s *Store) scan(base Base, fileSize int64) (*recovery.Result, error) {
	o := recovery.Options{Store: s.Super.Store, SegmentSize: s.Super.SegmentSize, Generation: s.Super.Generation,
		Clean: s.Super.Clean, End: s.Super.End, Floor: s.Super.Floor, File: s.LogFile(),
		Joined: s.Super.Joined, Lineage: s.Super.Lineage(), Listed: s.Super.Listed, Shrinks: s.Super.Extent.Shrinks,
		From: base.From, Stable: base.Stable, Counter: base.Counter, Known: base.Known, Recycled: base.Recycled,
		Left: base.Left, Log: s.Super.Log, Unreadable: vfs.IsUnreadable, OutOfUse: s.Super.OutOfUse.Slots(),
		Ends: s.Super.Ends}
	if s.Super.Log && !s.c.ReadOnly {
		if err := s.allocBuffers(); err != nil {
			return nil, err
		}
		o.Tail = s.tailBuffer()
		if !o.Clean || int64(o.End)%int64(o.SegmentSize) > hugeTail {
			useHugePages(o.Tail)
		}
	}
	defer func() { s.c.Report.Degraded("reading at Open", "", s.distrust.closeBulk()) }()
	if s.distrust.bulk != nil {
		o.Bulk = s.distrust.bulk
	} else {
		s.fetchHeaders(fileSize)
		if o.Tail != nil && s.Super.SegmentSize >= bulkSegment && fileSize%vfs.BulkAlign == 0 {
			bulk := s.file.OpenBulk()
			defer bulk.Close()
			if bulk.Direct() { // as the tail was written: the page cache does not have it
				o.TailSource = bulk
			}
		}
	}
	_ = s.file.Advise(vfs.PatternSequential) // a hint, like the one below
	res, err := recovery.Scan(s.file, o)
	if errors.Is(err, format.ErrSegmentVersion) {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if err != nil {
		return nil, err
	}
	_ = s.file.Advise(vfs.PatternRandom)
	if n := len(res.Segments); o.Tail != nil && n > 0 && res.Segments[n-1].InTail {
		return res, nil // nothing else is read before Start
	}
	return res, s.distrust.awaitDrop()
}

// checkLog compares the log that was found with what the superblock knows of it.
//
// A slot belongs to the file, durably, before anything is written to it (trap 13). So if the store was not closed
// cleanly, a file that ends inside a slot that was written to was cut short, and so was one without its first slot.
// After a clean close it is known where the log ends, and the file may end there.
func (s *Store) checkLog(res *recovery.Result, fileSize int64) error {
	sb, size := &s.Super, int64(s.Super.SegmentSize)
	last := format.SegmentID(fileSize / size)
	at := recovery.Place{}.WithSlot(last).WithOffset(format.Offset(fileSize))
	switch {
	case res.MaxGeneration > sb.Generation:
		// The generation is durable in the superblock before any header has it.
		reason := fmt.Sprintf("generation %d is below %d, that of a segment: this is an older superblock, "+
			"or that of another copy of the store", sb.Generation, res.MaxGeneration)
		return CorruptFile(s.superName(), reason, nil)
	case !sb.Clean && sb.Begun && fileSize < size:
		return s.CorruptLog(at, "the file was cut short: it had a whole segment")
	case !sb.Clean && fileSize/size < int64(max(sb.Extent.Slots, res.Slots)):
		reason := fmt.Sprintf("the file was cut short: it has %d whole segments, and had %d", fileSize/size,
			max(sb.Extent.Slots, res.Slots))
		return s.CorruptLog(at, reason)
	case !sb.Clean && fileSize%size != 0 && !slices.Contains(res.Zero, last):
		return s.CorruptLog(at, "the file was cut short: it ends inside a segment that was written to")
	case res.End < sb.Floor:
		reason := fmt.Sprintf("the log ends at LSN %d, below %d, where an earlier opening found it to go on: %s",
			res.End, sb.Floor, res.Why)
		return s.CorruptLog(s.placeOfEnd(res), reason)
	}
	return nil
}

// placeOfEnd returns the place where the log ends.
func (s *Store) placeOfEnd(res *recovery.Result) recovery.Place {
	at := recovery.Place{}.WithLSN(res.End)
	if n := len(res.Segments); n > 0 && int64(res.End)%int64(s.Super.SegmentSize) != 0 {
		g := &res.Segments[n-1]
		at = at.WithSlot(g.Slot).WithOffset(g.Slot.Offset(s.Super.SegmentSize) + format.Offset(res.End-g.Base))
	}
	return at
}

// fetchHeaders reads the headers of all segments into the page cache in parallel if there are many. Read a few at a
// time, they would wait for the disk one after another.
func (s *Store) fetchHeaders(fileSize int64) {
	const few, together = 32, 1024
	size := int64(s.Super.SegmentSize)
	if fileSize < few*size {
		return
	}
	ranges := make([]vfs.Range, 0, together)
	for off := int64(0); off < fileSize-format.SegmentHeaderSize; off += size {
		ranges = append(ranges, vfs.Range{Off: off, Len: format.SegmentHeaderSize})
		if len(ranges) == together || off+size >= fileSize-format.SegmentHeaderSize {
			_, _ = s.View.Warm(ranges) // the scan reports headers that could not be read
			ranges = ranges[:0]
		}
	}
}

// recoverIDs decides where the id counter goes on. Ids are handed out below the last durable note plus twice the
// interval, so a crashed store goes on there and ids never repeat. Values that would make them repeat are corruption
// (rule 12).
func (s *Store) recoverIDs(r *Recovered) error {
	if max(s.Super.NextID, r.Scan.Counter) > MaxID || s.Super.IDInterval > MaxIDInterval {
		const text = "next id %d, noted id %d, interval %d: out of bounds"
		problem := fmt.Sprintf(text, s.Super.NextID, r.Scan.Counter, s.Super.IDInterval)
		return CorruptFile(filepath.Join(s.Dir, SuperName), problem, nil)
	}
	r.NextID = s.Super.NextID
	if s.Found && !s.Super.Clean {
		r.NextID = max(r.NextID, r.Scan.Counter) + 2*max(s.Super.IDInterval, s.c.IDInterval)
	}
	r.IDLimit = r.NextID + 2*s.c.IDInterval
	return nil
}

// MaxMessages returns an upper bound on the number of messages in n segments.
func MaxMessages(n, segmentSize int) format.PageID {
	const slack = 1 << 20
	return slack + format.PageID(n*(segmentSize/format.HeaderSize))
}
