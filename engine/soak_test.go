package engine_test

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/apart"
)

var (
	soakTime   = flag.Duration("soak.time", 3*time.Second, "how long TestSoak works [-short: 1s]")
	soakReopen = flag.Duration("soak.reopen", 500*time.Millisecond, "the time between its openings of the store")
	soakLive   = flag.Int64("soak.live", 8<<20, "about how many bytes of values it keeps")
	soakDir    = flag.String("soak.dir", "", "the directory of its store [a temporary directory]")
)

// soakPage is a page in the model. Its value follows from the seed and the sizes.
type soakPage struct {
	pid  engine.PageID
	ptr  engine.PagePtr[[]byte]
	seed uint64 // of the whole page
	size int
	tail []int // sizes of the deltas, whose seeds are seed+1, seed+2, …
}

// value returns the value that the page must have.
func (p *soakPage) value() []byte {
	v := enginetest.Random(p.size, p.seed)
	for i, n := range p.tail {
		v = append(v, enginetest.Random(n, p.seed+uint64(i)+1)...)
	}
	return v
}

// bytes returns the length of the value.
func (p *soakPage) bytes() (n int64) {
	n = int64(p.size)
	for _, d := range p.tail {
		n += int64(d)
	}
	return n
}

// soaker is a goroutine that changes pages of its own.
type soaker struct {
	rng   *rand.Rand
	pages []soakPage
	live  int64
	limit int64
	ops   int64
	next  uint64
}

// work makes changes of every kind until stop is closed.
func (s *soaker) work(pc *engine.PageCache[[]byte], stop <-chan struct{}) error {
	for ; ; s.ops++ {
		select {
		case <-stop:
			return nil
		default:
		}
		var batch *engine.Batch
		var err error
		if s.rng.IntN(200) == 0 {
			if batch, err = pc.PinLog(); err != nil {
				return err
			}
		}
		for range 1 + s.rng.IntN(8) {
			if err := s.step(pc); err != nil {
				return err
			}
		}
		if batch != nil {
			if err := batch.Seal(); err != nil {
				return err
			}
		}
		switch s.rng.IntN(300) {
		case 0:
			if _, err := pc.GenerateID(); err != nil {
				return err
			}
		case 1:
			if _, err := pc.MakeStable(pc.StableLSN() + 1); err != nil {
				return err
			}
		}
	}
}

// size returns a random length of a value. One of 100 may be long enough for a blob.
func (s *soaker) size() int {
	switch s.rng.IntN(100) {
	case 0:
		return s.rng.IntN(200_000)
	case 1, 2, 3:
		return s.rng.IntN(10_000)
	}
	return s.rng.IntN(1000)
}

// step reads a page, or makes one change.
func (s *soaker) step(pc *engine.PageCache[[]byte]) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	s.next += 100
	if len(s.pages) == 0 || s.live < s.limit && s.rng.IntN(3) == 0 {
		p := soakPage{seed: s.next, size: s.size()}
		if p.pid, p.ptr, err = pc.Allocate(tx, p.value()); err == nil {
			s.pages = append(s.pages, p)
			s.live += p.bytes()
		}
		return err
	}
	at := s.rng.IntN(len(s.pages))
	p := &s.pages[at]
	won := true
	s.live -= p.bytes()
	switch k := s.rng.IntN(10); {
	case k < 2:
		var got engine.Page[[]byte]
		if got, err = pc.Get(tx, p.pid); err == nil && !bytes.Equal(got.Value, p.value()) {
			err = fmt.Errorf("page %d: %d bytes, want %d", p.pid, len(got.Value), len(p.value()))
		}
		p.ptr = got.Ptr
	case k < 6 && len(p.tail) < 30:
		n := s.rng.IntN(200)
		p.ptr, won, err = pc.Link(tx, p.pid, p.ptr, enginetest.Random(n, p.seed+uint64(len(p.tail))+1))
		p.tail = append(p.tail, n)
	case k < 9 && s.live < s.limit:
		p.seed, p.size, p.tail = s.next, s.size(), nil
		p.ptr, won, err = pc.Replace(tx, p.pid, p.ptr, p.value())
	default:
		_, won, err = pc.Free(tx, p.pid, p.ptr)
		s.pages[at] = s.pages[len(s.pages)-1]
		s.pages = s.pages[:len(s.pages)-1]
		if err == nil && !won {
			err = fmt.Errorf("free page %d: lost, and no other goroutine changes it", p.pid)
		}
		return err
	}
	s.live += p.bytes()
	if err == nil && !won {
		err = fmt.Errorf("change page %d: lost, and no other goroutine changes it", p.pid)
	}
	return err
}

