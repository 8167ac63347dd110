package recovery

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"unsafe"

	"pagecache/segments/format"
)

// A Source is the file to read. It is safe for concurrent use.
type Source interface {
	io.ReaderAt
	Size() (int64, error)
}

// BulkAlign is the alignment in bytes, of memory and of offsets, of all that Scan reads through a Bulk, except at the
// end of a file that ends inside a block.
const BulkAlign = 4096

// Bulk reads whole segments of the log file, into buffers of its own or into Options.Tail. Scan uses no buffer after it
// has called free.
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
	Joined      format.Identity   // Ledger.Joined of the segments below End according to the superblock, if Clean
	Lineage     format.Lineage    // the store's timelines, from the superblock
	Listed      format.LSN        // from here on, Lineage is complete
	Shrinks     uint32            // how often the file was made shorter, from the superblock
	// OutOfUse are slots that hold no part of the log, whatever is in them, from the superblock.
	OutOfUse []format.SegmentID
	// Ends are the LSNs at which segments end early, from the superblock.
	Ends format.EndList
	// Log says that this is a standalone log: its sealed segments end with an index, and their records are not read
	// where that can be relied on. The messages are not indexed, so Apply and ByPage visit none.
	Log bool
	// From a snapshot, if there is one:
	From     format.LSN   // Apply omits the messages below
	Stable   format.LSN   // the log was stable up to this LSN
	Counter  uint64       // the highest id counter below From
	Known    []format.LSN // bases of the segments that were in use: for slots whose header cannot be read
	Recycled uint64       // segments that had left the log, and the sum of their identities
	Left     format.Identity
	File     string // name of the file in errors
	Workers  int    // goroutines that read segments; 0: 4, so that the disk works while messages are verified
	Bulk     Bulk   // if set, reads whole segments
	// Tail is memory for the newest segment of a standalone log, all zero, as long as a segment and aligned as Bulk
	// needs it; nil if the caller does not need the segment. See Segment.InTail and Result.TailFilled.
	Tail []byte
	// TailSource reads the segment to Tail; nil: Bulk, or the file, does.
	TailSource io.ReaderAt
	// Unreadable reports whether an error of reading says that the disk did not return the bytes. The log is then read
	// without them, as far as it does not need them. If nil, no error says so.
	Unreadable func(error) bool
}

// A Segment is a slot that holds a part of the recovered log.
type Segment struct {
	Slot       format.SegmentID
	Base       format.LSN
	Generation format.Generation
	Timeline   format.Timeline // in the header
	Identity   format.Identity
	Stable     format.LSN // the stable LSN in the header
	Used       int        // bytes of the log, header included; less than the segment size only in the last segment
	Unread     bool       // the disk does not return the header
	// InTail says that Options.Tail holds the segment as it was read, that the disk has returned all of it, and that
	// its messages were verified there.
	InTail bool
	// Outline is that of the index, if the segment ends with one that lists a few runs and was read instead of it. It
	// is nil if the segment ends early, or the log ends inside of it: the index lists messages behind that.
	Outline *format.IndexView
}

