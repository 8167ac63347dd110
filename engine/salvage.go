package engine

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"

	"pagecache/engine/internal/pagestack"
	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// SalvageReport is what Salvage saved.
type SalvageReport struct {
	Pages     int64 // saved, with all that is left of them
	Fragments int64
	Bytes     int64 // of values, as they are encoded
	Records   int64 // of a standalone log
	Lost      int64 // pages of which something is known to be lost; each was reported
	Damaged   int64 // bytes of the log that say nothing
}

// Salvage writes what can still be read of a damaged store, or standalone log, into a new one in out, and says by lost what cannot. Pages keep their ids, and
// those of GenerateID go on above all that were found. Ids of pages that are lost as a whole are free in the new store, so that what still refers to such a page may
// come to refer to a new one. It takes what it finds: a page whose newest messages are damaged is as it was before them, and a batch may be
// there in part; where that can be told it is reported. Nothing is written to dir, which must not be open. opts are those of the new store, but for
// SnapshotDir, which is the old one's; nil: defaults, with the segment size of the old one.
func Salvage(dir, out string, opts *Options, lost func(what string)) (SalvageReport, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	s := &salvage{lost: lost, s: &store{opts: o.withDefaults(), dir: dir}}
	s.s.fs = s.s.opts.fs
	s.s.opts.ReadOnly = true
	defer s.s.release()
	if err := s.begin(); err != nil {
		return s.r, fmt.Errorf("salvage %s: %w", dir, err)
	}
	o.SnapshotDir = ""
	if _, err := s.s.fs.ReadDir(out); err == nil {
		return s.r, fmt.Errorf("salvage: %s is there already", out)
	}
	orDefault(&o.SegmentSize, s.s.super.SegmentSize)
	save := s.savePages
	if s.s.super.Log {
		save = s.saveLog
	}
	return s.r, save(out, &o)
}

type salvage struct {
	s        *store
	r        SalvageReport
	lost     func(string)
	messages []found
	// What they come to: the pages that are left, the roots, where ids go on, the page id above all that were found, and the one that none can reach.
	chains map[PageID][]found
	roots  map[string]PageID
	ids    uint64
	next   PageID
	most   PageID
}

// lostPages is how many pages, besides those that the log has room for, may have been lost with parts of it: as many ids are freed in the new store at
// most, for 24 bytes each on disk and 32 in memory.
const lostPages = 1 << 23

// found is an intact message.
type found struct {
	recovery.Message
	seed format.Seed
}

