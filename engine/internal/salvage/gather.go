package salvage

import (
	"fmt"

	"pagecache/segments/format"
)

// Pages is the state of the pages that the intact messages add up to.
type Pages struct {
	Chains map[format.PageID][]Message // the messages of each page that is left, oldest first
	Roots  map[string]format.PageID
	IDs    uint64        // the highest id known to have been handed out
	Next   format.PageID // the lowest page id above all that were found
	Lost   int64         // pages of which something is known to be lost; each was reported
}

// ReportBatches reports the batches whose end is missing.
func (r *Reader) ReportBatches() {
	open := map[format.LSN]bool{}
	for _, m := range r.Messages {
		switch m.Kind {
		case format.KindBatchBegin:
			open[m.LSN] = true
		case format.KindBatchEnd:
			if b, err := r.Value(m); err == nil {
				if e, err := format.DecodeManifest(b, m.LSN); err == nil {
					delete(open, e.Begin)
				}
			}
		}
	}
	for lsn := range open {
		r.c.Lost(fmt.Sprintf("the end of the batch that begins at LSN %v: the batch may be there in part", lsn))
	}
}

// Gather derives the state of the pages from the messages. A page whose newest messages are corrupt is as it was before
// them.
func (r *Reader) Gather() *Pages {
	p := &Pages{Chains: map[format.PageID][]Message{}, IDs: r.Super.NextID, Next: format.FirstUserPage}
	orphans, implausible := map[format.PageID]int{}, map[format.PageID]bool{}
	for _, m := range r.Messages {
		k := m.Kind.Plain()
		switch k {
		case format.KindMeta:
			if roots, err := format.DecodeMeta(m.Body); err == nil {
				p.Roots = roots
			}
			continue
		case format.KindCounter:
			if c, err := format.DecodeCounter(m.Body); err == nil {
				p.IDs = max(p.IDs, c)
			}
			continue
		case format.KindCompact, format.KindAppend, format.KindFree:
		default:
			continue
		}
		if m.Page < format.FirstUserPage || m.Page >= r.most { // rule 12
			implausible[m.Page] = true
			continue
		}
		p.Next = max(p.Next, m.Page+1)
		if k == format.KindAppend && len(p.Chains[m.Page]) == 0 {
			orphans[m.Page]++
			continue
		}
		p.add(m, k)
		delete(orphans, m.Page)
	}
	p.Lost = int64(len(orphans) + len(implausible))
	for pid, n := range orphans {
		r.c.Lost(fmt.Sprintf("page %d: the base of its last %d deltas is missing", pid, n))
	}
	for pid := range implausible {
		r.c.Lost(fmt.Sprintf("page %d: implausible page id", pid))
	}
	return p
}

// add applies a message to its page.
func (p *Pages) add(m Message, k format.Kind) {
	switch k {
	case format.KindAppend:
		p.Chains[m.Page] = append(p.Chains[m.Page], m)
	case format.KindCompact:
		p.Chains[m.Page] = []Message{m}
	default:
		delete(p.Chains, m.Page)
	}
}
