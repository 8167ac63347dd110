package recovery

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"pagecache/segments/format"
)

// A Source is the file to read. It is safe for concurrent use.
type Source interface {
	io.ReaderAt
	Size() (int64, error)
}

// Bulk reads whole segments of the log file, into buffers of its own. Scan uses no buffer after it has called free.
type Bulk interface {
	io.ReaderAt
	Buffer(n int) (buf []byte, free func(), err error)
}

// Options are the facts about a log that are known before the log is read.
type Options struct {
	Store       format.StoreID
	SegmentSize int               // bytes
	Generation  format.Generation // of the last opening, from the superblock
	Clean       bool              // the superblock says that the store was closed cleanly
	End         format.LSN        // end of the log according to the superblock, if Clean
	Floor       format.LSN        // an end of the log that an earlier opening decided on: no end below it is accepted
	// From a snapshot, if there is one:
	From     format.LSN   // Apply omits the messages below
	Stable   format.LSN   // the log was stable up to this LSN
	Counter  uint64       // the highest id counter below From
	Known    []format.LSN // bases of the segments wholly below From that were in use when Recycled was counted
	Recycled uint64       // segments recycled until then whose base was below From
	File     string       // name of the file in errors
	Workers  int          // goroutines that read segments; 0: 4, so that the disk works while messages are verified
	Bulk     Bulk         // if set, reads whole segments
	// Unreadable reports whether an error of reading says that the disk did not return the bytes. The log is then read
	// without them, as far as it does not need them. If nil, no error says so.
	Unreadable func(error) bool
}

// A Segment is a slot that holds a part of the recovered log.
type Segment struct {
	Slot       format.SegmentID
	Base       format.LSN
	Generation format.Generation
	Stable     format.LSN // the stable LSN in the header
	Used       int        // bytes of the log, header included; less than the segment size only in the last segment
}

// A Result is the log that Scan found. It belongs to one goroutine at a time.
type Result struct {
	Segments []Segment          // the segments of the log, in order
	Void     []format.SegmentID // marked in use, but discarded by an earlier recovery or by this one
	Corrupt  []format.SegmentID // header neither zeros nor valid
	// Unreadable has those of Corrupt whose header the disk does not return. The log does not need them.
	Unreadable []format.SegmentID
	Free       []format.SegmentID // marked free
	Zero       []format.SegmentID // never written

	End           format.LSN        // where the log ends, after batches were cut off
	Tip           format.LSN        // where the valid messages end
	Stable        format.LSN        // the highest LSN known to have been stable; NoLSN if none
	Durable       format.LSN        // the end of what is known to have been durable; above Stable
	MaxGeneration format.Generation // the highest in superblock and headers
	Counter       uint64            // the highest id counter below Tip, even if End cuts it off; 0 if none
	Torn          bool              // something was discarded
	Recycled      uint64            // segments recycled since the store was created
	Why           string            // why the log ends at End

	from  format.LSN
	size  int
	index []*walked // parallel to Segments; nil below from
}

// Messages returns the number of messages that Apply visits, or a few more.
func (r *Result) Messages() (n int64) {
	for _, w := range r.index {
		if w != nil {
			n += int64(len(w.entries))
		}
	}
	return n
}

// Scan reads the log and decides where it ends. It returns a *CorruptError if acknowledged data is corrupt. Errors of
// src are wrapped with the place.
func Scan(src Source, o Options) (*Result, error) {
	if o.SegmentSize < format.MinSegmentSize || o.SegmentSize > format.MaxSegmentSize ||
		o.SegmentSize%format.Align != 0 || o.From < 0 || o.End < 0 || o.Floor < 0 {
		return nil, fmt.Errorf("scan %s: invalid options: segment size %d, from LSN %d, end LSN %d",
			o.File, o.SegmentSize, o.From, o.End)
	}
	s := scanner{src: src, o: o, size: o.SegmentSize, res: &Result{from: o.From, size: o.SegmentSize}}
	s.firstBase = o.From - o.From%format.LSN(s.size)
	for _, step := range []func() error{s.readHeaders, s.readBodies, s.conclude} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return s.res, nil
}

