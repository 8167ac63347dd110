package salvage

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"pagecache/recovery"
	"pagecache/segments/format"
)

// Pages is the state of the pages that the intact messages add up to.
type Pages struct {
	Chains map[format.PageID][]Message   // the messages of each page that is left, oldest first
	Roots  map[format.PageID]format.Root // the roots, by the page of each; no such page is in Chains
	IDs    uint64                        // the highest id known to have been handed out
	Next   format.PageID                 // the lowest page id above all that were found
	Lost   map[format.PageID]bool        // pages of which something is known to be lost; each was reported
}

// A state is what is known of a page while its messages are applied in order.
type state struct {
	chain []Message // oldest first, of a root its message; nil: the page does not exist
	// since is the LSN of the message from which on the state is not known, and why says why; 0: it is known.
	since format.LSN
	why   string
	left  int // messages from since on that were left out

	record *recovery.Page // the page in the snapshot, until it was used
	proof  format.LSN     // the snapshot knows the page up to here
}

// gatherer applies messages to pages.
type gatherer struct {
	r           *Reader
	p           *Pages
	pages       map[format.PageID]*state
	implausible map[format.PageID]bool
	named       map[string]Message // the newest message of each root
}

// Gather derives the state of the pages from the messages, and from the snapshot as far as there is one. A page whose
// newest messages are lost is as it was before them, and is reported.
func (r *Reader) Gather() *Pages {
	g := &gatherer{r: r, pages: map[format.PageID]*state{}, implausible: map[format.PageID]bool{},
		named: map[string]Message{},
		p: &Pages{Chains: map[format.PageID][]Message{}, Roots: map[format.PageID]format.Root{},
			IDs: r.Super.NextID, Next: format.FirstUserPage, Lost: map[format.PageID]bool{}}}
	g.readSnapshot()
	suspects := r.suspects
	for i := range r.Messages {
		m := &r.Messages[i]
		for ; len(suspects) > 0 && suspects[0].LSN < m.LSN; suspects = suspects[1:] {
			g.suspect(&suspects[0])
		}
		g.apply(m)
	}
	for i := range suspects {
		g.suspect(&suspects[i])
	}
	for _, pid := range slices.Sorted(maps.Keys(g.pages)) {
		g.finish(pid, g.pages[pid])
	}
	for _, pid := range slices.Sorted(maps.Keys(g.implausible)) {
		g.lose(pid, 0, "implausible page id")
	}
	return g.p
}

// readSnapshot notes what the snapshot says about each page.
func (g *gatherer) readSnapshot() {
	snap := g.r.snap
	if snap == nil {
		return
	}
	g.p.IDs = max(g.p.IDs, snap.Counter)
	corrupt := false
	for pid := format.PageID(0); pid < min(snap.NextPage, g.r.most); pid++ {
		p, err := snap.Page(pid)
		if err != nil {
			if !corrupt {
				g.r.lose(recovery.Loss{Kind: recovery.LossFile, Text: err.Error(), Err: err})
			}
			corrupt = true
			continue
		}
		st := &state{record: &p, proof: p.LSN}
		if p.Kind == format.SnapshotKindNone {
			st.proof = snap.From - 1
		}
		g.pages[pid] = st
		if pid >= format.FirstUserPage {
			g.p.Next = max(g.p.Next, pid+1)
		}
	}
}

// state returns the state of a page before a message at lsn, or nil if the id is implausible.
func (g *gatherer) state(pid format.PageID, lsn format.LSN) *state {
	if pid < format.FirstUserPage || pid >= g.r.most { // rule 12
		g.implausible[pid] = true
		return nil
	}
	g.p.Next = max(g.p.Next, pid+1)
	st := g.pages[pid]
	if st == nil {
		st = &state{}
		g.pages[pid] = st
	}
	if st.record != nil && lsn > st.proof {
		g.settle(pid, st)
	}
	return st
}

// settle replaces the state of a page by the one that the snapshot says it has. As far as its messages are lost, the
// page stays as it was before.
func (g *gatherer) settle(pid format.PageID, st *state) {
	refs := st.record.Refs
	kind := st.record.Kind
	st.record = nil
	if kind == format.SnapshotKindNone || kind == format.SnapshotKindFree {
		*st = state{proof: st.proof}
		return
	}
	if kind == format.SnapshotKindRoot { // the snapshot has all of it
		*st = state{proof: st.proof}
		if r, ok := g.r.snap.Root(pid); ok {
			m := recovery.Message{Kind: format.KindRoot, LSN: st.proof, Page: pid, Body: format.AppendRoot(nil, r)}
			st.chain = []Message{{Message: m}}
		} else {
			st.fail(st.proof, "the snapshot does not have its name")
		}
		return
	}
	var chain []Message
	for i, ref := range slices.Backward(refs) {
		m, ok := g.r.find(ref.LSN)
		why := "is lost"
		ok = ok && isFragment(m, pid, i == len(refs)-1)
		if ok && !m.follows(chain) {
			ok, why = false, "was not appended to the one before it"
		}
		if !ok {
			if i < len(refs)-1 { // its base is there
				st.chain = chain
			} else {
				st.chain = slices.DeleteFunc(st.chain, func(m Message) bool { return m.LSN > ref.LSN })
			}
			st.fail(ref.LSN, fmt.Sprintf("fragment %d of %d %s", len(refs)-i, len(refs), why))
			st.left = i + 1
			return
		}
		chain = append(chain, m)
	}
	*st = state{chain: chain, proof: st.proof}
}

