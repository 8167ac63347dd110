package linear

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

var (
	linearTime = flag.Duration("linear.time", 4*time.Second,
		"how long TestLinearizable, and TestDurablyLinearizable, work in all [-short: 1s]")
	linearSeed = flag.Uint64("linear.seed", 1, "the first seed; each round has the next one")
)

// limit returns the time that a test has.
func limit() time.Duration {
	if testing.Short() {
		return min(*linearTime, time.Second)
	}
	return *linearTime
}

// procsOf returns the number of processors for a seed.
func procsOf(seed uint64) int { return []int{1, 2, 8}[seed%3] }

// setOf returns the options for a seed. In 15 successive seeds, each set meets each number of processors.
func setOf(seed uint64) *optionSet { return &optionSets[seed/3%uint64(len(optionSets))] }

// replay returns the command that replays a round.
func replay(t *testing.T, seed uint64) string {
	const text = "replay: cd engine/internal/linear && go test -run '^%s$' -args -linear.seed=%d -linear.time=1m"
	return fmt.Sprintf(text, t.Name(), seed)
}

// read returns the contents of the store: its shared roots and all pages that were ever allocated.
func read(pc *engine.PageCache[[]byte]) (map[place]*version, error) {
	found := map[place]*version{}
	tx, err := pc.Begin()
	if err != nil {
		return nil, err
	}
	defer tx.End()
	for pid := engine.FirstUserPage; pid < enginetest.NextPage(pc); pid++ {
		p, err := pc.Get(tx, pid)
		if err != nil {
			return nil, err
		}
		found[place{page: pid}] = &version{kind: p.Kind, sum: sumOf(0, p.Value)}
	}
	for i := range sharedRoots {
		name := string(rune('a' + i))
		pid, err := pc.Root(tx, name)
		if err != nil && !errors.Is(err, engine.ErrRootNotFound) {
			return nil, err
		}
		found[place{root: name}] = &version{kind: engine.KindMeta, sum: uint64(pid)}
	}
	return found, nil
}

// liveRound lets goroutines work on a store in two lives and checks what they did. It returns the number of calls.
func liveRound(dir string, seed uint64) (calls int, err error) {
	for life := range uint64(2) {
		o := setOf(seed).options()
		pc, err := engine.Open(dir, engine.Bytes{}, o)
		if err != nil {
			return calls, err
		}
		begin, err := read(pc)
		if err != nil {
			return calls, errors.Join(err, pc.Close())
		}
		w := &work{pc: pc, seed: seed, life: life + 1, calls: 250}
		h, err := w.run(begin)
		if err = errors.Join(err, pc.Close()); err == nil {
			err = h.check()
		}
		if err == nil {
			err = enginetest.Problems(dir, o)
		}
		if calls += len(h.ops); err != nil {
			return calls, fmt.Errorf("life %d: %w", life, err)
		}
	}
	return calls, nil
}

// All calls on single pages and roots are linearizable, beside batches, the cleaner, snapshots, consolidation and
// evictions. Ids rise. Proves rule 6; traps 2 and 9.
func TestLinearizable(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	calls, seed := 0, *linearSeed
	for start := time.Now(); time.Since(start) < limit(); seed++ {
		runtime.GOMAXPROCS(procsOf(seed))
		hang := time.AfterFunc(2*time.Minute, func() { panic("TestLinearizable hangs; " + replay(t, seed)) })
		dir := filepath.Join(t.TempDir(), "store")
		n, err := liveRound(dir, seed)
		hang.Stop()
		if calls += n; err != nil {
			t.Fatalf("seed %d, %s, GOMAXPROCS %d: %v\n%s", seed, setOf(seed).name, procsOf(seed), err, replay(t, seed))
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d calls in %d rounds", calls, seed-*linearSeed)
}
