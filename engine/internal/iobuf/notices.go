package iobuf

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/segments/format"
)

// notices wakes goroutines that wait for what others write, so that nothing polls (rule 18). A goroutine asks for a
// notice, then looks again, and only then waits. A writer commits its message, then looks whether a notice is wanted.
// Go's atomics are sequentially consistent, so either the goroutine sees the message, or the writer sees the wish.
type notices struct {
	// wanted is the number of notices that are wanted: the channel of NextWrite, if there is one, and all commits.
	// Written under mu; publishes nothing. The comment above says why no notice is lost to a stale zero; a stale
	// positive value costs a look under mu.
	wanted atomic.Int32
	// due is the number of messages at which reached is closed. Written by Reaches; publishes nothing. The rule above
	// holds for it and Log.messages.
	due atomic.Int64

	mu      sync.Mutex
	written chan struct{}   // closed by the next commit of a message; nil if no goroutine waits
	reached chan struct{}   // closed when due is reached; nil if no goroutine waits
	commits []*CommitNotice // in any order
}

// CommitNotice is a wish for a notice. It belongs to the goroutine that has asked for it.
type CommitNotice struct {
	// C receives when the message is committed, the log has stopped, or for no reason. It has room for one.
	C   chan struct{}
	log *Log
	lsn format.LSN
}

// anyCommit stands for the next message that is committed, whichever that is.
const anyCommit = format.LSN(math.MinInt64)

// NoticeCommit asks for a notice when the message at lsn is committed. The caller then looks once more whether it is,
// and calls Stop in the end. Safe for concurrent use.
func (l *Log) NoticeCommit(lsn format.LSN) *CommitNotice {
	c := &CommitNotice{C: make(chan struct{}, 1), log: l, lsn: lsn}
	n := &l.notices
	n.mu.Lock()
	defer n.mu.Unlock()
	n.commits = append(n.commits, c)
	n.wanted.Add(1)
	return c
}

// Stop withdraws the wish.
func (c *CommitNotice) Stop() {
	n := &c.log.notices
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, x := range n.commits {
		if x == c {
			n.commits[i] = n.commits[len(n.commits)-1]
			n.commits = n.commits[:len(n.commits)-1]
			n.wanted.Add(-1)
			return
		}
	}
}

// await waits for the notice, for limit at most.
func (c *CommitNotice) await(limit time.Duration) {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-c.C:
	case <-t.C:
	}
}

// NextWrite returns a channel that is closed once a message is committed. Marks and other pads do not count. The caller
// then looks once more whether there is something to do. Safe for concurrent use.
func (l *Log) NextWrite() <-chan struct{} {
	n := &l.notices
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.written == nil {
		n.written = make(chan struct{})
		n.wanted.Add(1)
	}
	return n.written
}

// Reaches returns a channel that is closed once Messages is at least m, and replaces that of the call before. Only one
// goroutine may use it at a time.
func (l *Log) Reaches(m int64) <-chan struct{} {
	n := &l.notices
	n.mu.Lock()
	n.reached = make(chan struct{})
	ch := n.reached
	n.due.Store(m)
	n.mu.Unlock()
	l.count(0) // it may be reached already
	return ch
}

// count counts k messages that the leader has found committed.
func (l *Log) count(k int64) {
	if m := l.messages.Add(k); m < l.notices.due.Load() {
		return
	}
	n := &l.notices
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.messages.Load() < n.due.Load() {
		return // Reaches has replaced it meanwhile
	}
	n.due.Store(math.MaxInt64)
	if n.reached != nil {
		close(n.reached)
		n.reached = nil
	}
}

// committed gives notice of the message at lsn, which the caller has committed.
func (l *Log) committed(lsn format.LSN) {
	if l.notices.wanted.Load() != 0 {
		l.notices.give(lsn, true)
	}
}

// filled gives notice of a pad at lsn, of a message in a group, or of the end of the messages of a segment.
func (l *Log) filled(lsn format.LSN) {
	if l.notices.wanted.Load() != 0 {
		l.notices.give(lsn, false)
	}
}

func (n *notices) give(lsn format.LSN, message bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if message && n.written != nil {
		close(n.written)
		n.written = nil
		n.wanted.Add(-1)
	}
	for _, c := range n.commits {
		if lsn == anyCommit || c.lsn == anyCommit || c.lsn == lsn {
			select {
			case c.C <- struct{}{}:
			default: // it was given already
			}
		}
	}
}
