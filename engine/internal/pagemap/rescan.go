package pagemap

import (
	"context"
	"errors"
	"slices"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// rescanner looks up the pages of corrupt blocks of the snapshot in the log. It implements snapshot.Pages.
type rescanner struct{ m *Map }

// rescan is one reading of the log below the snapshot's From. Why that is enough, package snapshot says (N4).
type rescan struct {
	m      *Map
	chains map[int64]*[format.EntriesPerBlock]chain // of the pages wanted, by record block
	gaps   []gap
}

// chain is the state of a page by the messages read so far.
type chain struct {
	kind   format.SnapshotKind
	refs   []recovery.Ref // oldest first
	orphan format.LSN     // of the first delta since the last base that lacks a message before it; 0: there is none
	why    string         // what is wrong with the orphan
}

// gap is a part of the log that cannot be read and may hold messages that count.
type gap struct {
	at    recovery.Place
	begin format.LSN
	err   error
	owner format.PageID // the one page that has lost something there, if owned
	owned bool
}

// Rebuild implements snapshot.Pages.
func (s rescanner) Rebuild(ctx context.Context, numbers []int64) ([]*recovery.Block, error) {
	r := &rescan{m: s.m, chains: map[int64]*[format.EntriesPerBlock]chain{}}
	for _, n := range numbers {
		r.chains[n] = new([format.EntriesPerBlock]chain)
	}
	if err := r.read(ctx); err != nil {
		return nil, err
	}
	blocks := make([]*recovery.Block, 0, len(numbers))
	for _, n := range numbers {
		blocks = append(blocks, r.block(n))
	}
	return blocks, nil
}

// Supply implements snapshot.Pages.
func (s rescanner) Supply() { s.m.IDs.Resupply() }

// read reads the segments below From in the order of the log. Those that a cleaning step under way recycles meanwhile
// hold nothing live (snapshot, N5).
func (r *rescan) read(ctx context.Context) error {
	store, from := r.m.store, r.m.base.From
	size := format.LSN(store.SegmentSize())
	bases, _, _ := store.Space.Census(0)
	slices.Sort(bases)
	buf := make([]byte, size)
	for _, base := range bases {
		if base >= from {
			break
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		part, err := store.ReadPart(base, buf[:min(format.LSN(store.Used(base)), from-base)])
		if err != nil {
			return err
		}
		if !part.Found {
			continue
		}
		if err := r.walk(ctx, part, base); err != nil {
			return err
		}
	}
	return nil
}

// walk applies the messages of a segment. Behind one that is not valid it goes on with the next that is. It stops with
// an error when ctx ends.
func (r *rescan) walk(ctx context.Context, part logstore.Part, base format.LSN) error {
	const look = 1 << 10 // messages between two looks at ctx
	b := part.Bytes
	effort := format.SearchEffort * len(b)
	for pos, n := format.SegmentStart, 1; len(b)-pos >= format.HeaderSize; n++ {
		h, body, err := format.DecodeMessage(b[pos:], base+format.LSN(pos), part.Seed)
		if err != nil || n%look == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		if err == nil && r.m.commits.isVoid(h, body) {
			pos += format.AlignUp(h.Len)
			continue
		}
		if err == nil {
			r.apply(h, body)
			pos += h.Step()
			continue
		}
		end := pos + format.Align
		if errors.Is(err, format.ErrCRC) && r.m.commits.isVoid(h, b[pos+format.HeaderSize:pos+h.Len]) {
			end = min(pos+format.AlignUp(h.Len), len(b)) // its messages may not count although they are intact
		}
		end += format.NextMessage(b[end:], base+format.LSN(end), part.Seed, &effort)
		if part.Err != nil {
			err = part.Err
		}
		r.addGap(part, base, gap{begin: base + format.LSN(pos), err: err}, end-pos)
		pos = end
	}
	return nil
}

// addGap adds a gap of n bytes, unless nothing in the segment was live.
func (r *rescan) addGap(part logstore.Part, base format.LSN, g gap, n int) {
	if live, listed := r.m.base.Live(base); listed && live == 0 {
		return
	}
	pos := int(g.begin - base)
	off := part.ID.Offset(r.m.store.SegmentSize()) + format.Offset(pos)
	g.at = recovery.Place{}.WithSlot(part.ID).WithOffset(off).WithLSN(g.begin)
	g.owner, g.owned = r.owner(part.Bytes[pos:], n, g.begin, part.Seed)
	r.gaps = append(r.gaps, g)
}

// owner returns the page of the message at the beginning of b, which is not valid, if the n bytes up to the next valid
// message are this one message, and one flipped bit is all that is wrong with it. So the page is beyond doubt: no
// second flip would make the checksum match. A header alone proves nothing, since it may be corrupt too.
//
// Messages that are not part of a page's state count as those of page 0, which is never looked up here.
func (r *rescan) owner(b []byte, n int, lsn format.LSN, seed format.Seed) (format.PageID, bool) {
	fits := func(h format.Header) bool { // a segment may end with fewer bytes than a message has
		rest := n - format.AlignUp(h.Len)
		return rest == 0 || len(b) == n && rest > 0 && rest < format.HeaderSize
	}
	ownerOf := func(h format.Header) (format.PageID, bool) {
		if h.Kind.IsGroup() {
			return 0, false
		}
		if !h.Kind.OfPage() {
			return format.MetaPage, true
		}
		return h.Page, true
	}
	if h, err := format.DecodeHeader(b, len(b), lsn); err == nil && fits(h) && format.FlippedBit(b, h, seed) {
		return ownerOf(h)
	}
	for bit := range format.HeaderSize * 8 {
		b[bit/8] ^= 1 << (bit % 8)
		h, err := format.DecodeHeader(b, len(b), lsn)
		if err == nil && fits(h) { // else to verify it might take long
			_, _, err = format.DecodeMessage(b, lsn, seed)
		} else {
			err = format.ErrLength
		}
		b[bit/8] ^= 1 << (bit % 8)
		if err == nil {
			return ownerOf(h)
		}
	}
	return 0, false
}

// apply applies a message to its page, if that is wanted. Deltas that lack a message before them, because it was
// recycled, are passed over until the page was written anew, as when a store is opened.
func (r *rescan) apply(h format.Header, body []byte) {
	if !h.Kind.OfPage() {
		return
	}
	chains := r.chains[recovery.RecordBlock(h.Page)]
	if chains == nil {
		return
	}
	c := &chains[h.Page%format.EntriesPerBlock]
	ref := recovery.Ref{LSN: h.LSN, Len: uint32(h.Len), Blob: h.Kind.Blob()}
	switch h.Kind.Plain() {
	case format.KindCompact:
		*c = chain{kind: format.SnapshotKindPage, refs: append(c.refs[:0], ref)}
	case format.KindFree:
		*c = chain{kind: format.SnapshotKindFree, refs: append(c.refs[:0], ref)}
	case format.KindRoot:
		*c = chain{kind: format.SnapshotKindRoot, refs: append(c.refs[:0], ref)}
	case format.KindAppend:
		c.add(ref, body)
	}
}

// add adds a delta with the given body.
func (c *chain) add(ref recovery.Ref, body []byte) {
	prev, _, err := format.CutPrev(format.KindAppend, body)
	switch {
	case c.orphan > 0:
	case c.kind != format.SnapshotKindPage:
		*c = chain{orphan: ref.LSN, why: noBase}
	case err != nil:
		*c = chain{orphan: ref.LSN, why: err.Error()}
	case prev != format.PrevOf(c.refs[len(c.refs)-1].LSN):
		*c = chain{orphan: ref.LSN, why: prev.Mismatch(ref.LSN)}
	default:
		c.refs = append(c.refs, ref)
	}
}

// block returns the state of the pages of a block.
func (r *rescan) block(number int64) *recovery.Block {
	b := &recovery.Block{Number: number, Errors: map[int]error{}}
	first, end := r.m.base.PagesOf(number)
	b.Pages = make([]recovery.Page, end-first)
	for i := range b.Pages {
		c, pid := &r.chains[number][i], first+format.PageID(i)
		if h := r.m.head(pid); h != nil {
			b.Pages[i].Kind = r.kindInTable(h)
		} else if err := r.lost(pid, c); err != nil {
			b.Errors[i] = err
		} else if len(c.refs) > 0 {
			b.Pages[i] = c.page()
		}
	}
	return b
}

// kindInTable returns what a block says about a page with head h, of which the table has the state: only whether the id
// is one of the free ids that the snapshot provides. If the page has a message at or above From, it is not.
func (r *rescan) kindInTable(h *Head) format.SnapshotKind {
	if h.Kind() == pagestack.KindFree && h.LSN < r.m.base.From {
		return format.SnapshotKindFree
	}
	return format.SnapshotKindPage
}

// page returns the state of a page that has messages.
func (c *chain) page() recovery.Page {
	p := recovery.Page{Kind: c.kind, LSN: c.refs[len(c.refs)-1].LSN, Refs: slices.Clone(c.refs)}
	slices.Reverse(p.Refs)
	if len(p.Refs) > 1 {
		p.Kind = format.SnapshotKindPages
	}
	return p
}

// lost returns an error if the page may have lost a message: if a gap of which it is the owner, or whose owner is not
// known, follows its newest message. Below that one, no message of a chain is missing (rule 14). No guess is taken for
// the page.
func (r *rescan) lost(pid format.PageID, c *chain) error {
	if pid < format.FirstUserPage { // always in the table
		return nil
	}
	newest := format.LSN(0)
	if len(c.refs) > 0 {
		newest = c.refs[len(c.refs)-1].LSN
	}
	for _, g := range r.gaps {
		if newest > g.begin || g.owned && g.owner != pid {
			continue
		}
		reason := "the snapshot is corrupt, and this part of the log, which the page needs, too"
		if !g.owned {
			reason = "the snapshot is corrupt, and this part of the log, which may hold the page, too"
		}
		return &recovery.CorruptError{File: r.m.store.LogFile(), Place: g.at.WithPage(pid), Reason: reason, Err: g.err}
	}
	if c.orphan > 0 {
		return r.m.store.CorruptLog(recovery.Place{}.WithLSN(c.orphan).WithPage(pid), c.why)
	}
	return nil
}
