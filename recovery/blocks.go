package recovery

import (
	"maps"
	"slices"

	"pagecache/segments/format"
)

// A BlockError reports that a block of a snapshot is corrupt or cannot be read, so that the snapshot does not say what
// a page is. The log does: see Replace.
type BlockError struct {
	Block int64 // number of the record block of the page
	Err   error
}

// Error returns the text of Err.
func (e *BlockError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *BlockError) Unwrap() error { return e.Err }

// A Block is the state of the pages of a record block, as the log shows it.
type Block struct {
	Number int64
	Pages  []Page
	// Errors has, by index in Pages, the reason why the state of a page is not known. It may be nil.
	Errors map[int]error
}

// RecordBlock returns the number of the record block of a page.
func RecordBlock(pid format.PageID) int64 { return 1 + int64(pid/format.EntriesPerBlock) }

// PagesOf returns the pages of the record block with the given number: those from first up to, but not including, end.
func (s *Snapshot) PagesOf(number int64) (first, end format.PageID) {
	first = format.PageID(number-1) * format.EntriesPerBlock
	return first, min(first+format.EntriesPerBlock, s.NextPage)
}

// Replace makes Page and FreeBelow return what the blocks say, from now on, instead of what the file says. One call
// runs at a time.
func (s *Snapshot) Replace(blocks []*Block) {
	m := map[int64]*Block{}
	if old := s.replaced.Load(); old != nil {
		maps.Copy(m, *old)
	}
	for _, b := range blocks {
		m[b.Number] = b
	}
	s.replaced.Store(&m)
}

// IsReplaced reports whether the record block with the given number was passed to Replace.
func (s *Snapshot) IsReplaced(number int64) bool { return s.replacement(number) != nil }

// replacement returns the block that replaces the record block with the given number, or nil.
func (s *Snapshot) replacement(number int64) *Block {
	if m := s.replaced.Load(); m != nil {
		return (*m)[number]
	}
	return nil
}

// page returns the state of a page of the block.
func (b *Block) page(pid format.PageID) (Page, error) {
	i := int(pid % format.EntriesPerBlock)
	return b.Pages[i], b.Errors[i]
}

// CorruptBlocks reads the whole file and returns the numbers of the record blocks that do not say what their pages are,
// in rising order: those that are corrupt, and those with a page whose references lie in a corrupt block. It stops
// early, with an incomplete result, once stop returns true.
func (s *Snapshot) CorruptBlocks(stop func() bool) []int64 {
	corrupt := map[int64]bool{}                                              // of all blocks
	buf := make([]byte, min(walkPiece, s.RestOffset()-format.SnapshotBlock)) // most snapshots are small
	for off := int64(format.SnapshotBlock); off < s.RestOffset() && !stop(); off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), s.RestOffset()-off)]
		unread := readFull(s.file, buf, off) != nil // some block of the piece
		for at := 0; at < len(buf); at += format.SnapshotBlock {
			b, number := buf[at:][:format.SnapshotBlock], (off+int64(at))/format.SnapshotBlock
			lost := unread && readFull(s.file, b, off+int64(at)) != nil
			if lost || format.CheckSnapshotBlock(b, s.seed, number) != nil {
				corrupt[number] = true
				s.checked[number/32].And(^uint32(1 << (number % 32)))
			}
		}
	}
	refs := false
	for number := range corrupt {
		refs = refs || number >= s.RefBlock()
	}
	var found []int64
	for number := int64(1); number < s.RefBlock() && !stop(); number++ {
		if corrupt[number] || refs && s.refersTo(number, corrupt) {
			found = append(found, number)
		}
	}
	return found
}

// refersTo reports whether a page of a record block has a reference in one of the corrupt blocks. It returns true if
// the record block itself cannot be read.
func (s *Snapshot) refersTo(number int64, corrupt map[int64]bool) bool {
	for pid, end := s.PagesOf(number); pid < end; pid++ {
		e, err := s.entry(1, int64(pid))
		if err != nil {
			return true
		}
		if e.Kind != format.SnapshotKindPages {
			continue
		}
		first := s.RefBlock() + int64(e.First)/format.EntriesPerBlock
		last := s.RefBlock() + (int64(e.First)+int64(e.Len)-1)/format.EntriesPerBlock
		for n := first; n <= last; n++ {
			if corrupt[n] {
				return true
			}
		}
	}
	return false
}

// Live returns the live bytes that the snapshot's pages have in the segment with the given base; false if the segment
// is not on the list.
func (s *Snapshot) Live(base format.LSN) (int64, bool) {
	i, ok := slices.BinarySearchFunc(s.Segments, base, func(g format.SnapshotSegment, base format.LSN) int {
		return int(min(1, max(-1, g.Base-base)))
	})
	if !ok {
		return 0, false
	}
	return s.Segments[i].Live, true
}
