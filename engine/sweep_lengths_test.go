package engine_test

import (
	"fmt"
	"testing"

	"pagecache/engine/internal/enginetest"
	"pagecache/internal/apart"
	"pagecache/internal/simdisk"
)

// Each file is cut off at every length, in bytes of the log that mean nothing at every 16th: the store has the right
// contents, or reports the loss with the place. Nothing
// is lost without an error but changes of the last write in flight before a kill. O1, O7. Proves rules 10, 12, 13 and
// 16; traps 13, 25 and 31.
func TestEveryLengthOfAStore(t *testing.T) {
	if apart.Run(t) {
		return
	}
	for name, s := range sweptStores(t) {
		t.Run(name, func(t *testing.T) {
			filler := fillerOf(t, s)
			var cuts []sweptPlace
			for _, file := range s.Files {
				for n := range int64(len(s.Disk.ReadDurable(file))) {
					if p := (sweptPlace{file, n}); n%16 == 0 || !filler[p] || !filler[sweptPlace{file, n - 32}] {
						cuts = append(cuts, p)
					}
				}
			}
			step := 1
			if testing.Short() || enginetest.Raced {
				step = 61
			}
			describe := func(i int) string { return fmt.Sprintf("cut off at %v", cuts[i*step]) }
			counts := s.Run(t, (len(cuts)-1)/step+1, describe, func(w *enginetest.Worker, i int) error {
				c := cuts[i*step]
				// The lengths of whole blocks are those at which a file may really end.
				if c.off%512 == 0 || i%*sweepAgree == 0 {
					return w.Agree(func(d *simdisk.Disk) { d.WriteFile(c.name, d.ReadDurable(c.name)[:c.off]) })
				}
				undo := w.Disk.Cut(c.name, c.off)
				defer undo()
				return w.Shows()
			})
			sweepOutcomes(t, counts[:])
		})
	}
}
