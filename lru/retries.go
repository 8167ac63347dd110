package lru

const (
	// maxRetries limits the queue. A key that finds it full is not lost: the clock finds its page.
	maxRetries = 1 << 16
	// maxBusy is the number of pages found still busy after which try stops. The number that it evicts is not limited.
	maxBusy = 64
)

// retries is a queue of keys to evict once their writes are stable. A key that is still busy goes to the end, so that
// it holds up no other.
type retries struct {
	queue []uint64            // may hold cancelled keys, and a key twice
	keys  map[uint64]struct{} // the keys that are not cancelled
}

// add appends a key, unless it is there or the queue is full.
func (r *retries) add(key uint64) {
	if _, found := r.keys[key]; found || len(r.queue) >= maxRetries {
		return
	}
	if r.keys == nil {
		r.keys = make(map[uint64]struct{})
	}
	r.keys[key] = struct{}{}
	r.queue = append(r.queue, key)
}

// cancel removes a key.
func (r *retries) cancel(key uint64) {
	if len(r.keys) > 0 {
		delete(r.keys, key)
	}
}

// try calls evict for each key until stop returns true. evict adds a key again if its page is still busy. The loop ends
// because it takes at most the keys that were queued at the start.
func (r *retries) try(evict func(key uint64) Outcome, stop func() bool) {
	busy := 0
	for n := len(r.queue); n > 0 && busy < maxBusy && !stop(); n-- {
		key := r.queue[0]
		r.queue = r.queue[1:]
		if _, found := r.keys[key]; !found {
			continue
		}
		delete(r.keys, key)
		if evict(key) == OutcomeBusy {
			busy++
		}
	}
	if len(r.keys) == 0 {
		*r = retries{} // release the memory of a burst
	}
}

// waiting reports whether any key is left.
func (r *retries) waiting() bool { return len(r.keys) > 0 }
