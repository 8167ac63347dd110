package iobuf

import (
	"runtime"
	"time"

	"pagecache/internal/invariants"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// leader is the state of the goroutine that drives the device. It belongs to the leader, of which there is at most one:
//
//	                wait, tryLead, drain
//	   ┌──────────────────────────────────────────────┐
//	   │                                              ▼
//	┌──────┐            resignLocked               ┌─────┐
//	│ Idle │ ◀──────────────────────────────────── │ Led │ ◀───┐
//	└──────┘                                       └─────┘     │ await, flusher, drain:
//	   │                                              │        │ the receiver leads
//	   │                                   passLocked │        │
//	   │                                              ▼        │
//	   │       wait with a deadline               ┌────────┐   │
//	   └────────────────────────────────────────▶ │ Handed │ ──┘
//	                                              └────────┘
//
//	┌─────┐       park        ┌────────┐       help        ┌──────┐
//	│ Led │ ────────────────▶ │ Parked │ ────────────────▶ │ Lent │
//	│     │ ◀──────────────── │        │ ◀──────────────── │      │
//	└─────┘ Park has returned └────────┘  after one turn   └──────┘
//
// Idle: state.leading is false, nothing is in flight, and no goroutine touches this struct. Led: state.leading is
// true, and one goroutine owns this struct. Handed: state.leading is true, and wakeLead is in the channel of one
// waiter, or the flusher's handoff channel is full; the receiver is the next leader. Parked: state.leading and
// state.parked are true, and no goroutine touches this struct. Lent: state.leading is true and state.parked false, and
// a writer owns this struct for a turn, while the leader is still in the poller, or waits for state.parked. Each edge
// is under state.mu or a channel operation, which publishes this struct to the next leader.
//
// A waiter with a deadline never leads, because the device may hang: the flusher leads for it. A waiter without one
// receives until it is done, so a wakeLead cannot be lost. The flusher always receives: it ends only after drain.
type leader struct {
	log     *Log
	pending []deviceWrite // the writes in flight, in the order of the log
	seq     uint64        // the tag of pending[0]
	writes  []vfs.Write
	comps   []vfs.Completion
	full    []*buffer     // the buffers that the last reap found wholly durable
	failed  []failedWrite // that reaps have found, and not reported yet
	padded  int           // bytes of padding that stats does not count yet
	woke    int           // the number of waiters that the last reap woke, until lead lets them run
	idle    int           // turns without progress
	lent    bool          // a writer leads, for one turn
	notice  *CommitNotice // of the message that a leader without progress waits for; nil before it waits
}

// init prepares the leader for a device that takes depth writes at once.
func (ld *leader) init(l *Log, depth int) {
	ld.log = l
	ld.pending = make([]deviceWrite, 0, depth)
	ld.writes = make([]vfs.Write, 0, depth)
	ld.comps = make([]vfs.Completion, 0, depth)
}

// takeLeadLocked makes the caller the leader, or returns false if there is one, or will be.
func (s *state) takeLeadLocked() bool {
	lead := !s.leading
	s.leading = true
	return lead
}

// lead drives the device until me has what it waits for, or, if me is nil, until nothing is worth writing. The caller
// is the leader; afterwards it is not. Each turn writes, or reaps a completion, or finds that a wanted message has
// not been committed yet, for which it rests. It ends because reservations end; if one does not, or the device
// hangs, the waiters with deadlines, such as Close, still return.
func (ld *leader) lead(me *waiter) {
	l := ld.log
	for {
		l.state.mu.Lock()
		if l.state.err != nil && len(ld.pending) == 0 {
			ld.goOn()
			l.resignLocked()
			l.state.mu.Unlock()
			return
		}
		want := l.state.wantedLocked()
		queue := l.state.queue
		if me != nil && me.woken {
			ld.goOn()
			ld.passLocked()
			l.state.mu.Unlock()
			return
		}
		failed, waiters := l.state.err != nil, len(l.state.waiters)
		l.state.mu.Unlock()
		if ld.woke > 1 && me != nil {
			// The waiters that the last completion woke are likely to commit again soon: let one write serve them all.
			runtime.Gosched()
			ld.woke = 0
			continue
		}

		ld.writes = ld.writes[:0]
		if !failed {
			l.chunkFilled.Store(false)
			ld.gather(queue, want)
		}
		if len(ld.pending) == 0 {
			if ld.rest() {
				return
			}
			continue
		}
		ld.goOn()
		if len(ld.writes) > 0 {
			l.watch.begun(ld.pending, len(ld.writes))
		}
		if err := ld.do(me != nil, waiters); err != nil {
			ld.broken(err)
			continue
		}
		ld.reap()
	}
}

// do starts the writes of a turn, and waits for a completion: in the kernel, which takes the least time, or, if nobody
// waits for the log, parked, since others may have work to do. waits says that the leader is one of the waiters.
func (ld *leader) do(waits bool, waiters int) (err error) {
	l, await := ld.log, 1
	parks := waiters == 0 && l.parker != nil
	switch {
	case parks:
		await = 0
	case waits && waiters > 1:
		await = ld.completionsToAwait()
	}
	ld.comps, err = l.dev.Do(ld.writes, await, ld.comps[:0])
	if parks && err == nil && len(ld.comps) == 0 && !ld.park() {
		ld.comps, err = l.dev.Do(nil, 1, ld.comps)
	}
	return err
}

// completionsToAwait returns how many completions a leader that is one of several waiters awaits in the kernel, 0 or
// 1. A goroutine in a system call keeps its processor for a while, and the waiters that the last completion woke
// would wait for the processor instead of adding to the next write. So the leader lets them run first, and awaits a
// completion in the kernel only once no goroutine is left to run.
func (ld *leader) completionsToAwait() int {
	if len(ld.writes) > 0 {
		return 0
	}
	const noneRan = 2 * time.Microsecond
	start := time.Now()
	runtime.Gosched()
	if time.Since(start) < noneRan {
		return 1
	}
	return 0
}

// rest is a turn with nothing in flight and nothing to write. It returns true if the leader has resigned: the log has
// stopped, or nothing wanted is left, and no writer waits for a buffer. Otherwise it yields a few times, then asks for
// a notice of the message that it waits for, and from the next turn on it waits for that.
func (ld *leader) rest() bool {
	l := ld.log
	l.state.mu.Lock()
	lsn := ld.stuckAt()
	full := l.lacksBufferLocked() && lsn != anyCommit // no buffer is free before the message at lsn is committed
	if l.state.err != nil || l.state.wantedLocked() == format.NoLSN && !full {
		// The waiters left wait for a batch to end, and End calls for a leader.
		ld.goOn()
		l.resignLocked()
		l.state.mu.Unlock()
		return true
	}
	if ld.idle++; ld.idle == spins && lsn != anyCommit {
		l.stuckLocked(lsn) // so that its age is known
	}
	l.state.mu.Unlock()
	invariants.Sometimes("iobuf: the leader sleeps until a message is committed", ld.idle == spins)
	switch {
	case ld.idle < spins:
		runtime.Gosched()
	case ld.notice == nil || ld.notice.lsn != lsn:
		ld.stopNotice()
		ld.notice = l.NoticeCommit(lsn)
	case lsn == anyCommit:
		ld.notice.await(l.untilPadding())
	default:
		ld.notice.await(l.stuckLook)
	}
	return false
}

// stuckAt returns the message that the leader waits for: reserved but not committed, since its owner is writing its
// body. It returns anyCommit if there is none: then the last block is not full, and padding is limited.
func (ld *leader) stuckAt() format.LSN {
	for _, b := range ld.log.state.queue {
		if b.progress.walked < b.reserved() {
			return format.LSN(b.base.Load()) + format.LSN(b.progress.walked)
		}
	}
	return anyCommit
}

// goOn ends a leader's rest: it has found something to do, or is about to give up the lead, and this struct with it.
func (ld *leader) goOn() {
	ld.idle = 0
	ld.stopNotice()
}

func (ld *leader) stopNotice() {
	if ld.notice != nil {
		ld.notice.Stop()
		ld.notice = nil
	}
}

// stuckLook is the time after which a leader looks again although it got no notice. Every message gives one, so that
// costs nothing and should find nothing: builds with the invariants tag, and the tests of this package, rely on the
// notices alone.
const stuckLook, trusting = 100 * time.Millisecond, time.Hour

// spins is the number of idle turns in which the leader yields the processor before it waits for a notice.
const spins = 64

// wantedLocked returns the highest LSN that must become durable, or NoLSN if none must.
func (s *state) wantedLocked() format.LSN {
	if s.wanted < s.durable {
		return format.NoLSN
	}
	return s.wanted
}

// passLocked hands the lead on: to a waiter that needs more of the log durable and may lead, else to the flusher if
// anything is in flight or worth writing. Otherwise the leader resigns.
func (ld *leader) passLocked() {
	l := ld.log
	for _, w := range l.state.waiters {
		if w.lsn >= l.state.durable && !w.mayGiveUp {
			w.ch <- wakeLead // has room: there is one leader, so no other wakeLead is under way
			return
		}
	}
	more := len(ld.pending) > 0 || l.state.wantedLocked() != format.NoLSN || l.hasChunkLocked()
	invariants.Sometimes("iobuf: the leader hands on to the flusher", more)
	if more {
		l.handoff <- struct{}{} // has room: only a leader sends, and only the next leader receives
		return
	}
	l.resignLocked()
}

// lacksBufferLocked reports whether a writer waits for a buffer and there is none: neither a free one, nor one that
// clearUsed is clearing, or will. Once retire has given one up, the writer goes on as soon as it gets a processor. That
// takes a while on a busy machine, and needs no leader.
func (l *Log) lacksBufferLocked() bool {
	s := &l.state
	return len(s.free)+len(s.used) == 0 && !s.clears && l.bufferWaiters.Load() > 0
}

// resignLocked ends the lead without a successor. The flusher may have taken a kick meanwhile and found a leader, so
// resignLocked kicks it again if a writer lacks a buffer. If the writer only lacks a processor, it kicks nobody, or the
// flusher would lead and resign again and again, on a processor that the writer could have.
func (l *Log) resignLocked() {
	l.state.leading = false
	if l.state.err != nil {
		select {
		case l.resigned <- struct{}{}:
		default:
		}
	}
	if l.lacksBufferLocked() {
		l.kickFlusher()
	}
}

// hasChunkLocked reports whether the leader leaves a chunk unwritten that was filled while it led.
func (l *Log) hasChunkLocked() bool {
	n := 0
	for _, b := range l.state.queue {
		n += b.reserved() - b.progress.submitted
	}
	return n >= l.chunk
}
