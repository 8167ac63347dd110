package engine_test

import (
	"bytes"
	"fmt"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// sweptStores returns the stores that the sweeps corrupt, by name.
func sweptStores(t testing.TB) map[string]*enginetest.Specimen {
	t.Helper()
	return map[string]*enginetest.Specimen{
		"killed page store": sweptPages(t, false),
		"closed page store": sweptPages(t, true),
		"killed log":        sweptLog(t, false, true),
		"closed log":        sweptLog(t, true, true),
		"killed fresh log":  sweptLog(t, false, false),
		"closed fresh log":  sweptLog(t, true, false),
	}
}

// sweptOptions returns the options of a small store with everything in it.
func sweptOptions(d *simdisk.Disk) *engine.Options {
	o := &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 6,
		IDPersistInterval: 50, Compression: engine.CompressionZstd, CompressionLevel: 1}
	return enginetest.WithSeam(o, seam.Options{FS: d, Eager: true})
}

// pageMaker writes a page store and its history.
type pageMaker struct {
	t    testing.TB
	disk *simdisk.Disk
	pc   *engine.PageCache[[]byte]
	tx   *engine.Tx[[]byte]
	h    *enginetest.History
	seed uint64
}

// open opens the store. Values of more than 250 bytes go to blobs, which so are short.
func (m *pageMaker) open() {
	m.t.Helper()
	m.pc = enginetest.Open(m.t, "/store", sweptOptions(m.disk))
	engine.SetInline(m.pc, 250)
	engine.SetGroupLimit(m.pc, 100)
	m.begin()
}

func (m *pageMaker) begin() {
	m.t.Helper()
	m.tx = enginetest.Begin(m.t, m.pc)
	m.must(m.h.Seen(m.tx.TS()))
}

func (m *pageMaker) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// kill kills the process of the store, whose contents are durable.
func (m *pageMaker) kill() {
	m.t.Helper()
	m.tx.End()
	next := m.disk.Copy()
	enginetest.NoCheck(m.t, m.pc)
	m.must(m.pc.Close())
	m.disk = next
}

// value returns a new value of n random bytes.
func (m *pageMaker) value(n int) []byte {
	m.seed++
	return enginetest.Random(n, m.seed)
}

// dense returns a new value that is compressed.
func (m *pageMaker) dense() []byte {
	m.seed++
	return bytes.Repeat([]byte{'a' + byte(m.seed%26)}, 200)
}

func (m *pageMaker) allocate(v []byte) engine.PageID {
	m.t.Helper()
	pid, ptr, err := m.pc.Allocate(m.tx, v)
	m.must(err)
	m.h.Add(enginetest.Effect{LSN: ptr.LastLSN(), Kind: enginetest.EffectSet, Page: pid, Val: v})
	return pid
}

// change changes a page: by appending to it, by replacing it, or by freeing it.
func (m *pageMaker) change(kind enginetest.EffectKind, pid engine.PageID, v []byte) {
	m.t.Helper()
	p, err := m.pc.Get(m.tx, pid)
	m.must(err)
	e := enginetest.Effect{Kind: kind, Page: pid, Val: v}
	must := enginetest.Must(m.t)
	switch kind {
	case enginetest.EffectLink:
		e.LSN = must(m.pc.Link(m.tx, pid, p.Ptr, v)).LastLSN()
	case enginetest.EffectSet:
		e.LSN = must(m.pc.Replace(m.tx, pid, p.Ptr, v)).LastLSN()
	case enginetest.EffectFree:
		e.LSN = must(m.pc.Free(m.tx, pid, p.Ptr)).LastLSN()
	}
	m.h.Add(e)
}

func (m *pageMaker) link(pid engine.PageID, v []byte)    { m.change(enginetest.EffectLink, pid, v) }
func (m *pageMaker) replace(pid engine.PageID, v []byte) { m.change(enginetest.EffectSet, pid, v) }

// together replaces pages in one transaction, which is written in parts.
func (m *pageMaker) together(pids ...engine.PageID) {
	m.t.Helper()
	var values [][]byte
	for i := range pids {
		values = append(values, m.value(60+i))
	}
	lsn := update(m.t, m.pc, func(tx *engine.Tx[[]byte]) error {
		for i, pid := range pids {
			if err := tx.Replace(pid, values[i]); err != nil {
				return err
			}
		}
		return nil
	})
	for i, pid := range pids {
		m.h.Add(enginetest.Effect{LSN: lsn, Kind: enginetest.EffectSet, Page: pid, Val: values[i]})
	}
}

