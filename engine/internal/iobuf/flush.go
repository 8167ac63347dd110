package iobuf

import (
	"fmt"
	"runtime"
	"slices"
	"time"

	"pagecache/internal/invariants"
	"pagecache/iouring"
	"pagecache/segments"
	"pagecache/segments/format"
)

// flight is the leader's record of the device: what is in flight, in the order of the log. It belongs to whoever is the
// leader; the role passes under Log.mu or through Log.handoff.
type flight struct {
	pending []flown // oldest first
	seq     uint64  // tag of pending[0]
	writes  []iouring.Write
	comps   []iouring.Completion
	full    []*buffer // completed by the last reap
	padded  int       // bytes of padding not counted yet
	woke    int       // how many the last reap woke, until they have been let run
	idle    int       // turns without progress
}

// flown is one write in flight.
type flown struct {
	b        *buffer
	from, to int        // bytes of the buffer
	end      format.LSN // the last message boundary it reaches
	done     bool
}

func (f *flight) init(depth int) {
	f.pending = make([]flown, 0, depth)
	f.writes = make([]iouring.Write, 0, depth)
	f.comps = make([]iouring.Completion, 0, depth)
}

// lead drives the device until me is satisfied (nil: until there is nothing worth writing). The caller has set leading.
// Each turn writes, or reaps a completion, or finds that what is wanted has not been committed yet, for which it backs
// off; it ends because reservations end.
func (l *Log) lead(me *waiter) {
	for {
		l.mu.Lock()
		if l.err != nil && len(l.fl.pending) == 0 {
			l.leading = false
			l.mu.Unlock()
			return
		}
		want := l.wantedLocked()
		queue := l.queue
		if me != nil && me.woken {
			l.passLocked()
			l.mu.Unlock()
			return
		}
		failed, alone := l.err != nil, len(l.waiters) <= 1
		l.mu.Unlock()
		if l.fl.woke > 1 && me != nil {
			// Those whom the last completion woke are about to run, and likely to commit again: one write for them all.
			runtime.Gosched()
			l.fl.woke = 0
			continue
		}

		l.fl.writes = l.fl.writes[:0]
		if !failed {
			l.gather(queue, want)
		}
		if len(l.fl.pending) == 0 {
			if l.rest() {
				return
			}
			continue
		}
		l.fl.idle = 0
		var err error
		l.fl.comps, err = l.dev.Do(l.fl.writes, l.patient(me, alone), l.fl.comps[:0])
		if err != nil {
			l.fl.pending = l.fl.pending[:0]
			l.fail(err)
			continue
		}
		l.reap()
	}
}

// patient is how many completions the leader waits for in the kernel: one, unless others who wait for the log may have
// something to do first. A goroutine in a system call keeps its processor for a while, and those who were woken by the last
// completion would wait for it instead of adding to the next write. So the leader lets them run, and waits in the kernel only
// once there is nobody left to run.
func (l *Log) patient(me *waiter, alone bool) int {
	if me == nil || alone {
		return 1
	}
	if len(l.fl.writes) == 0 {
		const nobody = 2 * time.Microsecond
		start := time.Now()
		runtime.Gosched()
		if time.Since(start) < nobody {
			return 1
		}
	}
	return 0
}

// rest is a turn with nothing in flight and nothing to write. It reports true when the leader's work is over.
func (l *Log) rest() bool {
	l.mu.Lock()
	if l.err != nil || l.wantedLocked() == format.NoLSN {
		// Who waits now waits for a batch to end, which calls for a leader when it does.
		l.resignLocked()
		l.mu.Unlock()
		return true
	}
	l.mu.Unlock()
	// Something below what is wanted is reserved but not committed; its owner is copying it in.
	l.fl.idle++
	switch n := l.fl.idle; {
	case n < 64:
		runtime.Gosched()
	default:
		time.Sleep(min(time.Duration(n)*time.Microsecond, time.Millisecond))
	}
	return false
}

