package load

import (
	"context"
	"slices"
	"time"

	"pagecache/cmd/pcbench/internal/pick"
	"pagecache/engine"
)

// slot is a page of a transaction.
type slot struct {
	i   int64
	pid uint64 // 0: it does not exist, and this worker has claimed it
}

// transaction writes pages from i on in one transaction, which is recovered whole or not at all. It allocates those
// that do not exist. The transaction is repeated after a conflict, and begun anew if another goroutine frees one of its
// pages.
func (w *worker) transaction(i int64) (bytes int64, lsn engine.LSN, err error) {
	st, l := w.g.st, w.lane
	w.slots = w.slots[:0]
	for k := range min(int64(w.g.spec.Own.Transaction), l.pages) {
		w.slots = append(w.slots, slot{i: l.first + (i-l.first+k)%l.pages})
	}
	slices.SortFunc(w.slots, func(a, b slot) int { return int(a.i - b.i) })
	for {
		if !w.claim() {
			return 0, 0, nil
		}
		if st.nodes != nil {
			bytes, lsn, err = transact(w, st.nodes, w.nodeOf)
		} else {
			bytes, lsn, err = transact(w, st.pc, w.pageOf)
		}
		if err == nil || !w.freed() {
			return bytes, lsn, err
		}
	}
}

// claim looks the pages of a transaction up, and claims those that do not exist. It does so in ascending order, so no
// two workers wait for pages of each other. It returns false if the section stops.
func (w *worker) claim() bool {
	for k := range w.slots {
		s := &w.slots[k]
		at := &w.g.st.table[s.i]
		for s.pid = at.Load(); s.pid <= claimed; s.pid = at.Load() {
			if s.pid == 0 && at.CompareAndSwap(0, claimed) {
				break
			}
			if w.g.stop.Load() {
				w.settle(w.slots[:k], nil)
				return false
			}
			time.Sleep(claimLook) // see putIn
		}
	}
	return true
}

// settle enters the pages that a transaction has allocated into the table: made, or none after a failure.
func (w *worker) settle(slots []slot, made []engine.PageID) {
	for k, s := range slots {
		switch {
		case s.pid != 0:
		case made == nil:
			w.g.st.table[s.i].Store(0)
		default:
			w.g.st.table[s.i].Store(uint64(made[k]))
		}
	}
}

// freed reports whether another goroutine has freed a page of the transaction since it was looked up.
func (w *worker) freed() bool {
	return slices.ContainsFunc(w.slots, func(s slot) bool {
		return s.pid != 0 && w.g.st.table[s.i].Load() != s.pid
	})
}

// transact does a transaction. value returns what is written to page i, which is fresh if it did not exist, and its
// length.
func transact[P any](w *worker, pc *engine.PageCache[P], value func(i int64, fresh bool) (P, int64, error)) (
	bytes int64, lsn engine.LSN, err error) {
	made := make([]engine.PageID, len(w.slots))
	lsn, err = pc.Update(context.Background(), func(tx *engine.Tx[P]) error {
		bytes = 0
		for k, s := range w.slots {
			v, n, err := value(s.i, s.pid == 0)
			switch {
			case err != nil:
			case s.pid == 0:
				made[k], err = tx.Allocate(v)
			case w.g.spec.Own.Delta > 0:
				err = tx.Link(engine.PageID(s.pid), v)
			default:
				err = tx.Replace(engine.PageID(s.pid), v)
			}
			if err != nil {
				return err
			}
			bytes += n
		}
		return nil
	})
	if err != nil {
		w.settle(w.slots, nil)
		return 0, 0, err
	}
	w.settle(w.slots, made)
	return bytes, lsn, nil
}

// pageOf returns a page or a delta for page i.
func (w *worker) pageOf(i int64, fresh bool) ([]byte, int64, error) {
	from := w.vals
	if fresh {
		from = w.pages
	}
	v, err := from.take(i)
	return v, int64(len(v)), err
}

// nodeOf returns a node or a record for page i.
func (w *worker) nodeOf(i int64, fresh bool) (n node, bytes int64, err error) {
	if fresh {
		n, err = w.keys.fresh(w.g.spec.PageSize(), w.pages)
		return n, int64(len(n.page)), err
	}
	v, err := w.vals.take(i)
	n = node{key: w.keys.of(pick.Uniform(w.rng, w.keys.all)), value: v}
	return n, int64(len(n.key) + len(n.value)), err
}
