package engine_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/osfs"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
)

var (
	modelSeeds = flag.Int("model.seeds", 12,
		"the number of seeds that TestModel tries with each set of options [-short: 6]")
	modelSeed = flag.Uint64("model.seed", 0, "if not 0, the only seed that TestModel tries")
)

// modelSets are the sets of options that TestModel tries.
var modelSets = []struct {
	name string
	o    engine.Options
	max  int // the longest value in bytes
}{
	{"default", engine.Options{}, 20000},
	{"smallest", engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, ConsolidateAfter: 1, IDPersistInterval: 1}, 16000},
	{"segments", engine.Options{SegmentSize: 16 << 10, IOBuffers: 8, ConsolidateAfter: 5,
		IDPersistInterval: 10}, 16000},
	{"odd", engine.Options{SegmentSize: 20 << 10, IOBuffers: 3, ConsolidateAfter: 2,
		FlushEvery: time.Millisecond}, 9000},
	{"ring", engine.Options{SegmentSize: 64 << 10, IO: engine.IOAuto, Direct: engine.DirectAuto,
		FlushEvery: time.Microsecond}, 3000},
	{"syscall", engine.Options{SegmentSize: 64 << 10, IO: engine.IOSyscall, FlushEvery: -1,
		IDPersistInterval: 3}, 3000},
	{"buffered", engine.Options{SegmentSize: 32 << 10, Direct: engine.DirectOff, ConsolidateAfter: 3}, 3000},
	{"buffered syscall", engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, IO: engine.IOSyscall,
		Direct: engine.DirectOff, ConsolidateAfter: 1000}, 3000},
	{"zstd", engine.Options{SegmentSize: 16 << 10, ConsolidateAfter: 3, Compression: engine.CompressionZstd,
		CompressionLevel: 1}, 16000},
	{"linear", engine.Options{SegmentSize: 16 << 10, SegmentMode: engine.SegmentModeLinear}, 3000},
	{"nothing resident", engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, CacheCapacity: 1}, 16000},
	{"small cache", engine.Options{SegmentSize: 16 << 10, ConsolidateAfter: 4, CacheCapacity: 4 << 10,
		FlushEvery: time.Microsecond}, 9000},
	{"small cache, copied", engine.Options{SegmentSize: 64 << 10, CacheCapacity: 16 << 10, CopyOnRead: true,
		FlushEvery: -1}, 3000},
}

// After random calls, with clean closings in between, the store holds the contents of the model, and every call has
// returned what the model predicts. Proves rules 2, 3, 6 and 9; traps 1, 2, 9, 11 and 17.
func TestModel(t *testing.T) {
	t.Parallel()
	for _, set := range modelSets {
		t.Run(strings.ReplaceAll(set.name, " ", "_"), func(t *testing.T) {
			first, n := uint64(1), *modelSeeds
			if testing.Short() {
				n = min(n, 6)
			}
			if *modelSeed != 0 {
				first, n = *modelSeed, 1
			}
			for seed := first; seed < first+uint64(n); seed++ {
				r := modelRun{dir: t.TempDir(), fs: osfs.OS, o: set.o, max: set.max}
				extra := seam.Options{Impatient: true} // it leaves batches open
				if seed%3 != 0 {                       // two of three seeds on the simulated disk, which is faster
					r.fs, r.dir = simdisk.New(seed, simdisk.Options{Block: []int{512, 4096}[seed%2]}), "/store"
					extra.FS = r.fs
				}
				enginetest.WithSeam(&r.o, extra)
				var lines []string
				r.trace = func(f string, a ...any) {
					if *modelSeed != 0 {
						lines = append(lines, fmt.Sprintf(f, a...))
					}
				}
				if err := r.run(seed); err != nil {
					t.Fatalf("%s\nseed %d: %v\nreplay: go test ./engine -run '%s' -args -model.seed=%d",
						strings.Join(lines, "\n"), seed, err, t.Name(), seed)
				}
				enginetest.Check(t, r.dir, &r.o)
			}
		})
	}
}

// modelRun is a store and the way it is used.
type modelRun struct {
	dir   string
	fs    vfs.FS
	o     engine.Options
	max   int // the longest value in bytes
	trace func(format string, args ...any)
}

// run opens, changes and closes a store a few times.
func (r *modelRun) run(seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 11))
	h := enginetest.NewHistory()
	for life := range 2 + rng.IntN(4) {
		pc, err := engine.Open(r.dir, engine.Bytes{}, &r.o)
		if err != nil {
			return err
		}
		if pc.WasRecovered() != (life > 0) {
			return enginetest.Violated("WasRecovered is %v in life %d", pc.WasRecovered(), life)
		}
		if err := h.Check(pc); err != nil {
			return err
		}
		d, err := enginetest.NewDriver(pc, rng, h)
		if err != nil {
			return err
		}
		d.Max, d.Trace = r.max, r.trace
		if err := d.Work(20 + rng.IntN(300)); err != nil {
			return err
		}
		for len(d.Batches) > 0 && rng.IntN(4) > 0 { // the others stay open, and their contents are dropped
			if err := d.SealAt(0); err != nil {
				return err
			}
		}
		d.End()
		if d.Changed != nil {
			return d.Changed
		}
		if err := h.Check(pc); err != nil {
			return err
		}
		if err := h.Closed(pc.Close()); err != nil {
			return err
		}
		h.AckClosed()
		runtime.KeepAlive(d) // with the batches that Close finds open
		end, _, err := enginetest.LogEnd(r.fs, r.dir)
		if err != nil {
			return err
		}
		r.trace("--- closed, the log ends at %d", end)
		if err := h.Cut(end); err != nil {
			return err
		}
	}
	return nil
}
