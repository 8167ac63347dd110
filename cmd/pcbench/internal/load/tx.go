package load

import (
	"iter"

	"pagecache/engine"
)

// tx is a Tx of the store: of the type of pages that the store has, the other one is nil.
type tx struct {
	bytes *engine.Tx[[]byte]
	nodes *engine.Tx[node]
}

// begin begins a Tx.
func (st *store) begin() (tx tx, err error) {
	if st.nodes != nil {
		tx.nodes, err = st.nodes.Begin()
	} else {
		tx.bytes, err = st.pc.Begin()
	}
	return tx, err
}

// End ends the Tx.
func (tx tx) End() {
	if tx.nodes != nil {
		tx.nodes.End()
	} else {
		tx.bytes.End()
	}
}

// allPages returns the pages of the store.
func (st *store) allPages(tx tx) iter.Seq2[engine.PageID, engine.PageKind] {
	if st.nodes != nil {
		return st.nodes.Pages(tx.nodes)
	}
	return st.pc.Pages(tx.bytes)
}
