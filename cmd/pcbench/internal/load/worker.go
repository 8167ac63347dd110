package load

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/pick"
	"pagecache/cmd/pcbench/internal/stats"
	"pagecache/engine"
)

// Streams of random numbers: each use of the seed has a stream of its own.
const (
	pickStream   = 1 << 20
	valueStream  = 2 << 20
	layoutStream = 3 << 20
	paceStream   = 4 << 20
)

// workerStats are the counts of a worker.
type workerStats struct {
	dirs   [3]dirStats
	sync   stats.Latencies
	end    int64 // when the last operation ended, in ns after the base of the section
	errors int64 // after which the worker went on
	first  error
}

type dirStats struct {
	clat, lat stats.Latencies // lat only in an open loop
	bytes     int64
}

// clone returns a copy that does not change.
func (c *workerStats) clone() *workerStats {
	n := &workerStats{sync: c.sync.Clone(), end: c.end, errors: c.errors, first: c.first}
	for d := range c.dirs {
		n.dirs[d] = dirStats{c.dirs[d].clat.Clone(), c.dirs[d].lat.Clone(), c.dirs[d].bytes}
	}
	return n
}

// worker is one goroutine of a job. Only this goroutine uses its fields, except those with a comment.
type worker struct {
	g     *section
	lane  *lane
	index int   // in its job
	quota int64 // number of operations to do
	rng   *rand.PCG
	mix   uint64 // share of the first of two directions, out of 1<<16
	does  [2]job.Dir
	vals  *values // of writes: whole pages, or deltas
	pages *values // of pages that do not exist yet
	keys  *nodeKeys
	slots []slot // of a transaction

	verify *verifier
	last   int64 // the page before
	inRow  int64 // operations since the last random page
	pair   bool  // trimwrite: the next operation writes the page that was trimmed

	workerStats
	err     error
	late    error     // that of a page that was not as verify wants it
	logs    *recorder // nil: no logs
	newest  engine.LSN
	sink    byte  // keeps the compiler from removing the reads
	chained bool  // the end of an operation is the start of the next
	open    bool  // operations have intended starts
	early   int64 // when the worker ended before its quota was done, in ns after the base; 0: it did not
	both    bool  // reads and writes have rates, which are kept, as in fio, whatever rwmixread says
	taken   int64 // intended start of the operation that it did not begin then; −1: none
	since   int   // writes since the last wait for stability
	thought int64
	blocks  int64

	_ [64]byte
	// done counts the operations done so far. The worker writes it every millisecond; progress and samples read it and
	// tolerate stale counts.
	done struct {
		ops, bytes    [3]atomic.Int64
		fast, latency atomic.Int64
	}
	fast, latency int64 // what done will have next
	// copied is the copy for the status report with this number, which the worker makes when it is asked.
	copied atomic.Pointer[workerStats]
	made   atomic.Int64
	ended  atomic.Bool // publishes err and the counts
	shots  shots       // for the timeline
	_      [64]byte
}

func newWorker(g *section, i int, seed uint64) *worker {
	s := g.spec
	w := &worker{g: g, lane: g.lanes[i/s.IODepth], index: i % s.IODepth, rng: pick.New(seed, pickStream+i), last: -1}
	w.verify = newVerifier(&s.Verify)
	var does []job.Dir
	for _, d := range job.Dirs {
		if s.Does[d] {
			does = append(does, d)
		}
	}
	w.does = [2]job.Dir{does[0], does[len(does)-1]}
	if w.mix = 1 << 16; len(does) == 2 {
		w.mix = uint64(s.ReadShare) << 16 / 100
	}
	if s.Does[job.DirWrite] {
		w.pages = newValues(s.BS[job.DirWrite], &s.Buffers, w.verify, pick.New(seed, valueStream+i))
		if w.vals = w.pages; s.Own.Delta > 0 {
			w.vals = newValues(pick.OneSize(s.Own.Delta), &s.Buffers, nil, pick.New(seed, valueStream+i))
		}
	}
	if s.Own.Node {
		w.keys, w.vals = newNodeKeys(s), nodeValues(s, seed, valueStream+i)
		w.pages = w.vals
	}
	w.quota = quota(s, i)
	w.taken, w.both = -1, w.lane.pacer.both(s)
	w.logs = newRecorder(s)
	w.open = s.Open()
	w.chained = w.logs == nil && !w.open && s.Think.Time == 0 && s.Target.Latency == 0 && s.FDataSync == 0 &&
		s.Dist.Kind == pick.KindRandom && !s.Map
	return w
}

// quota returns the number of operations of worker i: an equal share of all operations. The shares are split at the
// same boundaries as the pages of the jobs, so that a load of --size bytes in order uses each page once.
func quota(s *job.Spec, i int) int64 {
	all, limited := s.Operations()
	if !limited {
		return 1<<63 - 1
	}
	n := int64(s.Workers())
	upTo := func(i int64) int64 { return i*(all/n) + i*(all%n)/n }
	return upTo(int64(i)+1) - upTo(int64(i))
}

