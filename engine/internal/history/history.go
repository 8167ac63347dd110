// Package history checks that transactions were strictly serializable, from what their clients saw. It is for tests.
//
// Each page holds a list, and each write appends a value that no other write appends. So a list that somebody has read
// shows the order of the writes to its page, and a longer list which writes a reader has missed. From that follow the
// dependencies between transactions, which must have no cycle. (Elle: Kingsbury, Alvaro, VLDB 2020; the names of the
// anomalies are those of Adya, 1999.)
package history

import (
	"cmp"
	"fmt"
	"slices"
)

// Op is an append to a page, or a read of one.
type Op struct {
	Page  int
	Value uint64   // that was appended; 0: the Op is a read
	List  []uint64 // that was read
}

// Outcome says what is known of a transaction.
type Outcome uint8

// The outcomes.
const (
	OutcomeCommitted Outcome = iota
	OutcomeAborted           // it has had no effect; what it has read must be consistent nevertheless (opacity)
	OutcomeLost              // it has committed, and a crash may have taken it back, or not
)

// String returns the name of the outcome.
func (o Outcome) String() string { return [...]string{"committed", "aborted", "lost"}[o] }

// Txn is a transaction. Begin and End are times of one clock, or positions in one order of events.
type Txn struct {
	Ops        []Op
	Outcome    Outcome
	Begin, End int64
}

// edgeKind is a kind of dependency.
type edgeKind uint8

const (
	writeWrite edgeKind = iota // the second has overwritten a version of the first
	writeRead                  // the second has read a version of the first
	readWrite                  // the second has overwritten a version that the first has read
	realTime                   // the first had ended when the second began
)

func (k edgeKind) String() string { return [...]string{"ww", "wr", "rw", "rt"}[k] }

type edge struct {
	to   int
	kind edgeKind
}

// checker holds the graph. Nodes are the transactions, and after them one node for each end of a transaction.
type checker struct {
	txns    []Txn
	writers map[uint64]int // the transaction that appended a value
	orders  map[int][]uint64
	edges   [][]edge
}

// Check returns an error that describes the first anomaly it finds, or nil.
func Check(txns []Txn) error {
	c := checker{txns: settled(txns), writers: map[uint64]int{}, orders: map[int][]uint64{}}
	c.edges = make([][]edge, 2*len(txns))
	if err := c.collect(); err != nil {
		return err
	}
	for i := range txns {
		if err := c.checkReads(i); err != nil {
			return err
		}
	}
	c.depend()
	c.order()
	return c.cycle()
}

// settled returns the transactions with OutcomeLost replaced: by OutcomeCommitted if another one has read a value, else
// by OutcomeAborted.
func settled(txns []Txn) []Txn {
	read := map[uint64]bool{} // by others
	for _, t := range txns {
		own := map[uint64]bool{}
		for _, op := range t.Ops {
			own[op.Value] = true
			for _, v := range op.List {
				if !own[v] {
					read[v] = true
				}
			}
		}
	}
	txns = slices.Clone(txns)
	for i := range txns {
		t := &txns[i]
		if t.Outcome != OutcomeLost {
			continue
		}
		t.Outcome = OutcomeAborted
		for _, op := range t.Ops {
			if read[op.Value] {
				t.Outcome = OutcomeCommitted
			}
		}
	}
	return txns
}

// collect finds the writer of each value and the longest list of each page.
func (c *checker) collect() error {
	for i, t := range c.txns {
		appended := map[int]int{}
		for _, op := range t.Ops {
			if op.Value != 0 {
				appended[op.Page]++
				if j, taken := c.writers[op.Value]; taken {
					return fmt.Errorf("history: transactions %d and %d append %d", j, i, op.Value)
				}
				c.writers[op.Value] = i
				continue
			}
			list := op.List
			if n := len(list) - appended[op.Page]; t.Outcome == OutcomeAborted && n >= 0 {
				list = list[:n] // its own appends are in no other list
			}
			if len(list) > len(c.orders[op.Page]) {
				c.orders[op.Page] = list
			}
		}
	}
	return nil
}

// checkReads checks the reads of a transaction by themselves: each list begins the longest list of its page, holds no
// value of a transaction that had no effect, and whole transactions only; and the transaction has read its own appends.
func (c *checker) checkReads(i int) error {
	own := map[int][]uint64{} // appended so far, by page
	seen := map[int]int{}     // length of the last list of others, by page
	for n, op := range c.txns[i].Ops {
		if op.Value != 0 {
			own[op.Page] = append(own[op.Page], op.Value)
			continue
		}
		mine := own[op.Page]
		others := len(op.List) - len(mine)
		if others < 0 || !slices.Equal(op.List[others:], mine) {
			return fmt.Errorf("history: transaction %d, operation %d: own appends %v of page %d are not read: %v", i, n,
				mine, op.Page, op.List)
		}
		if before, read := seen[op.Page]; read && before != others {
			return fmt.Errorf("history: transaction %d, operation %d: page %d has changed from %d values to %d", i, n,
				op.Page, before, others)
		}
		seen[op.Page] = others
		if c.txns[i].Outcome == OutcomeAborted {
			op.List = op.List[:others]
		}
		if order := c.orders[op.Page]; !slices.Equal(op.List, order[:min(len(op.List), len(order))]) {
			const text = "history: page %d was read as %v and as %v (incompatible orders)"
			return fmt.Errorf(text, op.Page, op.List, order)
		}
		for k, v := range op.List[:others] {
			w, ok := c.writers[v]
			if !ok {
				const text = "history: transaction %d has read %d on page %d, which nobody appended"
				return fmt.Errorf(text, i, v, op.Page)
			}
			if c.txns[w].Outcome == OutcomeAborted {
				return fmt.Errorf("history: transaction %d has read %d of the aborted transaction %d (G1a)", i, v, w)
			}
			last := k+1 == others || c.writers[op.List[k+1]] != w
			if last && v != c.lastOf(w, op.Page) {
				const text = "history: transaction %d has read %d, not the last of transaction %d on page %d (G1b)"
				return fmt.Errorf(text, i, v, w, op.Page)
			}
		}
	}
	return nil
}

