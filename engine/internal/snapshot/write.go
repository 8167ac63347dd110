package snapshot

import (
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"time"

	"pagecache/engine/internal/iobuf"
	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

const (
	// Writing works in slices and pauses after each: about a tenth of a processor.
	slice, Pause = 500 * time.Microsecond, 4 * time.Millisecond
	// apart is the time that the background writer waits before each snapshot, so that those of a store with a small
	// SnapshotEvery do not come without a pause.
	apart = 100 * time.Millisecond
)

// Log is the part of the log that writing needs.
type Log interface {
	StableEnd() format.LSN
	Tail() format.LSN
	Messages() int64
	// Reaches returns a channel that is closed once Messages is at least m. Only Run calls it.
	Reaches(m int64) <-chan struct{}
	MakeStableContext(ctx context.Context, lsn format.LSN) error
}

// A Table is the page table that snapshots are made of.
type Table interface {
	// BeginSnapshot starts a snapshot that the log completes from the LSN from on.
	BeginSnapshot(from format.LSN) Source
}

// A Source is the page table as one snapshot shows it.
type Source interface {
	// Header describes the table. Number and Timeline are not set.
	Header() format.SnapshotHeader
	// InUse returns the bases of the segments that were in use when the snapshot began.
	InUse() []format.LSN
	// Add adds pages from pid on to w, until the time is over or all pages below end are added, and returns the first
	// page that it did not add. Everything that the pages refer to stays in place until it returns. A
	// *recovery.BlockError says that a block must be rebuilt before it can go on.
	Add(w *recovery.SnapshotWriter, pid, end format.PageID, over func() bool) (format.PageID, error)
}

// writerLabels are the profiling labels of the snapshot writer; it would have those of the goroutine that started it.
var writerLabels = pprof.WithLabels(context.Background(), pprof.Labels("pagecache", "snapshot writer"))

// Run writes snapshots in the background, one after each every messages of the log, until Stop. It begins at once if
// the opening had to apply that many.
func (s *Store) Run(l Log, t Table, every int) {
	pprof.SetGoroutineLabels(writerLabels)
	defer close(s.done)
	for {
		if left := int64(every) - s.Since(l); left > 0 && !s.overdue.Load() {
			select {
			case <-s.run.Done():
				return
			case <-s.due:
			case <-l.Reaches(l.Messages() + left):
			}
			continue
		}
		if !s.sleep(apart) {
			return
		}
		err := s.Write(s.run, l, t, Pause)
		if s.run.Err() != nil || errors.Is(err, iobuf.ErrClosed) {
			return
		}
		if err != nil {
			s.c.Report.SnapshotsStopped(s.path(), err)
		}
		if errors.Is(err, iobuf.ErrFailed) {
			return
		}
		if err != nil {
			s.sleep(s.Patience) // an immediate retry would fail again
		}
	}
}

// sleep waits for d, and returns false if Stop was called meanwhile.
func (s *Store) sleep(d time.Duration) bool {
	select {
	case <-s.run.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// NoRun is called in place of Run where nothing is written in the background.
func (s *Store) NoRun() { close(s.done) }

// Stop ends the background writer, the scan of the log for corrupt blocks, and any snapshot that is being written with
// pauses. It wakes all goroutines that wait for the scan. It waits for the background work until ctx ends, and reports
// whether that has ended.
func (s *Store) Stop(ctx context.Context) bool {
	s.stop()
	s.repair.mu.Lock() // no scan begins any more
	idle := s.repair.idle
	if s.repair.again != nil {
		s.repair.again.Stop()
	}
	s.repair.mu.Unlock()
	for _, done := range []chan struct{}{s.done, idle} {
		if done == nil {
			continue
		}
		select {
		case <-done:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// Write writes a snapshot and makes it the one that the next opening starts from. If nothing was written since the
// newest one, and that one is not known to be corrupt, it does nothing. After each slice of work it rests for pause. It
// gives up when ctx ends, with the context's error, and, unless pause is 0, at Stop, with iobuf.ErrClosed.
func (s *Store) Write(ctx context.Context, l Log, t Table, pause time.Duration) error {
	if pause > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.run, cancel)()
	}
	err := s.write(ctx, l, t, pause)
	if err != nil && pause > 0 && s.run.Err() != nil {
		err = fmt.Errorf("%w: %w", iobuf.ErrClosed, err)
	}
	return err
}

func (s *Store) write(ctx context.Context, l Log, t Table, pause time.Duration) error {
	select {
	case s.writing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.writing }()
	from, at := l.StableEnd(), l.Messages()
	if from == s.from && from == l.Tail() && !s.overdue.Load() {
		s.c.Report.SnapshotWritten() // the newest one is
		return nil
	}
	id := s.id(s.number + 1)
	dir, err := s.makeDir()
	if err != nil {
		return err
	}
	tmpName := id.TmpName()
	f, err := dir.Open(tmpName, vfs.FlagWrite|vfs.FlagCreate|vfs.FlagTrunc)
	if err != nil {
		return err
	}
	w := writing{s: s, ctx: ctx, log: l, source: t.BeginSnapshot(from), pause: pause}
	err = w.fill(f, id)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = dir.Rename(tmpName, id.Name())
	}
	if err == nil {
		err = dir.Sync()
	}
	if err != nil {
		_ = dir.Remove(tmpName)
		return fmt.Errorf("write snapshot: %w", err)
	}
	s.number, s.from = id.Number, from
	s.at.Store(at)
	s.overdue.Store(false)
	s.written.Add(1)
	s.c.Report.SnapshotWritten()
	return s.removeBelow(id.Number)
}

// removeBelow removes the store's snapshots with lower numbers, and what earlier openings left of unfinished ones. The
// one that the store was opened from stays readable.
func (s *Store) removeBelow(number uint64) error {
	names, err := s.names()
	if err != nil || len(names) == 0 {
		return err
	}
	dir, err := s.dir()
	if err != nil {
		return err
	}
	for _, name := range names {
		id, ok := format.ParseSnapshotName(name)
		ok = ok && s.knows(id) && id.Number < number && !s.isCopy(id)
		if tmp, isTmp := format.ParseSnapshotTmpName(name); isTmp {
			ok = s.knows(tmp) && tmp.Timeline != s.c.Timeline
		}
		if ok {
			err = errors.Join(err, dir.Remove(name))
		}
	}
	return err
}

// isCopy reports whether a file, whose name is one that this store gives, is known to be a copy's.
func (s *Store) isCopy(id format.SnapshotID) bool {
	f, err := s.OpenFile(id)
	if err != nil {
		return false
	}
	defer f.Close()
	size, err := f.Size()
	b := make([]byte, format.SnapshotBlock)
	if n, _ := f.ReadAt(b, 0); err != nil || n < len(b) {
		return false
	}
	h, err := format.DecodeSnapshotHeader(b, size)
	return err == nil && !s.isOwn(&h)
}

// writing is one snapshot being written.
type writing struct {
	s      *Store
	ctx    context.Context
	log    Log
	source Source
	pause  time.Duration
}

// fill writes the contents of the table, slice by slice, and waits until everything that it refers to is stable.
func (w *writing) fill(f vfs.File, id format.SnapshotID) error {
	h := w.source.Header()
	h.Number, h.Timeline = id.Number, id.Timeline
	out := recovery.NewSnapshotWriter(f, h)
	for pid := format.PageID(0); pid < h.NextPage; {
		start, err := time.Now(), error(nil)
		over := func() bool { return time.Since(start) >= slice }
		if pid, err = w.source.Add(out, pid, h.NextPage, over); err == nil {
			err = out.Err()
		} else if block := (*recovery.BlockError)(nil); errors.As(err, &block) {
			err = w.await(block) // then it goes on with the same page
		}
		if err == nil && pid < h.NextPage {
			err = w.rest()
		}
		if err != nil {
			return err
		}
	}
	if err := out.Finish(w.source.InUse()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(w.ctx, w.s.Patience)
	defer cancel()
	return w.log.MakeStableContext(ctx, out.High())
}

// await waits until a corrupt block is rebuilt.
func (w *writing) await(b *recovery.BlockError) error {
	if w.pause == 0 && w.s.run.Err() != nil {
		return w.s.rebuildFor(w.ctx, b)
	}
	return w.s.Await(w.ctx, b)
}

// rest pauses after a slice.
func (w *writing) rest() error {
	if w.pause == 0 {
		return w.ctx.Err()
	}
	select {
	case <-w.ctx.Done():
		return w.ctx.Err()
	case <-time.After(w.pause):
		return nil
	}
}

// SlicePages is the number of pages that AddTo adds between two looks at the clock.
const SlicePages = 256
