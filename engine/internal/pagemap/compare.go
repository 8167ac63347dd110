package pagemap

import (
	"fmt"
	"strings"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// Compare reports a page that is another one by the snapshot that m was opened from than in truth, a map that was
// rebuilt from the log alone.
func (m *Map) Compare(pid format.PageID, truth *Map) error {
	_, want, err := truth.Find(pid)
	if err != nil {
		return err
	}
	_, got, err := m.Find(pid)
	if err != nil {
		return err
	}
	if got, want := got.Root(), want.Root(); got != want {
		const text = "the page is root %.64q to page %d, by the log alone %.64q to page %d"
		return m.base.CorruptPage(pid, fmt.Errorf(text, got.Name, got.Target, want.Name, want.Target))
	}
	if g, w := messagesOf(got), messagesOf(want); g != w {
		return m.base.CorruptPage(pid, fmt.Errorf("the page is %s, by the log alone %s", g, w))
	}
	return nil
}

// messagesOf names the messages that a page consists of.
func messagesOf(h *Head) string {
	if h == nil || h.Kind() == pagestack.KindFree {
		return "free"
	}
	var b strings.Builder
	b.WriteString("LSN")
	h.Refs(func(r pagestack.Ref) { fmt.Fprintf(&b, " %v at %v", r.LSN, r.Ptr) })
	return b.String()
}

// CheckRootMessage verifies the message of the root with head h.
func (m *Map) CheckRootMessage(pid format.PageID, h *Head) error {
	msg, err := m.store.Read(h.LSN, h.Ptr())
	if err != nil {
		return logstore.InPage(pid, err)
	}
	if r, err := format.DecodeRoot(msg.Body); msg.Kind != format.KindRoot || err != nil || r != h.Root() {
		place := recovery.Place{}.WithLSN(h.LSN).WithPage(pid)
		return m.store.CorruptLog(place, "the message is not that of the root")
	}
	return nil
}