// soakTotals are the counts of all lives of the store.
type soakTotals struct{ moved, recycled, written, snapshots int64 }

// Mixed work goes on for a long time, and the store is closed, checked and opened again at intervals. The store always
// agrees with the model, and its space, its memory and its descriptors do not grow. Traps 8 and 15.
func TestSoak(t *testing.T) {
	if apart.Run(t) {
		return
	}
	d := *soakTime
	if testing.Short() {
		d = min(d, time.Second)
	}
	dir := *soakDir
	if dir == "" {
		dir = t.TempDir()
	}
	dir = filepath.Join(dir, "soak.store")
	defer os.RemoveAll(dir)
	const goroutines = 3
	o := &engine.Options{SegmentSize: 256 << 10, SnapshotEvery: 20_000, ConsolidateAfter: 5,
		CacheCapacity: *soakLive / 4}
	if *soakLive > 1<<30 {
		o.SegmentSize = 0
	}
	var soakers []*soaker
	for g := range uint64(goroutines) {
		s := &soaker{rng: rand.New(rand.NewPCG(g, 1)), limit: *soakLive / goroutines, next: g << 40}
		soakers = append(soakers, s)
	}
	var first soakUse
	var n soakTotals
	start, lives := time.Now(), 0
	for ; time.Since(start) < d || lives < 3; lives++ {
		soakLife(t, dir, o, soakers, &n)
		use := soakUsed(t, dir)
		for _, s := range soakers {
			use.live += s.live
		}
		if full := use.live >= *soakLive*9/10; full && first.files == 0 {
			first = use
		} else if full {
			use.compare(t, first)
		}
	}
	ops := int64(0)
	for _, s := range soakers {
		ops += s.ops
	}
	t.Logf("%v, %d lives, %d rounds; %d MiB written, %d MiB moved, %d segments recycled, %d snapshots; %+v",
		time.Since(start).Round(time.Second), lives, ops, n.written>>20, n.moved>>20, n.recycled, n.snapshots,
		soakUsed(t, dir))
}

// soakLife opens the store, compares it with the model, lets the goroutines work, and closes and checks the store.
func soakLife(t *testing.T, dir string, o *engine.Options, soakers []*soaker, n *soakTotals) {
	t.Helper()
	pc := enginetest.Open(t, dir, o)
	for _, s := range soakers {
		for i := range s.pages { // a PagePtr is not valid in the next opening
			s.pages[i].ptr = soakCheck(t, pc, &s.pages[i])
		}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, s := range soakers {
		wg.Go(func() {
			if err := s.work(pc, stop); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(*soakReopen)
	close(stop)
	enginetest.Soon(t, "ending the goroutines", wg.Wait)
	st := pc.Stats()
	n.moved += st.Space.BytesMoved
	n.recycled += st.Space.Recycled
	n.written += st.Log.BytesWritten
	n.snapshots += st.Snapshots
	enginetest.Close(t, pc)
	if t.Failed() {
		t.FailNow()
	}
}

// soakCheck reads a page, which must have the value that the model has, and returns its state.
func soakCheck(t *testing.T, pc *engine.PageCache[[]byte], p *soakPage) engine.PagePtr[[]byte] {
	t.Helper()
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	got, err := pc.Get(tx, p.pid)
	if err != nil || got.Kind != engine.KindMaterialized || !bytes.Equal(got.Value, p.value()) {
		t.Fatalf("reopened: page %d: %v, %d bytes, want %d, %v", p.pid, got.Kind, len(got.Value), len(p.value()), err)
	}
	return got.Ptr
}

// soakUse is the use of resources when the store is closed.
type soakUse struct {
	live  int64 // bytes of values
	files int64 // bytes of files
	heap  int64 // bytes of the process
	fds   int
}

// soakUsed measures the use of resources. The values are not counted.
func soakUsed(t *testing.T, dir string) (u soakUse) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		u.files += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.heap = int64(m.HeapAlloc)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	u.fds = len(fds)
	return u
}

// compare fails the test if the use has grown by too much since first was measured.
func (u soakUse) compare(t *testing.T, first soakUse) {
	t.Helper()
	if u.files > 2*first.files+u.live/2+16<<20 || u.heap > 2*first.heap+32<<20 || u.fds > first.fds+4 {
		t.Fatalf("%+v, at first %+v", u, first)
	}
}
