package recovery

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"pagecache/segments/format"
)

// Source is the log file to read.
type Source interface {
	io.ReaderAt
	Size() (int64, error)
}

// Bulk is another way to read the log file, for whole segments: into memory of its own, which is not used after free.
type Bulk interface {
	io.ReaderAt
	Buffer(n int) (buf []byte, free func(), err error)
}

// Options says what is known about a log before it is read.
type Options struct {
	Store       format.StoreID
	SegmentSize int               // bytes
	Generation  format.Generation // the superblock's: that of the last opening
	Clean       bool              // the superblock says that the store was closed cleanly
	End         format.LSN        // the superblock's, if Clean
	// What a snapshot tells, if there is one.
	From     format.LSN   // messages below are known from it
	Stable   format.LSN   // the log was stable up to here
	Counter  uint64       // the highest id counter below From
	Known    []format.LSN // bases of the segments wholly below From that were in use when Recycled was counted
	Recycled uint64       // segments that had been recycled then, as far as they began below From
	File     string       // name for errors
	Workers  int          // segments read at once; 0: 4, so that the disk is busy while messages are verified
	Bulk     Bulk         // if set, whole segments are read with it
}

// Segment is a slot that holds a part of the recovered log.
type Segment struct {
	Slot       format.SegmentID
	Base       format.LSN
	Generation format.Generation
	Stable     format.LSN // the stable LSN that the header carries
	Used       int        // bytes that belong to the log, header included: less than the segment size in the last one
}

// Result is what Scan found. It is not safe for concurrent use while Apply runs.
type Result struct {
	Segments []Segment          // what holds the log, in its order
	Void     []format.SegmentID // marked in use, but not of the log: discarded before, or dropped now
	Corrupt  []format.SegmentID // header neither zeros nor valid
	Free     []format.SegmentID // marked free
	Zero     []format.SegmentID // never written

	End           format.LSN        // where the log ends, with batches cut
	Tip           format.LSN        // where its valid messages end
	Stable        format.LSN        // the highest LSN known to have been stable; NoLSN if none
	MaxGeneration format.Generation // the highest in the superblock and the headers
	Counter       uint64            // the highest id counter below Tip, whether End cuts it off or not; 0 if none
	Torn          bool              // something was dropped
	Recycled      uint64            // segments that were recycled, over the life of the store: messages may lack what they followed
	Why           string            // why the log ends where it does

	from  format.LSN
	size  int
	index []*walked // parallel to Segments; nil below from
}

// Scan reads the log and decides what belongs to it. Acknowledged data that is damaged: a *CorruptError. A file that
// cannot be read: the error of the Source, with the place.
func Scan(src Source, o Options) (*Result, error) {
	if o.SegmentSize < format.MinSegmentSize || o.SegmentSize > format.MaxSegmentSize || o.SegmentSize%format.Align != 0 ||
		o.From < 0 || o.End < 0 {
		return nil, fmt.Errorf("scan %s: segment size %d, from LSN %d, end %d: out of bounds", o.File, o.SegmentSize, o.From, o.End)
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

	firstHole format.LSN // where the first hole below the known-stable LSN begins, and where the last one ends; 0 if there is none
	lastHole  format.LSN
	uncounted uint64 // slots that were marked as recycled since the highest count was written
	missing   uint64 // segments in such holes
	slots     []slot // every slot of the file that holds, or may have held, a part of the log
	chain     []int  // indexes of slots, the log by headers alone, in order of base
	// firstCorrupt is the error in the first corrupt header.
	firstCorrupt error
	stable       format.LSN
	segments     []walked // parallel to slots
	res          *Result
}

// slot is a slot that is in use, or whose header says nothing.
type slot struct {
	id      format.SegmentID
	valid   bool  // the header is valid, and its state is "in use"
	invalid error // the error in the header; nil if valid
	gen     format.Generation
	base    format.LSN
	claim   format.LSN // the header's stable LSN
}

// readAt fills buf from off on, with zeros past the end of the file.
func (s *scanner) readAt(src io.ReaderAt, buf []byte, off int64) error {
	n, err := src.ReadAt(buf, off)
	if n < len(buf) {
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s, %d bytes at offset %d: %w", s.o.File, len(buf), off, err)
		}
		clear(buf[n:])
	}
	return nil
}

// Below these a scan is done by the calling goroutine.
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
		var entries []entry // room that is used again, so that the index is allocated once for each segment
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
	}
	return nil
}

// buffer returns memory for a segment.
func (s *scanner) buffer() (buf []byte, free func(), err error) {
	if s.o.Bulk != nil {
		return s.o.Bulk.Buffer(s.size)
	}
	return make([]byte, s.size), func() {}, nil
}

// body is what segments are read with.
func (s *scanner) body() io.ReaderAt {
	if s.o.Bulk != nil {
		return s.o.Bulk
	}
	return s.src
}

func (s *scanner) readBody(i int, buf []byte, gens []format.Generation) {
	t, w := &s.slots[i], &s.segments[i]
	w.stable = format.NoLSN
	if t.valid && t.base < s.firstBase {
		w.end = s.size // below From: nothing in it is needed
		return
	}
	if w.err = s.readAt(s.body(), buf, int64(t.id.Offset(s.size))); w.err != nil {
		return
	}
	if t.valid {
		w.walk(buf, t.base, s.o.From, format.MakeSeed(s.o.Store, t.gen, t.id))
		return
	}
	seeds := make([]format.Seed, len(gens))
	for j, g := range gens {
		seeds[j] = format.MakeSeed(s.o.Store, g, t.id)
	}
	w.probe(buf, seeds)
}
