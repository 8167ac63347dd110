package pagemap

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/snapshot"
	"pagecache/recovery"
	"pagecache/segments/format"
)

const (
	// mostAppliers is the largest number of goroutines that apply the log. Each has some memory of its own.
	mostAppliers = 16
	// messagesEach is the number of messages that is worth a goroutine.
	messagesEach = 4096
)

// appliersFor returns the number of goroutines that apply n messages.
func appliersFor(n int) int { return min(runtime.GOMAXPROCS(0), mostAppliers, 1+n/messagesEach) }

// apply enters the messages of the log into the table, as if one after another in the order of the log.
//
// The messages are grouped by page, and several goroutines apply groups of pages, each for itself. A goroutine first
// looks at the messages of its group in the order of the log. It counts those that make up each page, which a base
// starts anew, and checks that each delta has a base and was appended to the page's message before it (rule 14). Then
// it enters these messages, the newest first, into entries that have the right size from the start.
//
// Page ids are dense, and of each page that exists or existed a message is in the log, except for the last allocations
// before a crash: ids of a dropped batch count as never handed out, and Salvage frees those of pages that it does not
// find. So the number of messages that the log has room for bounds the ids. A hostile id must not cost memory (rule
// 12).
func (b *rebuilder) apply() error {
	m := b.m
	m.IDs.UseSnapshot(m.base)
	bound := b.next + logstore.MaxMessages(len(b.r.Scan.Segments), m.store.SegmentSize())
	b.index = b.r.Scan.ByPage(format.FirstUserPage, bound, b.workers)
	b.next = max(b.next, b.index.Last+1)

	var taken atomic.Int64
	appliers := make([]applier, b.workers)
	work := func(a *applier) {
		a.init(b)
		groups, _ := b.index.Groups()
		for g := int(taken.Add(1)) - 1; g <= groups; g = int(taken.Add(1)) - 1 {
			if g == 0 {
				a.applyReserved()
			} else {
				a.applyGroup(b.index.Group(g - 1))
			}
		}
		a.live.flush()
	}
	var wg sync.WaitGroup
	for i := 1; i < len(appliers); i++ {
		wg.Go(func() { work(&appliers[i]) })
	}
	work(&appliers[0])
	wg.Wait()
	if msg := b.index.Beyond; msg != nil {
		appliers[0].failed.add(msg.LSN, m.store.Misplaced(*msg, "implausible page id"))
	}
	return b.merge(appliers)
}

// merge takes over what the appliers have found out. Of the messages that cannot be where they are, it reports the
// first in the order of the log, orphans last: their pages may have been written anew.
func (b *rebuilder) merge(appliers []applier) error {
	all := &appliers[0]
	for i := range appliers[1:] {
		a := &appliers[i+1]
		all.failed.add(a.failed.lsn, a.failed.err)
		all.orphan.add(a.orphan.lsn, a.orphan.err)
		all.problems = append(all.problems, a.problems...)
		all.blobs = append(all.blobs, a.blobs...)
		all.lost = append(all.lost, a.lost...)
		all.free = append(all.free, a.free...)
		b.again = append(b.again, a.again...)
		all.touched = append(all.touched, a.touched...)
	}
	b.again = append(b.again, all.again...)
	if err := cmp.Or(all.failed.err, all.orphan.err); err != nil {
		return err
	}
	var err error
	slices.SortFunc(all.problems, func(x, y problem) int { return cmp.Compare(x.page, y.page) })
	for _, p := range all.problems {
		err = errors.Join(err, p.err)
	}
	if err != nil {
		return err
	}
	slices.SortStableFunc(all.blobs, func(x, y pageBlob) int { return cmp.Compare(x.page, y.page) })
	for _, v := range all.blobs {
		b.m.blobs.Adopt(v.ptr)
	}
	for _, r := range all.lost {
		b.lost[r.LSN-r.LSN%format.LSN(b.m.store.SegmentSize())] -= sizeOf(r.Len)
	}
	for _, t := range all.touched {
		b.m.IDs.Touched(t.page, t.kind)
	}
	for _, pid := range all.free {
		b.m.IDs.AddFree(pid)
	}
	return nil
}

// sizeOf returns the room in the log of a message of n bytes.
func sizeOf(n uint32) int64 { return int64(format.AlignUp(int(n))) }

