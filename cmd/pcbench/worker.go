package main

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"

	"pagecache/engine"
)

// Streams of random numbers: each use of the seed has a stream of its own.
const (
	pickStream   = 1 << 20
	valueStream  = 2 << 20
	layoutStream = 3 << 20
)

func newRand(seed uint64, stream int) *rand.PCG { return rand.NewPCG(seed, uint64(stream)) }

// worker is one goroutine of a job. Only this goroutine uses its fields, except done.
type worker struct {
	g     *group
	job   int
	quota int64 // number of operations to do
	rng   *rand.PCG
	mix   uint64 // share of reads, out of 1<<16
	vals  *values
	pages *values // contents of pages that do not exist yet, of --bs bytes

	read, write, sync latencies
	end               int64 // when the last operation ended, in ns after the base of the group
	err               error
	sink              byte // keeps the compiler from removing the reads

	_ [64]byte
	// done counts the operations done so far. The worker writes it every millisecond; progress and samples read it
	// and tolerate stale counts.
	done struct{ reads, writes atomic.Int64 }
	_    [64]byte
}

func newWorker(g *group, i int) *worker {
	s := g.spec
	w := &worker{g: g, job: i / s.IODepth, rng: newRand(s.Seed, pickStream+i)}
	switch {
	case s.RW == "randrw":
		w.mix = uint64(s.ReadPercent) << 16 / 100
	case s.reads():
		w.mix = 1 << 16
	}
	if s.writes() {
		w.vals = newValues(int(s.writeSize()), s.Refill, newRand(s.Seed, valueStream+i))
		w.pages = w.vals
	}
	w.quota = quota(s, i)
	w.read.init()
	w.write.init()
	w.sync.init()
	return w
}

// quota returns the number of operations of worker i: an equal share of all operations. The shares are split at the
// same boundaries as the pages of the jobs, so that a load of --size bytes in order uses each page once.
func quota(s *spec, i int) int64 {
	if s.TimeBased {
		return 1<<63 - 1
	}
	perOp := float64(s.BS)*float64(s.mixOfReads())/100 + float64(s.writeSize())*float64(100-s.mixOfReads())/100
	all, n := int64(float64(s.IOSize)/perOp), int64(s.workers())
	upTo := func(i int64) int64 { return i*(all/n) + i*(all%n)/n }
	return upTo(int64(i)+1) - upTo(int64(i))
}

// mixOfReads returns the percentage of reads.
func (s *spec) mixOfReads() int {
	switch {
	case s.RW == "randrw":
		return s.ReadPercent
	case s.reads():
		return 100
	}
	return 0
}

// run reads and writes until the quota is done, the time is over, or the group stops.
func (w *worker) run() error {
	const publish = 1e6 // ns between two updates of done
	g, s := w.g, w.g.spec
	var published int64
	sinceSync := 0
	defer w.publish()
	for n := int64(0); n < w.quota && !g.stop.Load(); {
		i, isRead := w.next()
		start := g.now()
		if start >= g.deadline {
			return nil
		}
		var lsn engine.LSN
		var err error
		if isRead {
			err = w.get(i)
		} else {
			lsn, err = w.put(i)
		}
		if err != nil {
			return err
		}
		end := g.now()
		measured := start >= g.ramp
		if measured {
			n++
			w.end = end
			if isRead {
				w.read.add(end - start)
			} else {
				w.write.add(end - start)
			}
		}
		if end-published > publish {
			published = end
			w.publish()
		}
		if isRead || s.FDataSync == 0 {
			continue
		}
		if sinceSync++; sinceSync == s.FDataSync {
			sinceSync = 0
			if err := w.stabilize(lsn, end, measured); err != nil {
				return err
			}
		}
	}
	return nil
}

// next returns the next page, and whether to read it.
func (w *worker) next() (i int64, isRead bool) {
	g := w.g
	if !g.spec.random() {
		return (g.cursors[w.job].Add(1) - 1) % int64(len(g.ses.table)), w.mix != 0
	}
	switch w.mix {
	case 0:
	case 1 << 16:
		isRead = true
	default:
		isRead = w.rng.Uint64()>>48 < w.mix
	}
	return g.picker.pick(w.rng), isRead
}

// get reads page i and touches one byte in each 4 KiB of it, so that all of the page is read into memory.
func (w *worker) get(i int64) error {
	pid := engine.PageID(w.g.ses.table[i].Load())
	tx, err := w.g.ses.pc.Begin()
	if err != nil {
		return err
	}
	page, err := w.g.ses.pc.Get(tx, pid)
	if err != nil {
		tx.End()
		return err
	}
	if int64(len(page.Value)) != w.g.ses.bs {
		tx.End()
		return fmt.Errorf("page %d has %d bytes, want %d", pid, len(page.Value), w.g.ses.bs)
	}
	for at := 0; at < len(page.Value); at += 4096 {
		w.sink += page.Value[at]
	}
	tx.End()
	return nil
}

// put writes page i, and allocates it if it does not exist. It returns the LSN of the write.
func (w *worker) put(i int64) (engine.LSN, error) {
	ses := w.g.ses
	tx, err := ses.pc.Begin()
	if err != nil {
		return 0, err
	}
	defer tx.End()
	pid := ses.table[i].Load()
	for pid <= claimed {
		if lsn, made, err := ses.allocate(tx, i, w.pages); made || err != nil {
			return lsn, err
		}
		// The loop ends when the worker that has claimed the page has made it or has failed, or the group stops.
		if pid = ses.table[i].Load(); pid <= claimed {
			if w.g.stop.Load() {
				return 0, nil
			}
			runtime.Gosched()
		}
	}
	return w.change(tx, engine.PageID(pid))
}

// change links to a page or replaces it. It begins without knowing the version of the page: the first call, which
// fails, returns it. The loop ends because each call that fails means that another writer has succeeded.
func (w *worker) change(tx *engine.Tx, pid engine.PageID) (engine.LSN, error) {
	pc, v := w.g.ses.pc, w.vals.take()
	var ptr engine.PagePtr[[]byte]
	for {
		var won bool
		var err error
		if w.g.spec.Delta > 0 {
			ptr, won, err = pc.Link(tx, pid, ptr, v)
		} else {
			ptr, won, err = pc.Replace(tx, pid, ptr, v)
		}
		switch {
		case err != nil:
			return 0, err
		case won:
			return ptr.LastLSN(), nil
		case ptr.IsZero():
			return 0, fmt.Errorf("page %d was freed", pid)
		}
	}
}

// stabilize waits until the write at lsn is stable. If measured is set, it adds the time since start to w.sync.
func (w *worker) stabilize(lsn engine.LSN, start int64, measured bool) error {
	if _, err := w.g.ses.pc.MakeStable(lsn); err != nil {
		return err
	}
	if end := w.g.now(); measured {
		w.end = end
		w.sync.add(end - start)
	}
	return nil
}

func (w *worker) publish() {
	w.done.reads.Store(w.read.n)
	w.done.writes.Store(w.write.n)
}
