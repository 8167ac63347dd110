package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"

	"pagecache/engine/internal/stream"
	"pagecache/segments/format"
)

// StreamID is the number of a Stream of a Log, 0 … MaxStreamID. A log that needs only one uses 0.
type StreamID = format.StreamID

// MaxStreamID is the highest number of a Stream.
const MaxStreamID = format.MaxStreamID

// A Stream is the records of a Log that a caller has numbered. The numbers rise; most callers leave none out. Streams
// of one log share its segments and its flushes. A Stream costs some memory for each segment that it has records in,
// and none for each record. Safe for concurrent use.
//
// Space is freed from the beginning of the log: a stream that holds old records keeps all segments behind them. If that
// is more than eight, and its records take a quarter of a segment at most, DropBelow of any stream writes them again at
// the end of the log: at most a quarter of a segment of such copies for each new segment. The records of a longer
// stream stay where they are, since most of what it keeps is its own.
//
// A log may hold streams and records without a number (Log.Write). DropBelow of a stream then drops the latter with
// their segments.
type Stream struct {
	l *Log
	s *stream.Stream
}

// Stream returns a stream of the log. It fails with ErrCorrupt if the disk did not return a part of the log when it was
// opened: then nobody knows which records the streams have. Errors: ErrClosed, ErrCorrupt, ErrPageRange for an id above
// MaxStreamID.
func (l *Log) Stream(id StreamID) (*Stream, error) {
	if id > MaxStreamID {
		return nil, fmt.Errorf("stream %d: %w", id, ErrPageRange)
	}
	if l.core.closed.Load() {
		return nil, fmt.Errorf("stream %d: %w", id, ErrClosed)
	}
	s, err := l.streams.Stream(id)
	if err != nil {
		return nil, fmt.Errorf("stream %d: %w", id, err)
	}
	return &Stream{l, s}, nil
}

// Streams returns the numbers of the streams that have records or notes, in rising order.
func (l *Log) Streams() []StreamID { return l.streams.IDs() }

// A Note is a small named value of a Stream.
type Note = stream.Note

// Append appends records with the numbers seq, seq + 1, and so on; seq is above Bounds' last, and any number from 1 on
// if the stream is empty. The records are recovered all or none, and are in memory when Append returns: MakeStable of
// the LSN, which is that of the last one, makes all of them durable. Together they may be almost as long as a segment.
// After an error nothing was done. Errors: ErrSequence, and those of Reserve.
//
// A record alone may be longer: up to 511 GiB in segments of 8 MiB, 1 MiB in segments of 16 KiB. It is written in
// parts, while others append to the log. If that fails, there is no record, but its parts take space until DropBelow
// has freed the segments before them. Get of such a record returns a copy of it on the heap.
func (s *Stream) Append(seq Seq, records ...[]byte) (LSN, error) { return s.AppendNoted(seq, records) }

// AppendNoted is Append that also sets notes, of which a nil Value removes one. Records and notes are recovered all or
// none. Notes are in memory: all of a log take at most a quarter of a segment, and so do those of a call. Values that
// the call replaces do not count. On a full disk, calls without records still work some hundred times: the log keeps a
// segment for that. ErrTooLarge also reports a note that is too long.
func (s *Stream) AppendNoted(seq Seq, records [][]byte, notes ...Note) (LSN, error) {
	if len(records)+len(notes) == 0 {
		return 0, nil
	}
	call, err := s.l.core.enter()
	if err != nil {
		return 0, describe("append", err)
	}
	lsn, err := s.s.Append(seq, records, notes...)
	var long *stream.Long
	if errors.Is(err, ErrTooLarge) && len(records) == 1 && s.l.streams.IsLong(len(records[0])) {
		long, err = s.s.Long(seq, records[0], notes)
	}
	call.End()
	if long != nil {
		lsn, err = s.write(long)
	}
	return lsn, describe("append", err)
}

// parts is what write calls of a *stream.Long.
type parts interface {
	Next() (lsn LSN, done bool, err error)
	End()
}

// write writes a long record. Each part takes a call of its own, since DropBelow waits for calls that began before it.
func (s *Stream) write(long parts) (lsn LSN, err error) {
	defer long.End()
	for done := false; !done && err == nil; {
		call, closed := s.l.core.enter()
		if closed != nil {
			return 0, closed
		}
		lsn, done, err = long.Next()
		call.End()
	}
	return lsn, err
}