// root sets a root.
func (m *pageMaker) root(name string, pid engine.PageID) {
	m.t.Helper()
	_, won, err := m.pc.CASRoot(m.tx, name, m.h.Now.Roots[name], pid)
	if err != nil || !won {
		m.t.Fatalf("root %s: won %v, error %v", name, won, err)
	}
	at := engine.RootPage(m.pc, name)
	e := enginetest.Effect{Kind: enginetest.EffectRoot, Page: at, Name: name, Root: pid}
	e.LSN = engine.NewestLSN(m.pc, at)
	m.h.Add(e)
}

// batch makes changes all or none.
func (m *pageMaker) batch(changes func()) {
	m.t.Helper()
	b, err := m.pc.PinLog()
	m.must(err)
	changes()
	end, err := engine.EndBatch(b)
	m.must(err)
	m.h.Batches = append(m.h.Batches, enginetest.Span{Begin: b.LSN(), End: end})
}

// flush makes everything stable, and begins another Tx so that segments can be recycled.
func (m *pageMaker) flush() {
	m.t.Helper()
	enginetest.Flush(m.t, m.pc)
	m.h.AckAll()
	m.tx.End()
	m.begin()
}

// recycle cleans until a segment was recycled.
func (m *pageMaker) recycle() {
	m.t.Helper()
	m.tx.End()
	for range 20 {
		_, err := m.pc.AttemptGC()
		m.must(err)
		if m.pc.Stats().Space.Recycled > 0 {
			m.begin()
			return
		}
	}
	m.t.Fatal("no segment was recycled")
}

// ids draws ids until a note of them is durable.
func (m *pageMaker) ids() {
	m.t.Helper()
	for range 110 {
		id, err := m.pc.GenerateID()
		m.must(err)
		m.must(m.h.Seen(id))
	}
}

// sweptPages makes a page store with messages of every kind, a snapshot and changes after it, two openings, and slots
// that were recycled and used again. Each flush takes one block of the three in a segment. It is closed or killed after
// a last write that was acknowledged.
func sweptPages(t testing.TB, clean bool) *enginetest.Specimen {
	t.Helper()
	m := &pageMaker{t: t, disk: simdisk.New(1, simdisk.Options{}), h: enginetest.NewHistory()}
	m.open()
	var pids []engine.PageID
	for i := range 8 {
		pids = append(pids, m.allocate(m.value(20+10*i)))
	}
	pids = append(pids, m.allocate(m.dense()), m.allocate(m.value(300)))
	m.root("first", pids[0])
	m.flush()
	for range 6 {
		for _, pid := range pids[:4] {
			m.replace(pid, m.value(60))
		}
		m.flush()
	}
	for _, pid := range pids { // nothing is left in the first segments
		m.replace(pid, m.value(30))
	}
	m.root("first", pids[1])
	m.flush()
	m.recycle()
	m.replace(pids[9], m.value(310))
	m.link(pids[8], m.dense())
	m.flush()
	m.kill()
	m.open()
	m.replace(pids[8], m.dense())
	m.link(pids[0], m.value(40))
	m.link(pids[0], m.value(50))
	m.change(enginetest.EffectFree, pids[5], nil)
	m.flush()
	m.tx.End()
	m.must(m.pc.Snapshot())
	m.begin()
	m.link(pids[1], m.value(33))
	m.link(pids[2], m.dense())
	m.link(pids[3], m.value(280))
	m.ids()
	m.flush()
	m.batch(func() {
		m.replace(pids[4], make([]byte, 40))
		m.allocate(m.value(25))
		m.allocate(m.dense())
	})
	m.together(pids[0], pids[3], pids[9])
	m.root("second", pids[2])
	m.flush()
	before := m.h.Acked
	m.replace(pids[6], m.value(70))
	m.link(pids[4], m.value(10))
	m.change(enginetest.EffectFree, pids[7], nil)
	m.flush()
	m.tx.End()
	if clean {
		m.must(m.pc.Close())
		m.must(enginetest.SyncDir(m.disk, "/store")) // so that the snapshot that was replaced is gone
	} else {
		m.kill()
	}
	s := enginetest.SpecimenOf(t, m.disk, *sweptOptions(m.disk), m.h)
	checkSwept(t, s, before, true)
	return s
}