// lastOf returns the last value that a transaction has appended to a page.
func (c *checker) lastOf(i, page int) (v uint64) {
	for _, op := range c.txns[i].Ops {
		if op.Page == page && op.Value != 0 {
			v = op.Value
		}
	}
	return v
}

func (c *checker) add(from, to int, k edgeKind) {
	if from != to {
		c.edges[from] = append(c.edges[from], edge{to, k})
	}
}

// depend adds the edges that follow from the lists.
func (c *checker) depend() {
	for _, order := range c.orders {
		for k := 1; k < len(order); k++ {
			c.add(c.writers[order[k-1]], c.writers[order[k]], writeWrite)
		}
	}
	for i, t := range c.txns {
		appended := map[int]int{}
		for _, op := range t.Ops {
			if op.Value != 0 {
				appended[op.Page]++
				continue
			}
			n := len(op.List) - appended[op.Page]
			if n > 0 {
				c.add(c.writers[op.List[n-1]], i, writeRead)
			}
			// The next writer is this transaction itself if it has appended to the page: then the edge of its last
			// value leads on.
			if order := c.orders[op.Page]; n < len(order) {
				c.add(i, c.writers[order[n]], readWrite)
			}
		}
	}
	// An append that nobody has read follows all that were read.
	read := map[uint64]bool{}
	for _, order := range c.orders {
		for _, v := range order {
			read[v] = true
		}
	}
	for i, t := range c.txns {
		for _, op := range t.Ops {
			order := c.orders[op.Page]
			if op.Value != 0 && t.Outcome == OutcomeCommitted && !read[op.Value] && len(order) > 0 {
				c.add(c.writers[order[len(order)-1]], i, writeWrite)
			}
		}
	}
}

// order adds the edges of real time. A transaction leads to the node of its end, each end to the next one, and the last
// end before a transaction began to that transaction.
func (c *checker) order() {
	n := len(c.txns)
	byEnd := make([]int, n)
	for i := range byEnd {
		byEnd[i] = i
	}
	slices.SortFunc(byEnd, func(x, y int) int { return cmp.Compare(c.txns[x].End, c.txns[y].End) })
	for k, i := range byEnd {
		c.add(i, n+k, realTime)
		if k > 0 {
			c.add(n+k-1, n+k, realTime)
		}
	}
	for i, t := range c.txns {
		endOf := func(x int, at int64) int { return cmp.Compare(c.txns[x].End, at) }
		k, _ := slices.BinarySearchFunc(byEnd, t.Begin, endOf)
		if k > 0 {
			c.add(n+k-1, i, realTime)
		}
	}
}

// cycle returns an error that describes a cycle, if there is one. It searches depth first, without recursion.
func (c *checker) cycle() error {
	type frame struct{ node, next int }
	const unseen, open, done = 0, 1, 2
	state := make([]byte, len(c.edges))
	for root := range c.edges {
		if state[root] != unseen {
			continue
		}
		path := []frame{{node: root}}
		state[root] = open
		for len(path) > 0 {
			f := &path[len(path)-1]
			if f.next == len(c.edges[f.node]) {
				state[f.node] = done
				path = path[:len(path)-1]
				continue
			}
			e := c.edges[f.node][f.next]
			f.next++
			switch state[e.to] {
			case unseen:
				state[e.to] = open
				path = append(path, frame{node: e.to})
			case open:
				first := slices.IndexFunc(path, func(f frame) bool { return f.node == e.to })
				var nodes []int
				var kinds []edgeKind
				for _, f := range path[first:] {
					nodes = append(nodes, f.node)
					kinds = append(kinds, c.edges[f.node][f.next-1].kind)
				}
				return c.describe(nodes, kinds)
			}
		}
	}
	return nil
}

// describe names the anomaly of a cycle.
func (c *checker) describe(nodes []int, kinds []edgeKind) error {
	var count [realTime + 1]int
	for _, k := range kinds {
		count[k]++
	}
	name := "G2"
	switch {
	case count[readWrite] == 0 && count[writeRead] == 0:
		name = "G0"
	case count[readWrite] == 0:
		name = "G1c"
	case count[readWrite] == 1:
		name = "G-single"
	}
	if count[realTime] > 0 {
		name += ", real time"
	}
	text := ""
	for k, node := range nodes {
		if node < len(c.txns) {
			text += fmt.Sprintf("transaction %d %+v ", node, c.txns[node])
		}
		text += fmt.Sprintf("─%v→ ", kinds[k])
	}
	return fmt.Errorf("history: cycle (%s): %s", name, text)
}
