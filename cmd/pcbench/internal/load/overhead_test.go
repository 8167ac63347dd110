package load

import (
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
	st, err := openStore(p.Jobs)
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
