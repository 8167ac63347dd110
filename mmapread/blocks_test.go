//go:build linux

package mmapread

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// blocks behaves like a slice of bools.
func TestBlocksModel(t *testing.T) {
	const window = 200 * blockSize
	b, model := newBlocks(window), make([]bool, 200)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		n := 1 + rng.Int64N([]int64{10, 9000, window}[rng.IntN(3)])
		at := rng.Int64N(window - n + 1)
		first, last := span(at, n)
		part := model[first : last+1]
		if got, want := b.all(at, n), !slices.Contains(part, false); got != want {
			t.Fatalf("all(%d, %d) = %v", at, n, got)
		}
		if set := b.any(); set >= 0 != slices.Contains(model, true) || set >= 0 && !model[set] {
			t.Fatalf("any() = %d", set)
		}
		set := rng.IntN(2) == 0
		if set {
			b.set(at, n)
		} else {
			b.clear(at, n)
		}
		for i := range part {
			part[i] = set
		}
	}
}

// If the kernel has evicted blocks, Doubt notices, and Warm fetches them again and no others.
func TestDoubt(t *testing.T) {
	_, m, fetched := coldFile(t, 4*testWindow, testWindow)
	if m.Doubt() {
		t.Error("doubts with nothing warm")
	}
	all := []Range{{0, 4 * testWindow}}
	if _, err := m.Warm(all); err != nil {
		t.Fatal(err)
	}
	fetched.take()
	if m.Doubt() {
		t.Skip("the kernel has taken something back")
	}
	evict(t, m, 2*testWindow, 2*testWindow)
	if n, err := m.Warm(all); n != 0 || err != nil || fetched.take() != nil {
		t.Errorf("%d, %v", n, err)
	}
	m.cold.doubted.Store(int64(time.Since(m.opened) - doubtEvery)) // Doubt is due; some calls look at the clock
	for i := 0; m.Counts().Doubts == 0; i++ {
		if _, err := m.Warm(all); err != nil || i > 100*doubtOdds {
			t.Fatalf("no doubts: %v", err)
		}
	}
	want := []Range{{2 * testWindow, 2 * testWindow}}
	if n, err := m.Warm(all); n != 1 || err != nil || !slices.Equal(fetched.take(), want) {
		t.Errorf("%d, %v", n, err)
	}
}

// Cached asks the kernel about each block: it finds those that the map does not know any more, and not those that the
// kernel has evicted meanwhile, in ranges that lie in several windows, too.
func TestCached(t *testing.T) {
	_, m, _ := coldFile(t, 4*testWindow, testWindow)
	if _, err := m.Warm([]Range{{0, 4 * testWindow}}); err != nil {
		t.Fatal(err)
	}
	evict(t, m, 2*testWindow-blockSize, blockSize)
	evict(t, m, 2*testWindow+blockSize, blockSize)
	forget(*m.cold.blocks.Load())
	const from = testWindow + blockSize
	got := m.Cached([]bool{true}, Range{from, 3*testWindow - 2*blockSize})
	blocks := (3*testWindow - 2*blockSize) / blockSize
	if len(got) != 1+blocks || !got[0] {
		t.Fatalf("%d blocks, want 1 and %d", len(got), blocks)
	}
	for i, cached := range got[1:] {
		off := from + i*blockSize
		if want := off != 2*testWindow-blockSize && off != 2*testWindow+blockSize; cached != want {
			t.Errorf("block at %d: cached %v, want %v", off, cached, want)
		}
	}
}

// Doubt asks about the block that is known to be warm, and not about its neighbours, which are cold.
func TestDoubtAsksAboutWarmBlock(t *testing.T) {
	_, m, _ := coldFile(t, 16*blockSize, 0)
	evict(t, m, 0, 16*blockSize)
	if _, err := m.Warm([]Range{{5 * blockSize, blockSize}}); err != nil {
		t.Fatal(err)
	}
	resident := make([]byte, 3)
	err := m.eachMapped(4*blockSize, 3*blockSize, func(b []byte) error {
		if !mincore(b, resident) {
			t.Skip("the kernel does not say which blocks are resident")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if resident[0]&1 != 0 || resident[1]&1 == 0 || resident[2]&1 != 0 {
		t.Skipf("resident: %v, want the middle one only", resident)
	}
	if m.Doubt() {
		t.Error("doubts, although the only block that is known to be warm is resident")
	}
}

// If the kernel evicts quickly, Warm asks it about each range, known or not, until nothing was found evicted for a
// while. Two evictions with a long time between them do not do that.
func TestDistrust(t *testing.T) {
	_, m, fetched := coldFile(t, 4*testWindow, testWindow)
	all := []Range{{0, 4 * testWindow}}
	m.cold.doubted.Store(int64(time.Since(m.opened) + time.Hour)) // no Doubt but those below
	warm := func(want ...Range) {
		t.Helper()
		if _, err := m.Warm(all); err != nil {
			t.Fatal(err)
		}
		if got := fetched.take(); !slices.Equal(got, want) {
			t.Errorf("fetched %v, want %v", got, want)
		}
	}
	warm(all...)
	for _, step := range []struct {
		at               time.Duration
		evicted, trusted bool
	}{
		{1 * time.Second, true, true}, {1*time.Second + distrustFor, true, true}, // long apart
		{2*time.Second + distrustFor, true, false}, {1*time.Second + 2*distrustFor, false, false},
		{2*time.Second + 2*distrustFor, false, true}, // distrustFor after the last one
	} {
		if step.evicted {
			evict(t, m, 0, 4*testWindow)
		}
		if found := m.Doubt(); found && !step.evicted {
			t.Skip("the kernel has taken something back")
		} else if !found && step.evicted {
			t.Fatalf("after %v: no doubts", step.at)
		}
		m.decideTrust(int64(step.at), step.evicted)
		if step.evicted {
			warm(all...)
		}
		evict(t, m, testWindow, blockSize) // which the map does not know
		asked := m.Counts().Mincores
		if step.trusted {
			warm()
		} else {
			warm(Range{testWindow, blockSize})
		}
		if trusted := m.Counts().Mincores == asked; trusted != step.trusted || m.IsWarm(all[0]) != step.trusted {
			t.Errorf("after %v: trusted: %v, want %v", step.at, trusted, step.trusted)
		}
		forget(*m.cold.blocks.Load()) // the block may be cold and known
		if _, err := m.Warm(all); err != nil {
			t.Fatal(err)
		}
		fetched.take()
	}
}