// begin reads whatever is intact in the log.
func (v *salvage) begin() (err error) {
	s := v.s
	if s.file, err = s.fs.Open(filepath.Join(s.dir, logName), vfs.FlagRead); err != nil {
		return err
	}
	if err := s.file.Lock(vfs.LockShared); err != nil {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	if err := v.superblock(); err != nil {
		return err
	}
	s.blobs.init(s)
	size, err := s.file.Size()
	if err != nil {
		return err
	}
	seg := make([]byte, s.super.SegmentSize)
	v.most = min(s.messagesIn(int(size/int64(len(seg))))+lostPages, format.MaxPageID+1)
	newest := map[format.LSN]format.Generation{} // of each base
	var all [][]found
	var gens []format.Generation
	for slot := format.SegmentID(0); int64(slot.Offset(len(seg))) < size; slot++ {
		n, err := s.file.ReadAt(seg, int64(slot.Offset(len(seg))))
		if err != nil && err != io.EOF {
			v.lost(fmt.Sprintf("slot %v: %v", slot, err))
		}
		clear(seg[n:])
		ms, gen := v.segment(seg, slot)
		if len(ms) == 0 {
			continue
		}
		base := ms[0].LSN - ms[0].LSN%format.LSN(len(seg))
		if g, ok := newest[base]; ok && g >= gen {
			continue // an older copy of the tail
		}
		newest[base] = gen
		all, gens = append(all, ms), append(gens, gen)
	}
	for i, ms := range all {
		if base := ms[0].LSN - ms[0].LSN%format.LSN(len(seg)); newest[base] == gens[i] {
			v.messages = append(v.messages, ms...)
		}
	}
	slices.SortFunc(v.messages, func(a, b found) int { return cmp.Compare(a.LSN, b.LSN) })
	return nil
}

// superblock reads the superblock, or finds what is needed of it in a snapshot.
func (v *salvage) superblock() error {
	s := v.s
	name := filepath.Join(s.dir, superName)
	b, err := s.readSmall(name, format.SuperblockSize)
	if err == nil {
		if s.super, err = format.DecodeSuperblock(b); err == nil {
			return nil
		}
	}
	v.lost(fmt.Sprintf("%s: %v", name, err))
	if s.snaps.dir = s.opts.SnapshotDir; s.snaps.dir == "" {
		s.snaps.dir = s.dir
	}
	numbers, _ := s.snapshotNumbers()
	for _, n := range slices.Backward(numbers) {
		f, err := s.fs.Open(s.snapshotName(n), vfs.FlagRead)
		if err != nil {
			continue
		}
		b := make([]byte, format.SnapshotBlock)
		size, err := f.Size()
		_, rerr := f.ReadAt(b, 0)
		h, herr := format.DecodeSnapshotHeader(b, size)
		if errors.Join(err, rerr, herr, f.Close()) == nil {
			s.super = format.Superblock{Store: h.Store, SegmentSize: h.SegmentSize, NextID: h.Counter, NextPage: h.NextPage}
			return nil
		}
	}
	return fmt.Errorf("neither the superblock nor a snapshot says whose log this is: %w", err)
}

// segment finds the intact messages of a slot, wherever they begin.
func (v *salvage) segment(seg []byte, slot format.SegmentID) ([]found, format.Generation) {
	h, err := format.DecodeSegmentHeader(seg, slot, len(seg))
	var gens []format.Generation
	switch {
	case errors.Is(err, format.ErrSegmentZero):
		return nil, 0
	case err != nil:
		v.lost(fmt.Sprintf("slot %v: its header: %v", slot, err))
		for g, n := v.s.super.Generation+1, 0; g > 0 && n < maxGenerations; g, n = g-1, n+1 {
			gens = append(gens, g-1)
		}
		if v.s.super.Generation == 0 { // not known
			for g := range format.Generation(maxGenerations) {
				gens = append(gens, g)
			}
		}
	case h.State != format.SegmentStateInUse:
		return nil, 0
	default:
		gens = []format.Generation{h.Generation}
	}
	var best []found
	var gen format.Generation
	for _, g := range gens {
		ms, damaged := v.walk(seg, slot, h.Base, err == nil, format.MakeSeed(v.s.super.Store, g, slot))
		if len(ms) > len(best) {
			best, gen = ms, g
			v.r.Damaged += damaged
		}
	}
	return best, gen
}

// maxGenerations is how many openings back the messages of a slot without a header may be from.
const maxGenerations = 1000

// walk finds the messages of one generation in a slot. It goes from message to message, and over damage by looking at each place where one can begin.
func (v *salvage) walk(seg []byte, slot format.SegmentID, base format.LSN, known bool, seed format.Seed) (ms []found, damaged int64) {
	size := format.LSN(len(seg))
	hole := 0 // bytes since the last message
	for pos := format.SegmentHeaderSize; len(seg)-pos >= format.HeaderSize; {
		lsn := base + format.LSN(pos)
		if !known {
			lsn = format.LSN(binary.LittleEndian.Uint64(seg[pos+8:]))
			if lsn < 0 || lsn%size != format.LSN(pos) {
				pos += format.Align
				continue
			}
		}
		h, body, err := format.DecodeMessage(seg[pos:], lsn, seed)
		if err != nil {
			pos, hole = pos+format.Align, hole+format.Align
			continue
		}
		if hole > 0 { // there is more after it, so it is not the end
			v.lost(fmt.Sprintf("slot %v, offset %v: %d bytes, LSN %v … %v, are damaged; pages that were changed there are as they were before", slot,
				slot.Offset(len(seg))+format.Offset(pos-hole), hole, lsn-format.LSN(hole), lsn-1))
			damaged += int64(hole)
			hole = 0
		}
		base, known = lsn-format.LSN(pos), true
		m := recovery.Message{Kind: h.Kind, LSN: lsn, Page: h.Page, Ptr: DiskPtr{Off: slot.Offset(len(seg)) + format.Offset(pos), Len: uint32(h.Len), Blob: h.Kind.Blob()}}
		if h.Kind == format.KindMeta || h.Kind == format.KindCounter {
			m.Body = slices.Clone(body)
		}
		ms = append(ms, found{m, seed})
		pos += format.AlignUp(h.Len)
	}
	return ms, damaged
}

// value reads the value of a message again.
func (v *salvage) value(m found) ([]byte, error) {
	b := make([]byte, m.Ptr.Len)
	if _, err := v.s.file.ReadAt(b, int64(m.Ptr.Off)); err != nil {
		return nil, err
	}
	_, body, err := format.DecodeMessage(b, m.LSN, m.seed)
	switch {
	case err != nil:
		return nil, err
	case m.Kind.Blob():
		b, _, err := v.s.blobs.read(body)
		return b, err
	case m.Kind.Zstd():
		return unpack(body, v.s.super.SegmentSize)
	}
	return body, nil
}

// batches reports those of which the end is not there.
func (v *salvage) batches() {
	open := map[format.LSN]bool{}
	for _, m := range v.messages {
		switch m.Kind {
		case format.KindBatchBegin:
			open[m.LSN] = true
		case format.KindBatchEnd:
			if b, err := v.value(m); err == nil {
				if e, err := format.DecodeManifest(b, m.LSN); err == nil {
					delete(open, e.Begin)
				}
			}
		}
	}
	for lsn := range open {
		v.lost(fmt.Sprintf("the end of the batch that begins at LSN %v: it may be there in part", lsn))
	}
}

func (v *salvage) saveLog(out string, o *Options) error {
	l, err := OpenLog(out, o)
	if err != nil {
		return err
	}
	v.batches()
	for _, m := range v.messages {
		if m.Kind != format.KindData {
			continue
		}
		b, err := v.value(m)
		if err == nil {
			_, _, err = l.Write(b)
		}
		if err != nil {
			return errors.Join(err, l.Close())
		}
		v.r.Records++
		v.r.Bytes += int64(len(b))
	}
	return l.Close()
}

func (v *salvage) savePages(out string, o *Options) error {
	// Fragments are copied as they are: nothing may be merged, which only the owner of the pages knows how to do.
	o.verbatim, o.SegmentMode = true, Linear
	pc, err := Open(out, raw{}, o)
	if err != nil {
		return err
	}
	return errors.Join(v.fill(pc), pc.Close())
}

// gather takes the messages together.
func (v *salvage) gather() {
	v.chains, v.ids, v.next = map[PageID][]found{}, v.s.super.NextID, FirstUserPage
	orphans, odd := map[PageID]int{}, map[PageID]bool{}
	for _, m := range v.messages {
		k := m.Kind.Plain()
		switch k {
		case format.KindMeta:
			if r, err := format.DecodeMeta(m.Body); err == nil {
				v.roots = r
			}
			continue
		case format.KindCounter:
			if c, err := format.DecodeCounter(m.Body); err == nil {
				v.ids = max(v.ids, c)
			}
			continue
		case format.KindCompact, format.KindAppend, format.KindFree:
		default:
			continue
		}
		if m.Page < FirstUserPage || m.Page >= v.most { // rule 12
			odd[m.Page] = true
			continue
		}
		v.next = max(v.next, m.Page+1)
		switch {
		case k == format.KindAppend && len(v.chains[m.Page]) == 0:
			orphans[m.Page]++
			continue
		case k == format.KindAppend:
			v.chains[m.Page] = append(v.chains[m.Page], m)
		case k == format.KindCompact:
			v.chains[m.Page] = []found{m}
		default:
			delete(v.chains, m.Page)
		}
		delete(orphans, m.Page)
	}
	v.r.Lost += int64(len(orphans) + len(odd))
	for pid, n := range orphans {
		v.lost(fmt.Sprintf("page %d: what its last %d deltas were written on is not there", pid, n))
	}
	for pid := range odd {
		v.lost(fmt.Sprintf("page %d: its id is out of proportion to the log", pid))
	}
}

// fill writes the pages into the new store.
func (v *salvage) fill(pc *PageCache[[]byte]) error {
	v.batches()
	v.gather()
	step := 2 * max(v.s.super.IDInterval, pc.opts.IDPersistInterval)
	if v.s.super.IDInterval > maxIDPersistInterval || v.ids > maxID-step {
		v.lost(fmt.Sprintf("next id %d, interval %d: out of bounds; ids begin anew", v.ids, v.s.super.IDInterval))
	} else {
		pc.ids.next.Store(max(pc.ids.next.Load(), v.ids+step))
	}
	for _, pid := range slices.Sorted(maps.Keys(v.chains)) {
		if err := v.savePage(pc, pid, v.chains[pid]); err != nil {
			return err
		}
	}
	if err := v.freeRest(pc); err != nil {
		return err
	}
	return v.saveRoots(pc, v.roots)
}

// freeRest frees all ids that were found, or lie below such, and of which there is no page: an opening bounds ids by the messages that there are (apply).
func (v *salvage) freeRest(pc *PageCache[[]byte]) error {
	pc.pages.next.Store(max(pc.pages.next.Load(), uint64(v.next)))
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	for pid := FirstUserPage; pid < v.next; pid++ {
		s := pc.table.Make(pid)
		if s.Load() != nil {
			continue
		}
		r, err := pc.log.Reserve(format.KindFree, pid, 0)
		if err != nil {
			return logError(fmt.Sprintf("free page %d", pid), err)
		}
		pc.install(tx, pid, s, nil, pagestack.NewFree(1, r.LSN(), r.Ptr()), &r, 0) // nobody else is there to win
	}
	return nil
}

// savePage writes a page, fragment by fragment, up to the first that cannot be read.
func (v *salvage) savePage(pc *PageCache[[]byte], pid PageID, chain []found) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	if uint64(pid) >= pc.pages.next.Load() {
		pc.pages.next.Store(uint64(pid) + 1)
	}
	var ptr PagePtr[[]byte]
	for i, m := range chain {
		b, err := v.value(m)
		if err != nil {
			v.r.Lost++
			v.lost(fmt.Sprintf("page %d: fragment %d of %d, LSN %v, and what follows: %v", pid, i+1, len(chain), m.LSN, err))
			break
		}
		if i == 0 {
			p, err := pc.encode(tx, b)
			if err != nil {
				return err
			}
			e, err := pc.rewrite(tx, pid, pc.table.Make(pid), nil, &p, b, 1)
			if err != nil {
				return err
			}
			ptr = ptrTo[[]byte](pid, &e.Head)
			pc.relieve(tx, pid)
			v.r.Pages++
		} else if ptr, _, err = pc.Link(tx, pid, ptr, b); err != nil {
			return err
		}
		v.r.Fragments++
		v.r.Bytes += int64(len(b))
	}
	return nil
}

func (v *salvage) saveRoots(pc *PageCache[[]byte], roots map[string]PageID) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	for name, pid := range roots {
		if _, _, err := pc.CASRoot(tx, []byte(name), None, Some(pid)); err != nil {
			return err
		}
		if p, err := pc.Get(tx, pid); err != nil || p.Kind != Materialized {
			v.lost(fmt.Sprintf("root %q: its page %d", name, pid))
		}
	}
	return nil
}
