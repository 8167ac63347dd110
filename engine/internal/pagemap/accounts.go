package pagemap

import (
	"fmt"

	"pagecache/engine/internal/pagestack"
	"pagecache/segments/format"
)

// CheckAccounts compares the accounts of space and of free ids with the pages, and calls wrong for each difference.
// Nothing may change the store meanwhile.
func (m *Map) CheckAccounts(wrong func(problem string)) error {
	live := map[format.SegmentID]int64{}
	free := int64(0)
	for pid := format.PageID(0); pid < m.IDs.Next(); pid++ {
		_, h, err := m.Find(pid)
		if err != nil {
			return err
		}
		if pid >= format.FirstUserPage && (h == nil || h.Kind() == pagestack.KindFree) {
			free++
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
	if n := m.IDs.Spare(); n != free {
		wrong(fmt.Sprintf("%d page ids are free, their account says %d", free, n))
	}
	return nil
}
