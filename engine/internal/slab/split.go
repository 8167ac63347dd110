package slab

import (
	"cmp"
	"slices"
)

// someHoles is the number of bytes of free slots and pages that a pool has anyway.
const someHoles = 2 * chunkSize

// holes returns the bytes of free slots and pages, without the empty spans that are kept for the next values, and how
// many of them are not worth giving back.
func (p *Pool) holes() (holes, few int64) {
	st := p.Stats()
	return st.Resident - st.Live - p.empty.Load(), st.Live/16 + someHoles
}

// split gives the free pages of huge chunks back, those of the emptiest first, if the pool has many. These chunks are
// no huge pages any more. After a call that could not help, the holes must first become more by a quarter of few.
func (p *Pool) split() {
	holes, few := p.holes()
	left := min(p.left.Load(), holes)
	p.left.Store(left)
	if holes <= max(few, left+few/4) {
		return
	}
	p.mu.Lock()
	var huge []*chunk
	for _, ch := range p.chunks {
		if ch != nil && ch.huge && ch.pages < chunkLen {
			huge = append(huge, ch)
		}
	}
	slices.SortFunc(huge, func(a, b *chunk) int { return cmp.Compare(a.pages, b.pages) })
	for _, ch := range huge {
		if holes <= few/2 {
			break
		}
		holes -= p.splitChunk(ch)
	}
	p.mu.Unlock()
	p.left.Store(holes)
}

// splitChunk makes small pages of a huge chunk, and gives those back that are free. It returns how many bytes that is.
// The caller holds mu.
func (p *Pool) splitChunk(ch *chunk) (freed int64) {
	ch.setHuge(false) // else the system may make it whole again
	for at := 0; at < chunkLen; {
		n := 0
		for at+n < chunkLen && ch.spans[at+n] == nil {
			n++
		}
		if n > 0 && giveBack(ch.memory(at, n)) == nil {
			freed += int64(n) * pageSize
		}
		at += n + 1
	}
	p.resident.Add(-freed)
	return freed
}
