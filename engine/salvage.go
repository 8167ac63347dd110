package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/salvage"
	"pagecache/engine/internal/scope"
	"pagecache/engine/internal/snapshot"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// A SalvageReport says what Salvage saved, and what it could not.
type SalvageReport struct {
	Pages      int64 // pages saved, with everything that is left of them
	Fragments  int64
	Bytes      int64  // of encoded values
	Records    int64  // of a standalone log
	Lost       int64  // pages of which something is known to be lost; each is a Loss
	Corrupt    int64  // bytes of the log that should be messages and are none
	Unreadable int64  // bytes of the log that the disk does not return
	Losses     []Loss // everything that is lost, in the order in which it was found
}

// A Loss is something that Salvage could not copy. Its Kind says what it is, its Place where, as closely as that is
// known, and its Text is a line for people. Its Err wraps syscall.EIO if the disk did not return the bytes.
type Loss = recovery.Loss

// LossKind is a kind of Loss.
type LossKind = recovery.LossKind

// The kinds of Loss.
const (
	// LossFile is a superblock, snapshot or segment header that is corrupt or cannot be read. By itself it costs no
	// page and no record.
	LossFile LossKind = recovery.LossFile
	// LossRange is a part of the log that is corrupt, missing or cannot be read. Records that were written there are
	// lost. Pages and roots that were changed there are lost, or as they were before; those of which that is certain
	// are also reported one by one.
	LossRange LossKind = recovery.LossRange
	// LossPage is a page that is lost, or was saved as it was before its newest changes.
	LossPage LossKind = recovery.LossPage
	// LossBatch is a batch of which a part may be missing.
	LossBatch LossKind = recovery.LossBatch
	// LossRoot is a root that names a page without a value, or roots that were saved as they were before.
	LossRoot LossKind = recovery.LossRoot
	// LossIDs is an id counter that cannot be continued.
	LossIDs LossKind = recovery.LossIDs
)

// Salvage copies everything readable from the corrupt store or log in dir to a new one in out, and reports everything
// that it cannot copy: in SalvageReport.Losses, and by a call of lost, which may be nil, with the text of each. It
// reads around blocks that the disk does not return, and needs neither superblock nor snapshots, but a snapshot tells
// it exactly which pages lost something.
//
// A page with corrupt recent messages is restored to its last state that is certain to have existed; batches may be
// partial. Without a LossPage for a page, and a LossRange after its newest message, the page is as it was last. Pages
// keep their ids, and GenerateID continues above all ids that were found. Ids of pages that are lost as a whole are
// free in the new store, so a reference to such a page may come to refer to a new one.
//
// Salvage writes nothing to dir, which must not be open. opts are those of the new store, except SnapshotDir, which is
// the old one's; nil means the defaults, with the old store's segment size. Errors: ErrLocked, ErrFormat, ErrCorrupt if
// nothing in the log can be verified, and those of reading and of writing the new store.
func Salvage(dir, out string, opts *Options, lost func(what string)) (SalvageReport, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	full := o.withDefaults()
	if d, err := full.seam.FS.OpenDir(out); err == nil {
		return SalvageReport{}, errors.Join(fmt.Errorf("salvage to %s: the directory exists already", out), d.Close())
	}
	held, err := full.seam.FS.OpenDir(dir)
	if err != nil {
		return SalvageReport{}, fmt.Errorf("salvage %s: %w", dir, err)
	}
	defer held.Close()
	snaps := snapshot.New(snapshot.Config{In: held, OwnDir: o.SnapshotDir, FS: full.seam.FS})
	defer snaps.Close()
	s := &salvager{lost: lost}
	src, err := salvage.Open(salvage.Config{Dir: held, Lost: s.lose, Snapshots: snaps, SegmentSize: o.SegmentSize,
		Blobs: blob.Config{In: held, Name: blobDir, Report: full.report}})
	if err != nil {
		return s.r, fmt.Errorf("salvage %s: %w", dir, err)
	}
	defer src.Close()
	s.src, s.r.Corrupt, s.r.Unreadable = src, src.Corrupt, src.Unreadable
	o.SnapshotDir = ""
	orDefault(&o.SegmentSize, src.Super.SegmentSize)
	src.ReportBatches()
	if src.Log {
		err = s.saveLog(out, &o)
	} else {
		err = s.savePages(out, &o)
	}
	return s.r, err
}

