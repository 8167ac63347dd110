package pagemap

import (
	"fmt"

	"pagecache/engine/internal/pagestack"
	"pagecache/segments/format"
)

// CheckAccounts compares the accounts of space and of free ids, and the index of the roots, with the pages, and calls
// wrong for each difference. Nothing may change the store meanwhile.
func (m *Map) CheckAccounts(wrong func(problem string)) error {
	live := map[format.SegmentID]int64{}
	free, roots := int64(0), 0
	for pid := format.PageID(0); pid < m.IDs.Next(); pid++ {
		_, h, err := m.Find(pid)
		if err != nil {
			return err
		}
		if pid >= format.FirstUserPage && (h == nil || h.Kind() == pagestack.KindFree) {
			free++
		}
		if h != nil && h.Kind() == pagestack.KindRoot {
			roots++
			name := h.Root().Name
			if at, ok := m.Roots.Find(name); !ok || at != pid {
				wrong(fmt.Sprintf("page %d is root %.64q, the index says page %d", pid, name, at))
			}
		}
		h.Refs(func(r pagestack.Ref) {
			live[m.store.SlotOf(r.Ptr.Off)] += int64(format.AlignUp(int(r.Ptr.Len)))
		})
	}
	slots, _, _ := m.store.Space.Totals()
	for id := range format.SegmentID(slots) {
		if n := m.store.Space.Segment(id).Live(); n != live[id] {
			wrong(fmt.Sprintf("%d bytes are live in slot %v, its account says %d", live[id], id, n))
		}
	}
	if n := m.Roots.Len(); n != roots {
		wrong(fmt.Sprintf("%d pages are roots, the index has %d", roots, n))
	}
	if n := m.IDs.Spare(); n != free {
		wrong(fmt.Sprintf("%d page ids are free, their account says %d", free, n))
	}
	return nil
}
