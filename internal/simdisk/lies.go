package simdisk

import (
	"errors"
	"slices"
)

// If a fault returns one of these errors for a write of a device or of a file, the disk acknowledges the write
// nevertheless. For a sync, each of them makes the disk acknowledge it and make nothing durable.
var (
	// ErrLose: the write is never made.
	ErrLose = errors.New("simulated write is lost")
	// ErrTear: some of the sectors are written and some are not; of a single sector, the first half is.
	ErrTear = errors.New("simulated write is torn")
	// ErrMisdirect: the write is made at another place of the file. If there is none, it is lost.
	ErrMisdirect = errors.New("simulated write is misdirected")
)

// isLie reports whether the disk acknowledges what fails with err.
func isLie(err error) bool { return err == ErrLose || err == ErrTear || err == ErrMisdirect }

// made returns what the disk makes of a write of b at off if its fault is err, and whether it makes anything. A failed
// write may have been made.
func (d *Disk) made(f *inode, b []byte, off int64, err error) (p dirty, ok bool) {
	switch p = (dirty{off: off, data: slices.Clone(b)}); err {
	case ErrLose:
		return dirty{}, false
	case ErrTear:
		d.tear(f, p)
	case ErrMisdirect:
		unit := int64(d.opts.Block)
		if off%unit != 0 || len(b)%int(unit) != 0 {
			unit = 1
		}
		places := (f.now.size-int64(len(b)))/unit + 1 // at which the write fits into the file
		if places < 2 {
			return dirty{}, false
		}
		if p.off = d.rng.Int64N(places-1) * unit; p.off >= off { // any but off itself
			p.off += unit
		}
	}
	return p, true
}

// tear puts the old bytes into some sectors of a write.
func (d *Disk) tear(f *inode, p dirty) {
	n := len(p.data)
	if n <= sectorSize {
		f.now.read(p.data[n/2:], p.off+int64(n/2))
		return
	}
	sectors := (n + sectorSize - 1) / sectorSize
	kept, lost := d.rng.IntN(sectors), d.rng.IntN(sectors-1)
	if lost >= kept {
		lost++
	}
	for i := range sectors {
		if i == lost || i != kept && d.rng.IntN(2) == 0 {
			from := i * sectorSize
			f.now.read(p.data[from:min(from+sectorSize, n)], p.off+int64(from))
		}
	}
}