// run reads and writes until the quota is done, the time is over, or the section stops.
func (w *worker) run() error {
	defer w.finish()
	arrived := false
	defer func() {
		if !arrived {
			w.lane.written.Done()
		}
	}()
	if err := w.pin(); err != nil {
		return err
	}
	if w.g.spec.Verify.Only {
		arrived = true
		w.lane.written.Done()
		return w.reread()
	}
	work := w.work
	if w.g.spec.Trace != nil {
		work = w.replay
	}
	done, err := work()
	if !done { // the job has run until now, even if its last operation ended long before
		w.early = min(w.g.now(), w.g.deadline)
		w.end = max(w.end, w.early)
	}
	if err != nil || !done && w.early >= w.g.deadline || w.g.spec.Trace != nil {
		return err
	}
	arrived = true
	w.lane.written.Done()
	return w.reread()
}

// work reads and writes. It reports whether the quota is done; otherwise the time is over, the section stops, or there
// was an error.
func (w *worker) work() (done bool, err error) {
	g, s := w.g, w.g.spec
	var published, end int64
	for n := int64(0); n < w.quota; {
		if g.stop.Load() || w.lane.stop.Load() {
			return false, nil
		}
		if s.Target.Latency > 0 && int64(w.index) >= w.lane.depth.Load() {
			time.Sleep(time.Millisecond)
			continue
		}
		i, d := w.next()
		intended := int64(-1)
		if w.lane.pacer != nil {
			if intended = w.lane.pacer.take(d); intended >= g.deadline {
				return false, nil
			}
			until(g.base, intended, &g.stop)
		}
		start := w.begin(end)
		if start >= g.deadline || intended >= 0 && g.stop.Load() {
			w.taken = intended
			return false, nil
		}
		bytes, lsn, err := w.do(d, i)
		end = g.now()
		failed, err := w.tolerate(d, err)
		if err != nil {
			return false, err
		}
		if start >= g.ramp {
			n++
			if err := w.account(d, i, bytes, [3]int64{intended, start, end}, failed); err != nil {
				return false, err
			}
		}
		if end-published > publishEvery {
			published = end
			if w.publish() && w.chained {
				end = 0 // copying is no part of the next operation
			}
		}
		if s.FDataSync > 0 && d == job.DirWrite && !failed {
			if w.since++; w.since == s.FDataSync {
				w.since = 0
				if err := w.stabilize(lsn, end); err != nil {
					return false, err
				}
			}
		}
		if s.Think.Time > 0 {
			w.think(end)
		}
	}
	return true, nil
}

// begin returns the start of an operation. If a goroutine does nothing between two operations but draw a page
// uniformly, which takes a few ns, the start is the end of the operation before, at last. This saves a reading of the
// clock.
func (w *worker) begin(last int64) int64 {
	if w.chained && last > 0 {
		return last
	}
	return w.g.now()
}

// publishEvery is the time between two updates of done, in ns.
const publishEvery = 1e6

// finish publishes the outcome of a worker that ends.
func (w *worker) finish() {
	w.publish()
}

// account counts an operation, with the times of measure. One that failed is no work: only its end counts.
func (w *worker) account(d job.Dir, i, bytes int64, at [3]int64, failed bool) error {
	if failed {
		w.end = at[2]
		return nil
	}
	return w.measure(d, i, bytes, at)
}

// measure counts an operation. The times are the intended start, or −1, the start and the end.
func (w *worker) measure(d job.Dir, i, bytes int64, at [3]int64) error {
	c, clat := &w.dirs[d], at[2]-at[1]
	c.clat.Add(clat)
	c.bytes += bytes
	w.end = at[2]
	lat := clat
	if w.open {
		if at[0] >= 0 {
			lat = at[2] - at[0]
		}
		c.lat.Add(lat)
	}
	s := w.g.spec
	w.latency += lat
	if s.Target.Latency > 0 && lat <= int64(s.Target.Latency) {
		w.fast++
	}
	if w.logs != nil {
		w.logs.add(logged{at: at[2], clat: clat, lat: lat, dir: d, bytes: bytes, page: i})
	}
	if s.MaxLatency > 0 && clat > int64(s.MaxLatency) {
		return fmt.Errorf("max_latency: a %s took %v: %w", d, time.Duration(clat), unix.ETIMEDOUT)
	}
	return nil
}

// tolerate counts an error after which the job goes on, or returns the error. It reports whether the operation failed:
// a page that was read is work, whatever verify finds in it.
func (w *worker) tolerate(d job.Dir, err error) (failed bool, _ error) {
	if err == nil {
		return false, nil
	}
	on := w.g.spec.ContinueOn
	isVerify := errors.Is(err, errVerify)
	ok := on == "all" || isVerify && on == "verify" || !isVerify && (on == "io" || on == d.String())
	if !ok && isVerify && !w.g.spec.Verify.Fatal { // as in fio, the job goes on and fails at its end
		if ok = true; w.late == nil {
			w.late = err
		}
	}
	failed = d != job.DirRead || !isVerify
	if !ok {
		return failed, err
	}
	w.errors++
	if w.first == nil {
		w.first = err
	}
	return failed, nil
}

