package engine_test

import (
	"fmt"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// A checkpoint that is taken between two parts of a transaction shows nothing of it, and one that continues it, taken
// after the last part, all of it: also if segments were cleaned and recycled, or a snapshot was written, between the
// parts. Proves Z1 and D1.
func TestCheckpointBetweenParts(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		d := simdisk.New(seed, simdisk.Options{Block: 512})
		pc := openParts(t, d)
		o := enginetest.SimOptions(d)
		const size = 2000
		pids := make([]engine.PageID, 12)
		bigCommit(t, pc, pids, 'a', size)

		var chain [][]byte
		var last engine.LSN
		// link continues the chain by a checkpoint of this moment, and installs the chain.
		link := func(fill byte) {
			c := take(t, pc)
			chain = append(chain, streamOf(t, c, last))
			if c.LSN() <= last && fill == 'a' {
				t.Errorf("seed %d: the checkpoint ends at LSN %d as the one before it, without the part", seed, last)
			}
			last = c.LSN()
			if seed%2 == 0 {
				c.Close() // what it shows may be recycled
			}
			dir := fmt.Sprintf("/copy%d", len(chain))
			install(t, dir, o, chain...)
			if _, err := engine.Check(dir, o, func(problem error) { t.Error(problem) }); err != nil {
				t.Error(err)
			}
			cp := enginetest.Open(t, dir, o)
			want(t, cp, inEach(pids, fill, size))
			enginetest.Close(t, cp)
		}
		link('a')
		parts := 0
		engine.BetweenParts(pc, func() {
			parts++
			if err := keepHouse(pc, pids, parts+int(seed/2)); err != nil {
				t.Error(err)
			}
			link('a')
		})
		bigCommit(t, pc, pids, 'b', size)
		if parts < 3 {
			t.Errorf("seed %d: the transaction has %d parts", seed, parts+1)
		}
		for n := range 5 {
			if err := keepHouse(pc, pids, n); err != nil {
				t.Error(err)
			}
			link('b')
		}
		enginetest.Close(t, pc)
	}
}
