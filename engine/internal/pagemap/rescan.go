package pagemap

import (
	"context"
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
	orphan format.LSN     // of the newest delta whose base was not found; 0: the chain is complete
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
	bases, _ := store.Space.Census(from)
	slices.Sort(bases)
	buf := make([]byte, size)
	for _, base := range bases {
		if base >= from {
			break
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		part, err := store.ReadPart(base, buf[:min(size, from-base)])
		if err != nil {
			return err
		}
		if part.Found {
			r.walk(part, base)
		}
	}
	return nil
}

// walk applies the messages of a segment. Behind one that is not valid it goes on with the next that is.
func (r *rescan) walk(part logstore.Part, base format.LSN) {
	b := part.Bytes
	for pos := format.SegmentStart; len(b)-pos >= format.HeaderSize; {
		h, _, err := format.DecodeMessage(b[pos:], base+format.LSN(pos), part.Seed)
		if err == nil {
			r.apply(h)
			pos += format.AlignUp(h.Len)
			continue
		}
		end := pos + format.Align
		for ; len(b)-end >= format.HeaderSize; end += format.Align {
			if _, _, err := format.DecodeMessage(b[end:], base+format.LSN(end), part.Seed); err == nil {
				break
			}
		}
		if len(b)-end < format.HeaderSize {
			end = len(b)
		}
		if part.Err != nil {
			err = part.Err
		}
		r.addGap(part, base, gap{begin: base + format.LSN(pos), err: err}, end-pos)
		pos = end
	}
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
// message are this one message, and its page is beyond doubt:
//
//   - If one flipped bit in the header is the whole error, the header without it says the page. No second flip would
//     make the checksum match.
//   - Otherwise the error is in the body, or larger than a bit. A header with the right LSN, that ends the message
//     where the next one begins, is taken for whole if it names a page that can exist.
//
// Messages that are not part of a page's state count as those of page 0, which is never looked up here.
func (r *rescan) owner(b []byte, n int, lsn format.LSN, seed format.Seed) (format.PageID, bool) {
	fits := func(h format.Header) bool { // a segment may end with fewer bytes than a message has
		rest := n - format.AlignUp(h.Len)
		return rest == 0 || len(b) == n && rest > 0 && rest < format.HeaderSize
	}
	for bit := range format.HeaderSize * 8 {
		b[bit/8] ^= 1 << (bit % 8)
		h, _, err := format.DecodeMessage(b, lsn, seed)
		b[bit/8] ^= 1 << (bit % 8)
		if err != nil || !fits(h) {
			continue
		}
		if !h.Kind.OfPage() {
			return format.MetaPage, true
		}
		return h.Page, true
	}
	h, err := format.DecodeHeader(b, len(b), lsn)
	if err != nil || !fits(h) || !h.Kind.OfPage() {
		return 0, false
	}
	return h.Page, h.Page >= format.FirstUserPage && h.Page < r.m.base.NextPage
}

// apply applies a message to its page, if that is wanted. Deltas whose base was recycled are passed over until the page
// was written anew, as when a store is opened.
func (r *rescan) apply(h format.Header) {
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
	case format.KindAppend:
		if c.kind != format.SnapshotKindPage {
			*c = chain{orphan: h.LSN}
			return
		}
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
		if h := r.head(pid); h != nil {
			b.Pages[i].Kind = r.kindInTable(h)
		} else if err := r.lost(pid, c); err != nil {
			b.Errors[i] = err
		} else if len(c.refs) > 0 {
			b.Pages[i] = c.page()
		}
	}
	return b
}

// head returns the head of a page that is in the table, or nil.
func (r *rescan) head(pid format.PageID) *Head {
	if s := r.m.Table.Get(pid); s != nil {
		return s.Load()
	}
	return nil
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
// known, follows its base. No guess is taken for the page.
func (r *rescan) lost(pid format.PageID, c *chain) error {
	if pid < format.FirstUserPage { // always in the table
		return nil
	}
	base := format.LSN(0)
	if len(c.refs) > 0 {
		base = c.refs[0].LSN
	}
	for _, g := range r.gaps {
		if base > g.begin || g.owned && g.owner != pid {
			continue
		}
		reason := "the snapshot is corrupt, and this part of the log, which the page needs, too"
		if !g.owned {
			reason = "the snapshot is corrupt, and this part of the log, which may hold the page, too"
		}
		return &recovery.CorruptError{File: r.m.store.LogFile(), Place: g.at.WithPage(pid), Reason: reason, Err: g.err}
	}
	if c.orphan > 0 {
		return r.m.store.CorruptLog(recovery.Place{}.WithLSN(c.orphan).WithPage(pid), noBase)
	}
	return nil
}
