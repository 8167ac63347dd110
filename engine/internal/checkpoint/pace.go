package checkpoint

import (
	"context"
	"sync/atomic"
	"time"

	"pagecache/engine/internal/logstore"
	"pagecache/segments/format"
)

// pacer makes work that reads much leave the processor and the disk to callers. It belongs to one goroutine, but for
// beside.
type pacer struct {
	ctx    context.Context
	closed <-chan struct{} // of the checkpoint; may be nil
	tail   func() format.LSN
	rate   int64      // bytes a second; 0: see rest
	last   format.LSN // tail at the last pause
	start  time.Time  // of the work since then
	quiet  bool       // the log has not grown between the last two pauses
	// beside is the work that another goroutine has done since then, in nanoseconds. A stale value makes one pause
	// shorter and the next one longer.
	beside atomic.Int64
}

// begin begins the work.
func (p *pacer) begin() { p.last, p.start = p.tail(), time.Now() }

// away calls f, which takes as long as others take, and is no work of the caller.
func (p *pacer) away(f func() error) error {
	start := time.Now()
	err := f()
	p.start = p.start.Add(time.Since(start))
	return err
}

// Without a rate, the work between two pauses is followed by a pause of restShare times as long, at most restMost, if
// the log has grown meanwhile. So it takes about a tenth of one processor and of the disk while callers write: a flush
// that meets a read waits for it.
const restShare, restMost = 8, 100 * time.Millisecond

// piece returns how many bytes to read before the next pause.
func (p *pacer) piece() int {
	if p.quiet {
		return logstore.QuietPiece
	}
	return logstore.Piece
}

// rest pauses, after n bytes were read since the last pause.
func (p *pacer) rest(n int) error {
	worked, tail := time.Since(p.start)+time.Duration(p.beside.Swap(0)), p.tail()
	var pause time.Duration
	switch {
	case p.rate > 0:
		pause = time.Duration(float64(n)/float64(p.rate)*float64(time.Second)) - worked
	case tail != p.last:
		pause = min(restShare*worked, restMost)
	}
	p.last, p.quiet = tail, tail == p.last
	if pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		select {
		case <-t.C:
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		case <-p.closed:
			return errClosed
		}
	}
	p.start = time.Now()
	return nil
}
