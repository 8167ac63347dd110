package recovery

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"pagecache/segments/format"
)

// A snapshot is a fuzzy checkpoint: what the page table held, page by page, at some moment after the log was stable up to From. The log from
// there on makes it whole: a message counts if its LSN is above the page's newest. It is laid out to be looked up by page id in the file, so that
// nothing of it but its lists is read when a store is opened.
//
//	S1  Everything that it refers to was stable before it got its name.
//	S2  Each block is verified before the first entry of it is used.
//	S3  The log alone is enough: a snapshot that is damaged costs time.
//
// (Fuzzy checkpoints: Gray and Reuter, Transaction Processing, 1993, chapter 11.)

// SnapshotFile is what a Snapshot is read from.
type SnapshotFile interface {
	Source
	// View returns bytes [off, off+n) of the file, mapped.
	View(off int64, n int) ([]byte, error)
	// Guard calls f, which reads what View returned, and turns a fault into an error.
	Guard(f func() error) error
}

// Ref is a message that a page consists of.
type Ref struct {
	LSN  format.LSN
	Len  uint32 // of the message in bytes
	Blob bool   // it points to a blob
}

// Page is what a snapshot says of a page.
type Page struct {
	Kind format.SnapshotKind
	LSN  format.LSN // of its newest message
	Refs []Ref      // newest first
}

// Snapshot reads a snapshot. Safe for concurrent use.
type Snapshot struct {
	format.SnapshotHeader
	Segments []format.SnapshotSegment // by base
	Blobs    []format.SnapshotBlob    // by page

	file SnapshotFile
	name string
	seed format.Seed
	free []byte // ids that are free, by record block
	// checked says which blocks were found whole. A stale read costs another check.
	checked []atomic.Uint32
}

// OpenSnapshot reads header and lists. Errors other than those of reading wrap format.ErrSnapshot.
func OpenSnapshot(f SnapshotFile, name string, store format.StoreID, segmentSize int) (*Snapshot, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, format.SnapshotBlock)
	if err := readFull(f, b, 0); err != nil {
		return nil, err
	}
	h, err := format.DecodeSnapshotHeader(b, size)
	if err != nil {
		return nil, err
	}
	if h.Store != store || h.SegmentSize != segmentSize {
		return nil, fmt.Errorf("%w: it is of store %v with segments of %d bytes", format.ErrSnapshot, h.Store, h.SegmentSize)
	}
	rest := make([]byte, h.RestSize()) // within the file
	if err := readFull(f, rest, h.RestOffset()); err != nil {
		return nil, err
	}
	s := &Snapshot{SnapshotHeader: h, file: f, name: name, seed: h.Seed()}
	if s.Segments, s.Blobs, s.free, err = format.DecodeSnapshotRest(rest, &h); err != nil {
		return nil, err
	}
	s.checked = make([]atomic.Uint32, h.RestOffset()/format.SnapshotBlock/32+1)
	return s, nil
}

func readFull(f io.ReaderAt, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if n == len(b) || err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return fmt.Errorf("%w: it ends at %d", format.ErrSnapshot, off+int64(n))
}

// Check verifies every block. It reads all of the file.
func (s *Snapshot) Check() error {
	buf := make([]byte, walkPiece)
	for off := int64(format.SnapshotBlock); off < s.RestOffset(); off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), s.RestOffset()-off)]
		if err := readFull(s.file, buf, off); err != nil {
			return err
		}
		for at := 0; at < len(buf); at += format.SnapshotBlock {
			number := (off + int64(at)) / format.SnapshotBlock
			if err := format.CheckSnapshotBlock(buf[at:], s.seed, number); err != nil {
				return err
			}
			s.checked[number/32].Or(1 << (number % 32))
		}
	}
	return nil
}

// walkPiece is how much is read at once when all is read.
const walkPiece = 64 * format.SnapshotBlock

