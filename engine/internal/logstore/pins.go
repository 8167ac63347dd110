package logstore

import (
	"context"
	"math"
	"sync"

	"pagecache/segments/format"
)

// Pins keep what callers see of a standalone log. Safe for concurrent use.
type Pins struct {
	mu sync.Mutex
	// open has the first LSN of the log when each pin began. mu guards it.
	open map[*Pin]format.LSN
	none chan struct{} // closed when no pin is open any more; nil unless a goroutine waits for that. mu guards it.
}

// A Pin keeps the bytes of records valid that are read while it is open. It ends with End.
type Pin struct{ pins *Pins }

// Begin begins a pin. first returns the lowest LSN of the log that a reader may still find; it only rises. A segment
// below it was out of reach before the pin began. Low is called after first has risen, so it either finds the pin, or
// the pin has found the new LSN.
func (p *Pins) Begin(first func() format.LSN) *Pin {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		p.open = map[*Pin]format.LSN{}
	}
	pin := &Pin{p}
	p.open[pin] = first()
	return pin
}

// End ends the pin: bytes that were read beside it are not valid any more once their record is dropped. More than one
// call does no harm.
func (p *Pin) End() {
	p.pins.mu.Lock()
	defer p.pins.mu.Unlock()
	delete(p.pins.open, p)
	if p.pins.none != nil && len(p.pins.open) == 0 {
		close(p.pins.none)
		p.pins.none = nil
	}
}

// Wait waits until no pin is open, or ctx ends, and returns how many are. No pin may begin any more.
func (p *Pins) Wait(ctx context.Context) int {
	p.mu.Lock()
	n := len(p.open)
	if n > 0 && p.none == nil {
		p.none = make(chan struct{})
	}
	none := p.none
	p.mu.Unlock()
	if n == 0 {
		return 0
	}
	select {
	case <-none:
	case <-ctx.Done():
	}
	return p.Len()
}

// Low returns the LSN below which no pin keeps anything.
func (p *Pins) Low() format.LSN {
	p.mu.Lock()
	defer p.mu.Unlock()
	low := format.LSN(math.MaxInt64)
	for _, first := range p.open {
		low = min(low, first)
	}
	return low
}

// Len returns the number of open pins.
func (p *Pins) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}
