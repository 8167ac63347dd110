package recovery

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"pagecache/segments/format"
)

// A SnapshotFile is the file of a Snapshot. It is safe for concurrent use.
type SnapshotFile interface {
	Source
	// View returns bytes [off, off+n) of the mapped file. Only a function called by Guard may read them.
	View(off int64, n int) ([]byte, error)
	// Guard calls f and returns its error. If f faults while it reads a view, Guard returns an error for the fault.
	Guard(f func() error) error
}

// A Ref refers to one of the messages of a page.
type Ref struct {
	LSN  format.LSN
	Len  uint32 // of the message, in bytes
	Blob bool   // the message points to a blob
}

// A Page is the state of a page in a snapshot.
type Page struct {
	Kind format.SnapshotKind
	LSN  format.LSN // of its newest message
	Refs []Ref      // newest first
}

// A Snapshot reads a fuzzy checkpoint: the page table, page by page, each at some moment after the log was stable up
// to From. The log from there on completes it: a message counts if its LSN is above the page's newest in the
// snapshot. The file is indexed by page id, so that opening a store reads only the header and the lists. A Snapshot
// is safe for concurrent use.
//
// (Fuzzy checkpoints: Gray and Reuter, Transaction Processing, 1993, chapter 11.)
type Snapshot struct {
	format.SnapshotHeader
	Segments []format.SnapshotSegment // by base
	Blobs    []format.SnapshotBlob    // by page
	Roots    []format.SnapshotRoot    // by page; in place of SnapshotHeader.Roots, their number
	// Decisions are those about commits in parts; in place of SnapshotHeader.Decisions, their number.
	Decisions []format.Decision

	file SnapshotFile
	name string
	seed format.Seed
	free []byte // number of free ids in each record block
	// checked is a bit set of the blocks that were verified. Every reader sets bits; a stale read costs one more
	// check.
	checked []atomic.Uint32
	// replaced has the record blocks that Replace was given, by number; nil before the first. Written by Replace, with
	// a new map each time; publishes the map and its blocks. A stale read costs a BlockError.
	replaced atomic.Pointer[map[int64]*Block]
}

// OpenSnapshot reads the header and the lists. name is the file's name in errors. If the contents are not valid the
// error wraps format.ErrSnapshot; other errors are those of reading.
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
		return nil, fmt.Errorf("%w: it belongs to store %v with segments of %d bytes",
			format.ErrSnapshot, h.Store, h.SegmentSize)
	}
	rest := make([]byte, h.RestSize()) // DecodeSnapshotHeader checked that the file is that long
	if err := readFull(f, rest, h.RestOffset()); err != nil {
		return nil, err
	}
	s := &Snapshot{SnapshotHeader: h, file: f, name: name, seed: h.Seed()}
	lists, roots, err := format.DecodeSnapshotRest(rest, &h)
	if err != nil {
		return nil, err
	}
	s.Segments, s.Blobs, s.Roots, s.free = lists.Segments, lists.Blobs, roots, bytes.Clone(lists.Free)
	s.Decisions = lists.Decisions
	s.checked = make([]atomic.Uint32, h.RestOffset()/format.SnapshotBlock/32+1)
	return s, nil
}

// readFull fills b. If the file is too short the error wraps format.ErrSnapshot.
func readFull(f io.ReaderAt, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if n == len(b) || err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return fmt.Errorf("%w: file ends at offset %d", format.ErrSnapshot, off+int64(n))
}