// entry returns entry i of the entries that begin at block first.
func (s *Snapshot) entry(first, i int64) (e format.SnapshotEntry, err error) {
	number := first + i/format.EntriesPerBlock
	err = s.file.Guard(func() error {
		b, err := s.file.View(number*format.SnapshotBlock, format.SnapshotBlock)
		if err != nil {
			return err
		}
		if word, bit := &s.checked[number/32], uint32(1)<<(number%32); word.Load()&bit == 0 {
			if err := format.CheckSnapshotBlock(b, s.seed, number); err != nil {
				return err
			}
			word.Or(bit)
		}
		e, err = format.GetSnapshotEntry(b[i%format.EntriesPerBlock*format.SnapshotEntrySize:], &s.SnapshotHeader)
		return err
	})
	return e, err
}

// Page returns what the snapshot says of a page below NextPage. An error is a *CorruptError.
func (s *Snapshot) Page(pid format.PageID) (Page, error) {
	e, err := s.entry(1, int64(pid))
	if err != nil {
		return Page{}, s.CorruptPage(pid, err)
	}
	p := Page{Kind: e.Kind, LSN: e.LSN}
	switch e.Kind {
	case format.SnapshotKindNone:
	case format.SnapshotKindPages:
		p.Refs = make([]Ref, 0, e.Len)
		for i := range int64(e.Len) {
			r, err := s.entry(s.RefBlock(), int64(e.First)+i)
			if err == nil && r.Kind != format.SnapshotKindPage {
				err = fmt.Errorf("%w: a reference of kind %d", format.ErrSnapshot, r.Kind)
			}
			if err != nil {
				return Page{}, s.CorruptPage(pid, err)
			}
			p.Refs = append(p.Refs, Ref{r.LSN, r.Len, r.Blob})
		}
	default:
		p.Refs = []Ref{{e.LSN, e.Len, e.Blob}}
	}
	return p, nil
}

// Corrupt returns a *CorruptError that says that the snapshot is corrupt, because of err. The log still holds everything.
func (s *Snapshot) Corrupt(err error) error { return s.corrupt(Place{}, err) }

// CorruptPage is Corrupt for an error in the data of one page.
func (s *Snapshot) CorruptPage(pid format.PageID, err error) error {
	return s.corrupt(Place{}.WithPage(pid), err)
}

func (s *Snapshot) corrupt(at Place, err error) error {
	return &CorruptError{File: s.name, Place: at, Err: err,
		Reason: "the snapshot is corrupt; without this file the store opens from the log alone"}
}

// FreeBelow returns the highest free page id below pid, false if there is none. Ids in damaged blocks are not found.
func (s *Snapshot) FreeBelow(pid format.PageID) (format.PageID, bool) {
	for pid > format.FirstUserPage {
		block := (pid - 1) / format.EntriesPerBlock
		if s.free[block] == 0 {
			pid = block * format.EntriesPerBlock
			continue
		}
		pid--
		e, err := s.entry(1, int64(pid))
		if err != nil {
			pid = block * format.EntriesPerBlock
			continue
		}
		if e.Kind == format.SnapshotKindNone || e.Kind == format.SnapshotKindFree {
			return pid, true
		}
	}
	return 0, false
}

// SnapshotWriter writes a snapshot to a file. It belongs to one goroutine.
type SnapshotWriter struct {
	h       format.SnapshotHeader
	f       io.WriterAt
	size    format.LSN // of a segment
	records blockWriter
	refs    blockWriter
	live    map[format.LSN]int64
	blobs   []format.SnapshotBlob
	free    []byte
	next    format.PageID
}

// blockWriter fills blocks of entries and writes many at once.
type blockWriter struct {
	f      io.WriterAt
	seed   format.Seed
	number int64 // of the first block in buf
	buf    []byte
	n      int64 // entries put
	err    error
}

func (w *blockWriter) put(e format.SnapshotEntry) {
	i := w.n % format.EntriesPerBlock
	if i == 0 {
		if len(w.buf) == cap(w.buf) {
			w.flush()
		}
		w.buf = w.buf[:len(w.buf)+format.SnapshotBlock]
		clear(w.buf[len(w.buf)-format.SnapshotBlock:])
	}
	e.Put(w.buf[len(w.buf)-format.SnapshotBlock+int(i)*format.SnapshotEntrySize:])
	w.n++
}

func (w *blockWriter) flush() {
	for at := 0; at < len(w.buf); at += format.SnapshotBlock {
		format.SealSnapshotBlock(w.buf[at:], w.seed, w.number+int64(at/format.SnapshotBlock))
	}
	if w.err == nil && len(w.buf) > 0 {
		_, w.err = w.f.WriteAt(w.buf, w.number*format.SnapshotBlock)
	}
	w.number += int64(len(w.buf) / format.SnapshotBlock)
	w.buf = w.buf[:0]
}

