package engine

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments"
	"pagecache/segments/format"
)

// yielding lets others run where a page is decoded, as reading a cold one does.
type yielding struct{ Bytes }

func (yielding) Decode(b []byte) ([]byte, error) {
	runtime.Gosched()
	return b, nil
}

// crowd is a full disk, and goroutines on it that do not wait for the cleaner.
type crowd struct {
	*PageCache[[]byte]
	t    *testing.T
	d    *simdisk.Disk
	pids []PageID
	last atomic.Int64 // when something was written, in Unix nanoseconds
	done chan struct{}
	wg   sync.WaitGroup
}

const (
	crowdSegment, crowdSegments = 64 << 10, 60
	crowdPage                   = 2000
)

// newCrowd fills so many percent of a disk with pages.
func newCrowd(t *testing.T, live, size int) *crowd {
	return newCrowdOn(t, crowdSegment, crowdSegments, live, size)
}

// newCrowdOn is newCrowd on a disk of so many segments of that size.
func newCrowdOn(t *testing.T, segment, segments, live, size int) *crowd {
	return newCrowdWith(t, yielding{}, segment, segments, live, size)
}

func newCrowdWith(t *testing.T, m Materializer[[]byte], segment, segments, live, size int) *crowd {
	d := simdisk.New(3, simdisk.Options{})
	o := &Options{SegmentSize: segment, IOBuffers: 2, FlushEvery: 10 * time.Millisecond, SnapshotEvery: 1 << 30, CacheCapacity: 1, seam: seam.Options{FS: d}}
	pc, err := Open("/store", m, o)
	if err != nil {
		t.Fatal(err)
	}
	c := &crowd{PageCache: pc, t: t, d: d, done: make(chan struct{})}
	d.SetCapacity(int64(segments*segment + 8<<10))
	for n := segments * live / 100 * segment / (size + 24); len(c.pids) < n; {
		pid, err := c.allocate(size)
		if errors.Is(err, ErrNoSpace) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		c.pids = append(c.pids, pid)
	}
	c.last.Store(time.Now().UnixNano())
	return c
}

func (c *crowd) allocate(size int) (PageID, error) {
	tx := begin(c.t, c.PageCache)
	defer tx.End()
	pid, _, err := c.Allocate(tx, make([]byte, size))
	return pid, err
}

func (c *crowd) free(pid PageID) error {
	tx := begin(c.t, c.PageCache)
	defer tx.End()
	p, err := c.Get(tx, pid)
	if err == nil {
		_, _, err = c.Free(tx, pid, p.Ptr)
	}
	return err
}

// again does something over and over; ErrNoSpace is no reason to wait for long.
func (c *crowd) again(goroutines int, do func(rng *rand.Rand) error) {
	for g := range uint64(goroutines) {
		c.wg.Go(func() {
			rng := rand.New(rand.NewPCG(g, 1))
			for {
				select {
				case <-c.done:
					return
				default:
				}
				switch err := do(rng); {
				case err == nil:
					c.last.Store(time.Now().UnixNano())
				case errors.Is(err, ErrNoSpace):
					time.Sleep(500 * time.Microsecond)
				default:
					c.t.Error(err)
					return
				}
			}
		})
	}
}

func (c *crowd) replace(rng *rand.Rand) error {
	tx := begin(c.t, c.PageCache)
	defer tx.End()
	pid := c.pids[rng.IntN(len(c.pids))]
	p, err := c.Get(tx, pid)
	if err == nil && p.Kind == KindMaterialized {
		_, _, err = c.Replace(tx, pid, p.Ptr, make([]byte, len(p.Value)))
	}
	return err
}

// clean is what the cleaner does. Now and then it has to wait until what it has made empty is stable.
func (c *crowd) clean(*rand.Rand) error {
	did, err := c.AttemptGC()
	if err == nil && !did {
		time.Sleep(time.Millisecond)
	}
	return errors.Join(err, ErrNoSpace) // what it does is not what was to be done
}

// watch lets them for some time, and then sees that they can still write.
func (c *crowd) watch(d time.Duration) {
	c.t.Helper()
	const patience = 3 * time.Second
	for start := time.Now(); time.Since(start) < d || time.Since(time.Unix(0, c.last.Load())) > patience/4; time.Sleep(10 * time.Millisecond) {
		if since := time.Since(time.Unix(0, c.last.Load())); since > patience {
			c.t.Errorf("nothing was written for %v: %+v", since, c.Stats())
			break
		}
	}
	close(c.done)
	c.wg.Wait()
}

