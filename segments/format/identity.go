package format

import (
	"encoding/binary"
	"strconv"
)

// Identity identifies a segment: a strong hash of its store, timeline, generation, slot and base. The sum of the
// identities of a set of segments, in any order and modulo 2^64, is a digest of the set: two sets with the same sum are
// the same, except by chance, one time in 2^64.
type Identity uint64

// String returns the identity in hexadecimal.
func (i Identity) String() string { return "0x" + strconv.FormatUint(uint64(i), 16) }

// MakeIdentity returns the identity of a segment.
func MakeIdentity(store StoreID, t Timeline, g Generation, slot SegmentID, base LSN) Identity {
	var x uint64
	for _, v := range [...]uint64{binary.LittleEndian.Uint64(store[:]), binary.LittleEndian.Uint64(store[8:]),
		uint64(t), uint64(g), uint64(slot), uint64(base)} {
		x = mix(x + v + 0x9e3779b97f4a7c15)
	}
	return Identity(x)
}

// mix is the output function of SplitMix64 (Steele, Lea and Flood, 2014): a bijection in which each bit of the input
// changes each bit of the output with a probability of about one half.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Ledger is the history of the set of segments that make up the log, in three numbers. A segment joins the set when it
// is opened and leaves it when it is recycled. Joined − Left is the digest of the set.
type Ledger struct {
	Joined   Identity // sum of the identities of all segments that ever joined
	Left     Identity // sum of the identities of all segments that ever left
	Recycled uint64   // number of segments that ever left
	Extent            // of the file
}

// Extent is the length of the log file. It tells a file that was cut between slots from one that shrank.
type Extent struct {
	Slots   uint32 // slots that belong to the file, durably
	Shrinks uint32 // how often the file had been made shorter before
}
