package engine_test

import (
	"fmt"
	"testing"

	"pagecache/engine/internal/enginetest"
	"pagecache/internal/apart"
	"pagecache/internal/simdisk"
)

// sweptSector is a sector of 512 bytes of a file, and what happens to it.
type sweptSector struct {
	sweptPlace
	n   int // bytes; fewer in the last sector of a file
	how sectorFault
}

type sectorFault int

const (
	sectorZeros sectorFault = iota
	sectorGarbage
	sectorOnes
	sectorUnreadable
	sectorFaults // the number of faults
)

func (s sweptSector) String() string {
	how := [...]string{"zeroed", "filled with garbage", "filled with ones", "unreadable"}[s.how]
	return fmt.Sprintf("sector at %v %s", s.sweptPlace, how)
}

// hurt does to the sector what it says.
func (s sweptSector) hurt(d *simdisk.Disk) {
	b := make([]byte, s.n)
	switch s.how {
	case sectorGarbage:
		b = enginetest.Random(s.n, uint64(s.off)*7+3)
	case sectorOnes:
		for i := range b {
			b[i] = 0xff
		}
	case sectorUnreadable:
		d.SetUnreadable(s.name, s.off, int64(s.n))
		return
	}
	d.Alter(s.name, s.off, b)
}

// Each sector of 512 bytes of each file is zeroed, filled with ones or garbage, or made unreadable: the store has the
// right contents, or reports the loss with the place, and all openings agree. O7. Proves rules 10, 13 and 16; traps 25,
// 26, 30, 31 and 34.
func TestEverySectorOfAStore(t *testing.T) {
	if apart.Run(t) {
		return
	}
	const size = 512
	for name, s := range sweptStores(t) {
		t.Run(name, func(t *testing.T) {
			var sectors []sweptSector
			for _, file := range s.Files {
				n := len(s.Disk.ReadDurable(file))
				for at := 0; at < n; at += size {
					for how := range sectorFaults {
						sectors = append(sectors, sweptSector{sweptPlace{file, int64(at)}, min(size, n-at), how})
					}
				}
			}
			describe := func(i int) string { return sectors[i].String() }
			counts := s.Run(t, len(sectors), describe, func(w *enginetest.Worker, i int) error {
				if sectors[i].how == sectorUnreadable {
					return w.AgreeRoughly(sectors[i].hurt)
				}
				return w.Agree(sectors[i].hurt)
			})
			sweepOutcomes(t, counts[:])
		})
	}
}