// Check verifies every block. It reads the whole file.
func (s *Snapshot) Check() error {
	buf := make([]byte, min(walkPiece, s.RestOffset()-format.SnapshotBlock)) // most snapshots are small
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

// walkPiece is the number of bytes that Check reads, and SnapshotWriter writes, at once.
const walkPiece = 64 * format.SnapshotBlock

// entry returns entry i of those that begin at block first. It verifies the block unless that was done before.
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

// Root returns the root whose message is the page's newest; false if the snapshot has none.
func (s *Snapshot) Root(pid format.PageID) (format.Root, bool) {
	i, ok := slices.BinarySearchFunc(s.Roots, pid, func(r format.SnapshotRoot, pid format.PageID) int {
		return cmp.Compare(r.Page, pid)
	})
	if !ok {
		return format.Root{}, false
	}
	return s.Roots[i].Root, true
}

// Page returns the state of a page below NextPage. An error is a *CorruptError. If the file alone is the reason, it
// wraps a *BlockError.
func (s *Snapshot) Page(pid format.PageID) (Page, error) { return s.PageInto(pid, nil) }

// PageInto is Page for a caller that provides memory: Refs is refs with the messages of the page appended.
func (s *Snapshot) PageInto(pid format.PageID, refs []Ref) (Page, error) {
	if b := s.replacement(RecordBlock(pid)); b != nil {
		p, err := b.page(pid)
		p.Refs = append(refs, p.Refs...)
		return p, err
	}
	p, err := s.readPage(pid, refs)
	if err != nil {
		return Page{}, s.CorruptPage(pid, &BlockError{RecordBlock(pid), err})
	}
	return p, nil
}

// readPage is PageInto by the file alone.
func (s *Snapshot) readPage(pid format.PageID, refs []Ref) (Page, error) {
	e, err := s.entry(1, int64(pid))
	if err != nil {
		return Page{}, err
	}
	p := Page{Kind: e.Kind, LSN: e.LSN, Refs: refs}
	switch e.Kind {
	case format.SnapshotKindNone:
	case format.SnapshotKindPages:
		p.Refs = slices.Grow(refs, int(e.Len))
		for i := range int64(e.Len) {
			r, err := s.entry(s.RefBlock(), int64(e.First)+i)
			if err == nil && r.Kind != format.SnapshotKindPage {
				err = fmt.Errorf("%w: reference of kind %d", format.ErrSnapshot, r.Kind)
			}
			if err != nil {
				return Page{}, err
			}
			p.Refs = append(p.Refs, Ref{r.LSN, r.Len, r.Blob})
		}
	default:
		p.Refs = append(refs, Ref{e.LSN, e.Len, e.Blob})
	}
	return p, nil
}

// Corrupt returns a *CorruptError that says that the snapshot is corrupt, because of err. The log still holds
// everything.
func (s *Snapshot) Corrupt(err error) error { return s.corrupt(Place{}, err) }

// CorruptPage is Corrupt for an error in the data of one page.
func (s *Snapshot) CorruptPage(pid format.PageID, err error) error {
	return s.corrupt(Place{}.WithPage(pid), err)
}

func (s *Snapshot) corrupt(at Place, err error) error {
	return &CorruptError{File: s.name, Place: at, Err: err,
		Reason: "the snapshot is corrupt; without this file the store opens from the log alone"}
}

// FreeBelow returns the highest free page id below pid, or false if there is none. It stops at a corrupt block that may
// have such an id, unless the block was replaced: then it returns the first id of the block and a *BlockError.
func (s *Snapshot) FreeBelow(pid format.PageID) (format.PageID, bool, error) {
	for pid > format.FirstUserPage {
		block := (pid - 1) / format.EntriesPerBlock
		if s.free[block] == 0 {
			pid = block * format.EntriesPerBlock
			continue
		}
		pid--
		free, err := s.isFree(pid)
		if err != nil {
			return block * format.EntriesPerBlock, false, err
		}
		if free {
			return pid, true, nil
		}
	}
	return 0, false, nil
}

// isFree reports whether a page is known to be free. An error is a *BlockError.
func (s *Snapshot) isFree(pid format.PageID) (bool, error) {
	var kind format.SnapshotKind
	if b := s.replacement(RecordBlock(pid)); b != nil {
		p, err := b.page(pid)
		if err != nil {
			return false, nil
		}
		kind = p.Kind
	} else {
		e, err := s.entry(1, int64(pid))
		if err != nil {
			return false, &BlockError{RecordBlock(pid), err}
		}
		kind = e.Kind
	}
	return kind == format.SnapshotKindNone || kind == format.SnapshotKindFree, nil
}
