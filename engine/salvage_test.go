package engine_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/salvage"
	"pagecache/engine/internal/seam"
	"pagecache/engine/internal/snapshot"
	"pagecache/internal/simdisk"
	"pagecache/recovery"
	"pagecache/segments/format"
)

var salvageStep = flag.Int("salvage.step", 61, "TestSalvageFlippedBits flips a bit of every n-th byte")

// aged is a store with a history: of each page, all values that it ever had, and the last one.
type aged struct {
	disk    *simdisk.Disk
	opts    *engine.Options
	history map[engine.PageID]map[string]bool
	now     map[engine.PageID]string // pages in use
	places  map[engine.PageID][]engine.DiskPtr
}

// newAged makes a store with chains of deltas, replaced and freed pages, moved pages and recycled segments. It is
// either closed cleanly, which leaves a snapshot, or its process was killed, which leaves none.
func newAged(t testing.TB, seed uint64, clean bool) *aged {
	t.Helper()
	d := simdisk.New(seed, simdisk.Options{})
	a := &aged{history: map[engine.PageID]map[string]bool{}, now: map[engine.PageID]string{},
		places: map[engine.PageID][]engine.DiskPtr{}}
	o := engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 6}
	a.opts = enginetest.WithSeam(&o, seam.Options{Eager: true, FS: d})
	pc := enginetest.Open(t, "/store", a.opts)
	rng := rand.New(rand.NewPCG(seed, 30))
	for i := range 500 {
		if err := a.change(t, pc, rng, i); err != nil {
			t.Fatal(err)
		}
		if i%40 == 0 {
			enginetest.Flush(t, pc)
		}
		if i%100 == 99 && i < 300 { // the chains of deltas that are made afterwards stay
			enginetest.CleanAll(t, pc)
		}
	}
	tx := enginetest.Begin(t, pc)
	if _, _, err := pc.CASRoot(tx, "root", 0, 5); err != nil {
		t.Fatal(err)
	}
	tx.End()
	enginetest.Flush(t, pc)
	if pc.Stats().Space.Recycled == 0 {
		t.Fatal("no segment was recycled")
	}
	for pid := range a.now {
		var err error
		if a.places[pid], err = engine.Places(pc, pid); err != nil {
			t.Fatal(err)
		}
	}
	if clean {
		enginetest.Close(t, pc)
		a.disk = d
		return a
	}
	a.disk = d.Copy()
	enginetest.Close(t, pc)
	return a
}

// change makes a random change of a random page.
func (a *aged) change(t testing.TB, pc *engine.PageCache[[]byte], rng *rand.Rand, i int) error {
	t.Helper()
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	pid := engine.FirstUserPage + engine.PageID(rng.IntN(40))
	v := fmt.Appendf(nil, "<%d of %d:%s>", i, pid, strings.Repeat("x", rng.IntN(300)))
	p, err := pc.Get(tx, pid)
	if err != nil {
		return err
	}
	switch k := rng.IntN(10); {
	case p.Kind != engine.KindMaterialized:
		if pid, _, err = pc.Allocate(tx, v); err == nil {
			a.is(pid, string(v))
		}
	case k < 7:
		if _, _, err = pc.Link(tx, pid, p.Ptr, v); err == nil {
			a.is(pid, a.now[pid]+string(v))
		}
	case k < 9:
		if _, _, err = pc.Replace(tx, pid, p.Ptr, v); err == nil {
			a.is(pid, string(v))
		}
	default:
		if _, _, err = pc.Free(tx, pid, p.Ptr); err == nil {
			delete(a.now, pid)
		}
	}
	return err
}

func (a *aged) is(pid engine.PageID, v string) {
	if a.history[pid] == nil {
		a.history[pid] = map[string]bool{}
	}
	a.history[pid][v], a.now[pid] = true, v
}

// salvaged is what Salvage made of a store.
type salvaged struct {
	report engine.SalvageReport
	values map[engine.PageID]string
}

