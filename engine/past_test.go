package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
)

// pastStore is a page store or a standalone log in /store that goes through several openings. It has images of itself
// at many moments, and everything that it ever held.
type pastStore struct {
	isLog  bool
	rng    *rand.Rand
	disk   *simdisk.Disk
	o      engine.Options
	seam   seam.Options
	h      *enginetest.History
	past   *enginetest.Past
	first  engine.LSN // of a log: where it begins
	lives  int
	brief  bool // it takes no images but those of the ends of openings
	images []enginetest.Image
	names  []string // of the images

	closed, killed enginetest.Image // at the end of the last opening, and a moment before
	recycled       int64            // segments
	driver         *enginetest.Driver
}

// lifeEnd is the end of an opening.
type lifeEnd int

const (
	lifeClosed lifeEnd = iota
	lifeCrashed
)

// newPast returns a store that does not exist yet. Its segments are small and are recycled at every chance.
func newPast(seed uint64, isLog bool) *pastStore {
	s := &pastStore{isLog: isLog, rng: rand.New(rand.NewPCG(seed, 26)), h: enginetest.NewHistory(),
		past: new(enginetest.Past), disk: simdisk.New(seed, simdisk.Options{Block: []int{512, 4096}[seed%2]})}
	s.o = engine.Options{SegmentSize: crashSegment, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 4,
		IDPersistInterval: 10}
	s.seam.Eager = true
	return s
}

// options returns the options to open the store on a disk with.
func (s *pastStore) options(d *simdisk.Disk) *engine.Options {
	o, extra := s.o, s.seam
	extra.FS = d
	return enginetest.WithSeam(&o, extra)
}

// take adds an image.
func (s *pastStore) take(format string, args ...any) {
	if s.brief {
		return
	}
	s.images = append(s.images, enginetest.TakeImage(s.disk, "/store"))
	s.names = append(s.names, fmt.Sprintf(format, args...))
}

// cut finds where the log ends and makes that the beginning of a new history. least is the end that is required.
func (s *pastStore) cut(least engine.LSN) error {
	end, found, err := enginetest.LogEnd(s.disk, "/store")
	if err != nil || !found {
		return err
	}
	s.past.Keep(s.h, end)
	s.h.Acked = min(s.h.Acked, least)
	return s.h.Cut(end)
}

// grow lets the store go through several openings, of which some end in a crash. The last one is closed cleanly; killed
// is the image of a moment before, after everything was acknowledged.
func (s *pastStore) grow(lives, steps int) error {
	for i := range lives {
		end := lifeEnd(s.rng.IntN(2))
		if i == lives-1 {
			end = lifeClosed
		}
		if err := s.live(steps, end); err != nil {
			return fmt.Errorf("life %d: %w", s.lives, err)
		}
	}
	return s.cut(enginetest.Unlimited)
}

// live opens the store, changes it in steps, and closes or crashes it.
func (s *pastStore) live(steps int, end lifeEnd) error {
	if err := s.cut(enginetest.Unlimited); err != nil {
		return err
	}
	s.lives++
	if s.isLog {
		return s.liveLog(steps, end)
	}
	pc, err := engine.Open("/store", engine.Bytes{}, s.options(s.disk))
	if err != nil {
		return err
	}
	s.take("opening %d", s.lives)
	if err := s.work(pc, steps, end == lifeClosed || s.rng.IntN(2) == 0); err != nil {
		return errors.Join(err, pc.Close())
	}
	s.recycled += pc.Stats().Space.Recycled
	return s.end(pc, end)
}

// work changes a page store. If whole is set, everything is acknowledged afterwards.
func (s *pastStore) work(pc *engine.PageCache[[]byte], steps int, whole bool) error {
	d, err := enginetest.NewDriver(pc, s.rng, s.h)
	s.driver = d // with the batches that are still open
	defer d.End()
	if err != nil {
		return err
	}
	d.Eager, d.Patience, d.Max = true, 4, []int{1500, 6000}[s.rng.IntN(2)]
	for i := range steps {
		if err := d.Work(10); err != nil {
			return err
		}
		if i == steps/2 {
			if err := errors.Join(d.SealAll(), pc.Snapshot()); err != nil {
				return err
			}
		}
		s.take("step %d of opening %d", i, s.lives)
	}
	if whole {
		if err := d.SealAll(); err != nil {
			return err
		}
		return d.Flush()
	}
	return nil
}