// AppendStable is Append that waits until the records are stable. If it fails while it waits, because ctx ends or with
// ErrFailed, the records may be there or not, as a whole.
func (s *Stream) AppendStable(ctx context.Context, seq Seq, records ...[]byte) error {
	lsn, err := s.Append(seq, records...)
	if err == nil && lsn != 0 {
		_, err = s.l.core.makeStable(ctx, lsn)
	}
	return err
}

// SetNote sets a note, durably; a nil value removes it. If it fails while it waits, because ctx ends or with ErrFailed,
// the note has the new value in this opening, and may have the old one in the next. Errors are those of AppendNoted.
func (s *Stream) SetNote(ctx context.Context, name string, value []byte) error {
	lsn, err := s.AppendNoted(0, nil, Note{Name: name, Value: value})
	if err == nil {
		_, err = s.l.core.makeStable(ctx, lsn)
	}
	return err
}

// Note returns a copy of the value that a note was given last, which may not be stable yet. found is false if there is
// no such note. It reads no disk and works after Close.
func (s *Stream) Note(name string) (value []byte, found bool) {
	value, found = s.s.Note(name)
	return bytes.Clone(value), found
}

// Notes returns the names of the notes, in order.
func (s *Stream) Notes() []string { return s.s.Notes() }

// Bounds returns the numbers of the first and the last record; 0 and 0 if there is none.
func (s *Stream) Bounds() (first, last Seq) { return s.s.Bounds() }

// Get returns the record with this number. It must not be modified. It is valid until Close or DropBelow, of any stream
// of the log: that may move the record, too. Beside a Pin it stays valid until that ends. Errors: ErrDropped below the
// first record, or, in the opening that has dropped the last one, below the numbers that come next; ErrNoRecord,
// ErrCorrupt, ErrClosed.
func (s *Stream) Get(seq Seq) (Record, error) {
	call, err := s.l.core.enter()
	if err != nil {
		return Record{}, describe(fmt.Sprintf("get record %d", seq), err)
	}
	defer call.End()
	at, err := s.s.Find(seq)
	if err == nil {
		var r Record
		if r, err = s.record(seq, at); err == nil {
			return r, nil
		}
	}
	return Record{}, s.failed(fmt.Sprintf("get record %d", seq), err)
}

// AppendTo appends the record with this number to dst and returns the extended slice. Errors are those of Get, with dst
// as it was.
func (s *Stream) AppendTo(dst []byte, seq Seq) ([]byte, error) {
	call, err := s.l.core.enter()
	if err != nil {
		return dst, describe(fmt.Sprintf("get record %d", seq), err)
	}
	defer call.End()
	at, err := s.s.Find(seq)
	if err == nil {
		s.s.Warm(at)
		dst, err = s.s.AppendTo(dst, seq, at)
	}
	if err == nil {
		return dst, nil
	}
	return dst, s.failed(fmt.Sprintf("get record %d", seq), err)
}

// failed returns err, which is not nil, as an error of a read.
func (s *Stream) failed(doing string, err error) error {
	return describe(doing, s.l.core.opts.report.Corrupt(err))
}

// record reads the record with this number, within a call.
func (s *Stream) record(seq Seq, at stream.At) (Record, error) {
	s.s.Warm(at)
	m, at, err := s.s.Read(seq, at)
	return Record{LSN: at.LSN, Ptr: at.Ptr, Seq: seq, Bytes: m.Body}, err
}

// TruncateAfter removes the records above seq, durably. Their numbers may be used again at once: the records that had
// them before stay invisible. If ctx ends, or the log fails, the records are gone in this opening, and may be back in
// the next. Errors: those of Append except ErrSequence, ErrCorrupt, that of ctx.
func (s *Stream) TruncateAfter(ctx context.Context, seq Seq) error {
	return s.cut(ctx, "truncate", func() (LSN, error) { return s.s.CutAfter(seq) })
}

// DropBelow removes the records below seq, durably, and frees the space of whole segments that no stream has records
// in. It works on a full disk. While a batch or a Reservation is open, the space may be freed by a later call only.
// Errors are those of TruncateAfter and of Log.DropBelow.
func (s *Stream) DropBelow(ctx context.Context, seq Seq) error {
	err := s.cut(ctx, "drop", func() (LSN, error) { return s.s.CutBelow(seq) })
	if err != nil {
		return err
	}
	return s.l.dropBelow(ctx, math.MaxInt64)
}