// A Result is the log that Scan found. It belongs to one goroutine at a time.
type Result struct {
	Segments []Segment          // the segments of the log, in order
	Void     []format.SegmentID // marked in use, but discarded by an earlier recovery or by this one
	Gone     []format.SegmentID // marked in use, but their segments have left the log
	Corrupt  []format.SegmentID // header neither zeros nor valid
	// Unreadable has those of Corrupt whose header the disk does not return. The log does not need them.
	Unreadable []format.SegmentID
	Free       []format.SegmentID // marked free
	Zero       []format.SegmentID // never written
	OutOfUse   []format.SegmentID // those of Options.OutOfUse that the file has

	End           format.LSN        // where the log ends, after batches were cut off
	Tip           format.LSN        // where the valid messages end
	Stable        format.LSN        // the highest LSN known to have been stable; NoLSN if none
	Durable       format.LSN        // the end of what is known to have been durable; above Stable
	MaxGeneration format.Generation // the highest in superblock and headers
	Counter       uint64            // the highest id counter below Tip, even if End cuts it off; 0 if none
	Torn          bool              // something was discarded
	Recycled      uint64            // segments recycled since the store was created
	Left          format.Identity   // sum of their identities
	Why           string            // why the log ends at End
	Indexed       int               // segments of a standalone log of which only the index was read
	// BadIndexes has an error for each sealed segment of a standalone log whose index is corrupt or cannot be read. The
	// records before the place were read and are intact. If all of the index lies where the disk does not return the
	// segment's end, reading the records there fails.
	BadIndexes []*CorruptError
	// Slots is the number of slots that the file must have, according to the headers of Options.Shrinks.
	Slots uint32
	// Timelines are those in the headers of slots in use, void ones included.
	Timelines map[format.Timeline]bool
	// TailFilled is the number of bytes at the beginning of Options.Tail that Scan may have written to.
	TailFilled int
	// Decisions are those about groups in several parts that the scan has found, by First. Of each group the latest is
	// there.
	Decisions []format.Decision

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
	s := scanner{src: src, o: o, size: o.SegmentSize, writers: map[writer]bool{},
		res: &Result{from: o.From, size: o.SegmentSize, Timelines: map[format.Timeline]bool{}}}
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

	firstHole format.LSN               // where the first hole below the known-stable LSN begins
	lastHole  format.LSN               // where the last such hole ends; 0 if there is none
	lostBelow format.LSN               // where the last segment ends whose end cannot be read; 0 if there is none
	cutLeft   format.Ledger            // what has left by messages below Tip, as far as it is set
	cutGone   map[format.Identity]bool // those segments of the messages
	writers   map[writer]bool          // of the headers of all slots
	slots     []slot                   // the slots that hold, or may have held, a part of the log
	newest    format.Generation        // the highest of the chain
	chain     []int                    // indexes into slots: the log according to the headers, by base
	fellBack  bool                     // the newest segment of chain is an older copy; see fallBack
	// firstCorrupt is the error in the header of res.Corrupt[0].
	firstCorrupt error
	unread       map[format.SegmentID]error // the headers that the disk does not return
	stable       format.LSN                 // the known-stable LSN
	durable      format.LSN                 // the known-durable end, except that stable may be higher; see known
	segments     []walked                   // parallel to slots
	// proven is the end of the part of a standalone log that is known to be durable while its segments are read.
	proven  format.LSN
	indexes []walked   // of a standalone log, parallel to slots: what indexes say; see readLog
	buffers sync.Mutex // held while a reader takes a buffer
	res     *Result
}

// slot is a slot that is in use, or whose header is not valid.
type slot struct {
	id       format.SegmentID
	valid    bool                 // the header is valid, and its state is "in use"
	unread   bool                 // valid, but only as adoptUnread has found out: the disk does not return the header
	invalid  error                // the error in the header; nil if valid
	header   format.SegmentHeader // if valid; if unread, Base and Generation alone
	gen      format.Generation    // of header
	base     format.LSN           // of header
	identity format.Identity      // if valid; that of an unread one is found by checkSet
	void     bool                 // valid, but an earlier recovery has discarded it
	gone     bool                 // valid, but its segment has left the log
}

// writer is an opening that wrote a header.
type writer struct {
	timeline format.Timeline
	gen      format.Generation
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

// readBodies walks or probes every slot of s.slots, except for sealed segments of which the index is enough.
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
	readers := make([]reader, workers)
	for i := range readers {
		readers[i] = reader{s: s, gens: gens, free: func() {}}
		defer func() { readers[i].free() }()
		if s.o.Log {
			continue // most of its segments need no buffer
		}
		if _, err := readers[i].buffer(); err != nil {
			return err
		}
	}
	if s.o.Log && workers > 0 {
		s.readLog(readers)
	} else {
		s.inParallel(readers, (*reader).read, func() {})
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

// inParallel calls read for each slot, with each of the readers in a goroutine, and calls beside meanwhile. Slots
// without a valid header come first: they take longest. A single reader works in the calling goroutine.
func (s *scanner) inParallel(readers []reader, read func(r *reader, i int), beside func()) {
	var left atomic.Int64
	left.Store(int64(len(s.slots)))
	work := func(r *reader) {
		for i := int(left.Add(-1)); i >= 0; i = int(left.Add(-1)) {
			read(r, i)
		}
	}
	if len(readers) == 1 {
		beside()
		work(&readers[0])
		return
	}
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() { work(&readers[i]) })
	}
	beside()
	wg.Wait()
}

// known returns the known-durable end.
func (s *scanner) known() format.LSN { return max(s.durable, s.stable+1) }

// body returns the reader for whole segments.
func (s *scanner) body() io.ReaderAt {
	if s.o.Bulk != nil {
		return s.o.Bulk
	}
	return s.src
}

// reader is the memory of a goroutine that reads segments.
type reader struct {
	s       *scanner
	gens    []format.Generation
	buf     []byte // a segment; nil before the first
	free    func() // releases buf
	entries []entry
	index   []byte // an index, or its end; without Bulk, memory that is used again
	small   small
}

