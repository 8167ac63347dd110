package salvage

import (
	"testing"

	"pagecache/recovery"
	"pagecache/segments/format"
)

// If the message at an LSN that the snapshot names is one of another page, or is no base where the page needs one, the
// page has lost that message: nothing else is saved in its place. Proves rule 12; trap 30.
func TestSettleChecksMessages(t *testing.T) {
	const base, delta = 4096, 4200
	at := func(lsn format.LSN, k format.Kind, pid format.PageID) Message {
		m := recovery.Message{LSN: lsn, Kind: k, Page: pid}
		if k.Delta() {
			m.Prev = format.PrevOf(base)
		}
		return Message{Message: m}
	}
	for name, c := range map[string]struct {
		base, delta Message
		saved       int
	}{
		"its own":                   {at(base, format.KindCompact, 7), at(delta, format.KindAppend, 7), 2},
		"compressed":                {at(base, format.KindCompactZstd, 7), at(delta, format.KindAppendZstd, 7), 2},
		"delta of another page":     {at(base, format.KindCompact, 7), at(delta, format.KindAppend, 8), 1},
		"base in place of a delta":  {at(base, format.KindCompact, 7), at(delta, format.KindCompact, 7), 1},
		"base of another page":      {at(base, format.KindCompact, 8), at(delta, format.KindAppend, 7), 0},
		"delta in place of a base":  {at(base, format.KindAppend, 7), at(delta, format.KindAppend, 7), 0},
		"free in place of the base": {at(base, format.KindFree, 7), at(delta, format.KindAppend, 7), 0},
		"base is missing":           {Message{}, at(delta, format.KindAppend, 7), 0},
	} {
		g := &gatherer{r: &Reader{Messages: []Message{c.base, c.delta}}}
		st := &state{proof: delta, record: &recovery.Page{Kind: format.SnapshotKindPages, LSN: delta,
			Refs: []recovery.Ref{{LSN: delta}, {LSN: base}}}}
		g.settle(7, st)
		if len(st.chain) != c.saved || (st.since == 0) != (c.saved == 2) {
			t.Errorf("%s: %d messages are saved, lost from LSN %d on, want %d", name, len(st.chain), st.since, c.saved)
		}
	}
}
