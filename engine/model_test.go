package engine

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"pagecache/internal/simdisk"
)

var (
	modelSeeds = flag.Int("model.seeds", 30, "how many seeds TestModel tries with each set of options")
	modelSeed  = flag.Uint64("model.seed", 0, "the one seed that TestModel tries, if not 0")
)

// modelSets are the sets of options that operation lists are tried with.
var modelSets = []struct {
	name string
	o    Options
	max  int // bytes of a value, at most
}{
	{"default", Options{}, 20000},
	{"smallest", Options{SegmentSize: 16 << 10, IOBuffers: 2, ConsolidateAfter: 1, IDPersistInterval: 1}, 16000},
	{"segments", Options{SegmentSize: 16 << 10, IOBuffers: 8, ConsolidateAfter: 5, IDPersistInterval: 10}, 16000},
	{"odd", Options{SegmentSize: 20 << 10, IOBuffers: 3, ConsolidateAfter: 2, FlushEvery: time.Millisecond}, 9000},
	{"ring", Options{SegmentSize: 64 << 10, IO: IOAuto, Direct: DirectAuto, FlushEvery: time.Microsecond}, 3000},
	{"syscall", Options{SegmentSize: 64 << 10, IO: IOSyscall, FlushEvery: -1, IDPersistInterval: 3}, 3000},
	{"buffered", Options{SegmentSize: 32 << 10, Direct: DirectOff, ConsolidateAfter: 3}, 3000},
	{"buffered syscall", Options{SegmentSize: 16 << 10, IOBuffers: 2, IO: IOSyscall, Direct: DirectOff, ConsolidateAfter: 1000}, 3000},
	{"zstd", Options{SegmentSize: 16 << 10, ConsolidateAfter: 3, Compression: CompressionZstd, CompressionLevel: 1}, 16000},
	{"linear", Options{SegmentSize: 16 << 10, SegmentMode: SegmentModeLinear}, 3000},
	{"nothing resident", Options{SegmentSize: 16 << 10, IOBuffers: 2, CacheCapacity: 1}, 16000},
	{"small cache", Options{SegmentSize: 16 << 10, ConsolidateAfter: 4, CacheCapacity: 4 << 10, FlushEvery: time.Microsecond}, 9000},
	{"small cache, copied", Options{SegmentSize: 64 << 10, CacheCapacity: 16 << 10, CopyOnRead: true, FlushEvery: -1}, 3000},
}

// Whatever is done to a store, with clean closings in between, it holds what the model holds and answers what the model answers.
// Proves rules 2, 3, 6 and 9; traps 1, 2, 9, 11 and 17.
func TestModel(t *testing.T) {
	for _, set := range modelSets {
		t.Run(strings.ReplaceAll(set.name, " ", "_"), func(t *testing.T) {
			first, n := uint64(1), *modelSeeds
			if testing.Short() {
				n = max(1, n/5)
			}
			if *modelSeed != 0 {
				first, n = *modelSeed, 1
			}
			for seed := first; seed < first+uint64(n); seed++ {
				o, dir := set.o, t.TempDir()
				if seed%3 != 0 { // two of three on the simulated disk, which is faster
					o.seam.FS, dir = simdisk.New(seed, simdisk.Options{Block: []int{512, 4096}[seed%2]}), "/store"
				}
				var lines []string
				trace := func(f string, a ...any) {
					if *modelSeed != 0 {
						lines = append(lines, fmt.Sprintf(f, a...))
					}
				}
				if err := modelRun(dir, &o, set.max, seed, trace); err != nil {
					t.Fatalf("%s\nseed %d: %v\nreplay: go test ./engine -run '%s' -args -model.seed=%d", strings.Join(lines, "\n"), seed, err, t.Name(), seed)
				}
			}
		})
	}
}

func modelRun(dir string, o *Options, most int, seed uint64, trace func(string, ...any)) error {
	rng := rand.New(rand.NewPCG(seed, 11))
	h := newHistory()
	for life := range 2 + rng.IntN(4) {
		pc, err := Open(dir, Bytes{}, o)
		if err != nil {
			return err
		}
		if pc.WasRecovered() != (life > 0) {
			return violated("WasRecovered is %v in life %d", pc.WasRecovered(), life)
		}
		if err := h.check(pc); err != nil {
			return err
		}
		d, err := newDriver(pc, rng, h)
		if err != nil {
			return err
		}
		d.max, d.trace = most, trace
		if err := d.work(20 + rng.IntN(300)); err != nil {
			return err
		}
		for len(d.open) > 0 && rng.IntN(4) > 0 { // else it is left open, and dropped
			if err := d.sealAt(0); err != nil {
				return err
			}
		}
		d.end()
		if err := h.check(pc); err != nil {
			return err
		}
		// Closing makes everything durable that is in no open batch.
		bound := h.bound()
		for _, e := range h.effects {
			if e.lsn < bound {
				h.ack(e.lsn + 1)
			}
		}
		if err := pc.Close(); err != nil {
			return err
		}
		runtime.KeepAlive(d) // with the batches that Close finds open
		end, _, err := scanEnd(pc.core.store.FS, dir)
		if err != nil {
			return err
		}
		trace("--- closed, the log ends at %d", end)
		if err := h.cut(end); err != nil {
			return err
		}
	}
	return nil
}
