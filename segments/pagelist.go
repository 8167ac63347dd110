package segments

import (
	"encoding/binary"
	"iter"

	"pagecache/segments/format"
)

// PageList holds the page ids of a segment's messages, in a few bytes each, so that cleaning finds them without
// reading the segment. (It is the segment summary of Rosenblum and Ousterhout, 1991, kept in memory: segments written
// before the store was opened have none.)
type PageList []byte

// Append appends a page id and returns the extended list.
func (l PageList) Append(pid format.PageID) PageList { return binary.AppendUvarint(l, uint64(pid)) }

// All yields the page ids in the order of the messages.
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
