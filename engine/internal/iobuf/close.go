package iobuf

import (
	"context"
	"time"

	"pagecache/segments/format"
)

// Close makes all committed messages durable, stops the log and returns its end: the first byte that is not durable.
// The device stays open. Close waits up to CloseTimeout for open reservations, and again for the device, and fails if
// they do not end. After a failed write it returns the cause; a second Close returns ErrClosed.
func (l *Log) Close() (format.LSN, error) { return l.CloseContext(context.Background()) }

// CloseContext is Close that waits for nothing once ctx ends.
func (l *Log) CloseContext(ctx context.Context) (format.LSN, error) {
	if l.bufs == nil { // read-only
		return l.state.durable, nil
	}
	err := l.closeFlush(ctx)
	l.state.mu.Lock()
	again := l.state.closed
	l.state.closed = true
	if l.state.err == nil {
		l.stopLocked(ErrClosed)
	}
	l.state.mu.Unlock()
	if again {
		return l.DurableEnd(), ErrClosed
	}
	close(l.quit)
	select {
	case <-l.done:
	case <-ctx.Done():
	case <-time.After(CloseTimeout): // the device does not complete a write; Drained returns false
	}
	l.watch.stop()
	l.clearer.Wait() // it ends soon; afterwards the caller may release the buffers
	l.state.mu.Lock()
	defer l.state.mu.Unlock()
	if l.state.look != nil {
		l.state.look.Stop()
	}
	if err == nil && l.state.err != ErrClosed {
		err = l.state.err // a write failed before or during Close
	}
	if err == nil && !l.Drained() {
		err = errNotDrained
	}
	// The end is read last: after the flush a goroutine may have begun to write, such as the one that notes ids, and
	// the part of that which reached the disk belongs to the log.
	return l.state.durable, err
}

// Drained reports, after Close, whether nothing is in flight, so that the device can be closed.
func (l *Log) Drained() bool { return l.drained.Load() }

// closeFlush makes everything reserved so far durable, within CloseTimeout.
func (l *Log) closeFlush(ctx context.Context) error {
	tail := l.Tail()
	if tail <= l.DurableEnd() || l.active.Load() == nil {
		return l.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, CloseTimeout)
	defer cancel()
	return l.wait(ctx, tail-1, waitDurable)
}
