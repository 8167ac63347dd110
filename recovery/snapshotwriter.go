package recovery

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"pagecache/segments/format"
)

// A SnapshotWriter writes a snapshot to a file. It belongs to one goroutine.
type SnapshotWriter struct {
	h       format.SnapshotHeader
	f       io.WriterAt
	size    format.LSN // of a segment
	records blockWriter
	refs    blockWriter
	live    map[format.LSN]int64 // live bytes by base of their segment
	blobs   []format.SnapshotBlob
	free    []byte // number of free ids in each record block
	roots   []byte // encoded
	decided []format.Decision
	next    format.PageID
	err     error // of Add
}

// blockWriter collects entries in blocks and writes many blocks at once.
type blockWriter struct {
	f      io.WriterAt
	seed   format.Seed
	number int64 // of the first block in buf
	buf    []byte
	n      int64 // number of entries put
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

// NewSnapshotWriter returns a writer to an empty file. It uses these fields of h: Store, Timeline, Number, From,
// NextPage, Counter, Recycled, Left and SegmentSize.
func NewSnapshotWriter(f io.WriterAt, h format.SnapshotHeader) *SnapshotWriter {
	h.High = format.NoLSN
	w := &SnapshotWriter{h: h, f: f, size: format.LSN(h.SegmentSize), live: map[format.LSN]int64{}}
	w.records = blockWriter{f: f, seed: h.Seed(), number: 1, buf: make([]byte, 0, walkPiece)}
	w.refs = blockWriter{f: f, seed: h.Seed(), number: h.RefBlock(), buf: make([]byte, 0, walkPiece)}
	w.free = make([]byte, h.RecordBlocks())
	return w
}

// Add adds the next page. The caller adds all pages below NextPage, in the order of their ids. A page that exists, or
// is free, has at least one message; otherwise Err and Finish return an error.
func (w *SnapshotWriter) Add(p Page) {
	pid := w.next
	w.next++
	if len(p.Refs) == 0 && p.Kind != format.SnapshotKindNone && w.err == nil {
		w.err = fmt.Errorf("add page %d to snapshot: %w", pid, errNoRefs)
	}
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

// AddBlob adds a blob of n bytes to which the page added last refers.
func (w *SnapshotWriter) AddBlob(id format.BlobID, n int64) {
	w.blobs = append(w.blobs, format.SnapshotBlob{Page: w.next - 1, ID: id, Len: n})
}

// AddRoot adds the root that the page added last is.
func (w *SnapshotWriter) AddRoot(r format.Root) {
	w.roots = format.SnapshotRoot{Page: w.next - 1, Root: r}.Append(w.roots)
	w.h.Roots++
}

// AddDecision adds a commit in parts of which parts are in use.
func (w *SnapshotWriter) AddDecision(d format.Decision) { w.decided = append(w.decided, d) }

// RaiseHigh raises High to lsn, if it is lower: the pages added may depend on the log up to there. 0 raises nothing.
func (w *SnapshotWriter) RaiseHigh(lsn format.LSN) {
	if lsn > 0 {
		w.h.High = max(w.h.High, lsn)
	}
}

// errNoRefs reports a page that consists of no message.
var errNoRefs = errors.New("page without messages")

// Err returns an error of Add, or else the first write error, or nil.
func (w *SnapshotWriter) Err() error { return cmp.Or(w.err, w.records.err, w.refs.err) }

// High returns the LSN of the newest message on which the pages added depend. The log must be stable beyond it before
// the snapshot gets its name (V5).
func (w *SnapshotWriter) High() format.LSN { return w.h.High }

// Finish writes the buffered blocks, the lists and, last, the header. inUse are the bases of the segments that were in
// use when Recycled was counted.
func (w *SnapshotWriter) Finish(inUse []format.LSN) error {
	if w.err != nil {
		return w.err
	}
	if w.next != w.h.NextPage {
		return fmt.Errorf("finish snapshot: %d of %d pages were added", w.next, w.h.NextPage)
	}
	w.records.flush()
	w.refs.flush()
	w.h.Refs = w.refs.n
	segs := make([]format.SnapshotSegment, 0, len(inUse))
	for _, base := range inUse {
		segs = append(segs, format.SnapshotSegment{Base: base, Live: w.live[base]})
		delete(w.live, base)
	}
	for base, live := range w.live { // begun after the count
		if base >= w.h.From {
			segs = append(segs, format.SnapshotSegment{Base: base, Live: live})
		}
	}
	slices.SortFunc(segs, func(a, b format.SnapshotSegment) int { return cmp.Compare(a.Base, b.Base) })
	w.h.Segments, w.h.Blobs, w.h.RootBytes = len(segs), len(w.blobs), int64(len(w.roots))
	w.h.Decisions = len(w.decided)
	lists := format.SnapshotRest{Segments: segs, Blobs: w.blobs, Decisions: w.decided, Free: w.free, Roots: w.roots}
	rest := lists.Append(nil)
	w.h.RestCRC = format.SnapshotRestCRC(rest)
	head := make([]byte, format.SnapshotBlock)
	w.h.Put(head)
	_, err := w.f.WriteAt(rest, w.h.RestOffset())
	if err == nil {
		_, err = w.f.WriteAt(head, 0)
	}
	return cmp.Or(w.Err(), err)
}