// scanner is the state of one Scan.
type scanner struct {
	src       Source
	o         Options
	size      int   // of a segment, bytes
	fileSize  int64 // bytes
	firstBase format.LSN

	firstHole format.LSN        // where the first hole below the known-stable LSN begins
	lastHole  format.LSN        // where the last such hole ends; 0 if there is none
	missing   uint64            // segments in such holes
	uncounted uint64            // slots marked as recycled since the highest count was written
	slots     []slot            // the slots that hold, or may have held, a part of the log
	newest    format.Generation // the highest of the chain
	chain     []int             // indexes into slots: the log according to the headers, by base
	// firstCorrupt is the error in the header of res.Corrupt[0].
	firstCorrupt error
	unread       map[format.SegmentID]error // the headers that the disk does not return
	stable       format.LSN                 // the known-stable LSN
	durable      format.LSN                 // the known-durable end, except that stable may be higher; see known
	segments     []walked                   // parallel to slots
	res          *Result
}

// slot is a slot that is in use, or whose header is not valid.
type slot struct {
	id      format.SegmentID
	valid   bool  // the header is valid, and its state is "in use"
	invalid error // the error in the header; nil if valid
	gen     format.Generation
	base    format.LSN
	claim   format.LSN // the header's stable LSN
	void    bool       // valid, but an earlier recovery has discarded it
}

// readAt reads buf at off. It fills the part past the end of the file with zeros.
func (s *scanner) readAt(src io.ReaderAt, buf []byte, off int64) error {
	n, err := src.ReadAt(buf, off)
	if n < len(buf) {
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %d bytes of %s at offset %d: %w", len(buf), s.o.File, off, err)
		}
		clear(buf[n:])
	}
	return nil
}

// With fewer segments or bytes than these, the calling goroutine reads the segments itself.
const (
	manySegments = 4
	manyBytes    = 1 << 20
)

// readBodies walks or probes every slot of s.slots.
func (s *scanner) readBodies() error {
	s.segments = make([]walked, len(s.slots))
	gens := s.probeGenerations()
	workers := s.o.Workers
	if workers <= 0 {
		workers = 4
	}
	if workers = min(workers, len(s.slots)); len(s.slots) < manySegments || len(s.slots)*s.size < manyBytes {
		workers = min(workers, 1)
	}
	bufs := make([][]byte, workers)
	for i := range bufs {
		buf, free, err := s.buffer()
		if err != nil {
			return err
		}
		defer free()
		bufs[i] = buf
	}
	var next atomic.Int64
	work := func(buf []byte) {
		var entries []entry // reused, so that each segment's index is allocated once, with its final size
		for i := int(next.Add(1)) - 1; i < len(s.slots); i = int(next.Add(1)) - 1 {
			w := &s.segments[i]
			w.entries = entries[:0]
			s.readBody(i, buf, gens)
			entries, w.entries = w.entries, append([]entry(nil), w.entries...)
		}
	}
	if workers == 1 {
		work(bufs[0])
	} else {
		var wg sync.WaitGroup
		for _, buf := range bufs {
			wg.Go(func() { work(buf) })
		}
		wg.Wait()
	}
	for i := range s.segments {
		if err := s.segments[i].err; err != nil {
			return err
		}
		s.stable = max(s.stable, s.segments[i].stable)
		if !s.slots[i].void {
			s.durable = max(s.durable, s.segments[i].durable)
		}
	}
	return nil
}

// known returns the known-durable end.
func (s *scanner) known() format.LSN { return max(s.durable, s.stable+1) }

// buffer returns a buffer for a segment. The caller calls free.
func (s *scanner) buffer() (buf []byte, free func(), err error) {
	if s.o.Bulk != nil {
		return s.o.Bulk.Buffer(s.size)
	}
	return make([]byte, s.size), func() {}, nil
}

// body returns the reader for whole segments.
func (s *scanner) body() io.ReaderAt {
	if s.o.Bulk != nil {
		return s.o.Bulk
	}
	return s.src
}

// readBody walks or probes slot i of s.slots, with buf for the segment.
func (s *scanner) readBody(i int, buf []byte, gens []format.Generation) {
	t, w := &s.slots[i], &s.segments[i]
	w.stable = format.NoLSN
	if t.valid && t.base < s.firstBase {
		w.end = s.size // none of its messages is needed
		return
	}
	gaps, err := s.readSegment(buf, int64(t.id.Offset(s.size)))
	if w.err = err; err != nil {
		return
	}
	if t.valid {
		w.walk(buf, t.base, s.o.From, format.MakeSeed(s.o.Store, t.gen, t.id))
		w.blame(buf, gaps)
		return
	}
	trials := make([]trial, len(gens))
	for j, g := range gens {
		trials[j] = trial{format.MakeSeed(s.o.Store, g, t.id), g < s.newest}
	}
	w.probe(buf, trials)
}
