package simdisk

import (
	"math/rand/v2"
	"slices"
)

const (
	chunkSize  = 16 << 10
	sectorSize = 512
)

// content is the bytes of a file, in chunks that are allocated when they are first written.
type content struct {
	chunks [][]byte // nil: zeros
	size   int64
}

// write puts b at off. It does not change the size.
func (c *content) write(b []byte, off int64) {
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
	n := content{chunks: slices.Clone(c.chunks), size: c.size}
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

// dirty is a change that is not durable: bytes at off, or a new size.
type dirty struct {
	off  int64
	data []byte // nil: a new size
	size int64
	tag  uint64 // of a device write, by which its completion finds it; otherwise 0
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
	f.pending = append(f.pending, dirty{size: size})
}

// settle makes one change durable.
func (c *content) settle(p dirty) {
	if p.data == nil {
		if p.size < c.size {
			c.cut(p.size)
		}
		c.size = p.size
		return
	}
	c.size = max(c.size, p.off+int64(len(p.data)))
	c.write(p.data, p.off)
}

// crash returns the contents after a crash: Y1, and Y8 if garbage is set.
func (f *inode) crash(rng *rand.Rand, garbage bool) content {
	c := f.durable.clone()
	for _, p := range f.pending {
		switch k := rng.IntN(4); {
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
