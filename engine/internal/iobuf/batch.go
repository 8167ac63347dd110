package iobuf

import (
	"time"

	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// span is the part of the log that a batch covers. Log.state.mu guards its end.
type span struct {
	begin    format.LSN    // the begin marker
	end      format.LSN    // the first byte after the end marker; 0 while the batch is open
	began    time.Duration // when BeginBatch was called, since Log.began
	reported bool          // it was reported as open for long
}

// stableLimitLocked returns the first byte that must not be stable: durable, or a lower beginning of a batch whose
// end is not durable, or of a batch that such a limit cuts in two. Recovery cuts the log in the same way. The loop
// ends because each turn lowers the limit to the beginning of another batch.
func (s *state) stableLimitLocked() format.LSN {
	limit := s.durable
	for again := true; again; {
		again = false
		for _, b := range s.batches {
			if b.begin < limit && (b.end == 0 || b.end > limit) {
				limit, again = b.begin, true
			}
		}
	}
	return limit
}

// batchesEndLocked returns the LSN that must be durable for the message at lsn to be stable: the last byte of the
// batches that have ended and contain lsn, or contain the last byte of such a batch; lsn if there are none. A batch
// that is still open asks for its end itself (Batch.End). The loop ends because each turn raises lsn to the end of
// another batch.
func (s *state) batchesEndLocked(lsn format.LSN) format.LSN {
	for again := true; again; {
		again = false
		for _, b := range s.batches {
			if b.begin <= lsn && b.end-1 > lsn {
				lsn, again = b.end-1, true
			}
		}
	}
	return lsn
}

// Batch is an open batch. It ends in one successful call of End. Its methods are safe for concurrent use.
type Batch struct {
	tracker invariants.Tracker // first: then it takes no memory in a normal build
	l       *Log
	span    *span
	lsn     format.LSN // the begin marker
}

// BeginBatch writes a begin marker. Everything that any goroutine writes from then on becomes stable, and is recovered,
// only together with the end marker. Errors as for Reserve.
func (l *Log) BeginBatch() (*Batch, error) {
	r, err := l.Reserve(format.KindBatchBegin, 0, 0)
	if err != nil {
		return nil, err
	}
	p := &span{begin: r.LSN(), began: l.sinceBegan()}
	b := &Batch{tracker: invariants.Track("iobuf.Batch", &l.stopped), l: l, span: p, lsn: r.LSN()}
	l.state.mu.Lock() // before the commit: until then durability cannot pass the marker
	l.state.batches = append(l.state.batches, b.span)
	l.lookLocked(batchPatience)
	l.state.mu.Unlock()
	r.Complete()
	return b, nil
}

// LSN returns the LSN of the begin marker.
func (b *Batch) LSN() format.LSN { return b.lsn }

// End writes the end marker and returns its LSN. It fails with ErrBatchEnded if the batch had ended already; after any
// other error, as for Reserve, the batch is still open and End may be tried again.
func (b *Batch) End() (format.LSN, error) {
	s := &b.l.state
	s.mu.Lock()
	ended := b.span.end != 0
	s.mu.Unlock()
	if ended {
		return 0, ErrBatchEnded
	}
	r, err := b.l.Reserve(format.KindBatchEnd, 0, format.ManifestSize)
	if err != nil {
		return 0, err
	}
	format.Manifest{Begin: b.lsn}.Append(r.Body()[:0])
	lsn := r.LSN()
	s.mu.Lock()
	ended = b.span.end != 0
	invariants.Sometimes("iobuf: another goroutine ends the batch first", ended)
	if ended {
		s.mu.Unlock()
		r.Abort()
		return 0, ErrBatchEnded
	}
	b.span.end = r.End()
	waited := len(s.waiters) > 0
	if waited {
		s.wanted = max(s.wanted, lsn)
	}
	s.mu.Unlock()
	b.tracker.Done()
	r.Complete()
	if waited {
		b.l.kickFlusher()
	}
	return lsn, nil
}