// isFragment reports whether a message is one that the page can consist of: its base, or a delta. The message at an LSN
// that the snapshot names may be another one, if snapshot and log do not belong together.
func isFragment(m Message, pid format.PageID, base bool) bool {
	want := format.KindAppend
	if base {
		want = format.KindCompact
	}
	return m.Page == pid && m.Kind.Plain() == want
}

// fail notes that the state of the page is not known from lsn on.
func (st *state) fail(lsn format.LSN, why string) { st.since, st.why, st.left = lsn, why, 0 }

// find returns the message at an LSN.
func (r *Reader) find(lsn format.LSN) (Message, bool) {
	i, ok := slices.BinarySearchFunc(r.Messages, lsn, func(m Message, lsn format.LSN) int {
		return cmp.Compare(m.LSN, lsn)
	})
	if !ok {
		return Message{}, false
	}
	return r.Messages[i], true
}

// apply applies a message.
func (g *gatherer) apply(m *Message) {
	switch m.Kind.Plain() {
	case format.KindCounter:
		if c, err := format.DecodeCounter(m.Body); err == nil {
			g.p.IDs = max(g.p.IDs, c)
		}
	case format.KindCompact, format.KindFree, format.KindRoot:
		if st := g.state(m.Page, m.LSN); st != nil {
			*st = state{record: st.record, proof: st.proof}
			if m.Kind != format.KindFree {
				st.chain = []Message{*m}
			}
		}
	case format.KindAppend:
		if st := g.state(m.Page, m.LSN); st != nil {
			g.applyDelta(st, m)
		}
	}
}

// follows reports whether m may be the next message of a page with the messages chain (rule 14).
func (m *Message) follows(chain []Message) bool {
	if n := len(chain); n > 0 {
		return m.Kind.Delta() && chain[0].Kind != format.KindRoot && m.Prev == format.PrevOf(chain[n-1].LSN)
	}
	return !m.Kind.Delta()
}

// applyDelta adds a delta to its page, unless a message is missing before it.
func (g *gatherer) applyDelta(st *state, m *Message) {
	switch {
	case st.since != 0:
	case len(st.chain) == 0:
		st.fail(m.LSN, "the base of its deltas is missing")
	case !m.follows(st.chain):
		st.fail(m.LSN, fmt.Sprintf("its message at LSN %v is lost", m.Prev.Below(m.LSN)))
	}
	if st.since != 0 {
		st.left++
		return
	}
	st.chain = append(st.chain, *m)
}

// suspect applies a corrupt message that seems to have been one of its page. The id may be what is corrupt, so it does
// not count for Pages.Next.
func (g *gatherer) suspect(m *Message) {
	if m.Page < format.FirstUserPage || m.Page >= g.r.most {
		return
	}
	st := g.pages[m.Page]
	if st == nil {
		st = &state{}
		g.pages[m.Page] = st
	}
	if m.LSN <= st.proof {
		return
	}
	if st.record != nil {
		g.settle(m.Page, st)
	}
	if st.since == 0 {
		st.fail(m.LSN, fmt.Sprintf("its message at LSN %v is corrupt", m.LSN))
		st.left = 1
	}
}

// finish decides on a page after all messages, and reports what is lost of it.
func (g *gatherer) finish(pid format.PageID, st *state) {
	if pid < format.FirstUserPage {
		return
	}
	if st.record != nil {
		g.settle(pid, st)
	}
	if len(st.chain) > 0 && st.chain[0].Kind == format.KindRoot {
		g.finishRoot(pid, st)
		return
	}
	if len(st.chain) > 0 {
		g.p.Chains[pid] = st.chain
	}
	if st.since == 0 {
		return
	}
	saved := "nothing of it is saved"
	if n := len(st.chain); n > 0 {
		saved = fmt.Sprintf("it is saved as it was at LSN %v", st.chain[n-1].LSN)
	}
	g.lose(pid, st.since, fmt.Sprintf("%s; %s, without %d messages from LSN %v on", st.why, saved, st.left, st.since))
}

// lose reports a page.
func (g *gatherer) lose(pid format.PageID, lsn format.LSN, why string) {
	g.p.Lost[pid] = true
	at := recovery.Place{}.WithPage(pid)
	if lsn > 0 {
		at = at.WithLSN(lsn)
	}
	g.r.lose(recovery.Loss{Kind: recovery.LossPage, Place: at, Text: fmt.Sprintf("page %d: %s", pid, why)})
}

// finishRoot decides on a root, and reports what is lost of it. If two pages are the same root, the message that freed
// one of them is lost: the newer one counts.
func (g *gatherer) finishRoot(pid format.PageID, st *state) {
	m := st.chain[0]
	r, err := format.DecodeRoot(m.Body)
	if err != nil { // its checksum is right
		g.lose(pid, m.LSN, err.Error())
		return
	}
	if st.since != 0 {
		g.loseRoot(pid, st.since, fmt.Sprintf("root %.64q: %s; it is saved as it was at LSN %v", r.Name, st.why, m.LSN))
	}
	if other, ok := g.named[r.Name]; ok {
		older, newer := m, other
		if m.LSN > other.LSN {
			older, newer = other, m
			delete(g.p.Roots, other.Page)
		}
		const text = "root %.64q: page %d was it, too, at LSN %v; it is saved as it was at LSN %v"
		g.loseRoot(older.Page, older.LSN, fmt.Sprintf(text, r.Name, older.Page, older.LSN, newer.LSN))
		if newer.LSN != m.LSN {
			return
		}
	}
	g.named[r.Name], g.p.Roots[pid] = m, r
}

func (g *gatherer) loseRoot(pid format.PageID, lsn format.LSN, text string) {
	at := recovery.Place{}.WithPage(pid).WithLSN(lsn)
	g.r.lose(recovery.Loss{Kind: recovery.LossRoot, Place: at, Text: text})
}
