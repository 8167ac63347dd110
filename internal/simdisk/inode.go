package simdisk

import (
	"maps"
	"math/rand/v2"
	"slices"
)

const (
	chunkSize  = 16 << 10
	sectorSize = 512
	holeSize   = 4096 // bytes of a block that can be a hole
)

// content is the bytes of a file, in chunks that are allocated when they are first written.
type content struct {
	chunks [][]byte // nil: zeros
	size   int64
	holes  map[int64]bool // numbers of the blocks below size without space
}

// write puts b at off. It does not change the size.
func (c *content) write(b []byte, off int64) {
	c.fill(off, int64(len(b)))
	for len(b) > 0 {
		i, at := int(off/chunkSize), int(off%chunkSize)
		for len(c.chunks) <= i {
			c.chunks = append(c.chunks, nil)
		}
		if c.chunks[i] == nil {
			c.chunks[i] = make([]byte, chunkSize)
		}
		n := copy(c.chunks[i][at:], b)
		b, off = b[n:], off+int64(n)
	}
}

// fill gives space to the blocks that bytes [off, off+n) lie in.
func (c *content) fill(off, n int64) {
	for b := off / holeSize; len(c.holes) > 0 && b*holeSize < off+n; b++ {
		delete(c.holes, b)
	}
}

// missing returns how many bytes of space fill would take, below the size.
func (c *content) missing(off, n int64) (bytes int64) {
	for b := off / holeSize; len(c.holes) > 0 && b*holeSize < off+n; b++ {
		if c.holes[b] {
			bytes += holeSize
		}
	}
	return bytes
}

// punch takes the space from bytes [off, off+n), whole blocks.
func (c *content) punch(off, n int64) {
	n = min(n, c.size-off)
	if n <= 0 {
		return
	}
	c.write(make([]byte, n), off)
	if c.holes == nil {
		c.holes = map[int64]bool{}
	}
	for b := off / holeSize; b*holeSize < off+n; b++ {
		c.holes[b] = true
	}
}

// space returns how many bytes of space the file occupies.
func (c *content) space() int64 { return c.size - int64(len(c.holes))*holeSize }

// read fills b from off, with zeros for bytes that were not written, and returns b.
func (c *content) read(b []byte, off int64) []byte {
	for rest := b; len(rest) > 0; {
		i, at := int(off/chunkSize), int(off%chunkSize)
		n := min(len(rest), chunkSize-at)
		if i < len(c.chunks) && c.chunks[i] != nil {
			copy(rest[:n], c.chunks[i][at:])
		} else {
			clear(rest[:n])
		}
		rest, off = rest[n:], off+int64(n)
	}
	return b
}

func (c *content) clone() content {
	n := content{chunks: slices.Clone(c.chunks), size: c.size, holes: maps.Clone(c.holes)}
	for i, b := range n.chunks {
		n.chunks[i] = slices.Clone(b)
	}
	return n
}

// cut zeroes everything from size on.
func (c *content) cut(size int64) {
	if end := int64(len(c.chunks)) * chunkSize; size < end {
		c.write(make([]byte, end-size), size)
	}
	for b := range c.holes {
		if b*holeSize >= size {
			delete(c.holes, b)
		}
	}
	c.size = size
}

// inode is a file.
type inode struct {
	number  uint64
	now     content // shown by reads and maps
	durable content // on the disk
	pending []dirty // changes that Sync would make durable, in order
	locks   map[*file]bool
	bad     map[int64]bool // numbers of the sectors that cannot be read
	differs bool           // now may differ from durable even if nothing is pending
}

// dirty is a change that is not durable: bytes at off, a new size, or space that is taken or given back.
type dirty struct {
	change change
	off    int64
	data   []byte
	size   int64  // the new size, or the length of the range
	tag    uint64 // of a device write, by which its completion finds it; otherwise 0
}

// change is the kind of a dirty.
type change int

const (
	changeData  change = iota // data at off
	changeSize                // size
	changeSpace               // bytes [off, off+size) have space
	changeHole                // bytes [off, off+size) have none
)

// String returns the name of the kind.
func (c change) String() string {
	if names := [...]string{"data", "size", "space", "hole"}; c >= 0 && int(c) < len(names) {
		return names[c]
	}
	return "invalid change"
}

// readable returns how many of n bytes from off on can be read.
func (f *inode) readable(off, n int64) int64 {
	for s := range f.bad {
		if s*sectorSize < off+n && (s+1)*sectorSize > off {
			n = max(0, s*sectorSize-off)
		}
	}
	return n
}