// salvage salvages the store on a disk, which may be corrupt, and reads the new store.
func (a *aged) salvage(d *simdisk.Disk) (s salvaged, err error) {
	o := *a.opts
	enginetest.WithSeam(&o, seam.Options{FS: d})
	texts := 0
	if s.report, err = engine.Salvage("/store", "/saved", &o, func(string) { texts++ }); err != nil {
		return s, err
	}
	if texts != len(s.report.Losses) {
		return s, fmt.Errorf("%d losses, lost was called %d times", len(s.report.Losses), texts)
	}
	pc, err := engine.Open("/saved", engine.Bytes{}, &o)
	if err != nil {
		return s, fmt.Errorf("open the salvaged store: %w", err)
	}
	tx, err := pc.Begin()
	if err != nil {
		return s, err
	}
	s.values = map[engine.PageID]string{}
	for pid, kind := range pc.Pages(tx) {
		if kind != engine.KindMaterialized {
			continue
		}
		p, err := pc.Get(tx, pid)
		if err != nil {
			return s, fmt.Errorf("salvaged page %d: %w", pid, err)
		}
		s.values[pid] = string(p.Value)
	}
	tx.End()
	return s, pc.Close()
}

// lostPages returns the pages that are reported one by one.
func (s *salvaged) lostPages() map[engine.PageID]bool {
	lost := map[engine.PageID]bool{}
	for _, l := range s.report.Losses {
		if pid, ok := l.Place.Page(); ok && l.Kind == engine.LossPage {
			lost[pid] = true
		}
	}
	return lost
}

// lawful returns an error if a salvaged page has a value that it never had, or is not as it was last without a report.
func (a *aged) lawful(s salvaged) error {
	lost, ranges := s.lostPages(), 0
	for _, l := range s.report.Losses {
		if l.Kind == engine.LossRange || l.Kind == engine.LossFile && strings.Contains(l.Text, "as they were earlier") {
			ranges++
		}
		if l.Text == "" || l.Kind < engine.LossFile || l.Kind > engine.LossIDs {
			return fmt.Errorf("a loss without text or kind: %+v", l)
		}
	}
	if int(s.report.Lost) != len(lost) {
		return fmt.Errorf("%d pages are reported one by one, %d in the sum", len(lost), s.report.Lost)
	}
	for pid := engine.FirstUserPage; pid < engine.FirstUserPage+100; pid++ {
		got, saved := s.values[pid]
		want, live := a.now[pid]
		if saved && !a.history[pid][got] {
			return fmt.Errorf("page %d never had the value %s", pid, enginetest.Brief([]byte(got)))
		}
		if (saved != live || got != want) && !lost[pid] && ranges == 0 {
			return fmt.Errorf("page %d is not as it was last (saved %v, live %v), without a report: %v",
				pid, saved, live, s.report.Losses)
		}
	}
	return nil
}

// touches reports whether a page has a message in bytes [from, to) of the log.
func (a *aged) touches(pid engine.PageID, from, to int64) bool {
	return slices.ContainsFunc(a.places[pid], func(p engine.DiskPtr) bool {
		return int64(p.Off) < to && int64(p.Off)+int64(p.Len) > from
	})
}

// inBody reports whether a byte of the log lies in the body of a message of a page.
func (a *aged) inBody(pid engine.PageID, at int64) bool {
	return slices.ContainsFunc(a.places[pid], func(p engine.DiskPtr) bool {
		return at >= int64(p.Off)+format.HeaderSize && at < int64(p.Off)+int64(p.Len)
	})
}

