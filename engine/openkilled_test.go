package engine_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

// BenchmarkOpenKilled measures Open of a store with 100 000 pages that was killed 600 000 messages after its snapshot.
// The messages have 100 bytes: deltas, and one whole page in five. There are several messages for nearly every page.
//
//	go test ./engine -run '^$' -bench OpenKilled -benchtime 5x -cpu 1,2
func BenchmarkOpenKilled(b *testing.B) {
	const pages, messages = 100_000, 600_000
	value, rng := make([]byte, 100), rand.New(rand.NewPCG(1, 2))
	base := b.TempDir()
	o := &engine.Options{SnapshotEvery: 1 << 30, ConsolidateAfter: 1000, SegmentMode: engine.SegmentModeLinear}
	pc := enginetest.Open(b, filepath.Join(base, "store"), o)
	tx := enginetest.Begin(b, pc)
	ptrs := make([]engine.PagePtr[[]byte], pages)
	pids := make([]engine.PageID, pages)
	for i := range pages {
		var err error
		if pids[i], ptrs[i], err = pc.Allocate(tx, value); err != nil {
			b.Fatal(err)
		}
	}
	if err := pc.Snapshot(); err != nil {
		b.Fatal(err)
	}
	for n := range messages {
		i, change := rng.IntN(pages), pc.Link
		if n%5 == 0 {
			change = pc.Replace
		}
		ptrs[i] = enginetest.Must(b)(change(tx, pids[i], ptrs[i], value))
	}
	tx.End()
	if _, err := pc.Flush(); err != nil {
		b.Fatal(err)
	}
	killed := filepath.Join(base, "killed")
	copyDurable(b, killed, filepath.Join(base, "store"))
	enginetest.Close(b, pc)
	for b.Loop() {
		b.StopTimer()
		dir := filepath.Join(base, "open")
		copyDurable(b, dir, killed)
		b.StartTimer()
		pc, err := engine.Open(dir, engine.Bytes{}, o)
		b.StopTimer()
		if err != nil {
			b.Fatal(err)
		}
		if err := pc.Close(); err != nil {
			b.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// copyDurable copies a directory and makes the copies of its files durable.
func copyDurable(t testing.TB, to, from string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(to)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		f, err := os.Open(filepath.Join(to, n.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
