package segments

import (
	"encoding/binary"
	"iter"

	"pagecache/segments/format"
)

// PageList says which pages the messages of a segment are of, in a few bytes for each, so that cleaning need not read the segment to know. (The segment summary of
// Rosenblum and Ousterhout, 1991, kept in memory: after an opening the segments from before it have none.)
type PageList []byte

// Append adds a page.
func (l PageList) Append(pid format.PageID) PageList { return binary.AppendUvarint(l, uint64(pid)) }

// All yields the pages in the order of their messages.
func (l PageList) All() iter.Seq[format.PageID] {
	return func(yield func(format.PageID) bool) {
		for rest := l; len(rest) > 0; {
			pid, n := binary.Uvarint(rest)
			if rest = rest[n:]; !yield(format.PageID(pid)) {
				return
			}
		}
	}
}