// small reads a few bytes at any place. It belongs to one goroutine.
type small struct{ mem []byte }

// readAt reads buf at off. With Bulk it reads whole blocks, as that needs.
func (m *small) readAt(s *scanner, buf []byte, off int64) error {
	if s.o.Bulk == nil {
		return s.readAt(s.src, buf, off)
	}
	const align = BulkAlign
	skip := int(off & (align - 1))
	n := (skip + len(buf) + align - 1) &^ (align - 1)
	if len(m.mem) < n {
		mem := make([]byte, n+align)
		m.mem = mem[-int(uintptr(unsafe.Pointer(unsafe.SliceData(mem))))&(align-1):]
	}
	if err := s.readAt(s.o.Bulk, m.mem[:n], off-int64(skip)); err != nil {
		return err
	}
	copy(buf, m.mem[skip:])
	return nil
}

// buffer returns the buffer for a segment.
func (r *reader) buffer() (buf []byte, err error) {
	if r.buf != nil {
		return r.buf, nil
	}
	r.s.buffers.Lock()
	defer r.s.buffers.Unlock()
	if bulk := r.s.o.Bulk; bulk != nil {
		buf, free, err := bulk.Buffer(r.s.size)
		if err != nil {
			return nil, err
		}
		r.buf, r.free = buf, free
		return buf, nil
	}
	r.buf = make([]byte, r.s.size)
	return r.buf, nil
}

// neverWritten reports whether a slot has zeros where its header and the start of its body would be. Nothing in it was
// acknowledged then, since the log becomes stable in order (rule 5), so the rest is not read: it was allocated, and
// perhaps zeroed, ahead of need. A single bad sector does not hide a segment in this way (rule 16).
func (r *reader) neverWritten(t *slot) bool {
	if !errors.Is(t.invalid, format.ErrSegmentZero) {
		return false
	}
	b := make([]byte, min(len(zeros), r.s.size-format.SegmentStart))
	off := int64(t.id.Offset(r.s.size)) + format.SegmentStart
	return r.small.readAt(r.s, b, off) == nil && bytes.Equal(b, zeros[:len(b)])
}

// read walks or probes slot i of s.slots, or reads its index.
func (r *reader) read(i int) {
	s := r.s
	t, w := &s.slots[i], &s.segments[i]
	w.read, w.log, w.stable = true, s.o.Log, format.NoLSN
	if t.valid && t.base < s.firstBase {
		w.end = s.size // none of its messages is needed
		return
	}
	if s.provenWhole(t) {
		if x := r.indexOf(i); x != nil {
			*w = *x
			return
		}
	}
	if !t.valid && r.neverWritten(t) {
		w.base = format.NoLSN
		return
	}
	buf, tail, err := r.memoryFor(i)
	if err != nil {
		w.err = err
		return
	}
	if tail && r.walkTail(i) {
		w.checkBadIndex(s, t, buf)
		return
	}
	gaps, err := s.readSegment(buf, int64(t.id.Offset(s.size)))
	if w.err = err; err != nil {
		return
	}
	if t.valid {
		r.walk(i, buf, nil)
		w.blame(buf, gaps)
		w.checkBadIndex(s, t, buf)
		return
	}
	w.first = firstLSN(buf, gaps)
	trials := make([]trial, len(r.gens))
	for j, g := range r.gens {
		trials[j] = trial{format.MakeSeed(s.o.Store, g, t.id), g < s.newest}
	}
	w.probe(buf, trials)
}

// walk walks slot i of s.slots, which is in buf. f is not nil if buf is being filled.
func (r *reader) walk(i int, buf []byte, f *filling) {
	s := r.s
	t, w := &s.slots[i], &s.segments[i]
	w.entries, w.filling = r.entries[:0], f
	w.used = s.o.Ends.Used(t.base, s.size)
	w.walk(buf, t.base, s.o.From, format.MakeSeed(s.o.Store, t.gen, t.id))
	// The memory is used again, so that each segment's index is allocated once, with its final size.
	r.entries, w.entries, w.filling = w.entries, append([]entry(nil), w.entries...), nil
}

// checkBadIndex sets badIndex of a segment that was walked in buf.
func (w *walked) checkBadIndex(s *scanner, t *slot, buf []byte) {
	end, lsn := buf[s.size-format.IndexTrailerSize:], t.base+format.LSN(w.end)
	seed := format.MakeSeed(s.o.Store, t.gen, t.id)
	w.badIndex = s.o.Log && w.why != nil && format.IndexBegins(buf[w.end:], end, lsn, s.size, seed)
}
