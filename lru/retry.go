package lru

const (
	// maxRetries bounds the list. What is not taken is not lost: sweeping finds it.
	maxRetries = 1 << 16
	// maxBusy is how many may turn out to be still busy at a time. Those that are not are paged out however many they are.
	maxBusy = 64
)

// retries are keys to be paged out once their writes are stable, first in first out. Those that are still busy go to the
// end, so that one that stays busy holds up none behind it.
type retries struct {
	queue []uint64            // may hold keys that have been dropped, or twice
	keys  map[uint64]struct{} // those that are not dropped
}

// add puts a key into the list, unless it is full.
func (r *retries) add(key uint64) {
	if _, there := r.keys[key]; there || len(r.queue) >= maxRetries {
		return
	}
	if r.keys == nil {
		r.keys = make(map[uint64]struct{})
	}
	r.keys[key] = struct{}{}
	r.queue = append(r.queue, key)
}

// drop takes a key out of the list: it is wanted again.
func (r *retries) drop(key uint64) {
	if len(r.keys) > 0 {
		delete(r.keys, key)
	}
}

// try pages out what can be, until it is to stop. pageOut puts what is still busy back with add. It ends because it takes each key once.
func (r *retries) try(pageOut func(key uint64) Outcome, stop func() bool) {
	busy := 0
	for n := len(r.queue); n > 0 && busy < maxBusy && !stop(); n-- {
		key := r.queue[0]
		r.queue = r.queue[1:]
		if _, there := r.keys[key]; !there {
			continue
		}
		delete(r.keys, key)
		if pageOut(key) == Busy {
			busy++
		}
	}
	if len(r.keys) == 0 {
		*r = retries{} // gives back what a burst took
	}
}

// waiting reports whether there is any key left.
func (r *retries) waiting() bool { return len(r.keys) > 0 }
