package iobuf

import (
	"fmt"
	"math"
	"slices"
	"time"

	"pagecache/internal/invariants"
	"pagecache/internal/vfs"
	"pagecache/segments"
	"pagecache/segments/format"
)

// deviceWrite is one write in flight.
type deviceWrite struct {
	b        *buffer
	from, to int           // the bytes of the buffer
	off      int64         // in the log file, bytes
	end      format.LSN    // the last message boundary that the write reaches
	began    time.Duration // when it was given to the device, since Log.began
	done     bool
}

// failedWrite is a write that has failed.
type failedWrite struct {
	slot format.SegmentID
	err  error
}

const (
	// commitDepth is the most writes of a segment that may be in flight for the sake of waiters; meanwhile commits
	// gather for the next one. The rest of the segment before does not count: it may be two small writes.
	commitDepth = 2
	// maxWrite is the limit of one device write in bytes, so that several are in flight while a buffer is flushed.
	maxWrite = 4 << 20
)

// gather walks the committed prefix of the queue and starts as many writes as may be in flight: whole chunks, the
// rests of sealed buffers, and the bytes needed for want, for which it pads the tail if necessary. It starts the
// writes of a buffer only after all those of its predecessor, so that pending is in the order of the log.
func (ld *leader) gather(queue []*buffer, want format.LSN) {
	l := ld.log
	for _, b := range queue {
		p := &b.progress
		base := format.LSN(b.base.Load())
		l.walk(b)
		committed := want >= base+format.LSN(p.boundary) && want < base+format.LSN(p.walked)
		if committed && ld.mayWrite(b) && p.walked < len(b.mem) && l.mayPad() {
			// The message at want is committed, but its last block is not full.
			n := b.padTail(p.walked, l.block, l.known())
			l.padding.Add(int64(-n))
			ld.padded += n
			l.walk(b)
		}
		if inHeader := want >= base && want < base+format.SegmentStart; p.walked == format.SegmentStart && !inHeader {
			return // the header is written with the first message
		}
		for len(ld.pending) < cap(ld.pending) {
			n := p.walked&^(l.block-1) - p.submitted
			wanted := want >= base+format.LSN(p.covered) && ld.mayWrite(b)
			if n == 0 || n < l.chunk && p.walked != len(b.mem) && !wanted {
				break
			}
			ld.zeroAhead(b, n)
			ld.start(b, base, n)
		}
		if p.submitted < len(b.mem) {
			return
		}
	}
}

// mayWrite reports whether the leader may start another write of b for the sake of waiters. No write of a later buffer
// is in flight.
func (ld *leader) mayWrite(b *buffer) bool {
	n := 0
	for n < len(ld.pending) && ld.pending[len(ld.pending)-1-n].b == b {
		n++
	}
	return n < commitDepth && len(ld.pending) < cap(ld.pending)
}

// LimitPadding lets the leader pad hardly more than n bytes until UnlimitPadding (L7). Then waiters for a message in a
// block that is not full yet wait for UnlimitPadding too, or until the block has filled up, for paddingPatience at
// most. Full blocks are written as ever, so no writer waits longer for a free buffer.
func (l *Log) LimitPadding(n int) {
	l.paddingLimited.Store(int64(time.Since(l.began)))
	l.padding.Store(int64(n))
	l.filled(anyCommit)
}

// UnlimitPadding ends the effect of LimitPadding. Without one it does nothing.
func (l *Log) UnlimitPadding() {
	l.padding.Store(unlimited)
	l.filled(anyCommit) // the leader may wait for it
}

// paddingPatience is the time after which the leader pads once although padding is limited: the goroutine that limited
// it may be waiting for a slow disk.
const paddingPatience = time.Second

// mayPad reports whether the leader may pad a block. Only the leader calls it.
func (l *Log) mayPad() bool {
	if l.padding.Load() > 0 {
		return true
	}
	now := time.Since(l.began)
	if now-time.Duration(l.paddingLimited.Load()) < paddingPatience {
		return false
	}
	l.paddingLimited.Store(int64(now))
	return true
}

// untilPadding returns the time until mayPad changes by itself, a millisecond at least.
func (l *Log) untilPadding() time.Duration {
	now := time.Since(l.began)
	return max(time.Millisecond, time.Duration(l.paddingLimited.Load())+paddingPatience-now)
}

// unlimited is more than the leader ever pads.
const unlimited = math.MaxInt64

// start adds a write of the next n bytes of b, at most maxWrite of them, and nothing of a hole. The log becomes durable
// to the boundary with the last piece.
func (ld *leader) start(b *buffer, base format.LSN, n int) {
	l, p := ld.log, &b.progress
	from, last, end := p.submitted, p.submitted+n, base
	hole := p.hole
	if p.walked < len(b.mem) {
		hole.to = 0 // what follows it may not be committed yet
	}
	if hole.to > 0 && from == hole.from {
		from = hole.to
	}
	to := min(last, from+maxWrite)
	if hole.to > 0 && from < hole.from {
		to = min(to, hole.from)
	}
	if to >= b.limit {
		to = last // the rest of a short segment is not written
	}
	if to == last {
		p.covered = p.boundary
		end = base + format.LSN(p.boundary)
	}
	n = min(to, b.limit) - from
	if invariants.Enabled && (from%l.block != 0 || to%l.block != 0 || to > p.walked) {
		panic(fmt.Sprintf("iobuf: write of [%d, %d) with %d committed", from, to, p.walked))
	}
	p.submitted = to
	off := int64(b.slot.Offset(l.segmentSize)) + int64(from)
	ld.writes = append(ld.writes, vfs.Write{Off: off, Buf: b.mem[from : from+n], Tag: ld.seq + uint64(len(ld.pending))})
	ld.pending = append(ld.pending, deviceWrite{b: b, from: from, to: to, off: off, end: end})
}