func (f *inode) put(b []byte, off int64) {
	for s := range f.bad {
		if off <= s*sectorSize && (s+1)*sectorSize <= off+int64(len(b)) {
			delete(f.bad, s)
		}
	}
	f.now.size = max(f.now.size, off+int64(len(b)))
	f.now.write(b, off)
}

func (f *inode) resize(size int64) {
	if size < f.now.size {
		f.now.cut(size)
	}
	f.now.size = size
	f.pending = append(f.pending, dirty{change: changeSize, size: size})
}

// settle makes one change durable.
func (c *content) settle(p dirty) {
	switch p.change {
	case changeSize:
		if p.size < c.size {
			c.cut(p.size)
		}
		c.size = p.size
		return
	case changeSpace:
		c.fill(p.off, p.size)
		return
	case changeHole:
		c.punch(p.off, p.size)
		return
	}
	c.size = max(c.size, p.off+int64(len(p.data)))
	c.write(p.data, p.off)
}

// settleHoles makes the holes of the first n pending changes durable where the write p, which is durable, lies over
// them: file systems keep that order.
func (f *inode) settleHoles(p dirty, n int) {
	from, to := p.off&^(holeSize-1), (p.off+int64(len(p.data))+holeSize-1)&^(holeSize-1)
	for i := n - 1; i >= 0; i-- {
		h := f.pending[i]
		lo, hi := max(h.off, from), min(h.off+h.size, to)
		if h.change != changeHole || lo >= hi {
			continue
		}
		f.durable.punch(lo, hi-lo)
		var rest []dirty
		if h.off < lo {
			rest = append(rest, dirty{change: changeHole, off: h.off, size: lo - h.off})
		}
		if end := h.off + h.size; hi < end {
			rest = append(rest, dirty{change: changeHole, off: hi, size: end - hi})
		}
		f.pending = slices.Replace(f.pending, i, i+1, rest...)
	}
}

// crash returns the contents after a crash: Y1, and Y8 if garbage is set.
func (f *inode) crash(rng *rand.Rand, garbage bool) content {
	c := f.durable.clone()
	for _, p := range f.pending {
		switch k := rng.IntN(4); {
		case p.change == changeHole:
			c.crashHole(p, k, rng)
		case k == 0 || p.data == nil && k == 1:
			c.settle(p)
		case k == 1: // any of its sectors
			for i := 0; i < len(p.data); i += sectorSize {
				if rng.IntN(2) == 0 {
					c.settle(dirty{off: p.off + int64(i), data: p.data[i:min(i+sectorSize, len(p.data))]})
				}
			}
		case k == 2 && p.data != nil: // its sectors up to one place
			if n := rng.IntN(len(p.data)/sectorSize+1) * sectorSize; n > 0 {
				c.settle(dirty{off: p.off, data: p.data[:min(n, len(p.data))]})
			}
		}
		if garbage && p.data != nil && rng.IntN(2) == 0 {
			c.spoil(p, rng)
		}
	}
	return c
}

// crashHole is what a crash makes of a hole that is not durable: whole, none of it, or any of its blocks (Y9).
func (c *content) crashHole(p dirty, k int, rng *rand.Rand) {
	for off := p.off; off < p.off+p.size; off += holeSize {
		if k == 0 || k > 1 && rng.IntN(2) == 0 {
			c.punch(off, holeSize)
		}
	}
}

// spoil puts garbage into some of the sectors that a write covers: into one, a few or nearly all.
func (c *content) spoil(p dirty, rng *rand.Rand) {
	sectors := (len(p.data) + sectorSize - 1) / sectorSize
	one, share := rng.IntN(sectors), rng.IntN(3)
	for i := range sectors {
		if i == one && share < 2 || share > 0 && rng.IntN(2*share) > 0 {
			off := i * sectorSize
			b := slices.Clone(p.data[off:min(off+sectorSize, len(p.data))])
			switch rng.IntN(4) {
			case 0:
				clear(b)
			case 1: // new at first, then old
				n := rng.IntN(len(b))
				c.read(b[n:], p.off+int64(off+n))
			case 2: // nearly right
				b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
			default:
				for j := range b {
					b[j] = byte(rng.Uint32())
				}
			}
			c.settle(dirty{off: p.off + int64(off), data: b})
		}
	}
}