// salvager writes the readable messages of a store to a new one.
type salvager struct {
	src  *salvage.Reader
	lost func(string)
	r    SalvageReport
}

// lose reports a loss.
func (s *salvager) lose(l Loss) {
	s.r.Losses = append(s.r.Losses, l)
	if s.lost != nil {
		s.lost(l.Text)
	}
}

func (s *salvager) saveLog(out string, o *Options) error {
	l, err := OpenLog(out, o)
	if err != nil {
		return err
	}
	for _, m := range s.src.Messages {
		if m.Kind != format.KindData && !m.Kind.OfStream() || m.Kind == format.KindRecordPart {
			continue
		}
		b, err := s.src.Value(m)
		if err != nil {
			s.lose(Loss{Kind: LossRange, Place: Place{}.WithLSN(m.LSN), Bytes: int64(m.Ptr.Len), Err: err,
				Text: fmt.Sprintf("record at LSN %v: %v", m.LSN, err)})
			continue
		}
		n := 1
		var st *Stream
		if m.Kind.OfStream() {
			if st, err = l.Stream(StreamID(m.Page)); err != nil {
				return errors.Join(err, l.Close())
			}
		}
		torn := s.src.IsInCorruptGroup(m.LSN)
		switch m.Kind {
		case format.KindRecord, format.KindLongRecord:
			n, b, err = saveRecord(st, b, torn)
		case format.KindNote:
			n, err = 0, saveNote(st, b)
		case format.KindTruncate:
			n, b, err = 0, nil, saveCut(st, b, torn)
		default:
			_, _, err = l.Write(b)
		}
		if err != nil {
			return errors.Join(err, l.Close())
		}
		s.r.Records += int64(n)
		s.r.Bytes += int64(len(b))
	}
	return l.Close()
}

// saveRecord appends a record to a stream of the new log, and returns how many records that are, and its bytes. If its
// number is in use, the message that had cut off the older records is lost: it is certain that they were. In a corrupt
// group it may be a copy of one that is there.
func saveRecord(s *Stream, body []byte, torn bool) (int, []byte, error) {
	q, b, err := format.CutSeq(body)
	if err != nil {
		return 0, nil, err
	}
	if _, last := s.Bounds(); q <= last {
		if old, err := s.Get(q); torn && err == nil && bytes.Equal(old.Bytes, b) {
			return 0, nil, nil
		}
		if err := s.TruncateAfter(context.Background(), q-1); err != nil {
			return 0, nil, err
		}
	}
	_, err = s.Append(q, b)
	return 1, b, err
}

// saveCut removes records from a stream of the new log. A cut of all of them in a corrupt group is left out: that group
// was to carry records forward, and some of its copies may be missing.
func saveCut(s *Stream, body []byte, torn bool) error {
	c, err := format.DecodeCut(body)
	if err != nil || torn && c == (format.Cut{}) {
		return err
	}
	err = s.TruncateAfter(context.Background(), c.Last)
	if err == nil && c.First > 0 {
		err = s.DropBelow(context.Background(), c.First)
	}
	return err
}

// saveNote sets or removes a note of a stream of the new log.
func saveNote(s *Stream, body []byte) error {
	n, err := format.DecodeNote(body)
	if err != nil {
		return err
	}
	note := Note{Name: string(n.Name)}
	if n.Set {
		note.Value = n.Value
	}
	_, err = s.AppendNoted(0, nil, note)
	return err
}

func (s *salvager) savePages(out string, o *Options) error {
	// Fragments are copied as they are: only the owner of the pages knows how to merge them.
	o.seam.Verbatim, o.SegmentMode = true, SegmentModeLinear
	pc, err := Open(out, encodedPages{name: s.src.Super.Name}, o)
	if err != nil {
		return err
	}
	return errors.Join(s.fill(pc), pc.Close())
}

// fill writes the pages to the new store.
func (s *salvager) fill(pc *PageCache[[]byte]) error {
	found := s.src.Gather()
	defer func() { s.r.Lost = int64(len(found.Lost)) }()
	s.raiseIDs(pc, found.IDs)
	for _, pid := range slices.Sorted(maps.Keys(found.Chains)) {
		if err := s.savePage(pc, pid, found); err != nil {
			return err
		}
	}
	if err := s.saveRoots(pc, found); err != nil {
		return err
	}
	return freeRest(pc, found.Next)
}