// Salvage of a store that is not corrupt loses nothing, also after a kill, and with neither superblock nor snapshot.
// Proves trap 30.
func TestSalvageWithoutSuperblockAndSnapshot(t *testing.T) {
	t.Parallel()
	for _, clean := range []bool{true, false} {
		a := newAged(t, 1, clean)
		for name, hurt := range map[string]func(d *simdisk.Disk){
			"nothing": func(*simdisk.Disk) {},
			"superblock": func(d *simdisk.Disk) {
				d.FlipBit("/store/superblock", 20, 3)
			},
			"superblock unreadable": func(d *simdisk.Disk) {
				d.SetUnreadable("/store/superblock", 0, 1)
			},
			"superblock and snapshots": func(d *simdisk.Disk) {
				_ = d.Remove("/store/superblock")
				for _, n := range enginetest.SnapshotFiles(t, d, "/store") {
					_ = d.Remove("/store/" + n)
				}
			},
			"superblock of another store": func(d *simdisk.Disk) {
				d.WriteFile("/store/superblock", newAged(t, 2, false).disk.ReadDurable("/store/superblock"))
			},
		} {
			d := a.disk.Copy()
			hurt(d)
			s, err := a.salvage(d)
			if err == nil {
				err = a.lawful(s)
			}
			if err != nil || fmt.Sprint(s.values) != fmt.Sprint(a.now) || s.report.Lost+s.report.Corrupt != 0 {
				t.Errorf("clean %v, %s: %v, %+v", clean, name, err, s.report)
			}
			for _, l := range s.report.Losses {
				if l.Kind != engine.LossFile {
					t.Errorf("clean %v, %s: %v", clean, name, l)
				}
			}
			if name == "nothing" && len(s.report.Losses) > 0 {
				t.Errorf("clean %v: losses of an intact store: %v", clean, s.report.Losses)
			}
		}
	}
}

// A store whose superblock and snapshots are lost keeps its blobs, which name it.
func TestSalvageOfBlobsWithoutSuperblock(t *testing.T) {
	d, o, want := enginetest.MixedStore(t)
	_ = d.Remove("/store/superblock")
	for _, n := range enginetest.SnapshotFiles(t, d, "/store") {
		_ = d.Remove("/store/" + n)
	}
	r, err := engine.Salvage("/store", "/saved", o, nil)
	if err != nil || r.Lost != 0 || len(r.Losses) != 1 {
		t.Fatalf("Salvage: report %+v, error %v", r, err)
	}
	pc := enginetest.Open(t, "/saved", o)
	if enginetest.Contents(t, pc) != want {
		t.Error("salvaged contents differ")
	}
	enginetest.Close(t, pc)
}

// One block of 4 KiB that the disk does not return, at every place of the log: Salvage saves all pages that have no
// message in it, with or without a snapshot, reports every page that has, and saves no value that a page never had.
// After a clean close, Open serves all other pages. After a kill it may refuse, with the place and the cause. Proves
// rules 10 and 14; trap 30.
func TestUnreadableBlockAnywhere(t *testing.T) {
	t.Parallel()
	for _, clean := range []bool{true, false} {
		a := newAged(t, 3, clean)
		opened, refused := 0, 0
		for at := int64(0); at < int64(len(a.disk.ReadDurable("/store/log"))); at += 4096 {
			d := a.disk.Copy()
			d.SetUnreadable("/store/log", at, 4096)
			s, err := a.salvage(d)
			if err == nil {
				err = a.lawful(s)
			}
			if err != nil {
				t.Fatalf("clean %v, block at %d: %v", clean, at, err)
			}
			for pid, v := range a.now {
				if s.values[pid] != v && !a.touches(pid, at, at+4096) {
					t.Errorf("block at %d: page %d lies outside of it and is lost: %v", at, pid, s.report.Losses)
				}
				if s.values[pid] != v && s.report.Unreadable == 0 {
					t.Errorf("clean %v, block at %d: nothing is reported as unreadable", clean, at)
				}
			}
			d = a.disk.Copy()
			d.SetUnreadable("/store/log", at, 4096)
			ok, err := a.serves(t, d)
			if err != nil {
				t.Fatalf("clean %v, block at %d: %v", clean, at, err)
			}
			if ok {
				opened++
			} else {
				refused++
			}
		}
		t.Logf("clean %v: %d openings, %d refusals", clean, opened, refused)
		if clean && refused > 0 || !clean && refused == 0 {
			t.Errorf("clean %v: %d openings, %d refusals", clean, opened, refused)
		}
	}
}

