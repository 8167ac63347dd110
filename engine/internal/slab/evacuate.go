package slab

import (
	"cmp"
	"slices"
)

// OnSparse makes Collect call f when it has found the pool sparse; f arranges that Evacuate is called, and does not
// block. To be called before the Pool is shared.
func (p *Pool) OnSparse(f func()) { p.onSparse = f }

// someHoles is the number of bytes of free slots that a pool has anyway.
const someHoles = 1 << 20

// IsSparse reports whether free slots and pages, without the empty spans that are kept for the next values, take more
// than a 64th of the memory of the slots in use. After a call
// of Evacuate that could not help, they must first become more, by a quarter of that.
func (p *Pool) IsSparse() bool {
	st := p.Stats()
	holes, some := st.Resident-st.Live-p.empty.Load(), st.Live/64+someHoles
	left := p.left.Load()
	if holes < left {
		p.left.Store(holes)
	}
	return holes > max(some, min(left, holes)+some/4)
}

// Evacuate gives back what memory it can, and calls visit for values that should move so that it can give back more:
// the owner of each, and its address. visit makes a copy in memory from Alloc, and retires the value, or it evicts it.
// The value may have been retired or even released since; visit looks whether its owner still has it. Evacuate returns
// how many values it has named.
func (p *Pool) Evacuate(visit func(owner uint32, at uintptr)) (n int) {
	if p.closed.Load() {
		return 0
	}
	p.Flush()
	p.each(func(c *class) {
		for _, v := range c.leave() {
			visit(v.owner, v.at)
			n++
		}
	})
	p.Flush()
	p.split()
	st := p.Stats()
	p.left.Store(st.Resident - st.Live - p.empty.Load())
	return n
}

// moving is a value that should move.
type moving struct {
	owner uint32
	at    uintptr
}

// leave chooses the emptiest spans whose values fit into the free slots of the others, and returns these values, with
// those that were chosen before. No slot of these spans is handed out any more.
func (c *class) leave() (all []moving) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.current; s != nil && s.live == 0 {
		c.current = nil
		c.pool.shrink(s)
	} else if s != nil && s.live < s.slots {
		c.current = nil
		c.push(s, statePartial)
	}
	var spans []*span
	free := 0
	for i := range c.partial {
		for s := c.partial[i].first; s != nil; s = s.next {
			spans = append(spans, s)
			free += s.slots - s.live
		}
	}
	slices.SortFunc(spans, func(a, b *span) int { return cmp.Compare(a.live, b.live) })
	for _, s := range spans {
		if free -= s.slots - s.live; s.live > free {
			break
		}
		free -= s.live
		c.remove(s, shareOf(s))
		c.push(s, stateLeaving)
	}
	for s := c.leaving.first; s != nil; s = s.next {
		for slot := range s.slots {
			if s.used[slot/64]>>(slot%64)&1 != 0 {
				at := address(s.memory(slot, 1))
				all = append(all, moving{s.owners[slot].Load(), at})
			}
		}
	}
	return all
}

// split makes small pages of the huge chunks of which an eighth or more is free, and gives that part back.
func (p *Pool) split() {
	if !p.IsSparse() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ch := range p.chunks {
		if ch == nil || !ch.huge || chunkLen-ch.pages < chunkLen/8 {
			continue
		}
		ch.setHuge(false) // else the system may make it whole again
		for at := 0; at < chunkLen; {
			n := 0
			for at+n < chunkLen && ch.spans[at+n] == nil {
				n++
			}
			if n > 0 && giveBack(ch.memory(at, n)) == nil {
				p.resident.Add(-int64(n) * pageSize)
			}
			at += n + 1
		}
	}
}