// firstError is the error with the lowest LSN.
type firstError struct {
	lsn format.LSN
	err error
}

func (f *firstError) add(lsn format.LSN, err error) {
	if err != nil && (f.err == nil || lsn < f.lsn) {
		f.lsn, f.err = lsn, err
	}
}

// problem is an error in the state of a page.
type problem struct {
	page format.PageID
	err  error
}

// pageBlob is a blob that a page refers to.
type pageBlob struct {
	page format.PageID
	ptr  format.BlobPtr
}

// pageKind is the kind of a page in the snapshot.
type pageKind struct {
	page format.PageID
	kind format.SnapshotKind
}

// An applier applies groups of messages. It belongs to one goroutine.
type applier struct {
	b     *rebuilder
	pages []pageState    // the pages of the group that have messages, in the order of their first message
	index []uint32       // for each page of the group its place in pages plus one, 0 if it has no message
	refs  []recovery.Ref // the messages of pages, according to the snapshot

	live     tally
	failed   firstError // a message that cannot be where it is, or a corrupt snapshot
	orphan   firstError // a delta that lacks a message before it, of a page that was not written anew
	problems []problem
	blobs    []pageBlob
	lost     []recovery.Ref // messages that the snapshot refers to, in segments that are not there any more
	free     []format.PageID
	touched  []pageKind
	again    []format.PageID // see rebuilder.again
	_        [64]byte        // another applier is written to by another goroutine
}

// pageState is a page while the messages of its group are applied.
type pageState struct {
	id     format.PageID
	effect recovery.Effect // of its newest message that is not a delta; EffectNone if there was no message
	kind   format.SnapshotKind
	inBase bool                 // its id has a record in the snapshot
	asIn   bool                 // its oldest messages are those that the snapshot refers to
	rare   bool                 // it refers to blobs, or to messages that are missing
	orphan recovery.PageMessage // the first delta since the last base or free that lacks a message before it
	prev   format.Prev          // of its newest message, which the next delta must name
	since  format.LSN           // of its newest message according to the snapshot; 0 if no other message is included
	first  int                  // index in applier.refs of its messages according to the snapshot
	refs   int                  // number of these
	count  int                  // messages of the log that make it up, without these
	left   int                  // messages of these count that are not entered yet
	head   *Head
}

func (a *applier) init(b *rebuilder) {
	_, pages := b.index.Groups()
	a.b, a.index, a.live.m = b, make([]uint32, pages), b.m
}

// applyGroup applies the messages of one group. first is the lowest page id of the group.
func (a *applier) applyGroup(first format.PageID, msgs []recovery.PageMessage) {
	if a.countGroup(first, msgs) {
		a.enterGroup(msgs)
	}
	for i := range a.pages {
		a.index[a.pages[i].id-first] = 0
	}
	clear(a.pages)
	a.pages, a.refs = a.pages[:0], a.refs[:0]
}

// countGroup finds out which messages make up each page. It returns false if it has noted an error.
//
// A delta is an orphan if the page has no base, or the message before it is not the one that the delta was appended to.
// That is legal if a message of the page is missing because its segment was recycled: everything in the segment was
// replaced by then, so the page was written anew further on (rule 4b). Otherwise the log is corrupt.
func (a *applier) countGroup(first format.PageID, msgs []recovery.PageMessage) bool {
	for _, msg := range msgs {
		i := a.index[msg.Page()]
		if i == 0 {
			a.pages = append(a.pages, pageState{id: first + format.PageID(msg.Page())})
			i = uint32(len(a.pages))
			a.index[msg.Page()] = i
			if err := a.look(&a.pages[i-1]); err != nil {
				a.failed.add(a.b.index.LSN(msg), err)
				return false
			}
		}
		p, lsn := &a.pages[i-1], a.b.index.LSN(msg)
		if p.since > 0 {
			if lsn <= p.since {
				continue // the snapshot includes it
			}
			p.since = 0 // it includes no later one either
		}
		switch effect := msg.Effect(); {
		case effect == recovery.EffectBase || effect == recovery.EffectFree || effect == recovery.EffectRoot:
			p.effect, p.asIn, p.orphan, p.count = effect, false, recovery.PageMessage{}, 1
		case effect == recovery.EffectDelta && p.effect == recovery.EffectBase && p.prev == msg.Prev():
			p.count++
		case effect == recovery.EffectDelta && a.b.r.Scan.Recycled > 0:
			if p.orphan.IsZero() {
				p.orphan = msg
			}
		default:
			a.failed.add(lsn, a.misplaced(p, msg))
			return false
		}
		p.prev = format.PrevOf(lsn)
	}
	whole := true
	for i := range a.pages {
		if p := &a.pages[i]; !p.orphan.IsZero() {
			a.orphan.add(a.b.index.LSN(p.orphan), a.misplaced(p, p.orphan))
			whole = false
		}
	}
	return whole
}

