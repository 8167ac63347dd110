package logstore

import (
	"math"
	"sync"

	"pagecache/segments/format"
)

// Pins keep what callers see of a standalone log. Safe for concurrent use.
type Pins struct {
	mu sync.Mutex
	// open has the first LSN of the log when each pin began. mu guards it.
	open map[*Pin]format.LSN
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
