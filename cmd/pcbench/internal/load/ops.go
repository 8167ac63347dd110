package load

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/engine"
)

// do does one operation on page i. It returns the bytes and, of a write, its LSN.
func (w *worker) do(d job.Dir, i int64) (bytes int64, lsn engine.LSN, err error) {
	switch {
	case d == job.DirRead:
		bytes, err = w.get(i)
		return bytes, 0, err
	case d == job.DirTrim:
		bytes, err = w.free(i)
		return bytes, 0, err
	case w.g.st.isLog:
		lsn, bytes, err = w.g.st.log.append(w.vals, i)
	case w.g.spec.Own.Batch > 0:
		bytes, lsn, err = w.batch(i)
	case w.g.spec.Own.Transaction > 0:
		bytes, lsn, err = w.transaction(i)
	default:
		bytes, lsn, err = w.put(i)
	}
	if err == nil {
		w.newest = max(w.newest, lsn)
	}
	return bytes, lsn, err
}

// get reads page i and touches one byte in each 4 KiB of it, so that all of the page is read into memory. A page that
// does not exist is empty.
func (w *worker) get(i int64) (int64, error) {
	st := w.g.st
	if st.isLog {
		b, err := st.log.read(i)
		w.touch(b)
		return int64(len(b)), err
	}
	if st.nodes != nil {
		return w.lookUp(i)
	}
	tx, err := st.begin()
	if err != nil {
		return 0, err
	}
	if n := w.g.spec.Own.Prefetch; n > 0 && i%int64(n) == 0 {
		if err := w.prefetch(tx, i); err != nil {
			tx.End()
			return 0, err
		}
	}
	pid := st.table[i].Load() // while tx is open, the id is given to no other page
	if pid <= claimed {
		tx.End()
		return 0, nil
	}
	page, err := st.pc.Get(tx.bytes, engine.PageID(pid))
	if err != nil {
		tx.End()
		if st.table[i].Load() != pid {
			return 0, nil // another goroutine has freed it
		}
		return 0, err
	}
	w.touch(page.Value)
	if w.verify != nil {
		err = w.verify.check(page.Value, i)
	}
	n := int64(len(page.Value))
	tx.End()
	return n, err
}

func (w *worker) touch(b []byte) {
	for at := 0; at < len(b); at += 4096 {
		w.sink += b[at]
	}
}

// prefetch begins to read the next pages.
func (w *worker) prefetch(tx tx, i int64) error {
	st, pids := w.g.st, make([]engine.PageID, 0, w.g.spec.Own.Prefetch)
	for k := i; k < min(i+int64(w.g.spec.Own.Prefetch), int64(len(st.table))); k++ {
		if pid := st.table[k].Load(); pid > claimed {
			pids = append(pids, engine.PageID(pid))
		}
	}
	if st.nodes != nil {
		return st.nodes.Prefetch(tx.nodes, pids...)
	}
	return st.pc.Prefetch(tx.bytes, pids...)
}

// put writes page i, and allocates it if it does not exist.
func (w *worker) put(i int64) (int64, engine.LSN, error) {
	tx, err := w.g.st.begin()
	if err != nil {
		return 0, 0, err
	}
	defer tx.End()
	return w.putIn(tx, i)
}

// claimLook is the time after which a worker looks again at a page that another one is making.
const claimLook = 20 * time.Microsecond

func (w *worker) putIn(tx tx, i int64) (int64, engine.LSN, error) {
	st := w.g.st
	for {
		pid := st.table[i].Load()
		if pid <= claimed {
			if lsn, n, made, err := st.allocate(tx, i, w.pages); made || err != nil {
				return n, lsn, err
			}
			// The loop ends when the worker that has claimed the page has made or freed it or has failed, or the
			// section stops. It sleeps: a goroutine that yields again and again keeps its processor from goroutines
			// that wait in the queue of another one.
			if w.g.stop.Load() {
				return 0, 0, nil
			}
			time.Sleep(claimLook)
			continue
		}
		n, lsn, freed, err := w.change(tx, i, engine.PageID(pid))
		if freed && st.table[i].Load() == pid {
			return 0, 0, fmt.Errorf("page %d was freed", pid)
		}
		if !freed { // otherwise another goroutine has freed it: it is allocated anew
			return n, lsn, err
		}
	}
}

