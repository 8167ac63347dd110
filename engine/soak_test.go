package engine

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
)

var (
	soakTime   = flag.Duration("soak.time", 3*time.Second, "how long TestSoak works [-short: 1s]")
	soakReopen = flag.Duration("soak.reopen", 500*time.Millisecond, "how often it opens the store anew")
	soakLive   = flag.Int64("soak.live", 8<<20, "about how many bytes of pages it keeps alive")
	soakDir    = flag.String("soak.dir", "", "where it makes its store [a temporary directory]")
)

// soakPage is a page in the model: its value follows from what was written to it.
type soakPage struct {
	pid  PageID
	ptr  PagePtr[[]byte]
	seed uint64 // of the whole page
	size int
	tail []int // sizes of the deltas, whose seeds follow
}

func (p *soakPage) value() []byte {
	v := random(p.size, p.seed)
	for i, n := range p.tail {
		v = append(v, random(n, p.seed+uint64(i)+1)...)
	}
	return v
}

func (p *soakPage) bytes() (n int64) {
	n = int64(p.size)
	for _, d := range p.tail {
		n += int64(d)
	}
	return n
}

// soaker is a goroutine that works on pages of its own.
type soaker struct {
	rng   *rand.Rand
	pages []soakPage
	live  int64
	limit int64
	ops   int64
	next  uint64
}

// work does something of everything until stop is closed.
func (s *soaker) work(pc *PageCache[[]byte], stop <-chan struct{}) error {
	for ; ; s.ops++ {
		select {
		case <-stop:
			return nil
		default:
		}
		var batch *Batch
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

func (s *soaker) size() int {
	switch s.rng.IntN(100) {
	case 0:
		return s.rng.IntN(200_000) // a blob
	case 1, 2, 3:
		return s.rng.IntN(10_000)
	}
	return s.rng.IntN(1000)
}

func (s *soaker) step(pc *PageCache[[]byte]) error {
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
		var got Page[[]byte]
		if got, err = pc.Get(tx, p.pid); err == nil && !bytes.Equal(got.Value, p.value()) {
			err = fmt.Errorf("page %d: %d bytes, want %d", p.pid, len(got.Value), len(p.value()))
		}
		p.ptr = got.Ptr
	case k < 6 && len(p.tail) < 30:
		n := s.rng.IntN(200)
		p.ptr, won, err = pc.Link(tx, p.pid, p.ptr, random(n, p.seed+uint64(len(p.tail))+1))
		p.tail = append(p.tail, n)
	case k < 9 && s.live < s.limit:
		p.seed, p.size, p.tail = s.next, s.size(), nil
		p.ptr, won, err = pc.Replace(tx, p.pid, p.ptr, p.value())
	default:
		_, won, err = pc.Free(tx, p.pid, p.ptr)
		s.pages[at] = s.pages[len(s.pages)-1]
		s.pages = s.pages[:len(s.pages)-1]
		if err == nil && !won {
			err = fmt.Errorf("lost page %d", p.pid)
		}
		return err
	}
	s.live += p.bytes()
	if err == nil && !won {
		err = fmt.Errorf("lost page %d, its own", p.pid)
	}
	return err
}

// Mixed work for a long time, the store opened anew every now and then: the model agrees throughout, and space, memory and descriptors stay flat. Traps 8 and 15.
func TestSoak(t *testing.T) {
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
	o := &Options{SegmentSize: 256 << 10, SnapshotEvery: 20_000, ConsolidateAfter: 5, CacheCapacity: *soakLive / 4}
	if *soakLive > 1<<30 {
		o.SegmentSize = 0
	}
	var soakers []*soaker
	for g := range uint64(goroutines) {
		soakers = append(soakers, &soaker{rng: rand.New(rand.NewPCG(g, 1)), limit: *soakLive / goroutines, next: g << 40})
	}
	var first soakUse
	moved, recycled, written, snapshots := int64(0), int64(0), int64(0), int64(0)
	start, lives := time.Now(), 0
	for ; time.Since(start) < d || lives < 3; lives++ {
		pc := openTest(t, dir, o)
		for _, s := range soakers { // states do not outlive an opening
			for i := range s.pages {
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
		wg.Wait()
		st := pc.Stats()
		moved, recycled, written, snapshots = moved+st.Space.BytesMoved, recycled+st.Space.Recycled, written+st.Log.BytesWritten, snapshots+st.Snapshots
		closeTest(t, pc)
		if t.Failed() {
			t.FailNow()
		}
		use := soakLook(t, dir)
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
	t.Logf("%v, %d lives, %d rounds; %d MiB written, %d MiB moved, %d segments recycled, %d snapshots; %v", time.Since(start).Round(time.Second), lives, ops,
		written>>20, moved>>20, recycled, snapshots, soakLook(t, dir))
}

func soakCheck(t *testing.T, pc *PageCache[[]byte], p *soakPage) PagePtr[[]byte] {
	t.Helper()
	tx := begin(t, pc)
	defer tx.End()
	got, err := pc.Get(tx, p.pid)
	if err != nil || got.Kind != KindMaterialized || !bytes.Equal(got.Value, p.value()) {
		t.Fatalf("reopened: page %d: %v, %d bytes, want %d, %v", p.pid, got.Kind, len(got.Value), len(p.value()), err)
	}
	return got.Ptr
}

// soakUse is what a closed store takes.
type soakUse struct {
	live  int64 // bytes of values
	files int64 // bytes of files
	heap  int64 // bytes of the process
	fds   int
}

func soakLook(t *testing.T, dir string) (u soakUse) {
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

// compare says whether more is taken than at first.
func (u soakUse) compare(t *testing.T, first soakUse) {
	t.Helper()
	if u.files > 2*first.files+u.live/2+16<<20 || u.heap > 2*first.heap+32<<20 || u.fds > first.fds+4 {
		t.Fatalf("%+v, at first %+v", u, first)
	}
}
