// Package roots is the index of a store's roots: which page holds the root of a name. That page's entry has the page
// that the root names.
//
//	I1  A lookup takes no lock, writes no shared memory and allocates nothing.
//	I2  A name has one page. Names are added and removed under the lock of their shard, and so are the pages that hold
//	    them: the root's first message, the one that frees the page, and the change of the index are one step for all
//	    other calls that add or remove the name.
//	I3  A name is in the index at every moment at which a page holds its root: it is added before the page does, and
//	    removed after the page is free. The page that a lookup finds holds the root of the name, or of another one, or
//	    none: the page's head says so.
package roots

import (
	"fmt"
	"hash/maphash"
	"iter"
	"sync"
	"sync/atomic"

	"pagecache/segments/format"
)

// Max is the largest number of names.
const Max = 1 << 20

// ErrTooMany reports that there are Max names.
var ErrTooMany = fmt.Errorf("there are %d roots, the most", Max)

// Index maps names to the pages that hold their roots. Init makes it ready. It must not be copied. Safe for concurrent
// use.
type Index struct {
	seed maphash.Seed
	// n is the number of names that are in the index or were admitted. Written by Admit and Withdraw; publishes
	// nothing.
	n      atomic.Int64
	shards [Shards]Shard
}

const (
	shardBits = 5
	// Shards is the number of shards of an Index.
	Shards     = 1 << shardBits
	leastCells = 8
)

// Shard is a part of an Index: the names with some of the hashes. Its lock is held to add and remove names. Find may be
// called with and without it.
type Shard struct {
	sync.Mutex
	x      *Index
	number int // of this shard, 0 … Shards-1
	// table holds the names. A goroutine with the lock replaces it by a larger or smaller copy; publishes the copy. A
	// stale table lacks names that were added since it was loaded, and has some that were removed: the answer was right
	// when the table was loaded, or the page of a removed name is free.
	table atomic.Pointer[table]
	used  int      // cells that are not nil; under the lock
	live  int      // of these, cells with names; under the lock
	_     [64]byte // writers of one shard do not slow readers of the next
}

// table is a hash table with open addressing. A cell goes from nil to a name, and then between names and removed. Each
// store publishes a node, which never changes.
type table []atomic.Pointer[node]

type node struct {
	hash uint64
	name string
	page format.PageID
}

// removed is in the cells of names that were removed, so that names behind them are found.
var removed = new(node)

// Init prepares an empty index.
func (x *Index) Init() {
	x.seed = maphash.MakeSeed()
	for i := range x.shards {
		x.shards[i].x, x.shards[i].number = x, i
	}
}

// Len returns the number of names, those that are just being added included.
func (x *Index) Len() int { return int(x.n.Load()) }

// Find returns the page that holds the root of a name.
func (x *Index) Find(name string) (format.PageID, bool) {
	h := maphash.String(x.seed, name)
	return x.shard(h).table.Load().find(h, name)
}

func (x *Index) shard(hash uint64) *Shard { return &x.shards[hash>>(64-shardBits)] }

// Shard returns the shard of a name.
func (x *Index) Shard(name string) *Shard { return x.shard(maphash.String(x.seed, name)) }

// Number returns the number of the shard, 0 … Shards-1.
func (s *Shard) Number() int { return s.number }

// Admit counts a name that the caller is about to add. It returns false if there are Max names already.
func (x *Index) Admit() bool {
	if x.n.Add(1) > Max {
		x.n.Add(-1)
		return false
	}
	return true
}

// Withdraw takes back an Admit if the name is not added.
func (x *Index) Withdraw() { x.n.Add(-1) }

// Find is Index.Find for a name of this shard. With the lock the answer stays right.
func (s *Shard) Find(name string) (format.PageID, bool) {
	return s.table.Load().find(maphash.String(s.x.seed, name), name)
}