// change links to a page or replaces it.
func (w *worker) change(tx tx, i int64, pid engine.PageID) (n int64, lsn engine.LSN, freed bool, err error) {
	if w.g.st.nodes != nil {
		return w.putRecord(tx.nodes, i, pid)
	}
	v, err := w.vals.take(i)
	if err != nil {
		return 0, 0, false, err
	}
	lsn, freed, err = changed(w.g.st.pc, tx.bytes, pid, v, w.g.spec.Own.Delta > 0)
	if err != nil {
		return 0, 0, false, err
	}
	return int64(len(v)), lsn, freed, nil
}

// changed links v to a page, or replaces the page by v. It begins without knowing the version of the page: the first
// call, which fails, returns it. The loop ends because each call that fails means that another writer has succeeded.
func changed[P any](pc *engine.PageCache[P], tx *engine.Tx[P], pid engine.PageID, v P, link bool) (lsn engine.LSN,
	freed bool, err error) {
	var ptr engine.PagePtr[P]
	for {
		var won bool
		if link {
			ptr, won, err = pc.Link(tx, pid, ptr, v)
		} else {
			ptr, won, err = pc.Replace(tx, pid, ptr, v)
		}
		switch {
		case err != nil:
			return 0, false, err
		case won:
			return ptr.LastLSN(), false, nil
		case ptr.IsZero():
			return 0, true, nil
		}
	}
}

// batch writes pages from i on that are recovered whole or not at all.
func (w *worker) batch(i int64) (bytes int64, lsn engine.LSN, err error) {
	st, l := w.g.st, w.lane
	tx, err := st.begin()
	if err != nil {
		return 0, 0, err
	}
	defer tx.End()
	b, err := st.all.PinLog()
	if err != nil {
		return 0, 0, err
	}
	for k := range int64(w.g.spec.Own.Batch) {
		var n int64
		if n, lsn, err = w.putIn(tx, l.first+(i-l.first+k)%l.pages); err != nil {
			_ = b.Abort() // the write has failed, so this most likely does too
			return 0, 0, err
		}
		bytes += n
	}
	return bytes, lsn, b.Seal()
}

// free frees page i. A page that does not exist stays so.
func (w *worker) free(i int64) (int64, error) {
	st := w.g.st
	tx, err := st.begin()
	if err != nil {
		return 0, err
	}
	defer tx.End()
	pid := st.table[i].Load()
	if pid <= claimed || !st.table[i].CompareAndSwap(pid, claimed) {
		return 0, nil
	}
	if st.nodes != nil {
		err = freePage(st.nodes, tx.nodes, engine.PageID(pid))
	} else {
		err = freePage(st.pc, tx.bytes, engine.PageID(pid))
	}
	if err != nil {
		st.table[i].Store(pid)
		return 0, err
	}
	st.table[i].Store(0)
	return w.g.spec.PageSize(), nil
}

// freePage frees a page. It ends because each call that fails means that another writer has succeeded.
func freePage[P any](pc *engine.PageCache[P], tx *engine.Tx[P], pid engine.PageID) (err error) {
	var ptr engine.PagePtr[P]
	for {
		var won bool
		if ptr, won, err = pc.Free(tx, pid, ptr); err != nil || won || ptr.IsZero() {
			return err
		}
	}
}

// reread verifies all pages of the job after it has written them, or with verify_only those of an earlier run.
func (w *worker) reread() error {
	g, s := w.g, w.g.spec
	wanted := s.Verify.Reread && s.Does[job.DirWrite] || s.Verify.Only
	if w.verify == nil || !wanted || g.stop.Load() {
		return nil
	}
	w.lane.written.Wait()
	for !g.stop.Load() {
		i := w.lane.reread.Add(1) - 1
		if i >= w.lane.pages {
			return nil
		}
		if g.st.table[w.lane.first+i].Load() <= claimed {
			continue
		}
		_, err := w.get(w.lane.first + i)
		if _, err = w.tolerate(job.DirRead, err); err != nil {
			return err
		}
		g.verified.Add(1)
	}
	return nil
}

// barrier counts goroutines that have still to reach a point. A zero barrier waits for none.
type barrier struct {
	left atomic.Int64
	once sync.Once
	open chan struct{}
}

// expect sets the number of goroutines, before they start.
func (b *barrier) expect(n int) {
	b.left.Store(int64(n))
	b.open = make(chan struct{})
}

// Done notes that a goroutine has reached the point or ends without reaching it.
func (b *barrier) Done() {
	if b.left.Add(-1) == 0 {
		b.once.Do(func() { close(b.open) })
	}
}

// Wait waits until all have called Done.
func (b *barrier) Wait() { <-b.open }
