package versus

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// Percentiles are within a hundredth of the exact ones, over all magnitudes, and merging loses nothing.
func TestTimes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var a, b Times
	all := make([]int64, 100_000)
	for i := range all {
		all[i] = int64(math.Exp(rng.Float64() * 40))
		if i%2 == 0 {
			a.Add(time.Duration(all[i]))
		} else {
			b.Add(time.Duration(all[i]))
		}
	}
	a.Merge(&b)
	slices.Sort(all)
	for _, p := range []float64{1, 50, 99, 99.9, 100} {
		got, exact := a.Percentile(p), float64(all[int(math.Ceil(p/100*float64(len(all))))-1])
		if math.Abs(got-exact) > 0.01*exact+0.5 {
			t.Errorf("percentile %v: %v, exactly %v", p, got, exact)
		}
	}
	if w := a.Work(7); w.Operations != 100_000 || w.Bytes != 7 || w.P50 == 0 || w.P50 > w.P99 || w.P99 > w.P999 {
		t.Errorf("%+v", w)
	}
	var none Times
	none.Add(-1)
	none.Add(math.MaxInt64)
	if p := none.Percentile(1); p != 0 {
		t.Errorf("%v", p)
	}
	if w := new(Times).Work(0); w != (Work{}) {
		t.Errorf("%+v", w)
	}
}

// Space counts the blocks of all files below a directory.
func TestSpace(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x", "a/y", "a/b/z"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 100_000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	n, err := Space(dir)
	if err != nil || n != 0 && n < 300_000 || n > 600_000 { // a file system may allocate later
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := Space(filepath.Join(dir, "none")); err == nil {
		t.Error("the space of a directory that does not exist")
	}
}

// The usage of a process grows.
func TestOwnUsage(t *testing.T) {
	before := OwnUsage()
	for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end); { // uses the processor
	}
	if now := OwnUsage(); !(now.CPU > before.CPU) || now.Written < before.Written {
		t.Errorf("%+v, then %+v", before, now)
	}
}
