package raftlog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"pagecache/engine"
)

// Errors of this package. Those of package engine come through, with errors.Is.
var (
	// ErrKeyNotFound reports that Get knows no such key. Raft compares the text.
	ErrKeyNotFound = errors.New("not found")
	// ErrGap reports entries that do not follow each other, or do not follow the last one of the store.
	ErrGap = errors.New("entry is not the next one")
	// ErrMiddle reports a range of entries that is neither at the beginning nor at the end.
	ErrMiddle = errors.New("only the first or the last entries can be deleted")
	// ErrGroupOpen reports a group that was opened and not closed.
	ErrGroupOpen = errors.New("group is open")
)

// Options configure a Store or a Multi. The zero value is the default.
type Options struct {
	// Log are the options of the log [those of engine.OpenLog]. Entries of one call are stored all or none if they fit
	// a segment together.
	Log *engine.Options
	// Metrics receives counts [none].
	Metrics Metrics
}

// Store keeps the log, and the keys with their values, of one member of one raft group. It implements raft.LogStore,
// raft.StableStore, raft.MonotonicLogStore and raft.CommitTrackingLogStore. Safe for concurrent use.
type Store struct {
	log     *engine.Log
	stream  *engine.Stream
	metrics Metrics
	release func() error
	// closed is set by Close, once. Calls that begin later fail; it publishes nothing.
	closed atomic.Bool
	// staged is the commit index that the next StoreLogs may persist; 0: none. It publishes nothing.
	staged atomic.Uint64

	mu sync.Mutex // orders changes at the end of the log; held while the log waits for an io buffer
	// persisted is the commit index in the log. mu guards it.
	persisted uint64
	// left says that entries above kept are of a call that has failed, and could not be removed yet. mu guards both.
	left bool
	kept engine.Seq

	drops sync.Mutex // held while entries are removed at the beginning of the log; never together with mu
}

var (
	_ raft.LogStore               = (*Store)(nil)
	_ raft.StableStore            = (*Store)(nil)
	_ raft.MonotonicLogStore      = (*Store)(nil)
	_ raft.CommitTrackingLogStore = (*Store)(nil)
)

// Open opens the store in dir, or makes one. It is the group 0 of a Multi, which can open the same directory. A
// directory with corrupt contents is refused. Errors are those of engine.OpenLog and of Multi.Group.
func Open(dir string, o *Options) (*Store, error) {
	m, err := OpenMulti(dir, o)
	if err != nil {
		return nil, err
	}
	s, err := m.Group(0)
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	s.release = m.Close
	return s, nil
}

