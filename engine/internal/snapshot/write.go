package snapshot

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"pagecache/engine/internal/iobuf"
	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

const (
	tmpName = "snapshot.tmp"
	// Writing works in slices and pauses after each: about a tenth of a processor.
	slice, Pause = 500 * time.Microsecond, 4 * time.Millisecond
	// tick is how often the background writer checks whether a snapshot is due.
	tick = 100 * time.Millisecond
)

// Log is the part of the log that writing needs.
type Log interface {
	StableEnd() format.LSN
	Tail() format.LSN
	Messages() int64
	MakeStableWithin(lsn format.LSN, limit time.Duration) error
}

// A Table is the page table that snapshots are made of.
type Table interface {
	// BeginSnapshot starts a snapshot that the log completes from the LSN from on.
	BeginSnapshot(from format.LSN) Source
}

// A Source is the page table as one snapshot shows it.
type Source interface {
	// Header describes the table. Number is not set.
	Header() format.SnapshotHeader
	// InUse returns the bases of the segments that were in use when the snapshot began.
	InUse() []format.LSN
	// Add adds pages from pid on to w, until the time is over or all pages below end are added, and returns the first page
	// that it did not add. Everything that the pages refer to stays in place until it returns.
	Add(w *recovery.SnapshotWriter, pid, end format.PageID, over func() bool) (format.PageID, error)
}

// Run writes snapshots in the background, one after each every messages of the log, until Stop.
func (s *Store) Run(l Log, t Table, every int) {
	defer close(s.done)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-s.quit:
			return
		case <-ticker.C:
		}
		s.mu.Lock()
		due := l.Messages()-s.at >= int64(every)
		s.mu.Unlock()
		if !due {
			continue
		}
		err := s.Write(context.Background(), l, t, Pause)
		if errors.Is(err, iobuf.ErrClosed) || errors.Is(err, iobuf.ErrFailed) {
			return
		}
		if err != nil {
			s.c.Logger.Warn("snapshot not written", "dir", s.c.Dir, "err", err)
			select { // an immediate retry would fail again
			case <-s.quit:
			case <-time.After(s.Patience):
			}
		}
	}
}

// NoRun is called in place of Run where nothing is written in the background.
func (s *Store) NoRun() { close(s.done) }

// Stop ends the background writer and waits for it.
func (s *Store) Stop() {
	s.stopped.Do(func() { close(s.quit) })
	<-s.done
}

// Write writes a snapshot and makes it the one that the next opening starts from. If nothing was written since the newest
// one, it does nothing. It pauses for that long after each slice of work. It gives up when ctx ends.
func (s *Store) Write(ctx context.Context, l Log, t Table, pause time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	from, at := l.StableEnd(), l.Messages()
	if from == s.from && from == l.Tail() {
		return nil
	}
	number := s.number + 1
	if err := s.c.FS.MkdirAll(s.c.Dir); err != nil {
		return err
	}
	tmp := filepath.Join(s.c.Dir, tmpName)
	f, err := s.c.FS.Open(tmp, vfs.FlagWrite|vfs.FlagCreate|vfs.FlagTrunc)
	if err != nil {
		return err
	}
	w := writing{s: s, ctx: ctx, log: l, source: t.BeginSnapshot(from), pause: pause}
	err = w.fill(f, number)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = s.c.FS.Rename(tmp, s.Path(number))
	}
	if err == nil {
		err = s.c.FS.SyncDir(s.c.Dir)
	}
	if err != nil {
		_ = s.c.FS.Remove(tmp)
		return fmt.Errorf("write snapshot: %w", err)
	}
	s.number, s.from, s.at = number, from, at
	s.written.Add(1)
	return s.removeBelow(number)
}

// removeBelow removes the snapshots with lower numbers. The one that the store was opened from stays readable.
func (s *Store) removeBelow(number uint64) error {
	numbers, err := s.Numbers()
	for _, n := range numbers {
		if n < number {
			err = errors.Join(err, s.c.FS.Remove(s.Path(n)))
		}
	}
	return err
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
func (w *writing) fill(f vfs.File, number uint64) error {
	h := w.source.Header()
	h.Number = number
	out := recovery.NewSnapshotWriter(f, h)
	for pid := format.PageID(0); pid < h.NextPage; {
		start, err := time.Now(), error(nil)
		over := func() bool { return time.Since(start) >= slice }
		if pid, err = w.source.Add(out, pid, h.NextPage, over); err == nil {
			err = out.Err()
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
	return w.log.MakeStableWithin(out.High(), w.s.Patience)
}

// rest pauses after a slice.
func (w *writing) rest() error {
	if w.pause == 0 {
		return w.ctx.Err()
	}
	select {
	case <-w.s.quit:
		return iobuf.ErrClosed
	case <-w.ctx.Done():
		return w.ctx.Err()
	case <-time.After(w.pause):
		return nil
	}
}

// SlicePages is how many pages AddTo adds between two looks at the clock.
const SlicePages = 256