const noBase = "a delta of a page that has no base"

// misplaced returns the error for an orphan, or for a message that belongs to no page. p.effect is still as it was when
// the orphan was found.
func (a *applier) misplaced(p *pageState, msg recovery.PageMessage) error {
	m := a.b.index.Message(p.id-format.PageID(msg.Page()), msg)
	if msg.Effect() == recovery.EffectDelta && p.effect == recovery.EffectBase {
		return a.b.m.store.Misplaced(m, m.Prev.Mismatch(m.LSN))
	}
	if msg.Effect() == recovery.EffectDelta {
		return a.b.m.store.Misplaced(m, noBase)
	}
	if m.Kind == format.KindCounter {
		_, err := a.b.m.counter(m)
		return err
	}
	return a.b.m.store.Misplaced(m, fmt.Sprintf("%v message in a page store", m.Kind))
}

// look finds out what the snapshot says about a page.
func (a *applier) look(p *pageState) error {
	base := a.b.m.base
	if base == nil || p.id >= base.NextPage {
		return nil
	}
	s, err := base.PageInto(p.id, a.refs)
	if err != nil {
		return err
	}
	p.inBase, p.kind = true, s.Kind
	p.first, p.refs, a.refs = len(a.refs), len(s.Refs)-len(a.refs), s.Refs
	if err := snapshot.CheckKind(p.id, s.Kind); err != nil {
		return base.CorruptPage(p.id, err)
	}
	if p.refs == 0 && s.Kind != format.SnapshotKindNone {
		return base.CorruptPage(p.id, errNoMessages)
	}
	if p.refs > 0 {
		p.since, p.asIn, p.effect = s.Refs[p.first].LSN, true, recovery.EffectBase
		p.prev = format.PrevOf(p.since)
	}
	switch s.Kind {
	case format.SnapshotKindFree:
		p.effect = recovery.EffectFree
	case format.SnapshotKindRoot:
		p.effect = recovery.EffectRoot
	}
	return nil
}

// enterGroup makes the entries of the pages and accounts for their messages.
func (a *applier) enterGroup(msgs []recovery.PageMessage) {
	for i := range a.pages {
		p := &a.pages[i]
		p.left = p.count
		if p.effect == recovery.EffectBase {
			n := p.count
			if p.asIn {
				n += p.refs
			}
			p.head = pagestack.NewUnfilled(0, n)
		}
	}
	index := a.b.index
	for _, msg := range slices.Backward(msgs) {
		p := &a.pages[a.index[msg.Page()]-1]
		if p.left == 0 {
			continue // superseded
		}
		lsn, ptr := index.LSN(msg), index.Ptr(msg)
		switch p.effect {
		case recovery.EffectFree:
			p.head = pagestack.NewFree(0, lsn, ptr)
		case recovery.EffectRoot: // nameRoots replaces it
			p.head = pagestack.NewOnDisk(0, []pagestack.Ref{{LSN: lsn, Ptr: ptr}})
		default:
			p.head.Fill(p.count-p.left, pagestack.Ref{LSN: lsn, Ptr: ptr})
		}
		p.left--
		p.rare = p.rare || ptr.Blob
		a.live.add(index.Slot(msg), sizeOf(ptr.Len))
	}
	for i := range a.pages {
		p := &a.pages[i]
		if p.inBase {
			if err := a.override(p); err != nil {
				a.problems = append(a.problems, problem{p.id, err})
				continue
			}
		}
		if p.effect == recovery.EffectFree {
			a.free = append(a.free, p.id)
		}
		a.b.m.Table.Make(p.id).Store(p.head)
		if p.rare {
			a.check(p.id, p.head)
		}
	}
}

