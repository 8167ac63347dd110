package pagemap

import "pagecache/segments/format"

// BeforeBase makes the map call f before each look at a page in the snapshot that the store was opened from. It is for
// tests of the engine, to be called before the map is shared.
func (m *Map) BeforeBase(f func(format.PageID)) { m.beforeBase = f }
