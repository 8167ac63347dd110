package format

import (
	"encoding/binary"
	"slices"
)

// MaxEndList is the number of LSNs that an EndList has room for.
const MaxEndList = 16

// An EndList is the LSNs in the superblock at which segments end early: the messages of such a segment end there, the
// bytes behind mean nothing, and the log goes on in the next segment. They are in rising order; unused entries are
// zero.
type EndList [MaxEndList]LSN

const endListSize = 8 * MaxEndList

// MakeEndList returns the list of the given LSNs, and false if there are too many.
func MakeEndList(ends []LSN) (l EndList, ok bool) {
	if len(ends) > MaxEndList {
		return EndList{}, false
	}
	copy(l[:], ends)
	slices.Sort(l[:len(ends)])
	return l, true
}

// Ends returns the LSNs of the list in rising order.
func (l *EndList) Ends() (ends []LSN) {
	for _, lsn := range l {
		if lsn.IsZero() {
			break
		}
		ends = append(ends, lsn)
	}
	return ends
}

// Used returns the number of bytes, header included, of the segment with the given base that may hold messages. size is
// the segment size in bytes.
func (l *EndList) Used(base LSN, size int) int {
	for _, lsn := range l {
		if lsn > base && lsn < base+LSN(size) {
			return int(lsn - base)
		}
	}
	return size
}

// put encodes l into the first endListSize bytes of dst.
func (l *EndList) put(dst []byte) {
	for i, lsn := range l {
		binary.LittleEndian.PutUint64(dst[8*i:], uint64(lsn))
	}
}

// decode decodes l from src, and returns false if it is not a valid list.
func (l *EndList) decode(src []byte) bool {
	for i := range l {
		l[i] = LSN(binary.LittleEndian.Uint64(src[8*i:]))
		if l[i] < 0 || l[i]%Align != 0 || i > 0 && l[i] != 0 && (l[i-1] == 0 || l[i] <= l[i-1]) {
			return false
		}
	}
	return true
}