// On a full disk with garbage on it writers that try again and again do not take the place that the cleaner needs to make room: they go on writing, and pages can be
// freed. Proves rule 9, and B5 of the log.
func TestFullOfWriters(t *testing.T) {
	for _, live := range []int{60, 75, 85} {
		c := newCrowd(t, live, crowdPage)
		c.again(1, c.clean)
		c.again(8, c.replace)
		c.watch(time.Second)
		for _, pid := range c.pids[:50] {
			if err := c.free(pid); err != nil {
				t.Fatalf("%d %% live: %v", live, err)
			}
		}
		_ = c.Close()
	}
}

// Frees of many small pages at once do not take the last place either: until all are freed there is always room for more. Proves rule 9.
func TestFullOfFrees(t *testing.T) {
	c := newCrowd(t, 97, 100)
	left := make(chan PageID, len(c.pids))
	for _, i := range rand.New(rand.NewPCG(5, 5)).Perm(len(c.pids)) {
		left <- c.pids[i]
	}
	var freed atomic.Int64
	c.again(8, func(*rand.Rand) error {
		var pid PageID
		select {
		case pid = <-left:
		default:
			return nil
		}
		if err := c.free(pid); err != nil {
			left <- pid
			return err
		}
		freed.Add(1)
		return nil
	})
	c.again(1, c.clean)
	c.again(4, c.replace)
	for start := time.Now(); int(freed.Load()) < len(c.pids) && time.Since(start) < 30*time.Second; {
		time.Sleep(10 * time.Millisecond)
	}
	c.watch(0)
	if n := int(freed.Load()); n < len(c.pids) {
		t.Errorf("%d of %d pages freed: %+v", n, len(c.pids), c.Stats())
	}
	for start := time.Now(); ; {
		_, err := c.allocate(1000)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrNoSpace) || time.Since(start) > 10*time.Second {
			t.Fatal(err)
		}
		_ = c.clean(nil)
	}
	_ = c.Close()
}

