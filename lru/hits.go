package lru

// HitsLen is how many keys are handed over at a time.
const HitsLen = 64

// Hits records the keys that one goroutine met: hit, made resident, changed in size, or gone. The policy finds out which by
// asking what they cost. It belongs to one goroutine at a time; the zero Hits is ready.
type Hits struct {
	n    uint32 // keys since the last Take
	keys [HitsLen]uint64
}

// Add records a key. Once it says full, Policy.Take is to be called; later keys overwrite earlier ones until then.
func (h *Hits) Add(key uint64) (full bool) {
	h.keys[h.n%HitsLen] = key
	h.n++
	return h.n >= HitsLen
}

// held is the keys that are still there.
func (h *Hits) held() []uint64 { return h.keys[:min(h.n, HitsLen)] }

// Len is how many keys are held, at most HitsLen.
func (h *Hits) Len() int { return len(h.held()) }