// serves opens the store on a disk with an unreadable block and reads all pages. It reports whether the store opened.
// Each error must have the place and the cause.
func (a *aged) serves(t testing.TB, d *simdisk.Disk) (opened bool, err error) {
	t.Helper()
	lawful := func(err error) error {
		ce := (*engine.CorruptError)(nil)
		if !errors.Is(err, syscall.EIO) || !errors.As(err, &ce) {
			return err
		}
		if _, known := ce.Place.Offset(); !known {
			return fmt.Errorf("no place: %w", err)
		}
		return nil
	}
	o := *a.opts
	pc, err := engine.Open("/store", engine.Bytes{}, enginetest.WithSeam(&o, seam.Options{FS: d}))
	if err != nil {
		return false, lawful(err)
	}
	defer pc.Close()
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	for pid, v := range a.now {
		p, err := pc.Get(tx, pid)
		if err != nil {
			if err := lawful(err); err != nil {
				return true, err
			}
		} else if string(p.Value) != v {
			return true, fmt.Errorf("page %d has another value", pid)
		}
	}
	return true, nil
}

// A flipped bit anywhere in any file: Salvage saves no value that a page never had, and reports all losses. A page of a
// store with a snapshot is lost only if the bit is in one of its messages. Proves trap 30.
func TestSalvageFlippedBits(t *testing.T) {
	t.Parallel()
	step := *salvageStep
	if testing.Short() || enginetest.Raced {
		step *= 8
	}
	for _, clean := range []bool{true, false} {
		a := newAged(t, 4, clean)
		names := append(enginetest.SnapshotFiles(t, a.disk, "/store"), "superblock", "log")
		for _, name := range names {
			name = "/store/" + name
			for at := 0; at < len(a.disk.ReadDurable(name)); at += step {
				d := a.disk.Copy()
				d.FlipBit(name, int64(at), uint(at))
				s, err := a.salvage(d)
				if err == nil {
					err = a.lawful(s)
				}
				if err != nil {
					t.Fatalf("clean %v, bit of byte %d of %s: %v", clean, at, name, err)
				}
				lost := s.lostPages()
				for pid, v := range a.now {
					hit := name == "/store/log" && a.touches(pid, int64(at), int64(at)+1)
					if clean && s.values[pid] != v && !(hit && lost[pid]) {
						t.Fatalf("bit of byte %d of %s: page %d is lost: %v", at, name, pid, s.report.Losses)
					}
					// The header of the message, which names the page, is intact.
					if hit && a.inBody(pid, int64(at)) && !lost[pid] {
						t.Fatalf("bit of byte %d: page %d is not reported: %v", at, pid, s.report.Losses)
					}
				}
			}
		}
	}
}

// Batches that are complete are not reported, also if the segment with the end of one was recycled. A batch of which a
// part is lost is. Trap 30.
func TestSalvageReportsOnlyPartialBatches(t *testing.T) {
	t.Parallel()
	d := simdisk.New(5, simdisk.Options{})
	o := enginetest.SimOptions(d)
	pc := enginetest.Open(t, "/store", o)
	rng := rand.New(rand.NewPCG(5, 5))
	pids := enginetest.AllocateMany(t, pc, 20, 500)
	const rounds = 60
	for round := range rounds {
		b, err := pc.PinLog()
		if err != nil {
			t.Fatal(err)
		}
		enginetest.AllocateMany(t, pc, 3, 3500) // they keep the segment of the begin marker
		tx := enginetest.Begin(t, pc)
		for range 50 {
			pid := pids[rng.IntN(len(pids))]
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			enginetest.Must(t)(pc.Replace(tx, pid, p.Ptr, make([]byte, 300+rng.IntN(500))))
		}
		tx.End()
		if err := b.Seal(); err != nil {
			t.Fatal(err)
		}
		enginetest.Flush(t, pc)
		if round < rounds-1 { // a batch stays whole
			enginetest.CleanAll(t, pc)
		}
	}
	enginetest.Close(t, pc)
	begins, ends := 0, map[format.LSN]bool{}
	held, err := d.OpenDir("/store")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	snaps := snapshot.New(snapshot.Config{In: held, FS: d})
	src, err := salvage.Open(salvage.Config{Dir: held, Snapshots: snaps,
		Blobs: blob.Config{In: held, Name: "blobs"}, Lost: func(l recovery.Loss) { t.Error(l) }})
	if err != nil {
		t.Fatal(err)
	}
	var inBatch []engine.DiskPtr // messages of batches that are complete in the log
	open := format.LSN(0)
	var within []engine.DiskPtr
	for _, m := range src.Messages {
		switch m.Kind {
		case format.KindBatchBegin:
			begins++
			open, within = m.LSN, nil
		case format.KindBatchEnd:
			e, err := format.DecodeManifest(m.Body, m.LSN)
			if err != nil {
				t.Fatal(err)
			}
			if ends[e.Begin] = true; e.Begin == open {
				inBatch = append(inBatch, within...)
			}
		default:
			within = append(within, m.Ptr)
		}
	}
	src.Close()
	if begins <= len(ends) || len(inBatch) == 0 {
		t.Fatalf("%d begin markers, %d end markers: no end was recycled", begins, len(ends))
	}
	r, err := engine.Salvage("/store", "/saved", o, nil)
	if err != nil || len(r.Losses) > 0 {
		t.Errorf("intact store: report %+v, error %v", r, err)
	}
	hurt := d.Copy()
	hurt.FlipBit("/store/log", int64(inBatch[0].Off)+30, 1)
	r, err = engine.Salvage("/store", "/saved2", enginetest.WithSeam(o, seam.Options{FS: hurt}), nil)
	if err != nil || !slices.ContainsFunc(r.Losses, func(l engine.Loss) bool { return l.Kind == engine.LossBatch }) {
		t.Errorf("part of a batch is lost: report %+v, error %v", r, err)
	}
}