// Where a Tx that stays open holds up what was cleaned, on a full disk, the cleaner does not use up what is kept: pages can still be freed. Proves rule 9.
func TestFullAndHeldUp(t *testing.T) {
	c := newCrowd(t, 60, crowdPage)
	held := begin(t, c.PageCache)
	for i := range 20 * len(c.pids) {
		tx := begin(t, c.PageCache)
		pid := c.pids[i*7%len(c.pids)]
		p, err := c.Get(tx, pid)
		if err == nil {
			_, _, err = c.Replace(tx, pid, p.Ptr, make([]byte, crowdPage))
		}
		tx.End()
		if errors.Is(err, ErrNoSpace) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		if _, err := c.AttemptGC(); err != nil {
			t.Fatal(err)
		}
		flushTest(t, c.PageCache)
	}
	for _, pid := range c.pids[:100] {
		p, err := c.Get(held, pid)
		if err == nil {
			_, _, err = c.Free(held, pid, p.Ptr)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	held.End()
	_ = c.Close()
}

// On a full disk the last segment may hold nothing that counts. It can be freed only once the next one is begun, which only the cleaner can do then, so
// it is none of those that the cleaner waits for. Proves rule 9.
func TestFullAndNothingLastCounts(t *testing.T) {
	c := newCrowd(t, 60, crowdPage)
	rng := rand.New(rand.NewPCG(1, 1))
	overwrite := func() error {
		tx := begin(t, c.PageCache)
		defer tx.End()
		pid := c.pids[rng.IntN(len(c.pids))]
		p, err := c.Get(tx, pid)
		if err == nil {
			_, _, err = c.Replace(tx, pid, p.Ptr, make([]byte, crowdPage))
		}
		return err
	}
	kept, per := c.core.store.Reserved()
	kept += crowdSegments / per
	resume := c.cleaner.Pause() // nothing is cleaned meanwhile
	for last := false; !last; {
		if err := overwrite(); err != nil {
			t.Fatal(err)
		}
		_, used, _ := c.core.store.Space.Totals()
		last = used == crowdSegments-kept-1 && c.core.store.Log.Tail()%crowdSegment > crowdSegment-crowdPage
	}
	for {
		r, err := c.core.store.Log.Reserve(format.KindAppend, 1, crowdPage)
		if err != nil {
			if !logstore.IsNoSpace(err) {
				t.Fatal(err)
			}
			break
		}
		r.Abort()
	}
	resume()
	for range 100 {
		if _, err := c.AttemptGC(); err != nil {
			t.Fatal(err)
		}
		flushTest(t, c.PageCache)
	}
	if err := overwrite(); err != nil {
		t.Error(err)
	}
	_ = c.Close()
}

// link adds a little to a page, until it is long enough to be written anew.
func (c *crowd) link(rng *rand.Rand) error {
	tx := begin(c.t, c.PageCache)
	defer tx.End()
	pid := c.pids[rng.IntN(len(c.pids))]
	p, err := c.Get(tx, pid)
	switch {
	case err != nil || p.Kind != KindMaterialized:
	case len(p.Value) > crowdPage+200:
		_, _, err = c.Replace(tx, pid, p.Ptr, make([]byte, crowdPage))
	default:
		_, _, err = c.Link(tx, pid, p.Ptr, make([]byte, 20))
	}
	return err
}

// On a full disk with garbage on it segments of a few deltas that are live are not what is cleaned first: pages would have to be written as a whole, and all that is
// kept would go. Writers go on, and pages can be freed; where no segment is worth it, once some have been. Proves rule 9.
func TestFullOfDeltas(t *testing.T) {
	for _, live := range []int{40, 50, 60, 70} {
		c := newCrowd(t, live, crowdPage)
		c.again(1, c.clean)
		c.again(4, c.link)
		if live <= 50 {
			c.watch(time.Second)
		} else {
			time.Sleep(time.Second)
			close(c.done)
			c.wg.Wait()
		}
		for _, pid := range c.pids[:len(c.pids)/3] {
			if err := c.free(pid); err != nil {
				t.Fatalf("%d %% live: %v", live, err)
			}
		}
		for start := time.Now(); ; _ = c.clean(nil) {
			_, err := c.allocate(crowdPage)
			if err == nil {
				break
			}
			if time.Since(start) > 10*time.Second {
				t.Fatalf("%d %% live: %v: %+v", live, err, c.Stats())
			}
		}
		_ = c.Close()
	}
}

// Of a large full disk all pages can be freed, here and there, though no segment is worth cleaning for long. Proves rule 9.
func TestFullOfSmallPages(t *testing.T) {
	c := newCrowdOn(t, 16<<10, 300, 100, 100)
	since := time.Now()
	for n, i := range rand.New(rand.NewPCG(5, 5)).Perm(len(c.pids)) {
		for {
			err := c.free(c.pids[i])
			if err == nil {
				since = time.Now()
				break
			}
			if !errors.Is(err, ErrNoSpace) || time.Since(since) > 5*time.Second {
				t.Fatalf("%d of %d pages freed: %v: %+v", n, len(c.pids), err, c.Stats())
			}
			_ = c.clean(nil)
		}
	}
	_ = c.Close()
}

// Pages of which four fit into a segment, with an eighth to spare, are moved in vain as long as the cleaner's budget lasts. What is freed then lets it go on. Proves rule 9.
func TestFullAndSpent(t *testing.T) {
	const segment = 256 << 10
	c := newCrowdOn(t, segment, 40, 100, segment*22/100)
	for start := time.Now(); !c.cleaner.BudgetSpent(); _ = c.clean(nil) {
		if _, err := c.allocate(100); err != nil && !errors.Is(err, ErrNoSpace) {
			t.Fatal(err)
		}
		if time.Since(start) > 30*time.Second {
			t.Fatalf("the cleaner has not spent its budget: %+v", c.Stats())
		}
	}
	for i, pid := range c.pids {
		if i%4 < 2 {
			if err := c.free(pid); err != nil {
				t.Fatal(err)
			}
		}
	}
	for start := time.Now(); c.core.store.Space.DiskFull(); _ = c.clean(nil) { // nobody writes
		if time.Since(start) > 10*time.Second {
			t.Fatalf("no room is made: %+v", c.Stats())
		}
	}
	if _, err := c.allocate(100); err != nil {
		t.Error(err)
	}
	_ = c.Close()
}

// halfFull has nothing that counts fill a full disk. It returns that after the power was cut in the middle of the last segment that may be used.
func (c *crowd) halfFull() (d *simdisk.Disk) {
	for half := 0; ; {
		r, err := c.core.store.Log.ReserveUrgent(format.KindFree, 1, 0)
		if logstore.IsNoSpace(err) {
			break
		}
		if err != nil {
			c.t.Fatal(err)
		}
		r.Abort()
		if _, used, _ := c.core.store.Space.Totals(); used > half && c.core.store.Log.Tail()%crowdSegment > crowdSegment/2 {
			if half = used; used < crowdSegments-2 {
				continue
			}
			flushTest(c.t, c.PageCache)
			d = c.d.Copy().Crash(1) // the last one counts
		}
	}
	_ = c.Close()
	return d
}

func (c *crowd) reopen(d *simdisk.Disk) (*PageCache[[]byte], error) {
	d.SetCapacity(crowdSegments*crowdSegment + 8<<10)
	o := simOptions(d)
	o.SegmentSize = crowdSegment
	return Open("/store", Bytes{}, o)
}

// After a crash in the last segment that may be used the store can be opened: the tail of the log is written anew, for which there is room. A crash inside of that
// changes nothing about it. Proves rules 1 and 9.
func TestFullAndCrashed(t *testing.T) {
	c := newCrowd(t, 90, crowdPage)
	d := c.halfFull()
	for at := 1; ; at++ {
		for seed := range uint64(8) {
			again := d.Copy()
			again.CrashAfter(at)
			pc, err := c.reopen(again)
			if err == nil {
				_ = pc.Close()
			}
			done := !again.Crashed()
			if pc, err = c.reopen(again.Crash(seed)); err != nil {
				t.Fatalf("crash at %d, seed %d: %v", at, seed, err)
			}
			if seed == 0 {
				for _, pid := range c.pids {
					if p := get1(t, pc, pid); len(p.Value) != crowdPage {
						t.Fatalf("crash at %d: page %d: %d bytes", at, pid, len(p.Value))
					}
				}
			}
			_ = pc.Close()
			if done {
				return
			}
		}
	}
}

// So it is for a standalone log, and for a store that never recycles. Proves rules 1 and 9.
func TestFullLogCrashed(t *testing.T) {
	const segment, capacity = 16 << 10, 10*16<<10 + 8<<10
	for _, log := range []bool{true, false} {
		d := simdisk.New(3, simdisk.Options{})
		open := func(d *simdisk.Disk) (s *logstore.Store, write func() error, closer func() error, err error) {
			o := simOptions(d)
			o.SegmentMode = SegmentModeLinear
			d.SetCapacity(capacity)
			if log {
				l, err := OpenLog("/store", o)
				if err != nil {
					return nil, nil, nil, err
				}
				return l.core.store, func() error { _, _, err := l.Write(make([]byte, 1000)); return err }, l.Close, nil
			}
			pc, err := Open[[]byte]("/store", Bytes{}, o)
			if err != nil {
				return nil, nil, nil, err
			}
			c := crowd{PageCache: pc, t: t}
			return pc.core.store, func() error { _, err := c.allocate(1000); return err }, pc.Close, nil
		}
		s, write, closer, err := open(d)
		if err != nil {
			t.Fatal(err)
		}
		most := 0
		for err == nil {
			_, used, _ := s.Space.Totals()
			if err = write(); used > most && s.Log.Tail()%segment > segment/2 { // the last that may be used comes last
				most = used
				if err := s.Log.Flush(); err != nil {
					t.Fatal(err)
				}
				s, _, closer, err := open(d.Copy().Crash(uint64(used)))
				if err != nil {
					t.Fatalf("log %v, %d segments: %v", log, used, err)
				}
				if _, n, _ := s.Space.Totals(); n != used {
					t.Errorf("log %v: %d segments, want %d", log, n, used)
				}
				_ = closer()
			}
		}
		if !logstore.IsNoSpace(err) || most < 8 {
			t.Errorf("log %v, %d segments: %v", log, most, err)
		}
		_ = closer()
	}
}

// newest is a page that is what was linked to it last.
type newest struct{ Bytes }

func (newest) Merge(fragments [][]byte) []byte { return bytes.Clone(fragments[len(fragments)-1]) }

// Pages that merging makes much shorter are worth cleaning, however long what they are merged of is. Proves rule 9.
func TestFullOfUpdates(t *testing.T) {
	for _, live := range []int{8, 15} {
		c := newCrowdWith(t, newest{}, crowdSegment, crowdSegments, live, crowdPage)
		c.again(1, c.clean)
		c.again(2, func(rng *rand.Rand) error {
			tx := begin(t, c.PageCache)
			defer tx.End()
			pid := c.pids[rng.IntN(len(c.pids))]
			p, err := c.Get(tx, pid)
			if err == nil {
				_, _, err = c.Link(tx, pid, p.Ptr, make([]byte, crowdPage))
			}
			return err
		})
		c.watch(2 * time.Second)
		_ = c.Close()
	}
}

// A blob with a delta would be another blob, for which there is no room: other segments are cleaned than that of the delta. Proves rule 9.
func TestFullWithBlob(t *testing.T) {
	const blob = 20_000 // fits into a segment, if it were not a blob
	c := newCrowd(t, 1, crowdPage)
	c.d.SetCapacity(1 << 40)
	tx := begin(t, c.PageCache)
	pid, ptr, err := c.Allocate(tx, make([]byte, blob))
	if err != nil {
		t.Fatal(err)
	}
	must(t)(c.Link(tx, pid, ptr, make([]byte, 20)))
	tx.End()
	c.d.SetCapacity(crowdSegments*crowdSegment + 8<<10 + blob + 100)
	for err == nil {
		var pid PageID
		if pid, err = c.allocate(crowdPage); err == nil {
			c.pids = append(c.pids, pid)
		}
	}
	start := time.Now()
	soonOr := func(f func() error) {
		t.Helper()
		for err := f(); err != nil; err = f() {
			if !errors.Is(err, ErrNoSpace) || time.Since(start) > 20*time.Second {
				t.Fatalf("%v: %+v", err, c.Stats())
			}
			_ = c.clean(nil)
		}
	}
	rng := rand.New(rand.NewPCG(5, 5))
	for i, pid := range c.pids { // all of the first segments but the blob, so that they are first to be cleaned
		if i < 60 || rng.IntN(2) == 0 {
			soonOr(func() error { return c.free(pid) })
		}
	}
	soonOr(func() error { _, err := c.allocate(crowdPage); return err })
	_ = c.Close()
}

// A segment that was picked while the file could grow, and was left because it then could not, can be picked again. Proves rule 9.
func TestFullMeanwhile(t *testing.T) {
	c := newCrowd(t, 60, crowdPage)
	resume := c.cleaner.Pause()
	for _, pid := range c.pids[:len(c.pids)/2] {
		if err := c.free(pid); err != nil {
			t.Fatal(err)
		}
	}
	some(t, c.PageCache, 10, crowdPage)
	var v segments.Candidate
	c.core.store.Space.Inactive(func(s segments.Candidate) {
		if s.Live > 0 {
			v = s
		}
	})
	for !c.core.store.Space.DiskFull() {
		r, err := c.core.store.Log.Reserve(format.KindAppend, 1, crowdPage)
		if err != nil {
			break
		}
		r.Abort()
	}
	if did, err := c.cleaner.TryClean(v, false); !did || err != nil || c.core.store.Space.Segment(v.ID).Live() != v.Live {
		t.Errorf("%v, %v: %d bytes live, were %d", did, err, c.core.store.Space.Segment(v.ID).Live(), v.Live)
	}
	if c.cleaner.IsStuck(v) {
		t.Error("it is passed over from now on")
	}
	resume()
	_ = c.Close()
}

// slowly merges as slowly as if what it merges came from a slow disk, once it is slow.
type slowly struct {
	newest
	slow   *atomic.Bool
	merges *atomic.Int64
}

func (m slowly) Merge(fragments [][]byte) []byte {
	if m.slow.Load() {
		m.merges.Add(1)
		time.Sleep(time.Millisecond)
	}
	return m.newest.Merge(fragments)
}

// Close does not wait until a cleaner has seen what thousands of pages come to. Proves rule 9; trap 20.
func TestCloseWhileCosting(t *testing.T) {
	m := slowly{slow: new(atomic.Bool), merges: new(atomic.Int64)}
	c := newCrowdWith(t, m, 256<<10, 20, 30, 40)
	for _, pid := range c.pids {
		tx := begin(t, c.PageCache)
		p, err := c.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		_, ok, err := c.Link(tx, pid, p.Ptr, make([]byte, 40))
		tx.End()
		if errors.Is(err, ErrNoSpace) { // flushes take room, too
			break
		}
		must(t)(p.Ptr, ok, err)
	}
	for i := 0; i < len(c.pids); i += 9 { // some garbage everywhere
		if err := c.free(c.pids[i]); err != nil {
			t.Fatal(err)
		}
	}
	m.slow.Store(true)
	for err := error(nil); !errors.Is(err, ErrNoSpace); {
		if _, err = c.allocate(crowdPage); err != nil && !errors.Is(err, ErrNoSpace) {
			t.Fatal(err)
		}
	}
	c.wg.Go(func() {
		for err := error(nil); err == nil; { // as the cleaner in the background does
			_, err = c.AttemptGC()
		}
	})
	for start := time.Now(); m.merges.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("nothing is merged")
		}
	}
	start := time.Now()
	if err := c.Close(); err != nil || time.Since(start) > closePatience/2 {
		t.Errorf("closed after %v: %v", time.Since(start), err)
	}
	c.wg.Wait()
}