// wantedLocked is the highest LSN that must become durable, NoLSN if nothing must.
func (l *Log) wantedLocked() format.LSN {
	if l.wanted < l.durable {
		return format.NoLSN
	}
	return l.wanted
}

// passLocked gives the lead away: to a waiter whose message is not durable and who may lead, to the flusher while anything is in flight
// or worth writing, else to nobody.
func (l *Log) passLocked() {
	for _, w := range l.waiters {
		if w.lsn >= l.durable && !w.hasty {
			w.ch <- wakeLead // has room: nobody else leads, so nobody else was told
			return
		}
	}
	if len(l.fl.pending) > 0 || l.wantedLocked() != format.NoLSN || l.bulkLocked() {
		l.handoff <- struct{}{} // has room: only a leader sends, and only the next leader receives
		return
	}
	l.resignLocked()
}

// resignLocked ends the lead with no successor. The flusher may have taken a kick for nothing meanwhile, so whoever
// waits for a buffer is remembered.
func (l *Log) resignLocked() {
	l.leading = false
	if l.starved.Load() > 0 {
		l.kickFlusher()
	}
}

// bulkLocked reports whether the leader leaves a chunk unwritten that came while it led.
func (l *Log) bulkLocked() bool {
	n := 0
	for _, b := range l.queue {
		n += int(min(b.tail.Load(), uint64(l.segmentSize))) - b.submitted
	}
	return n >= l.chunk
}

// gather walks the committed prefix of the queue and starts as many writes as may be in flight: whole chunks, sealed
// buffers, and whatever is needed for want, padding the tail if it must. A buffer's writes start only when all of its
// predecessor's have, so that pending is in the order of the log.
func (l *Log) gather(queue []*buffer, want format.LSN) {
	for _, b := range queue {
		base := format.LSN(b.base.Load())
		l.messages.Add(b.walk(l.block))
		if len(l.fl.pending) < commitDepth && want >= base+format.LSN(b.boundary) && want < base+format.LSN(b.walked) && b.walked < len(b.mem) {
			// The message at want is committed but its last block is not full.
			l.fl.padded += b.padTail(b.walked, l.block, l.StableLSN())
			l.messages.Add(b.walk(l.block))
		}
		for len(l.fl.pending) < cap(l.fl.pending) {
			n := b.walked&^(l.block-1) - b.submitted
			worth := n >= l.chunk || b.walked == len(b.mem) || want >= base+format.LSN(b.covered) && len(l.fl.pending) < commitDepth
			if n == 0 || !worth {
				break
			}
			l.start(b, base, n)
		}
		if b.submitted < len(b.mem) {
			return
		}
	}
}

// commitDepth is how many writes may be in flight for the sake of those who wait: while they are, the next gathers more
// commits.
const commitDepth = 2

// maxWrite bounds one device write, so that several are in flight while a buffer is flushed.
const maxWrite = 4 << 20

// start adds a write of at most maxWrite of the next n bytes of b. Stability moves with the last piece.
func (l *Log) start(b *buffer, base format.LSN, n int) {
	from, to, end := b.submitted, b.submitted+min(n, maxWrite), base
	if to == from+n {
		b.covered = b.boundary
		end = base + format.LSN(b.boundary)
	}
	if invariants.Enabled && (from%l.block != 0 || to%l.block != 0 || to > b.walked) {
		panic(fmt.Sprintf("iobuf: write of [%d, %d) with %d committed", from, to, b.walked))
	}
	b.submitted = to
	l.fl.writes = append(l.fl.writes, iouring.Write{Off: int64(b.slot.Offset(l.segmentSize)) + int64(from), Buf: b.mem[from:to],
		Tag: l.fl.seq + uint64(len(l.fl.pending))})
	l.fl.pending = append(l.fl.pending, flown{b: b, from: from, to: to, end: end})
}

