package lru

// HitsLen is the number of keys that Hits holds.
const HitsLen = 64

// Hits records the keys of pages that one goroutine has used, made resident, resized or freed. The policy asks for
// their costs to tell these apart. Hits belongs to one goroutine at a time; the zero Hits is ready for use.
type Hits struct {
	n    uint32 // keys added since the last Take
	keys [HitsLen]uint64
}

// Add records a key. It returns true if h is full: the caller then calls Policy.Take. Until it does, each further key
// overwrites an earlier one.
func (h *Hits) Add(key uint64) (full bool) {
	n := h.n // the compiler would load it again after each store
	h.keys[n%HitsLen] = key
	h.n = n + 1
	return n+1 >= HitsLen
}

// held returns the keys that were not overwritten. The slice is valid until the next Add.
func (h *Hits) held() []uint64 { return h.keys[:min(h.n, HitsLen)] }

// Len returns the number of keys held, at most HitsLen.
func (h *Hits) Len() int { return len(h.held()) }