// override replaces what the snapshot says about a page. Messages that still make up the page are in the accounts.
func (a *applier) override(p *pageState) (err error) {
	if p.kind == format.SnapshotKindNone || p.kind == format.SnapshotKindFree {
		a.touched = append(a.touched, pageKind{p.id, p.kind})
	}
	refs := a.refs[p.first:][:p.refs]
	if !p.asIn {
		a.uncount(refs)
		return nil
	}
	for i, r := range refs {
		ptr, _ := a.b.locate(r)
		switch p.effect {
		case recovery.EffectFree:
			p.head = pagestack.NewFree(0, r.LSN, ptr)
		case recovery.EffectRoot:
			a.again = append(a.again, p.id)
			p.head, err = a.b.m.rootInBase(p.id, pagestack.Ref{LSN: r.LSN, Ptr: ptr})
		default:
			p.head.Fill(p.count+i, pagestack.Ref{LSN: r.LSN, Ptr: ptr})
		}
		p.rare = p.rare || ptr.Blob || ptr.IsZero()
	}
	return err
}

// uncount takes messages that the snapshot refers to out of the accounts.
func (a *applier) uncount(refs []recovery.Ref) {
	for _, r := range refs {
		if ptr, slot := a.b.locate(r); !ptr.IsZero() {
			a.live.add(slot, -sizeOf(r.Len))
		} else {
			a.lost = append(a.lost, r)
		}
	}
}

// check notes the blobs that a page refers to, and the messages of it that are missing.
func (a *applier) check(pid format.PageID, h *Head) {
	m := a.b.m
	var err error
	h.Refs(func(ref pagestack.Ref) {
		if ref.Ptr.IsZero() {
			err = m.missingSegment(pid, ref.LSN)
			return
		}
		if ref.Ptr.Blob {
			ptr, blobErr := m.store.Blob(ref.LSN, ref.Ptr)
			blobErr = logstore.InPage(pid, blobErr)
			if blobErr == nil {
				a.blobs = append(a.blobs, pageBlob{pid, ptr})
			}
			err = errors.Join(err, blobErr)
		}
	})
	if err != nil {
		a.problems = append(a.problems, problem{pid, err})
	}
}

// applyReserved applies the messages of pages 0 and 1.
func (a *applier) applyReserved() {
	m := a.b.m
	err := a.b.r.Scan.ApplyBelow(format.FirstUserPage, func(msg recovery.Message) error {
		err := a.applyToReserved(msg)
		a.failed.add(msg.LSN, err)
		return err
	})
	if err != nil {
		return
	}
	for pid := range format.FirstUserPage {
		h := m.head(pid)
		if h == nil {
			continue
		}
		if m.base != nil && pid < m.base.NextPage {
			p, err := m.base.Page(pid)
			if err != nil {
				a.problems = append(a.problems, problem{pid, err})
				continue
			}
			a.uncount(p.Refs)
		}
		h.Refs(func(ref pagestack.Ref) { a.live.add(m.store.SlotOf(ref.Ptr.Off), sizeOf(ref.Ptr.Len)) })
		a.check(pid, h)
	}
}

func (a *applier) applyToReserved(msg recovery.Message) error {
	m := a.b.m
	s, old, err := m.FindNow(msg.Page)
	if err != nil || old != nil && msg.LSN <= old.LSN { // the snapshot includes it
		return err
	}
	if s == nil {
		s = m.Table.Make(msg.Page)
	}
	h, err := m.counter(msg)
	if err == nil {
		s.Store(h)
	}
	return err
}

// tally sums up live bytes by slot before they enter the accounts, so that the goroutines seldom write to the same
// memory.
type tally struct {
	m    *Map
	sums [64]struct {
		slot format.SegmentID
		live int64
	}
}

func (t *tally) add(slot format.SegmentID, n int64) {
	s := &t.sums[slot%format.SegmentID(len(t.sums))]
	if s.slot != slot {
		t.enter(s.slot, s.live)
		s.slot, s.live = slot, 0
	}
	s.live += n
}

// flush enters the sums that are left.
func (t *tally) flush() {
	for _, s := range t.sums {
		t.enter(s.slot, s.live)
	}
}

func (t *tally) enter(slot format.SegmentID, n int64) {
	if n != 0 {
		t.m.store.Space.AddLive(slot, n)
	}
}