// reap takes completions and moves stability over the front of the queue (rule 5).
func (l *Log) reap() {
	var cause error
	for _, c := range l.fl.comps {
		i := c.Tag - l.fl.seq
		if i >= uint64(len(l.fl.pending)) {
			continue // of a write given up after a failure
		}
		l.fl.pending[i].done = true
		if c.Err != nil && cause == nil {
			f := l.fl.pending[i]
			cause = fmt.Errorf("write of %d bytes at segment %v offset %d: %w", f.to-f.from, f.b.slot, f.from, c.Err)
		}
	}
	if cause != nil {
		l.fail(cause)
	}
	l.fl.full = l.fl.full[:0]
	l.mu.Lock()
	n := 0
	for n < len(l.fl.pending) && l.fl.pending[n].done {
		f := l.fl.pending[n]
		n++
		l.stats.Flushes++
		l.stats.BytesWritten += int64(f.to - f.from)
		if l.err != nil && l.err != ErrClosed {
			continue // nothing that completes after a failure is called durable
		}
		l.durable = max(l.durable, f.end)
		if f.to == len(f.b.mem) {
			l.fl.full = append(l.fl.full, f.b)
		}
	}
	l.stats.BytesPadded += int64(l.fl.padded)
	l.fl.padded = 0
	l.fl.pending = append(l.fl.pending[:0], l.fl.pending[n:]...)
	l.fl.seq += uint64(n)
	if n > 0 && (l.err == nil || l.err == ErrClosed) {
		waiting := len(l.waiters)
		l.settleLocked()
		l.fl.woke = waiting - len(l.waiters)
	}
	l.mu.Unlock()
	for _, b := range l.fl.full {
		l.retire(b)
	}
}

// retire makes a buffer Free whose segment is wholly durable.
func (l *Log) retire(b *buffer) {
	var pages segments.PageList
	if b.listed {
		pages = append(make(segments.PageList, 0, len(b.pages)), b.pages...) // not nil
	}
	l.space.SealSegment(b.slot, format.LSN(b.base.Load()), pages)
	// The segment can be read from the file now; who still reads the buffer is waited for.
	b.read.Lock()
	b.base.Store(int64(format.NoLSN))
	clear(b.mem)
	b.read.Unlock()
	l.mu.Lock()
	i := slices.Index(l.queue, b)
	l.queue = slices.Delete(slices.Clone(l.queue), i, i+1) // a copy of the old slice may be in use
	l.free = append(l.free, b)
	l.mu.Unlock()
	l.freed.Broadcast()
}

// flusher leads when nobody else does: for full chunks, at intervals, and when the lead is handed to it.
func (l *Log) flusher(every time.Duration) {
	defer close(l.done)
	var tick <-chan time.Time
	if every > 0 {
		t := time.NewTicker(every)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-l.quit:
			l.drain()
			return
		case <-l.handoff:
			l.lead(nil)
		case <-l.kick:
			l.tryLead()
		case <-tick:
			if tail := l.Tail(); l.active.Load() != nil && tail > l.DurableEnd() {
				l.mu.Lock()
				l.wanted = max(l.wanted, tail-1)
				l.mu.Unlock()
				l.tryLead()
			}
		}
	}
}

func (l *Log) tryLead() {
	l.mu.Lock()
	if l.leading || l.err != nil {
		l.mu.Unlock()
		return
	}
	l.leading = true
	l.mu.Unlock()
	l.lead(nil)
}

// drain waits for the lead to be free and for everything in flight, after the log has stopped. It gives up after
// Patience: then a completion has not come, and the device cannot be closed.
func (l *Log) drain() {
	for start := time.Now(); ; {
		l.mu.Lock()
		lead := !l.leading
		l.leading = true
		l.mu.Unlock()
		if lead {
			break
		}
		select {
		case <-l.handoff:
			lead = true
		case <-time.After(50 * time.Microsecond):
		}
		if lead {
			break
		}
		if time.Since(start) > Patience {
			return
		}
	}
	for len(l.fl.pending) > 0 {
		var err error
		if l.fl.comps, err = l.dev.Do(nil, 1, l.fl.comps[:0]); err != nil {
			return
		}
		l.reap()
	}
	l.drained.Store(true)
}

// Patience is how long Close waits for reservations to end and for the device.
const Patience = 10 * time.Second

func (l *Log) kickFlusher() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}
