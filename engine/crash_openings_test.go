package engine_test

import (
	"math/rand/v2"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// A store is killed, or closed, with a batch open that is partly durable. Then several openings crash, each at a random
// operation, before or after a commit of their own. The page that was acknowledged before the batch stays. Blocks of
// the device are shorter, as long, and longer than those of headers. Proves rules 10, 11 and 13.
func TestOpeningsCrashBehindOpenBatch(t *testing.T) {
	t.Parallel()
	seeds := uint64(300)
	if testing.Short() || enginetest.Raced {
		seeds = 60
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 9))
		d, pid := openBatchStore(t, rng, simdisk.New(seed, simdisk.Options{Block: []int{512, 4096, 8192}[seed%3]}))
		for range 2 + rng.IntN(4) {
			d.CrashAfter(1 + rng.IntN(26))
			pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
			if err == nil {
				if tx, err := pc.Begin(); err == nil {
					_, _, _ = pc.Allocate(tx, make([]byte, rng.IntN(3000)))
					tx.End()
				}
				_, _ = pc.Flush()
				_ = pc.Close()
			} else if !d.Crashed() {
				t.Fatalf("seed %d: %v", seed, err)
			}
			d = d.Crash(rng.Uint64())
		}
		if err := shows(t, d, pid, "durable"); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// openBatchStore makes a store on d with an acknowledged page, "durable", and an open batch behind it, and crashes or
// closes it.
func openBatchStore(t *testing.T, rng *rand.Rand, d *simdisk.Disk) (*simdisk.Disk, engine.PageID) {
	t.Helper()
	pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := enginetest.Allocate(t, pc, []byte("durable"))
	enginetest.AllocateMany(t, pc, rng.IntN(40), 700)
	enginetest.Flush(t, pc)
	batch, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	enginetest.AllocateMany(t, pc, 1+rng.IntN(60), 100+rng.IntN(2000))
	if rng.IntN(4) == 0 {
		_ = batch.Seal()
	}
	if rng.IntN(3) == 0 {
		_ = pc.Close()
		return d.Copy(), pid
	}
	crashed := d.Crash(rng.Uint64())
	_ = pc.Close()
	return crashed, pid
}
