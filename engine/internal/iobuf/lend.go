package iobuf

import "pagecache/internal/invariants"

// A leader that waits for the device in Go's poller lends the lead meanwhile: to a writer that has filled a chunk. It
// would notice a completion late, and the chunk not before the completion: where all processors are busy, the runtime
// looks at its poller up to 10 ms later, and until then the device would have nothing to do.

// park waits in Go's poller until a write in flight may have completed, and lends the lead to help meanwhile. If there
// is something to do at once, it does not wait. It returns false if the device cannot wait there.
func (ld *leader) park() bool {
	l := ld.log
	s := &l.state
	s.mu.Lock()
	if len(s.waiters) > 0 || l.chunkFilled.Load() && s.err == nil { // a log that has stopped writes no chunk
		s.mu.Unlock()
		return true
	}
	s.parked.Store(true)
	s.mu.Unlock()
	ok := l.parker.Park()
	s.mu.Lock()
	s.back = true
	for !s.parked.Load() { // help returns the lead after one turn, in which it awaits nothing of the device
		s.returned.Wait()
	}
	s.back = false
	s.parked.Store(false)
	s.mu.Unlock()
	return ok
}

// help does one turn for a leader that is parked, after a chunk was filled. Without one, or if another goroutine looks
// at the state of the log right now, it does nothing: the flusher was kicked, too. A writer calls it before it reserves
// anything, since it holds no lock then that the leader may need.
func (l *Log) help() {
	s := &l.state
	if !s.parked.Load() || !s.mu.TryLock() {
		return
	}
	lent := s.parked.Load() && !s.back && s.err == nil
	if lent {
		s.parked.Store(false)
	}
	s.mu.Unlock()
	invariants.Sometimes("iobuf: a writer leads while the leader is parked", lent)
	if !lent {
		return
	}
	ld := &l.leader
	ld.lent = true
	if err := ld.turn(); err != nil {
		ld.broken(err)
	}
	ld.lent = false
	ld.comps = ld.comps[:0] // as it was when the leader parked
	// The leader goes on if nothing will complete, if it has something to report, or if a goroutine has begun to wait
	// since it parked.
	goesOn := len(ld.pending) == 0 || len(ld.failed) > 0
	s.mu.Lock()
	goesOn = goesOn || len(s.waiters) > 0
	s.parked.Store(true)
	s.mu.Unlock()
	s.returned.Signal()
	if goesOn {
		l.parker.Unpark()
	}
}

// turn takes completions and starts writes. It awaits no completion.
func (ld *leader) turn() (err error) {
	l := ld.log
	if ld.comps, err = l.dev.Do(nil, 0, ld.comps[:0]); err != nil {
		return err
	}
	ld.reap()
	l.state.mu.Lock()
	failed, want, queue := l.state.err != nil, l.state.wantedLocked(), l.state.queue
	l.state.mu.Unlock()
	if failed {
		return nil
	}
	ld.writes = ld.writes[:0]
	l.chunkFilled.Store(false)
	ld.gather(queue, want)
	if len(ld.writes) == 0 {
		return nil
	}
	l.watch.begun(ld.pending, len(ld.writes))
	if ld.comps, err = l.dev.Do(ld.writes, 0, ld.comps[:0]); err != nil {
		return err
	}
	ld.reap()
	return nil
}

// broken stops the log, since the device is unusable.
func (ld *leader) broken(err error) {
	ld.pending = ld.pending[:0]
	ld.log.watch.inFlight(nil)
	ld.log.fail(err)
	ld.reportFailed()
}
