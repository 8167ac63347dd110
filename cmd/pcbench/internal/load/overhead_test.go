package load

import (
	"math"
	"strings"
	"testing"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/engine"
)

// laidOut returns a worker of random reads whose pages are resident.
func laidOut(tb testing.TB) *worker { return laidOutAs(tb, "--rw=randread --size=1m --segment=256k") }

// laidOutAs returns a worker of a load whose pages are resident.
func laidOutAs(tb testing.TB, line string) *worker {
	tb.Helper()
	p, err := job.Parse(append(strings.Fields(line), "--directory="+tb.TempDir()))
	if err != nil {
		tb.Fatal(err)
	}
	st, err := openStore(p.Jobs, space{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := st.close(); err != nil {
			tb.Error(err)
		}
	})
	if err := st.layout(tb.Context(), p.Jobs[0], 256, nil); err != nil {
		tb.Fatal(err)
	}
	g, err := newSection(p.Jobs[0], st, 1, 0)
	if err != nil {
		tb.Fatal(err)
	}
	g.base = time.Now()
	return g.workers[0]
}

// step does one turn of the hot loop.
func (w *worker) step(tb testing.TB) {
	i, d := w.next()
	start := w.begin(w.end)
	bytes, _, err := w.do(d, i)
	if err == nil {
		err = w.measure(d, i, bytes, [3]int64{-1, start, w.g.now()})
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// The hot loop allocates nothing.
func TestNoAllocations(t *testing.T) {
	w := laidOut(t)
	w.step(t) // makes the histogram
	if n := testing.AllocsPerRun(10_000, func() { w.step(t) }); n != 0 {
		t.Errorf("%v allocations for each read", n)
	}
}

// The hot loop adds at most 60 ns to a read of a resident page, with drawing the page and reading the clock. The test
// takes the shortest of many short turns of the loop with pcbench and without it, since other programs disturb some.
func TestOwnShare(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED with -short: it measures for seconds")
	}
	w := laidOut(t)
	const ops, limit = 20_000, 60.0
	drawn := make([]int64, 1024)
	for i := range drawn {
		drawn[i] = w.g.picker.Next(w.rng)
	}
	share := 0.0
	for start := time.Now(); time.Since(start) < time.Minute; { // other programs may be at work for as long
		with, without := math.Inf(1), math.Inf(1)
		for range 20 {
			start := time.Now()
			for range ops {
				w.step(t)
			}
			with = min(with, float64(time.Since(start))/ops)
			start = time.Now()
			for i := range ops {
				w.plainGet(t, drawn[i%len(drawn)])
			}
			without = min(without, float64(time.Since(start))/ops)
		}
		if share = with - without; share <= limit {
			t.Logf("a read takes %.0f ns, of which %.0f are pcbench's", with, share)
			return
		}
	}
	t.Errorf("pcbench's own share of a read is %.0f ns, want at most %.0f", share, limit)
}

// plainGet reads page i without pcbench.
func (w *worker) plainGet(tb testing.TB, i int64) {
	pc := w.g.st.pc
	tx, err := pc.Begin()
	if err != nil {
		tb.Fatal(err)
	}
	page, err := pc.Get(tx, engine.PageID(w.g.st.table[i].Load()))
	if err != nil {
		tb.Fatal(err)
	}
	w.sink += page.Value[0]
	tx.End()
}

// The difference to BenchmarkGet is pcbench's own share of a read, with a reading of the clock.
func BenchmarkStep(b *testing.B) {
	w := laidOut(b)
	for b.Loop() {
		w.step(b)
	}
}

// BenchmarkGet reads the same pages without pcbench.
func BenchmarkGet(b *testing.B) {
	w := laidOut(b)
	pc, sum := w.g.st.pc, byte(0)
	for b.Loop() {
		tx, err := pc.Begin()
		if err != nil {
			b.Fatal(err)
		}
		page, err := pc.Get(tx, engine.PageID(w.g.st.table[w.g.picker.Next(w.rng)].Load()))
		if err != nil {
			b.Fatal(err)
		}
		sum += page.Value[0]
		tx.End()
	}
	w.sink = sum
}
