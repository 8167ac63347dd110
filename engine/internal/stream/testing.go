package stream

import "pagecache/segments/format"

// The declarations below are for tests of the engine. No other code uses them.

// Tables returns the number of tables, and of those that no segment has.
func (s *Set) Tables() (made, free int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.made), len(s.tables)
}

// OnCopied makes CarryRecords call f after it has copied the records of a stream, before it writes them.
func (s *Set) OnCopied(f func(format.StreamID)) { s.copied = f }