// newStore returns the store on a stream. It reads the first and the last entry, so that the records of another program
// are refused.
func newStore(l *engine.Log, id GroupID, metrics Metrics) (*Store, error) {
	stream, err := l.Stream(id)
	if err != nil {
		return nil, err
	}
	if err := copied(stream); err != nil {
		return nil, err
	}
	s := &Store{log: l, stream: stream, metrics: metrics, release: func() error { return nil }}
	if s.persisted, err = s.uint64Of(commitNote); err != nil {
		return nil, err
	}
	if first, last := stream.Bounds(); first != 0 {
		for _, q := range []engine.Seq{first, last} {
			if _, err := s.read(uint64(q), &raft.Log{}); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// Log returns the log below, for its Stats, Latencies and Err. The caller must not write to it.
func (s *Store) Log() *engine.Log { return s.log }

// Close waits for changes under way and closes the store: later calls fail with engine.ErrClosed. A store of Open
// closes the log; see engine.Log.Close. A store of Multi.Group leaves it open, and the group can be opened again. Calls
// after the first return nil.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.release()
}

// settle waits until no change at the end or the beginning of the log is under way.
func (s *Store) settle() {
	for _, mu := range []*sync.Mutex{&s.mu, &s.drops} {
		func() {
			mu.Lock()
			defer mu.Unlock()
		}()
	}
}

// usable returns an error if the store was closed.
func (s *Store) usable(doing string) error {
	if s.closed.Load() {
		return fmt.Errorf("%s: %w", doing, engine.ErrClosed)
	}
	return nil
}

// count adds to a metric.
func (s *Store) count(name string, n int) {
	if s.metrics != nil && n > 0 {
		s.metrics.IncrementCounter(name, uint64(n))
	}
}

// IsMonotonic implements raft.MonotonicLogStore: entries have no gaps.
func (s *Store) IsMonotonic() bool { return true }

// FirstIndex returns the index of the first entry, 0 if there is none.
func (s *Store) FirstIndex() (uint64, error) {
	first, _ := s.stream.Bounds()
	return uint64(first), s.usable("first index")
}

// LastIndex returns the index of the last entry, 0 if there is none. An entry counts from the moment on that StoreLogs
// has put it into the log, shortly before it is durable.
func (s *Store) LastIndex() (uint64, error) {
	_, last := s.stream.Bounds()
	return uint64(last), s.usable("last index")
}

// GetLog reads an entry. Its Data and Extensions belong to the caller. AppendedAt is in UTC. It returns
// raft.ErrLogNotFound if there is no such entry, or not any more, and for no other reason. Other errors are those of
// engine.Stream.Get, and engine.ErrFormat for an entry that a newer version of this package has written.
func (s *Store) GetLog(index uint64, l *raft.Log) error {
	if err := s.usable("get entry"); err != nil {
		return err
	}
	if first, last := s.stream.Bounds(); index == 0 || index < uint64(first) || index > uint64(last) {
		return raft.ErrLogNotFound
	}
	n, err := s.read(index, l)
	if err != nil {
		return err
	}
	s.count(logEntriesRead, 1)
	s.count(logEntryBytesRead, n)
	return nil
}

// read is GetLog within the bounds. It returns the length of the encoding.
func (s *Store) read(index uint64, l *raft.Log) (int, error) {
	b, err := s.stream.AppendTo(nil, engine.Seq(index))
	switch {
	case errors.Is(err, engine.ErrNoRecord), errors.Is(err, engine.ErrDropped):
		return 0, raft.ErrLogNotFound // unwrapped, as raft compares it
	case err != nil:
		return 0, err
	}
	switch err := decodeEntry(b, index, l); {
	case errors.Is(err, engine.ErrFormat):
		return 0, fmt.Errorf("get entry %d: %w", index, err)
	case err != nil:
		return 0, fmt.Errorf("get entry %d: %w: %w", index, engine.ErrCorrupt, err)
	}
	return len(b), nil
}

// StoreLog stores an entry; see StoreLogs.
func (s *Store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// batches has *batch.
var batches = sync.Pool{New: func() any { return new(batch) }}

// StoreLogs stores entries, which follow each other and the last entry, and returns once they are durable. The first
// entry of an empty store may have any index but 0. A staged commit index is persisted with them. If they take more
// bytes than a segment, they are stored in parts of whole entries, and a crash may keep the first parts only. An entry
// may be longer than a segment; see engine.Stream.Append.
//
// After an error nothing was stored, except after engine.ErrFailed, with which the log has stopped: then a crash may
// keep the entries. On a full disk, entries of a part may stay until there is room, or until the next call that stores
// entries, which removes them first. Errors: ErrGap, and those of engine.Stream.Append.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	const doing = "store entries"
	if err := s.usable(doing); err != nil || len(logs) == 0 {
		return err
	}
	for i, l := range logs {
		if l.Index != logs[0].Index+uint64(i) || l.Index == 0 {
			return fmt.Errorf("%s: %w: entry %d behind %d", doing, ErrGap, l.Index, logs[0].Index+uint64(i)-1)
		}
	}
	b := batches.Get().(*batch)
	b.encode(logs)
	n, bytes := len(b.records), len(b.buf)
	lsn, err := s.append(engine.Seq(logs[0].Index), b.records)
	if clear(b.records); cap(b.buf) <= maxKept {
		batches.Put(b)
	}
	if err == nil {
		_, err = s.log.MakeStable(lsn)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	s.count(logAppends, 1)
	s.count(logEntriesWritten, n)
	s.count(logEntryBytesWritten, bytes)
	return nil
}

// append appends records, and the staged commit index, to the log, and returns the LSN that makes them durable. After
// an error it has left nothing behind, or s.left is set.
func (s *Store) append(first engine.Seq, records [][]byte) (engine.LSN, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() { // Close waits for mu, and then nothing is appended any more
		return 0, engine.ErrClosed
	}
	if err := s.removeLeft(); err != nil {
		return 0, err
	}
	_, last := s.stream.Bounds()
	if last != 0 && first != last+1 {
		return 0, fmt.Errorf("%w: entry %d behind %d", ErrGap, first, last)
	}
	staged := s.staged.Load()
	commit := s.commitWith(staged, uint64(first), uint64(len(records)))
	lsn, err := s.put(first, records, s.notes(commit))
	if err == nil {
		s.persisted = commit
		s.staged.CompareAndSwap(staged, 0) // unless another one was staged meanwhile
		return lsn, nil
	}
	if _, now := s.stream.Bounds(); now >= first {
		s.left, s.kept = true, first-1
		_ = s.removeLeft() // or the next call does it
	}
	return 0, err
}

// put appends records in one step if they fit a segment together, else in parts. The notes come with the last part.
func (s *Store) put(first engine.Seq, records [][]byte, notes []engine.Note) (engine.LSN, error) {
	lsn, err := s.stream.AppendNoted(first, records, notes...)
	if half := len(records) / 2; half > 0 && errors.Is(err, engine.ErrTooLarge) {
		if _, err = s.put(first, records[:half], nil); err == nil {
			return s.put(first+engine.Seq(half), records[half:], notes)
		}
	}
	return lsn, err
}

// removeLeft removes the entries that a failed call has left behind. The caller holds mu.
func (s *Store) removeLeft() error {
	if !s.left {
		return nil
	}
	err := s.stream.TruncateAfter(context.Background(), s.kept)
	s.left = err != nil
	return err
}

// DeleteRange removes the entries from min to max, durably, and frees the space of whole segments that no group has
// entries in. They must be the first or the last of the store, or all. Indexes without an entry are skipped. It works
// on a full disk if it removes the first entries. Errors: ErrMiddle, and those of engine.Stream.DropBelow and
// TruncateAfter.
func (s *Store) DeleteRange(min, max uint64) error {
	const doing = "delete entries"
	if err := s.usable(doing); err != nil || min > max {
		return err
	}
	first, err := s.deleteLast(min, max)
	if first && err == nil {
		err = s.deleteFirst(max)
	}
	if err != nil {
		return fmt.Errorf("%s %d to %d: %w", doing, min, max, err)
	}
	return nil
}

// deleteLast removes the entries from min to max if they are the last and not the first. first says that they are the
// first.
func (s *Store) deleteLast(min, max uint64) (first bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return false, engine.ErrClosed
	}
	a, b := s.stream.Bounds()
	oldest, newest := uint64(a), uint64(b)
	switch {
	case newest == 0 || max < oldest || min > newest:
		return false, nil
	case min <= oldest:
		return true, nil
	case max < newest:
		return false, fmt.Errorf("%w: the store has %d to %d", ErrMiddle, oldest, newest)
	}
	if err := s.stream.TruncateAfter(context.Background(), engine.Seq(min-1)); err != nil {
		return false, err
	}
	s.count(tailTruncations, int(newest-min+1))
	return false, nil
}

// deleteFirst removes the entries up to last. Entries can be stored meanwhile.
func (s *Store) deleteFirst(last uint64) error {
	s.drops.Lock()
	defer s.drops.Unlock()
	if s.closed.Load() {
		return engine.ErrClosed
	}
	oldest, newest := s.stream.Bounds()
	end := engine.Seq(min(last, math.MaxUint64-1)) + 1
	if err := s.stream.DropBelow(context.Background(), end); err != nil {
		return err
	}
	if oldest != 0 && oldest < end {
		s.count(headTruncations, int(min(newest+1, end)-oldest))
	}
	return nil
}
