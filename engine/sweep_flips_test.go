package engine_test

import (
	"flag"
	"slices"
	"strings"
	"testing"

	"pagecache/engine/internal/enginetest"
	"pagecache/internal/apart"
)

// A sweep opens each store read-only. At every sweepAgree-th place the other openings, which take twenty times as long,
// are compared with it.
var sweepAgree = flag.Int("sweep.agree", 97, "the sweeps compare all openings at one of so many places")

// sweepOutcomes logs how many steps had each outcome.
func sweepOutcomes(t *testing.T, counts []int) {
	t.Helper()
	t.Logf("%d show everything, %d end before the last write, %d report a part as corrupt, %d are refused",
		counts[enginetest.OutcomeWhole], counts[enginetest.OutcomeCut], counts[enginetest.OutcomePartial],
		counts[enginetest.OutcomeRefused])
}

// flipBits flips every step-th of the bits, one at a time, and returns the outcomes.
func flipBits(t *testing.T, s *enginetest.Specimen, bits []sweptBit, step int) []int {
	t.Helper()
	describe := func(i int) string { return bits[i*step].String() }
	counts := s.Run(t, (len(bits)-1)/step+1, describe, func(w *enginetest.Worker, i int) error {
		b := bits[i*step]
		if i%*sweepAgree == 0 {
			return w.Agree(b.flip)
		}
		b.flip(w.Disk)
		defer b.flip(w.Disk)
		return w.Shows()
	})
	sweepOutcomes(t, counts[:])
	return counts[:]
}

// Each bit of each file of a small store is flipped, for stores that were killed and stores that were closed: the store
// has the right contents, or reports the corruption with the place. Nothing is lost without an error but changes of the
// last write in flight before a kill. O7. Proves rules 10, 12, 13 and 16; traps 25, 26, 31 and 34.
func TestEveryBitOfAStore(t *testing.T) {
	if apart.Run(t) {
		return
	}
	for name, s := range sweptStores(t) {
		t.Run(name, func(t *testing.T) {
			step := 1
			if strings.Contains(name, "fresh") {
				step = 11 // it differs from the others in what shows that the file was cut
			}
			if testing.Short() || enginetest.Raced {
				step = 41
			}
			counts := flipBits(t, s, sweptBits(t, s, s.Files), step)
			if counts[enginetest.OutcomeWhole] == 0 || counts[enginetest.OutcomeRefused] == 0 ||
				!s.Clean && counts[enginetest.OutcomeCut] == 0 || s.Clean && counts[enginetest.OutcomeCut] > 0 {
				t.Errorf("outcomes %v, which proves little", counts)
			}
		})
	}
}

// Each bit of a snapshot whose blocks are verified one by one, as those of large snapshots are: pages of corrupt blocks
// are looked up in the log. Proves traps 6 and 29.
func TestEveryBitOfASnapshot(t *testing.T) {
	if apart.Run(t) {
		return
	}
	for name, s := range sweptStores(t) {
		if s.Log {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s.Blocks = true
			bits := sweptBits(t, s, slices.DeleteFunc(slices.Clone(s.Files), func(name string) bool {
				return !strings.Contains(name, "/snapshot.")
			}))
			step := 1
			if testing.Short() || enginetest.Raced {
				step = 41
			}
			counts := flipBits(t, s, bits, step)
			if n := (len(bits)-1)/step + 1; counts[enginetest.OutcomeWhole] != n {
				t.Errorf("%d bits, outcomes %v: a snapshot is not worth a page", n, counts)
			}
		})
	}
}