// checkSwept checks that a store to be swept has everything that the sweeps are meant to find: slots that were used
// again, if segments were recycled, or else free slots that were never used.
func checkSwept(t testing.TB, s *enginetest.Specimen, before engine.LSN, recycled bool) {
	t.Helper()
	res, err := enginetest.ScanLog(s.Disk.Copy(), "/store")
	if err != nil {
		t.Fatal(err)
	}
	if s.Proven < before {
		t.Fatalf("proven below %v; acknowledged before the last write: %v", s.Proven, before)
	}
	reused := 0
	for _, g := range res.Segments {
		if g.Slot.Offset(s.Opts.SegmentSize) < format.Offset(g.Base) {
			reused++
		}
	}
	if (res.Recycled > 0) != recycled || (reused > 0) != recycled || len(res.Segments) < 3 ||
		!recycled && len(res.Zero) < 2 {
		t.Fatalf("segments %+v, recycled %d", res.Segments, res.Recycled)
	}
	kinds := map[format.Kind]int{}
	log := s.Disk.ReadDurable("/store/" + enginetest.LogName)
	for _, g := range res.Segments {
		seg := log[g.Slot.Offset(s.Opts.SegmentSize):][:g.Used]
		for pos := format.SegmentStart; len(seg)-pos >= format.HeaderSize; {
			h, err := format.DecodeHeader(seg[pos:], len(seg)-pos, g.Base+format.LSN(pos))
			if err != nil {
				t.Fatal(err)
			}
			kinds[h.Kind]++
			pos += format.AlignUp(h.Len)
		}
	}
	want := []format.Kind{format.KindPad, format.KindBatchBegin, format.KindBatchEnd}
	if s.Log {
		want = append(want, format.KindData, format.KindFailed, format.KindGroup)
	} else {
		want = append(want, format.KindFree, format.KindCounter, format.KindRoot, format.KindAppend,
			format.KindAppendBlob, format.KindCompact, format.KindCompactBlob, format.KindAppendZstd,
			format.KindCompactZstd, format.KindGroup, format.KindGroupPart)
	}
	for _, k := range want {
		if kinds[k] == 0 {
			t.Fatalf("no message is %v: %v", k, kinds)
		}
	}
	t.Logf("%d bytes in %d files, %d segments, %v", s.Size, len(s.Files), len(res.Segments), kinds)
}

// sweptLog makes a standalone log with records and batches. With recycled, it has dropped segments and slots that were
// used again; without, the segments lie in their order, and only the extent of the file tells that it was cut between
// two slots. It is closed or killed after a last write that was acknowledged.
func sweptLog(t testing.TB, clean, recycled bool) *enginetest.Specimen {
	t.Helper()
	d := simdisk.New(2, simdisk.Options{})
	o := sweptOptions(d)
	l := enginetest.OpenLog(t, "/store", o)
	var records []enginetest.LogRecord
	var before, acked engine.LSN
	write := func(v []byte) {
		lsn, _, err := l.Write(v)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, enginetest.LogRecord{LSN: lsn, Body: string(v)})
	}
	flush := func() {
		enginetest.Flush(t, l)
		before, acked = acked, records[len(records)-1].LSN+1
	}
	first := 0
	if !recycled {
		first = 4 // a shorter log does
	}
	for i := first; i < 14; i++ {
		for j := range 4 {
			write(enginetest.Random(10+30*j, uint64(i)))
		}
		switch i {
		case 7:
			if !recycled {
				break
			}
			if err := l.DropBelow(records[len(records)-8].LSN); err != nil {
				t.Fatal(err)
			}
		case 8, 12:
			r, err := l.Reserve(20)
			if err == nil {
				err = r.Abort()
			}
			if err != nil {
				t.Fatal(err)
			}
		case 9, 11:
			bodies := [][]byte{make([]byte, 30), fmt.Appendf(nil, "record of batch %d", i), {}}
			first := len(records)
			if i == 9 { // markers
				b, err := l.PinLog()
				if err != nil {
					t.Fatal(err)
				}
				for _, v := range bodies {
					write(v)
				}
				if err := b.Seal(); err != nil {
					t.Fatal(err)
				}
			} else { // a group
				lsns, err := l.WriteBatch(bodies)
				if err != nil {
					t.Fatal(err)
				}
				for k, lsn := range lsns {
					records = append(records, enginetest.LogRecord{LSN: lsn, Body: string(bodies[k])})
				}
			}
			for k := range bodies[1:] {
				records[first+1+k].Batch = true
			}
		}
		flush()
	}
	kept := records[:0]
	for _, r := range records {
		if r.LSN >= l.FirstLSN() {
			kept = append(kept, r)
		}
	}
	next := d.Copy()
	if clean {
		enginetest.Close(t, l)
		next = d
	} else {
		enginetest.NoCheck(t, l)
	}
	s := enginetest.SpecimenOfLog(t, next, *o, kept)
	checkSwept(t, s, before, recycled)
	return s
}