// end closes or crashes the store.
func (s *pastStore) end(pc interface{ Close() error }, end lifeEnd) error {
	if !s.brief {
		s.killed = enginetest.TakeImage(s.disk, "/store")
	}
	if end == lifeCrashed {
		s.disk = s.disk.Crash(s.rng.Uint64())
		_ = pc.Close()
		s.take("crash of opening %d", s.lives)
		return nil
	}
	if err := pc.Close(); err != nil {
		return err
	}
	s.h.AckClosed()
	s.take("closing of opening %d", s.lives)
	s.closed = enginetest.TakeImage(s.disk, "/store")
	return nil
}

// A look is the answer of an opening.
type look struct {
	end     engine.LSN       // of the log; to be set if it is known
	foreign bool             // it shows the contents of the other store
	refused int              // pages that are ErrCorrupt, or 1 if the records of a log end in ErrCorrupt
	id      uint64           // an id that was handed out
	after   enginetest.Image // after an opening for writing
}

// unknown is the end of a log that the opening decides on.
const unknown engine.LSN = -2

// look opens the store on a disk and compares its contents with those at the end of its log, l.end, and if they differ
// with those of other, unless that is nil.
func (s *pastStore) look(d *simdisk.Disk, readOnly bool, l look, other *enginetest.Past) (look, error) {
	o := s.options(d)
	o.ReadOnly = readOnly
	if s.isLog {
		return s.lookLog(d, o, l, other)
	}
	pc, err := engine.Open("/store", engine.Bytes{}, o)
	if err != nil {
		return l, err
	}
	defer func() { _ = pc.Close() }()
	if l.end == unknown {
		l.end = pc.StableLSN() + 1
	}
	tx, err := pc.Begin()
	if err != nil {
		return l, err
	}
	defer tx.End()
	l.id = tx.TS()
	if !readOnly {
		l.after = enginetest.TakeImage(d, "/store")
	}
	l.refused, err = holdsOrRefuses(pc, tx, s.past, l.end)
	if err != nil && other != nil {
		if refused, otherErr := holdsOrRefuses(pc, tx, other, l.end); otherErr == nil {
			l.foreign, l.refused, err = true, refused, nil
		}
	}
	return l, err
}

// holdsOrRefuses compares all pages of a store with those that it had when its log ended at end. It returns the number
// of pages that are ErrCorrupt, and an error if any other differs.
func holdsOrRefuses(pc *engine.PageCache[[]byte], tx *engine.Tx[[]byte], past *enginetest.Past,
	end engine.LSN) (int, error) {
	m, err := past.At(end)
	if err != nil {
		return 0, err
	}
	last, refused := enginetest.NextPage(pc)+2, 0
	for pid := range m.Pages {
		last = max(last, pid)
	}
	for pid := engine.FirstUserPage; pid <= last; pid++ {
		p, err := pc.Get(tx, pid)
		if errors.Is(err, engine.ErrCorrupt) {
			refused++
			continue
		}
		if err == nil {
			err = m.Compare(pid, p)
		}
		if err != nil {
			return refused, fmt.Errorf("log ends at LSN %d: %w", end, err)
		}
	}
	roots, err := pc.Meta(tx)
	if errors.Is(err, engine.ErrCorrupt) {
		return refused + 1, nil
	}
	if err == nil && fmt.Sprint(roots) != fmt.Sprint(m.Roots) {
		err = enginetest.Violated("log ends at LSN %d: roots are %v, want %v", end, roots, m.Roots)
	}
	return refused, err
}

// liveLog is live of a standalone log.
func (s *pastStore) liveLog(steps int, end lifeEnd) error {
	l, err := engine.OpenLog("/store", s.options(s.disk))
	if err != nil {
		return err
	}
	s.take("opening %d", s.lives)
	for i := range steps {
		for range 4 {
			if err := s.write(l); err != nil {
				return errors.Join(err, l.Close())
			}
		}
		if i%5 == 4 {
			if err := s.drop(l); err != nil {
				return errors.Join(err, l.Close())
			}
		}
		s.take("step %d of opening %d", i, s.lives)
	}
	if end == lifeClosed || s.rng.IntN(2) == 0 {
		if _, err := l.Flush(); err != nil {
			return errors.Join(err, l.Close())
		}
		s.h.AckAll()
	}
	s.recycled += l.Stats().Space.Recycled
	return s.end(l, end)
}