const (
	// smallWrite is the length up to which a write gains by going to space that was written before.
	smallWrite = 64 << 10
	// defaultZeroStep is the number of bytes that are zeroed at once: enough for many small writes.
	defaultZeroStep = 256 << 10
)

// zeroAhead zeroes the next step of a blank slot before a small write of n bytes reaches it. Nothing that was given to
// the device lies there (rule 1), nor the header of a free slot, which counts until the new one is durable. Larger
// writes gain nothing: for them bandwidth counts. The first small write after a large one waits for no zeroing, which
// takes longer than the write gains: if the next one is large again, nothing but that write would use the step.
func (ld *leader) zeroAhead(b *buffer, n int) {
	l, p := ld.log, &b.progress
	if l.zero == nil || p.submitted+n <= p.blank || p.blank >= b.limit || l.stopped.Load() {
		return
	}
	from := max(p.submitted, (p.blank+l.block-1)&^(l.block-1))
	p.blank = p.submitted + n
	afterLarge := p.large
	p.large = n > smallWrite
	if p.large || afterLarge || from >= p.blank || ld.lent { // zeroing waits for the disk
		return
	}
	to := min(max(from+l.zeroStep, p.blank), b.limit)
	if err := l.zero(int64(b.slot.Offset(l.segmentSize))+int64(from), int64(to-from)); err != nil {
		to = b.limit // not again in this segment. Commits are slower; an error of the device shows in the write
	}
	p.blank = to
}

// reap takes the completions of the last device call, advances durability, and retires the buffers that became wholly
// durable. A failed write stops the log.
func (ld *leader) reap() {
	l := ld.log
	if cause := ld.complete(); cause != nil {
		l.fail(cause)
	}
	ld.full = ld.full[:0]
	l.state.mu.Lock()
	ld.advanceLocked()
	l.state.mu.Unlock()
	for _, b := range ld.full {
		l.retire(b)
	}
	ld.reportFailed()
}

// reportFailed reports the writes that have failed. That may write to the disk, so a writer that leads for a turn
// leaves it to the leader that parked.
func (ld *leader) reportFailed() {
	if ld.lent {
		return
	}
	for _, w := range ld.failed {
		if ld.log.badWrite != nil {
			ld.log.badWrite(w.slot, w.err)
		}
	}
	ld.failed = ld.failed[:0]
}

// complete marks the completed writes as done and returns the error of the first that failed.
func (ld *leader) complete() (cause error) {
	l := ld.log
	now := time.Duration(0)
	if len(ld.comps) > 0 {
		now = l.sinceBegan()
	}
	for _, c := range ld.comps {
		i := c.Tag - ld.seq
		if i >= uint64(len(ld.pending)) {
			continue // of a write that a failed device call removed from pending
		}
		w := &ld.pending[i]
		w.done = true
		l.watch.ended(w)
		if c.Err == nil {
			l.writes.Add(now - w.began)
		} else {
			ld.failed = append(ld.failed, failedWrite{w.b.slot, c.Err})
		}
		if c.Err != nil && cause == nil {
			cause = fmt.Errorf("write %d bytes at segment %v offset %d: %w", w.to-w.from, w.b.slot, w.from, c.Err)
		}
	}
	return cause
}

// advanceLocked removes the writes that are done from the front of pending, and moves durability and stability over
// them (rule 5). After a failure it only removes them.
func (ld *leader) advanceLocked() {
	l, s := ld.log, &ld.log.state
	failed := s.err != nil && s.err != ErrClosed
	n := 0
	for n < len(ld.pending) && ld.pending[n].done {
		w := ld.pending[n]
		n++
		s.stats.Flushes++
		s.stats.BytesWritten += int64(min(w.to, w.b.limit) - w.from)
		if failed {
			continue
		}
		s.durable = max(s.durable, w.end)
		l.durableEnd.Store(int64(s.durable))
		if w.to == len(w.b.mem) {
			ld.full = append(ld.full, w.b)
		}
	}
	invariants.Sometimes("iobuf: a later write completes first", n+1 < len(ld.pending) && ld.pending[n+1].done)
	s.stats.BytesPadded += int64(ld.padded)
	ld.padded = 0
	ld.pending = append(ld.pending[:0], ld.pending[n:]...)
	ld.seq += uint64(n)
	if n > 0 {
		l.watch.inFlight(ld.pending)
	}
	if n > 0 && !failed {
		waiting := len(s.waiters)
		l.settleLocked()
		ld.woke = waiting - len(s.waiters)
	}
}

// retire makes a buffer Used whose segment is wholly durable. Another goroutine clears it, which takes as long as a
// small write to a disk: callers wait for the leader.
func (l *Log) retire(b *buffer) {
	var pages segments.PageList
	if b.progress.listed {
		pages = append(make(segments.PageList, 0, len(b.progress.pages)), b.progress.pages...) // not nil
	}
	// Before the base changes: a reader that does not find the buffer any more can read the segment from the file.
	l.space.SealSegment(b.slot, format.LSN(b.base.Load()), pages)
	b.read.Lock() // waits for the readers of the buffer
	b.base.Store(int64(format.NoLSN))
	b.read.Unlock()
	s := &l.state
	s.mu.Lock()
	i := slices.Index(s.queue, b)
	s.queue = slices.Delete(slices.Clone(s.queue), i, i+1) // a clone: the leader may be using the old slice
	s.used = append(s.used, b)
	if s.err == nil && !s.clearing { // Close waits for it after it has set err
		s.clearing = true
		l.clearer.Go(l.clearUsed)
	}
	s.mu.Unlock()
}