// A log of which nothing verifies is not salvaged. The error says under which store ids that was tried, and nothing is
// written.
func TestSalvageOfForeignLog(t *testing.T) {
	a := newAged(t, 6, true)
	d := a.disk.Copy()
	b := a.disk.ReadDurable("/store/log")
	for at := range b { // all messages, and no header
		if at%(16<<10) >= format.SegmentHeaderSize {
			b[at] ^= byte(at)
		}
	}
	d.WriteFile("/store/log", b)
	_, err := a.salvage(d)
	if err != nil && !errors.Is(err, engine.ErrCorrupt) {
		t.Errorf("Salvage: %v, want ErrCorrupt", err)
	}
	d = simdisk.New(1, simdisk.Options{})
	if err := d.MkdirAll("/store"); err != nil {
		t.Fatal(err)
	}
	d.WriteFile("/store/log", bytes.Repeat([]byte("noise"), 20_000))
	o := enginetest.SimOptions(d)
	if _, err := engine.Salvage("/store", "/saved", o, nil); !errors.Is(err, engine.ErrCorrupt) {
		t.Errorf("Salvage of noise: %v, want ErrCorrupt", err)
	}
	if _, err := d.ReadDir("/saved"); err == nil {
		t.Error("Salvage of noise made a store")
	}
}

// FuzzSalvage changes a small store anywhere and salvages it. The new store opens. Rule 12.
func FuzzSalvage(f *testing.F) {
	a := newAged(f, 7, true)
	log, super := a.disk.ReadDurable("/store/log"), a.disk.ReadDurable("/store/superblock")
	f.Add([]byte{0, 0, 0, 70, 1}, []byte{})
	f.Add([]byte{0, 0x40, 0x10, 0, 0xff, 0, 0, 0, 8, 1}, []byte{20, 1})
	f.Fuzz(func(t *testing.T, edits, head []byte) {
		d := a.disk.Copy()
		b, sb := bytes.Clone(log), bytes.Clone(super)
		for ; len(edits) >= 5; edits = edits[5:] {
			at := int(edits[0])<<24 | int(edits[1])<<16 | int(edits[2])<<8 | int(edits[3])
			if edits[4] == 0 {
				d.SetUnreadable("/store/log", int64(at%len(b)), 512)
				continue
			}
			b[at%len(b)] ^= edits[4]
		}
		for ; len(head) >= 2; head = head[2:] {
			sb[int(head[0])%len(sb)] ^= head[1]
		}
		if !bytes.Equal(b, log) { // else some of it is unreadable
			d.WriteFile("/store/log", b)
		}
		d.WriteFile("/store/superblock", sb)
		s, err := a.salvage(d)
		if err != nil && !errors.Is(err, engine.ErrCorrupt) && !errors.Is(err, engine.ErrFormat) {
			t.Fatal(err)
		}
		if err == nil && len(s.values) > len(a.history)+8 {
			t.Fatalf("%d pages", len(s.values))
		}
	})
}
