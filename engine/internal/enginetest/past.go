package enginetest

import (
	"cmp"
	"slices"
	"sync"

	"pagecache/engine"
)

// Past is everything that a store ever held: all changes of all its openings that its log was not cut off before. So it
// knows the contents of the store for every end that its log may have. Safe for concurrent use, except for Keep.
type Past struct {
	effects []Effect
	batches []Span
	mu      sync.Mutex
	at      map[int]Model // under mu: by the number of changes
}

// Keep adds the changes and batches of h that lie below end, where the log was found to end. A Cut of h follows.
func (p *Past) Keep(h *History, end engine.LSN) {
	for _, e := range h.Effects {
		if e.LSN < end {
			p.effects = append(p.effects, e)
		}
	}
	for _, b := range h.Batches {
		if b.Begin < end {
			p.batches = append(p.batches, b)
		}
	}
	slices.SortFunc(p.effects, func(a, b Effect) int { return cmp.Compare(a.LSN, b.LSN) })
	p.at = nil
}

// Clone returns a copy, which goes on by itself: that of a copy of the store.
func (p *Past) Clone() *Past {
	return &Past{effects: slices.Clone(p.effects), batches: slices.Clone(p.batches)}
}

// At returns the contents of the store if its log ends at end. They are not changed. If that cuts a batch in two, At
// returns a Violation.
func (p *Past) At(end engine.LSN) (Model, error) {
	effects, err := p.Between(0, end)
	if err != nil {
		return Model{}, err
	}
	n := len(effects)
	p.mu.Lock()
	defer p.mu.Unlock()
	if m, ok := p.at[n]; ok {
		return m, nil
	}
	m := NewModel()
	for _, e := range effects {
		m.Apply(e)
	}
	if p.at == nil {
		p.at = map[int]Model{}
	}
	p.at[n] = m
	return m, nil
}

// Between returns the changes from LSN from on, if the log ends at end. They are not changed. If that cuts a batch in
// two, Between returns a Violation.
func (p *Past) Between(from, end engine.LSN) ([]Effect, error) {
	for _, b := range p.batches {
		if b.cutBy(end) {
			return nil, Violated("the log ends at LSN %d, in the batch from %d to %d", end, b.Begin, b.End)
		}
	}
	find := func(lsn engine.LSN) int {
		order := func(e Effect, lsn engine.LSN) int { return cmp.Compare(e.LSN, lsn) }
		i, _ := slices.BinarySearchFunc(p.effects, lsn, order)
		return i
	}
	return p.effects[min(find(from), find(end)):find(end)], nil
}

// Cut returns the end of a log whose messages end at end: if batches are open there, the first of them begins at the
// end.
func (p *Past) Cut(end engine.LSN) engine.LSN {
	for i := len(p.batches) - 1; i >= 0; i-- {
		if b := p.batches[i]; b.cutBy(end) {
			end, i = b.Begin, len(p.batches)
		}
	}
	return end
}

// Last returns the LSN of the last change; 0 if there is none.
func (p *Past) Last() engine.LSN {
	if len(p.effects) == 0 {
		return 0
	}
	return p.effects[len(p.effects)-1].LSN
}
