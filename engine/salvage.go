package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/salvage"
	"pagecache/engine/internal/snapshot"
	"pagecache/segments/format"
)

// A SalvageReport says what Salvage saved.
type SalvageReport struct {
	Pages     int64 // pages saved, with everything that is left of them
	Fragments int64
	Bytes     int64 // of encoded values
	Records   int64 // of a standalone log
	Lost      int64 // pages of which something is known to be lost; each was reported
	Corrupt   int64 // bytes of the log that are no message
}

// Salvage copies everything readable from the corrupt store or log in dir to a new one in out, and calls lost for
// everything that it cannot copy. A page with corrupt recent messages is restored to its last readable version; batches
// may be partial (reported where that can be detected). Pages keep their ids, and GenerateID continues above all ids
// that were found. Ids of pages that are lost as a whole are free in the new store, so a reference to such a page may
// come to refer to a new one. Salvage writes nothing to dir, which must not be open. opts are those of the new store,
// except SnapshotDir, which is the old one's; nil means the defaults, with the old store's segment size.
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
	src, err := salvage.Open(salvage.Config{Dir: held, Lost: lost, Snapshots: snaps,
		Blobs: blob.Config{In: held, Name: blobDir, Logger: full.Logger}})
	if err != nil {
		return SalvageReport{}, fmt.Errorf("salvage %s: %w", dir, err)
	}
	defer src.Close()
	s := &salvager{src: src, lost: lost, r: SalvageReport{Corrupt: src.Corrupt}}
	o.SnapshotDir = ""
	orDefault(&o.SegmentSize, src.Super.SegmentSize)
	src.ReportBatches()
	if src.Super.Log {
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

func (s *salvager) saveLog(out string, o *Options) error {
	l, err := OpenLog(out, o)
	if err != nil {
		return err
	}
	for _, m := range s.src.Messages {
		if m.Kind != format.KindData {
			continue
		}
		b, err := s.src.Value(m)
		if err == nil {
			_, _, err = l.Write(b)
		}
		if err != nil {
			return errors.Join(err, l.Close())
		}
		s.r.Records++
		s.r.Bytes += int64(len(b))
	}
	return l.Close()
}

func (s *salvager) savePages(out string, o *Options) error {
	// Fragments are copied as they are: only the owner of the pages knows how to merge them.
	o.seam.Verbatim, o.SegmentMode = true, SegmentModeLinear
	pc, err := Open(out, encodedPages{}, o)
	if err != nil {
		return err
	}
	return errors.Join(s.fill(pc), pc.Close())
}

// fill writes the pages to the new store.
func (s *salvager) fill(pc *PageCache[[]byte]) error {
	found := s.src.Gather()
	s.r.Lost += found.Lost
	s.raiseIDs(pc, found.IDs)
	for _, pid := range slices.Sorted(maps.Keys(found.Chains)) {
		if err := s.savePage(pc, pid, found.Chains[pid]); err != nil {
			return err
		}
	}
	if err := freeRest(pc, found.Next); err != nil {
		return err
	}
	return s.saveRoots(pc, found.Roots)
}

// raiseIDs makes GenerateID continue above the ids that may have been handed out.
func (s *salvager) raiseIDs(pc *PageCache[[]byte], ids uint64) {
	interval := s.src.Super.IDInterval
	step := 2 * max(interval, pc.core.opts.IDPersistInterval)
	if interval > maxIDPersistInterval || ids > logstore.MaxID-step {
		s.lost(fmt.Sprintf("next id %d, interval %d: out of bounds; ids begin anew", ids, interval))
		return
	}
	pc.ids.Raise(ids + step)
}

// freeRest frees all ids below next of which there is no page: the number of messages in the log bounds the ids of a
// store (pagemap).
func freeRest(pc *PageCache[[]byte], next PageID) error {
	pc.pages.IDs.RaiseNext(next)
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	for pid := FirstUserPage; pid < next; pid++ {
		slot := pc.pages.Table.Make(pid)
		if slot.Load() != nil {
			continue
		}
		c := change[[]byte]{kind: format.KindFree, on: ifOwned}
		if _, _, err := pc.apply(tx, page{id: pid, slot: slot}, &c); err != nil {
			return describePage("free", pid, err)
		}
	}
	return nil
}

// savePage writes a page, fragment by fragment, up to the first that cannot be read.
func (s *salvager) savePage(pc *PageCache[[]byte], pid PageID, chain []salvage.Message) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	pc.pages.IDs.RaiseNext(pid + 1)
	var ptr PagePtr[[]byte]
	for i, m := range chain {
		b, err := s.src.Value(m)
		if err != nil {
			s.r.Lost++
			const text = "page %d: fragment %d of %d, LSN %v, and all after it: %v"
			s.lost(fmt.Sprintf(text, pid, i+1, len(chain), m.LSN, err))
			break
		}
		if i == 0 {
			ptr, err = saveBase(pc, tx, pid, b)
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
func saveBase(pc *PageCache[[]byte], tx *Tx, pid PageID, b []byte) (PagePtr[[]byte], error) {
	p, err := pc.encode(tx, b)
	if err != nil {
		return PagePtr[[]byte]{}, err
	}
	h, err := pc.create(tx, pid, &change[[]byte]{kind: format.KindCompact, payload: p, frag: b, on: ifOwned})
	if err != nil {
		return PagePtr[[]byte]{}, err
	}
	pc.mem.reclaim(tx, pid)
	return ptrTo[[]byte](pid, h), nil
}

func (s *salvager) saveRoots(pc *PageCache[[]byte], roots map[string]PageID) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	for name, pid := range roots {
		if _, _, err := pc.CASRoot(tx, name, 0, pid); err != nil {
			return err
		}
		if p, err := pc.Get(tx, pid); err != nil || p.Kind != KindMaterialized {
			s.lost(fmt.Sprintf("root %q: its page %d has no value", name, pid))
		}
	}
	return nil
}