// NewSnapshotWriter returns a writer to an empty file. Of h it uses Store, Number, From, NextPage, Counter, Recycled and SegmentSize.
func NewSnapshotWriter(f io.WriterAt, h format.SnapshotHeader) *SnapshotWriter {
	h.High = format.NoLSN
	w := &SnapshotWriter{h: h, f: f, size: format.LSN(h.SegmentSize), live: map[format.LSN]int64{}}
	w.records = blockWriter{f: f, seed: h.Seed(), number: 1, buf: make([]byte, 0, walkPiece)}
	w.refs = blockWriter{f: f, seed: h.Seed(), number: h.RefBlock(), buf: make([]byte, 0, walkPiece)}
	w.free = make([]byte, h.RecordBlocks())
	return w
}

// Add says what the next page is; pages are added in the order of their ids, all below NextPage.
func (w *SnapshotWriter) Add(p Page) {
	pid := w.next
	w.next++
	e := format.SnapshotEntry{Kind: p.Kind, LSN: p.LSN}
	if len(p.Refs) == 1 {
		e.Len, e.Blob = p.Refs[0].Len, p.Refs[0].Blob
	}
	if len(p.Refs) > 1 {
		e.Kind, e.Len, e.First = format.SnapshotKindPages, uint32(len(p.Refs)), uint32(w.refs.n)
		for _, r := range p.Refs {
			w.refs.put(format.SnapshotEntry{Kind: format.SnapshotKindPage, LSN: r.LSN, Len: r.Len, Blob: r.Blob})
		}
	}
	if (p.Kind == format.SnapshotKindNone || p.Kind == format.SnapshotKindFree) && pid >= format.FirstUserPage {
		w.h.Free++
		w.free[pid/format.EntriesPerBlock]++
	}
	for _, r := range p.Refs {
		w.live[r.LSN-r.LSN%w.size] += int64(format.AlignUp(int(r.Len)))
	}
	w.h.High = max(w.h.High, p.LSN)
	w.records.put(e)
}

// AddBlob says that the page that was added last refers to a blob.
func (w *SnapshotWriter) AddBlob(id format.BlobID, n int64) {
	w.blobs = append(w.blobs, format.SnapshotBlob{Page: w.next - 1, ID: id, Len: n})
}

// Err is why writing has failed so far.
func (w *SnapshotWriter) Err() error { return cmp.Or(w.records.err, w.refs.err) }

// High is the newest message of all pages added: the log must be stable beyond it before the snapshot gets its name.
func (w *SnapshotWriter) High() format.LSN { return w.h.High }

// Finish writes the rest. inUse are the bases of the segments that were in use when the count of those recycled was taken.
func (w *SnapshotWriter) Finish(inUse []format.LSN) error {
	if w.next != w.h.NextPage {
		return fmt.Errorf("snapshot of %d pages, %d were added", w.h.NextPage, w.next)
	}
	w.records.flush()
	w.refs.flush()
	w.h.Refs = w.refs.n
	segs := make([]format.SnapshotSegment, 0, len(inUse))
	for _, base := range inUse {
		segs = append(segs, format.SnapshotSegment{Base: base, Live: w.live[base]})
		delete(w.live, base)
	}
	for base, live := range w.live { // begun later
		if base >= w.h.From {
			segs = append(segs, format.SnapshotSegment{Base: base, Live: live})
		}
	}
	slices.SortFunc(segs, func(a, b format.SnapshotSegment) int { return cmp.Compare(a.Base, b.Base) })
	w.h.Segments, w.h.Blobs = len(segs), len(w.blobs)
	rest := format.AppendSnapshotRest(nil, segs, w.blobs, w.free)
	w.h.RestCRC = format.SnapshotRestCRC(rest)
	head := make([]byte, format.SnapshotBlock)
	w.h.Put(head)
	_, err := w.f.WriteAt(rest, w.h.RestOffset())
	if err == nil {
		_, err = w.f.WriteAt(head, 0)
	}
	return cmp.Or(w.Err(), err)
}
