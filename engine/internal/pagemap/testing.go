package pagemap

import "pagecache/segments/format"

// BeforeBase makes the map call f before each look at a page in the snapshot that the store was opened from. It is for
// tests of the engine, to be called before the map is shared.
func (m *Map) BeforeBase(f func(format.PageID)) { m.beforeBase = f }

// SetGroupLimit makes commits whose group is longer than n bytes be written in parts of that length, instead of a
// quarter of a segment. For tests, before the first commit.
func (m *Map) SetGroupLimit(n int) { m.commits.groupLimit = n }

// BetweenParts makes commits call f between two parts. For tests, before the first commit.
func (m *Map) BetweenParts(f func()) { m.commits.between = f }