// cut removes records and waits until that is stable.
func (s *Stream) cut(ctx context.Context, doing string, cut func() (LSN, error)) error {
	if s.l.core.opts.ReadOnly {
		return describe(doing, ErrReadOnly)
	}
	call, err := s.l.core.enter()
	if err != nil {
		return describe(doing, err)
	}
	lsn, err := cut()
	call.End()
	if err == nil && lsn != 0 {
		_, err = s.l.core.makeStable(ctx, lsn)
	}
	return describe(doing, s.l.core.opts.report.Corrupt(err))
}

// Records returns the records at or above from, in order, as far as the log is stable when the iteration begins. An
// error, which comes with a zero Record, ends the iteration: ErrDropped if records were dropped that it has not
// returned, and those of Get. Records that are truncated meanwhile may be returned or not. The LSN of a record that was
// moved may be above StableLSN: a crash keeps the record all the same.
func (s *Stream) Records(from Seq) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		last, err := s.lastStable()
		for seq := from; ; {
			var r Record
			proof := LSN(0)
			if err == nil {
				r, proof, err = s.next(seq)
			}
			if err != nil {
				yield(Record{}, err)
				return
			}
			// A record that is not stable has the number of one that was truncated.
			replaced := proof >= s.l.core.store.Log.StableEnd()
			if r.Seq == 0 || r.Seq > last || replaced || !yield(r, nil) || r.Seq == last {
				return
			}
			seq = r.Seq + 1
		}
	}
}

// lastStable returns the number of the last record that is stable; 0 if there is none.
func (s *Stream) lastStable() (Seq, error) {
	call, err := s.l.core.enter()
	if err != nil {
		return 0, describe("iterate", err)
	}
	defer call.End()
	last, err := s.s.Below(s.l.core.store.Log.StableEnd())
	if err != nil {
		return 0, s.failed("iterate", err)
	}
	return last, nil
}

// next returns the first record at or above seq, and the LSN with which it is stable. The record is zero if there is
// none.
func (s *Stream) next(seq Seq) (r Record, proof LSN, err error) {
	doing := fmt.Sprintf("iterate at record %d", seq)
	call, err := s.l.core.enter()
	if err != nil {
		return r, 0, describe(doing, err)
	}
	defer call.End()
	q, at, err := s.s.Ceil(seq)
	if err == nil && q != 0 {
		r, err = s.record(q, at)
	}
	if err != nil {
		return Record{}, 0, s.failed(doing, err)
	}
	return r, at.Proof, nil
}

// Follow returns the records at or above from, in order, for ever: it waits for those that are not there yet, and makes
// them stable before it returns them. 0 means the first record. An error, which comes with a zero Record, ends it: that
// of ctx, ErrClosed, ErrTruncated if a record that it has returned was truncated, ErrDropped if records were dropped
// that it may not have returned, and those of Get. If other goroutines call DropBelow, use the bytes beside a Pin that
// was opened before Follow, or AppendTo instead: a drop may come just before the loop gets the record.
func (s *Stream) Follow(ctx context.Context, from Seq) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for f := (follower{s: s, seq: from, seen: s.s.Cuts()}); ; {
			r, found, err := f.next(ctx)
			if err != nil {
				yield(Record{}, describe("follow", err))
				return
			}
			if !found {
				continue
			}
			if !yield(r, nil) {
				return
			}
			f.seq, f.last = r.Seq+1, r.Seq
		}
	}
}

// follower is the state of a Follow.
type follower struct {
	s    *Stream
	seq  Seq    // the next record is at or above it
	last Seq    // of the newest record that was returned; 0 before the first
	seen uint64 // what Cuts was when last was known to be there
}

// next waits for the next record and makes it stable. found is false if it must look again.
func (f *follower) next(ctx context.Context) (r Record, found bool, err error) {
	proof := LSN(0)
	err = f.s.s.Wait(ctx, func() (ready bool, err error) {
		if f.s.s.Cuts() != f.seen {
			return true, nil
		}
		r, proof, err = f.s.next(f.seq)
		return r.Seq != 0, err
	})
	if err == nil && r.Seq != 0 && proof >= f.s.l.core.store.Log.StableEnd() {
		_, err = f.s.l.core.makeStable(ctx, proof)
		return Record{}, false, err // the record may be dropped or moved by now, and its bytes with it
	}
	if cuts := f.s.s.Cuts(); err == nil && cuts != f.seen { // r may be gone, or a record behind those that are
		if f.last != 0 && f.s.s.Truncated(f.seen, f.last) {
			return Record{}, false, fmt.Errorf("record %d: %w", f.last, ErrTruncated)
		}
		f.seen = cuts
		return Record{}, false, nil
	}
	return r, r.Seq != 0, err
}