// write writes a record, or several that are recovered all or none, and waits at times until they are stable.
func (s *pastStore) write(l *engine.Log) error {
	var records [][]byte
	for range 1 + s.rng.IntN(3) {
		records = append(records, enginetest.Random(s.rng.IntN(1200), s.rng.Uint64()))
	}
	var lsns []engine.LSN
	if len(records) == 1 {
		lsn, _, err := l.Write(records[0])
		if err != nil {
			return err
		}
		lsns = append(lsns, lsn)
	} else {
		b, err := l.PinLog()
		if err != nil {
			return err
		}
		for _, r := range records {
			lsn, _, err := l.Write(r)
			if err != nil {
				return err
			}
			lsns = append(lsns, lsn)
		}
		end, err := engine.EndBatch(b)
		if err != nil {
			return err
		}
		s.h.Batches = append(s.h.Batches, enginetest.Span{Begin: b.LSN(), End: end})
	}
	for i, lsn := range lsns {
		s.h.Effects = append(s.h.Effects, enginetest.Effect{LSN: lsn, Val: records[i]})
	}
	if s.rng.IntN(2) > 0 {
		return nil
	}
	last := lsns[len(lsns)-1]
	_, err := l.MakeStable(last)
	if err == nil {
		s.h.Ack(last + 1)
	}
	return err
}

// drop drops a part of the log.
func (s *pastStore) drop(l *engine.Log) error {
	if _, err := l.Flush(); err != nil {
		return err
	}
	s.h.AckAll()
	end := l.StableLSN() + 1
	err := l.DropBelow(end - min(end, engine.LSN(s.rng.IntN(5*crashSegment))))
	s.first = l.FirstLSN()
	return err
}

// lookLog is look of a standalone log.
func (s *pastStore) lookLog(d *simdisk.Disk, o *engine.Options, l look, other *enginetest.Past) (look, error) {
	log, err := engine.OpenLog("/store", o)
	if err != nil {
		return l, err
	}
	defer func() { _ = log.Close() }()
	if l.end == unknown {
		l.end = log.StableLSN() + 1
	}
	if !o.ReadOnly {
		l.after = enginetest.TakeImage(d, "/store")
	}
	l.refused, err = recordsOrRefuses(log, s.past, l.end)
	if first := log.FirstLSN(); err == nil && first > s.first && first < l.end {
		err = enginetest.Violated("the log begins at LSN %d, and nothing above %d was dropped", first, s.first)
	}
	if err != nil && other != nil {
		if refused, otherErr := recordsOrRefuses(log, other, l.end); otherErr == nil {
			l.foreign, l.refused, err = true, refused, nil
		}
	}
	return l, err
}

// recordsOrRefuses compares the records of a log with those that it had when it ended at end. It returns 1 if they end
// in ErrCorrupt.
func recordsOrRefuses(log *engine.Log, past *enginetest.Past, end engine.LSN) (int, error) {
	want, err := past.Between(log.FirstLSN(), end)
	if err != nil {
		return 0, err
	}
	for r, err := range log.Records(0) {
		switch {
		case errors.Is(err, engine.ErrCorrupt):
			return 1, nil
		case err != nil:
			return 0, err
		case len(want) == 0:
			return 0, enginetest.Violated("log ends at LSN %d: a record at LSN %d that was not written", end, r.LSN)
		case r.LSN != want[0].LSN || !bytes.Equal(r.Bytes, want[0].Val):
			return 0, enginetest.Violated("log ends at LSN %d: the record at LSN %d has %s, want LSN %d with %s", end,
				r.LSN, enginetest.Brief(r.Bytes), want[0].LSN, enginetest.Brief(want[0].Val))
		}
		want = want[1:]
	}
	if len(want) > 0 {
		return 0, enginetest.Violated("log ends at LSN %d: %d records are missing from LSN %d on", end, len(want),
			want[0].LSN)
	}
	return 0, nil
}