// next returns the next page, and what to do with it.
func (w *worker) next() (i int64, d job.Dir) {
	s := w.g.spec
	if s.Does[job.DirTrim] && s.Does[job.DirWrite] { // each page is trimmed, then written
		if w.pair = !w.pair; !w.pair {
			return w.last, job.DirWrite
		}
		w.last = w.page(job.DirTrim)
		return w.last, job.DirTrim
	}
	switch {
	case w.both:
		d = w.lane.pacer.first()
	case w.mix == 1<<16:
		d = w.does[0]
	case w.mix == 0 || w.rng.Uint64()>>48 >= w.mix:
		d = w.does[1]
	default:
		d = w.does[0]
	}
	w.last = w.page(d)
	return w.last, d
}

// page returns the next page.
func (w *worker) page(d job.Dir) int64 {
	s, l := w.g.spec, w.lane
	if !s.Random {
		return l.first + inSteps(l.cursor.Add(1)-1, s.Step/s.PageSize(), l.pages)
	}
	if w.last >= 0 && (w.inRow+1 < s.Run || s.PercentRandom[d] < 100 && int(pick.Uniform(w.rng,
		100)) >= s.PercentRandom[d]) {
		w.inRow++
		return l.first + (w.last+1-l.first)%l.pages
	}
	w.inRow = 0
	if l.permuted != nil {
		return l.first + l.permuted.At(l.cursor.Add(1)-1)
	}
	return l.first + w.g.picker.Next(w.rng)%l.pages
}

// inSteps returns page k of a load in order that leaves out step pages after each page, as fio does. Beyond the last
// page it begins again at the first. If step is negative it goes back by that from the end of the page before, and
// after the first page, or before it, from the end of all pages.
func inSteps(k, step, pages int64) int64 {
	switch stride := 1 + step; {
	case step >= 0:
		return k % ((pages + stride - 1) / stride) * stride
	case stride == 0 || k == 0:
		return 0
	default:
		last := max(0, pages+step)
		return last + (k-1)%(last/-stride+1)*stride
	}
}

// think pauses after an operation that ended at end.
func (w *worker) think(end int64) {
	t := &w.g.spec.Think
	w.blocks++
	if (t.Blocks == 0 || w.blocks < t.Blocks) && (t.IOTime == 0 || end-w.thought < int64(t.IOTime)) {
		return
	}
	w.blocks = 0
	if spun := end + int64(min(t.Spin, t.Time)); t.Spin > 0 {
		for w.g.now() < spun && !w.g.stop.Load() { // ends with the time
		}
	}
	until(w.g.base, min(end+int64(t.Time), w.g.deadline), &w.g.stop)
	w.thought = w.g.now()
	if p := w.lane.pacer; p != nil && w.g.spec.Pace.IgnoreThink {
		p.shift(w.thought - end)
	}
}

// stabilize waits until the write at lsn, which ended at start, is stable.
func (w *worker) stabilize(lsn engine.LSN, start int64) (err error) {
	if w.g.spec.Own.Batch > 0 { // the end of a batch lies behind its writes
		err = w.g.st.flush()
	} else {
		err = w.g.st.makeStable(lsn)
	}
	if err != nil {
		return err
	}
	if end := w.g.now(); start >= w.g.ramp {
		w.end = end
		w.sync.Add(end - start)
	}
	return nil
}

// publish publishes the counts, and copies of them if somebody has asked for these. It reports whether it made one.
func (w *worker) publish() (copied bool) {
	for d := range w.done.ops {
		w.done.ops[d].Store(w.dirs[d].clat.N)
		w.done.bytes[d].Store(w.dirs[d].bytes)
	}
	w.done.fast.Store(w.fast)
	w.done.latency.Store(w.latency)
	if w.newest > 0 {
		w.g.st.noteChange(w.newest)
	}
	if asked := w.g.asked.Load(); asked > w.made.Load() {
		w.copied.Store(w.clone())
		w.made.Store(asked)
		copied = true
	}
	if t := w.g.tracker; t != nil && w.shots.take(&w.workerStats, t) {
		copied = true
	}
	return copied
}

// pin binds the goroutine to the processors of cpus_allowed.
func (w *worker) pin() error {
	s := w.g.spec
	if len(s.CPUs) == 0 {
		return nil
	}
	runtime.LockOSThread() // for ever: the thread ends with the goroutine
	var set unix.CPUSet
	if s.CPUsSplit {
		for j := range w.g.lanes {
			if w.g.lanes[j] == w.lane {
				set.Set(s.CPUs[j%len(s.CPUs)])
			}
		}
	} else {
		for _, c := range s.CPUs {
			set.Set(c)
		}
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("cpus_allowed: %w", err)
	}
	return nil
}
