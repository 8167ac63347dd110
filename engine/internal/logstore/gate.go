package logstore

import "sync/atomic"

// Gate counts what callers have open until it is shut, which it can be only while nothing is open. Safe for concurrent
// use.
type Gate struct {
	// n is the number of what is open, plus shut once the gate is shut. It publishes nothing. Enter may raise it for a
	// moment after that.
	n atomic.Int64
}

const shut = -1 << 62

// Enter counts one more. It returns false, and counts nothing, if the gate is shut.
func (g *Gate) Enter() bool {
	if g.n.Add(1) > 0 {
		return true
	}
	g.n.Add(-1)
	return false
}

// Leave ends what Enter has counted.
func (g *Gate) Leave() { g.n.Add(-1) }

// Open returns how many are open.
func (g *Gate) Open() int { return int(max(0, g.n.Load())) }

// Shut shuts the gate unless something is open, and returns how many are. done is false if they are some, and if the
// gate was shut before.
func (g *Gate) Shut() (open int, done bool) {
	for { // ends: the number changes only if another goroutine has entered, left or shut
		n := g.n.Load()
		if n != 0 || g.n.CompareAndSwap(0, shut) {
			return int(max(0, n)), n == 0
		}
	}
}