// Add adds a name that was admitted and is not in the index. The caller holds the lock.
func (s *Shard) Add(name string, page format.PageID) {
	t := s.table.Load()
	if t == nil || 4*(s.used+1) > 3*len(*t) {
		t = s.rebuild(s.live + 1)
	}
	h := maphash.String(s.x.seed, name)
	for i := h; ; i++ {
		cell := &(*t)[i&uint64(len(*t)-1)]
		n := cell.Load()
		if n != nil && n != removed {
			continue
		}
		if n == nil {
			s.used++
		}
		cell.Store(&node{h, name, page})
		s.live++
		return
	}
}

// Remove removes a name that is in the index. The caller holds the lock.
func (s *Shard) Remove(name string) {
	t, h := s.table.Load(), maphash.String(s.x.seed, name)
	for i := h; ; i++ {
		cell := &(*t)[i&uint64(len(*t)-1)]
		if n := cell.Load(); n != removed && n.hash == h && n.name == name {
			cell.Store(removed)
			break
		}
	}
	s.live--
	s.x.n.Add(-1)
	if s.live == 0 {
		s.table.Store(nil)
		s.used = 0
	} else if 8*s.live < len(*t) && len(*t) > leastCells {
		s.rebuild(s.live)
	}
}

// rebuild makes a table for n names with at least twice n cells, and copies the names into it.
func (s *Shard) rebuild(n int) *table {
	size := leastCells
	for size < 2*n {
		size *= 2
	}
	t := make(table, size)
	s.table.Load().each(func(n *node) bool {
		i := n.hash
		for t[i&uint64(size-1)].Load() != nil {
			i++
		}
		t[i&uint64(size-1)].Store(n)
		return true
	})
	s.used = s.live
	s.table.Store(&t)
	return &t
}

// find returns the page of a name. A table always has a nil cell.
func (t *table) find(h uint64, name string) (format.PageID, bool) {
	if t == nil {
		return 0, false
	}
	for i := h; ; i++ {
		n := (*t)[i&uint64(len(*t)-1)].Load()
		if n == nil {
			return 0, false
		}
		if n.hash == h && n != removed && n.name == name {
			return n.page, true
		}
	}
}

// each calls visit for the names until it returns false, and reports whether it did not.
func (t *table) each(visit func(*node) bool) bool {
	if t == nil {
		return true
	}
	for i := range *t {
		if n := (*t)[i].Load(); n != nil && n != removed && !visit(n) {
			return false
		}
	}
	return true
}

// All returns all names with their pages, in no order. A name that is added or removed meanwhile may be among them.
func (x *Index) All() iter.Seq2[string, format.PageID] {
	return func(yield func(string, format.PageID) bool) {
		for i := range x.shards {
			if !x.shards[i].table.Load().each(func(n *node) bool { return yield(n.name, n.page) }) {
				return
			}
		}
	}
}

// A Filler adds many names to an index that no other goroutine uses yet.
type Filler struct {
	x      *Index
	counts [Shards]int
	nodes  []node
}

// Fill returns a Filler.
func (x *Index) Fill() *Filler { return &Filler{x: x} }

// Grow makes room for n more names.
func (f *Filler) Grow(n int) { f.nodes = append(make([]node, 0, len(f.nodes)+n), f.nodes...) }

// Add adds a name. The index has it once Done has returned.
func (f *Filler) Add(name string, page format.PageID) {
	h := maphash.String(f.x.seed, name)
	f.nodes = append(f.nodes, node{h, name, page})
	f.counts[h>>(64-shardBits)]++
}

// Done enters the names. If a name was added twice, it returns the name, its two pages, and false.
func (f *Filler) Done() (name string, a, b format.PageID, ok bool) {
	for i := range f.x.shards {
		if f.counts[i] > 0 {
			f.x.shards[i].rebuild(f.counts[i])
		}
	}
	for i := range f.nodes {
		n := &f.nodes[i]
		s := f.x.shard(n.hash)
		t := *s.table.Load()
		at := n.hash
		for ; ; at++ {
			other := t[at&uint64(len(t)-1)].Load()
			if other == nil {
				break
			}
			if other.hash == n.hash && other.name == n.name {
				return n.name, other.page, n.page, false
			}
		}
		t[at&uint64(len(t)-1)].Store(n)
		s.used++
		s.live++
	}
	f.x.n.Add(int64(len(f.nodes)))
	return "", 0, 0, true
}