// Where nobody flushes the cleaner of a full disk does, so that what it has emptied is free. Proves rule 9.
func TestFullWithoutFlushes(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	o := simOptions(d)
	pc := openTest(t, "/store", o)
	c := &crowd{PageCache: pc, t: t, d: d}
	d.SetCapacity(40*16<<10 + 8<<10)
	var err error
	for err == nil {
		var pid PageID
		if pid, err = c.allocate(1000); err == nil {
			c.pids = append(c.pids, pid)
		}
	}
	for _, pid := range c.pids[:len(c.pids)/2] {
		if err := c.free(pid); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		_ = c.clean(nil)
	}
	for range 10 {
		if _, err := c.allocate(1000); err != nil {
			t.Fatalf("%v: %+v", err, c.Stats())
		}
	}
	closeTest(t, pc)
}

// What cleaning a segment is said to cost is what it writes, whatever the pages in it are.
func TestCosts(t *testing.T) {
	for _, compression := range []Compression{CompressionNone, CompressionZstd} {
		o := simOptions(simdisk.New(1, simdisk.Options{}))
		o.Compression, o.seam.Foreground, o.SegmentSize = compression, true, 32<<10
		pc := openTest(t, "/store", o)
		rng := rand.New(rand.NewPCG(1, 2))
		value := func(n int) []byte { // compresses somewhat
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(rng.IntN(4))
			}
			return b
		}
		tx := begin(t, pc)
		var pids []PageID
		for i := range 300 {
			n := rng.IntN(900)
			if i%40 == 0 {
				n = 20_000 // a blob
			}
			pid, ptr, err := pc.Allocate(tx, value(n))
			if err != nil {
				t.Fatal(err)
			}
			if n < 1000 {
				for range rng.IntN(4) {
					ptr = must(t)(pc.Link(tx, pid, ptr, value(rng.IntN(300))))
				}
			}
			pids = append(pids, pid)
			if i%7 == 0 {
				must(t)(pc.Free(tx, pid, ptr))
			}
		}
		tx.End()
		flushTest(t, pc)
		evictAll(t, pc, pids[:150])
		c := pc.cleaner
		resume := c.Pause()
		var all []segments.Candidate
		pc.core.store.Space.Inactive(func(v segments.Candidate) { all = append(all, v) })
		if len(all) < 4 {
			t.Fatalf("%d segments", len(all))
		}
		for _, v := range all {
			want, before := c.CostOf(v, 1<<40), c.Stats().Moved
			if err := c.Empty(v, false); err != nil {
				t.Fatal(err)
			}
			if n := c.Stats().Moved - before; n != want || n == 0 {
				t.Errorf("%v, compression %v: %d bytes written, %d said", v.ID, compression, n, want)
			}
		}
		resume()
		closeTest(t, pc)
	}
}
