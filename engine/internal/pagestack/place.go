package pagestack

import "pagecache/segments/format"

const (
	depthBits = 16
	// MaxDepth is the greatest depth that an entry can store; Depth returns it for all greater ones.
	MaxDepth = 1<<depthBits - 1
)

// tsBits is the number of bits of a timestamp. Those above it in a stamp are unstampedBit and stampingBit.
const tsBits = 46

// makeStamp packs a timestamp, modulo 2^tsBits, and a depth.
func makeStamp(ts uint64, depth int) uint64 {
	return ts&(1<<tsBits-1)<<depthBits | uint64(min(depth, MaxDepth))
}

// place is the kind of an entry and the place of its message.
//
//	bits 63…60  the kind; of a Delta grown, or inRun and its index in its run
//	bits 59…36  the length of the message in bytes
//	bit  35     the message points to a blob
//	bits 34…0   the file offset / 4096; the other bits of the offset are those of the LSN, since the size of a segment
//	            is a multiple of 4096 bytes
type place uint64

const (
	grainBits = 12
	grain     = 1 << grainBits
	kindShift = 60
	lenShift  = 36
	lenMask   = 1<<24 - 1
	blobBit   = 1 << 35
	offMask   = blobBit - 1
	// The numbers of deltas, which stand in place of the kind, are greater than every Kind.
	deltas = 8
	grown  = 11 // of a grown delta; isWhole needs the last three bits
	inRun  = 12 // plus the index in the run
)

// makePlace packs a kind and a place; i is the index in the run of a Delta. Of a grown delta, k is grown.
func makePlace(k Kind, i int, ptr format.DiskPtr) place {
	if k == KindDelta {
		k = Kind(inRun | i)
	}
	p := place(uint64(k)<<kindShift | uint64(ptr.Len&lenMask)<<lenShift | uint64(ptr.Off)>>grainBits)
	if ptr.Blob {
		p |= blobBit
	}
	return p
}

func (p place) kind() Kind {
	if p&(deltas<<kindShift) != 0 {
		return KindDelta
	}
	return Kind(p >> kindShift)
}

// isWhole reports whether the kind is KindBase or KindMerged, or that of a grown delta. Of these numbers, 1, 3 and 11,
// and of no others that occur, the last bit is set and the last but two is not.
func (p place) isWhole() bool {
	const bits, whole = 5, 1
	return p>>kindShift&bits == whole
}

func (p place) isGrown() bool { return p>>kindShift == grown }

// index returns the index of a Delta in its run. That of a grown delta, which is in none, is the one of the last.
func (p place) index() int { return int(p >> kindShift & (RunLen - 1)) }

func (p place) ptr(lsn format.LSN) format.DiskPtr {
	return format.DiskPtr{
		Off:  format.Offset(uint64(p)&offMask<<grainBits | uint64(lsn)%grain),
		Len:  uint32(p >> lenShift & lenMask),
		Blob: p&blobBit != 0,
	}
}