// raiseIDs makes GenerateID continue above the ids that may have been handed out.
func (s *salvager) raiseIDs(pc *PageCache[[]byte], ids uint64) {
	interval := s.src.Super.IDInterval
	step := 2 * max(interval, pc.core.opts.IDPersistInterval)
	if interval > maxIDPersistInterval || ids > logstore.MaxID-step {
		const text = "next id %d, interval %d: out of bounds; ids begin anew"
		s.lose(Loss{Kind: LossIDs, Text: fmt.Sprintf(text, ids, interval)})
		return
	}
	pc.ids.Raise(ids + step)
}

// freeRest frees all ids below next of which there is no page and no root: the number of messages in the log bounds the
// ids of a store (pagemap).
func freeRest(pc *PageCache[[]byte], next PageID) error {
	pc.pages.IDs.RaiseNext(next)
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	for pid := FirstUserPage; pid < next; pid++ {
		slot := pc.pages.Table.Make(pid)
		if !slot.IsEmpty() { // a new store, without transactions
			continue
		}
		c := change[[]byte]{kind: format.KindFree, on: ifOwned}
		if _, _, err := pc.apply(tx.base(), page{id: pid, slot: slot}, &c); err != nil {
			return describePage("free", pid, err)
		}
	}
	return nil
}

// savePage writes a page, fragment by fragment, up to the first that cannot be read.
func (s *salvager) savePage(pc *PageCache[[]byte], pid PageID, found *salvage.Pages) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	pc.pages.IDs.RaiseNext(pid + 1)
	var ptr PagePtr[[]byte]
	chain := found.Chains[pid]
	for i, m := range chain {
		b, err := s.src.Value(m)
		if err != nil {
			found.Lost[pid] = true
			const text = "page %d: fragment %d of %d, LSN %v, and all after it: %v"
			s.lose(Loss{Kind: LossPage, Place: Place{}.WithPage(pid).WithLSN(m.LSN), Err: err,
				Text: fmt.Sprintf(text, pid, i+1, len(chain), m.LSN, err)})
			break
		}
		if i == 0 {
			ptr, err = saveBase(pc, tx.base(), pid, b)
			s.r.Pages++
		} else {
			ptr, _, err = pc.Link(tx, pid, ptr, b)
		}
		if err != nil {
			return err
		}
		s.r.Fragments++
		s.r.Bytes += int64(len(b))
	}
	return nil
}

// saveBase writes the first fragment of a page under its old id.
func saveBase(pc *PageCache[[]byte], tx *scope.Scope, pid PageID, b []byte) (PagePtr[[]byte], error) {
	v, err := pc.copyIn(tx, pid, b, pc.inlineBase)
	if err != nil {
		return PagePtr[[]byte]{}, err
	}
	defer tx.Release()
	slot, err := pc.pages.Unused(pid)
	if err != nil {
		pc.values.Discard(&v.payload)
		return PagePtr[[]byte]{}, err
	}
	c := change[[]byte]{kind: format.KindCompact, on: ifOwned}
	c.take(v)
	h, _, err := pc.apply(tx, page{id: pid, slot: slot}, &c)
	if err != nil {
		return PagePtr[[]byte]{}, err
	}
	pc.mem.reclaim(tx, pid)
	return ptrTo[[]byte](pid, h), nil
}

// saveRoots writes the roots on their old pages.
func (s *salvager) saveRoots(pc *PageCache[[]byte], found *salvage.Pages) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	for _, pid := range slices.Sorted(maps.Keys(found.Roots)) {
		r := found.Roots[pid]
		pc.pages.IDs.RaiseNext(pid + 1)
		if _, err := pc.renameRoot(r.Name, 0, r.Target, pid); err != nil {
			return describe(fmt.Sprintf("save root %.64q", r.Name), err)
		}
		if p, err := pc.Get(tx, r.Target); err != nil || p.Kind != KindMaterialized {
			s.lose(Loss{Kind: LossRoot, Place: Place{}.WithPage(r.Target), Err: err,
				Text: fmt.Sprintf("root %.64q: its page %d has no value", r.Name, r.Target)})
		}
	}
	return nil
}
