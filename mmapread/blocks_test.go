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
