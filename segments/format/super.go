package format

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// StoreID identifies a store. It is drawn at random when the store is created.
type StoreID [16]byte

// String returns the id in hexadecimal.
func (s StoreID) String() string { return hex.EncodeToString(s[:]) }

// SuperblockSize is the length of the file "superblock" in bytes. It holds two copies of the superblock, each in a
// block of its own. The file is allocated when the store is created; from then on it is written in place, so a change
// takes no free space. A copy consists of:
//
//	  0    8  magic "PCSUPERB"
//	  8    4  CRC-32C of bytes 0…7 and 12…4095
//	 12    2  format version (Version)
//	 14    1  flags: bit 0 closed cleanly, bit 1 standalone log, bit 2 the log has begun
//	 15    1  zero
//	 16   16  store id
//	 32    4  segment size in bytes
//	 36    4  zero
//	 40    8  generation of the last opening
//	 48    8  end: LSN of the first byte after the log, if closed cleanly
//	 56    8  next id: exact if closed cleanly, else the one that the opening began with
//	 64    8  next page id never used, if closed cleanly
//	 72    8  id persist interval of the last opening
//	 80    8  sequence number of the change
//	 88    8  floor: where the last opening found that the log ends
//	 96    8  timeline of the last opening
//	104    8  sum of the identities of all segments that ever joined the log (Ledger), if closed cleanly
//	112    8  branch: LSN from which on the log belongs to the timeline
//	120    1  length of the format's name in bytes
//	121  255  name of the format of the pages
//	376 1024  ancestors (Ancestor), newest first; unused entries are zero
//	1400   8  LSN from which on all timelines are listed
//	1408   4  slots that the log file had (Extent)
//	1412   4  how often it had been made shorter before
//	1416  512 slots that are left out of use (SlotList)
//	1928 128 where segments end early (EndList)
//	2056 512 slots that the disk may not take writes to (SlotList)
//	2568 1528 zero
//
// Magic, checksum and version are at the same place in every version from 2 on.
//
// A change raises the sequence number and writes the same contents to both copies: first to the one that does not
// count, and to the second only once the first is durable. If both count, copy 0 is the first. Nothing that relies on
// the change begins before both are durable. So these are the pairs that a crash can leave, where "bad" is a copy that
// is torn, lost or unreadable:
//
//	first  second  how it came about                            counts
//	old    old     nothing of the first write is on the disk    old
//	bad    old     the first write was torn                     old
//	new    old     the second write left nothing                new
//	new    bad     the second write was torn                    new
//	new    new     the change is complete                       new
//
// After a complete change, either copy may be lost, and the other one counts. If the old superblock counts, it is
// right, whatever the change was:
//
//   - At an opening, old may say "closed cleanly". Nothing was written to the log yet, so the log is as old says.
//   - At a clean close, old says "not closed cleanly", and the next opening reads the log.
//   - When the log begins, old says that it has not, and nothing in it is acknowledged yet.
//
// The copy that counts is never overwritten while the other one is bad: with a fixed order, a crash that tears the
// second copy, and another one that tears the first in the next opening, would lose both. Alternating copies, one for
// each change, would let the loss of one sector revive the state before the last change, such as an old "closed
// cleanly". If a copy cannot be written, the superblock is written to a new file, which takes the name.
const SuperblockSize = superCopies * SuperCopySize

// SuperCopySize is the length of one copy of the superblock in bytes.
const SuperCopySize = 4096

// MaxFormatName is the length of the longest name of a format in bytes.
const MaxFormatName = 255

const (
	superMagic  = "PCSUPERB"
	superCopies = 2
	// superNameEnd is the offset of the first byte after the name; superAncestors and superListed are those of fields.
	superNameEnd, superAncestors = 376, 376
	superListed                  = superAncestors + MaxAncestors*ancestorSize
	superExtent                  = superListed + 8
	superOutOfUse                = superExtent + 8
	superEnds                    = superOutOfUse + slotListSize
	superSuspects                = superEnds + endListSize
	// superSize1 is the length of the superblock of version 1 in bytes. It had one copy.
	superSize1 = 80
)

// Superblock holds the facts about a store without which its log cannot be read.
type Superblock struct {
	Sequence    uint64 // raised by each change
	Store       StoreID
	SegmentSize int
	Generation  Generation
	Clean       bool   // closed cleanly: End, NextPage and NextID are exact
	Log         bool   // a standalone log, not a page store
	Begun       bool   // the log file has at least one slot, durably
	End         LSN    // where the log ends, if closed cleanly
	NextID      uint64 // the id that GenerateID returns next; if not closed cleanly, as it was at the last opening
	NextPage    PageID // the first page id that was never allocated, if closed cleanly
	IDInterval  uint64 // IDPersistInterval of the last opening
	Floor       LSN    // where the last opening found that the log ends: it never ends below
	Timeline    Timeline
	Branch      LSN      // from here on the log belongs to Timeline
	Joined      Identity // Ledger.Joined of the segments below End, if closed cleanly
	Name        string   // of the format of the pages, at most MaxFormatName bytes; empty: none is set
	// Ancestors are the timelines before Timeline that still own something, newest first. If there were too many, the
	// oldest are not listed: they own nothing at or above Listed.
	Ancestors [MaxAncestors]Ancestor
	Listed    LSN
	Extent    Extent // of the log file, at least
	// OutOfUse are slots that hold no part of the log, whatever is in them: their headers could not be written or read.
	OutOfUse SlotList
	// Ends are the LSNs at which segments end early. When the log ended in such a segment, the disk did not return a
	// part of it, so the log went on in the next one.
	Ends EndList
	// Suspects are slots that the disk has not taken a write to. They may hold a part of the log.
	Suspects SlotList
}

// Append appends the encoding of s to dst, both copies, and returns the extended slice.
func (s Superblock) Append(dst []byte) []byte {
	var b [SuperCopySize]byte
	copy(b[:], superMagic)
	binary.LittleEndian.PutUint16(b[12:], Version)
	b[14] = s.flags()
	copy(b[16:], s.Store[:])
	binary.LittleEndian.PutUint32(b[32:], uint32(s.SegmentSize))
	binary.LittleEndian.PutUint64(b[40:], uint64(s.Generation))
	binary.LittleEndian.PutUint64(b[48:], uint64(s.End))
	binary.LittleEndian.PutUint64(b[56:], s.NextID)
	binary.LittleEndian.PutUint64(b[64:], uint64(s.NextPage))
	binary.LittleEndian.PutUint64(b[72:], s.IDInterval)
	binary.LittleEndian.PutUint64(b[80:], s.Sequence)
	binary.LittleEndian.PutUint64(b[88:], uint64(s.Floor))
	binary.LittleEndian.PutUint64(b[96:], uint64(s.Timeline))
	binary.LittleEndian.PutUint64(b[104:], uint64(s.Joined))
	binary.LittleEndian.PutUint64(b[112:], uint64(s.Branch))
	b[120] = byte(copy(b[121:superNameEnd], s.Name))
	for i, a := range s.Ancestors {
		binary.LittleEndian.PutUint64(b[superAncestors+i*ancestorSize:], uint64(a.Timeline))
		binary.LittleEndian.PutUint64(b[superAncestors+i*ancestorSize+8:], uint64(a.Branch))
	}
	binary.LittleEndian.PutUint64(b[superListed:], uint64(s.Listed))
	binary.LittleEndian.PutUint32(b[superExtent:], s.Extent.Slots)
	binary.LittleEndian.PutUint32(b[superExtent+4:], s.Extent.Shrinks)
	s.OutOfUse.put(b[superOutOfUse:])
	s.Ends.put(b[superEnds:])
	s.Suspects.put(b[superSuspects:])
	binary.LittleEndian.PutUint32(b[8:], superCRC(b[:]))
	for range superCopies {
		dst = append(dst, b[:]...)
	}
	return dst
}

// The flags of a copy, on disk: do not renumber.
const (
	superFlagClean = 1
	superFlagLog   = 2
	superFlagBegun = 4
	superFlags     = superFlagClean | superFlagLog | superFlagBegun
)

func (s *Superblock) flags() (b byte) {
	if s.Clean {
		b |= superFlagClean
	}
	if s.Log {
		b |= superFlagLog
	}
	if s.Begun {
		b |= superFlagBegun
	}
	return b
}

func superCRC(b []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, b[:8]), castagnoli, b[12:])
}

// The errors of DecodeSuperblock.
var (
	ErrSuperCorrupt = errors.New("corrupt superblock")
	ErrSuperVersion = errors.New("superblock of another format version")
)

// SuperCopy is the state of one copy of the superblock.
type SuperCopy uint8

// The states of a copy. The zero SuperCopy is that of a copy that was not looked at.
const (
	SuperCopyCurrent SuperCopy = iota + 1 // it counts
	SuperCopyOlder                        // intact, and the other copy has a higher sequence number
	SuperCopyTorn                         // its bytes do not verify
	SuperCopyLost                         // the file ends before its end, or it is all zeros
)

// String returns the state's name.
func (c SuperCopy) String() string {
	if names := [...]string{"unknown", "current", "older", "torn", "lost"}; int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("state(%d)", uint8(c))
}

// DecodeSuperblock decodes and verifies the contents of a superblock file: the intact copy with the higher sequence
// number counts. Its error wraps ErrSuperVersion if a copy is intact but of another format version, else
// ErrSuperCorrupt.
func DecodeSuperblock(src []byte) (Superblock, error) {
	s, _, err := DecodeSuperCopies(src)
	return s, err
}

// DecodeSuperCopies is DecodeSuperblock that also returns the state of each copy. Bytes after the second copy are
// ignored.
func DecodeSuperCopies(src []byte) (s Superblock, states [superCopies]SuperCopy, err error) {
	if isSuper1(src) {
		return s, states, versionError(binary.LittleEndian.Uint16(src[12:]))
	}
	var copies [superCopies]Superblock
	var errs [superCopies]error
	newest := -1
	for i := range copies {
		part := superCopy(src, i)
		copies[i], errs[i] = decodeSuperCopy(part)
		switch {
		case errors.Is(errs[i], ErrSuperVersion):
			return s, [superCopies]SuperCopy{}, errs[i]
		case errs[i] == nil:
			states[i] = SuperCopyOlder
			if newest < 0 || copies[i].Sequence > copies[newest].Sequence {
				newest = i
			}
		case len(part) < SuperCopySize || allZero(part):
			states[i] = SuperCopyLost
		default:
			states[i] = SuperCopyTorn
		}
	}
	if newest < 0 {
		return s, states, fmt.Errorf("%w: copy 0: %w; copy 1: %w", ErrSuperCorrupt, errs[0], errs[1])
	}
	s = copies[newest]
	for i, c := range copies {
		switch {
		case errs[i] != nil:
		case c.Store != s.Store || c.SegmentSize != s.SegmentSize || c.Log != s.Log:
			return Superblock{}, states, fmt.Errorf("%w: the copies belong to two stores", ErrSuperCorrupt)
		case c.Sequence == s.Sequence && c != s:
			return Superblock{}, states, fmt.Errorf("%w: the copies differ, both with sequence number %d",
				ErrSuperCorrupt, s.Sequence)
		case c.Sequence == s.Sequence:
			states[i] = SuperCopyCurrent
		}
	}
	return s, states, nil
}

// superCopy returns the part of src that holds copy i, which is shorter than a copy if src ends before.
func superCopy(src []byte, i int) []byte {
	return src[min(i*SuperCopySize, len(src)):min((i+1)*SuperCopySize, len(src))]
}

// isSuper1 reports whether src is an intact superblock of version 1, or of a version 0 that never was.
func isSuper1(src []byte) bool {
	return len(src) == superSize1 && string(src[:8]) == superMagic &&
		binary.LittleEndian.Uint32(src[8:]) == superCRC(src)
}

func versionError(v uint16) error {
	return fmt.Errorf("%w: version %d, this program knows %d", ErrSuperVersion, v, Version)
}

// decodeSuperCopy decodes and verifies one copy. Its error wraps ErrSuperVersion, or says what is wrong with the copy.
func decodeSuperCopy(src []byte) (Superblock, error) {
	if len(src) < SuperCopySize {
		return Superblock{}, fmt.Errorf("%d bytes, want %d", len(src), SuperCopySize)
	}
	if string(src[:8]) != superMagic || binary.LittleEndian.Uint32(src[8:]) != superCRC(src) {
		return Superblock{}, errors.New("wrong magic or checksum")
	}
	if v := binary.LittleEndian.Uint16(src[12:]); v != Version {
		return Superblock{}, versionError(v)
	}
	s := Superblock{
		Sequence:    binary.LittleEndian.Uint64(src[80:]),
		SegmentSize: int(binary.LittleEndian.Uint32(src[32:])),
		Clean:       src[14]&superFlagClean != 0,
		Log:         src[14]&superFlagLog != 0,
		Begun:       src[14]&superFlagBegun != 0,
		Generation:  Generation(binary.LittleEndian.Uint64(src[40:])),
		End:         LSN(binary.LittleEndian.Uint64(src[48:])),
		NextID:      binary.LittleEndian.Uint64(src[56:]),
		NextPage:    PageID(binary.LittleEndian.Uint64(src[64:])),
		IDInterval:  binary.LittleEndian.Uint64(src[72:]),
		Floor:       LSN(binary.LittleEndian.Uint64(src[88:])),
		Timeline:    Timeline(binary.LittleEndian.Uint64(src[96:])),
		Joined:      Identity(binary.LittleEndian.Uint64(src[104:])),
		Branch:      LSN(binary.LittleEndian.Uint64(src[112:])),
		Name:        string(src[121 : 121+int(src[120])]),
		Listed:      LSN(binary.LittleEndian.Uint64(src[superListed:])),
		Extent: Extent{
			Slots:   binary.LittleEndian.Uint32(src[superExtent:]),
			Shrinks: binary.LittleEndian.Uint32(src[superExtent+4:]),
		},
	}
	copy(s.Store[:], src[16:])
	valid := s.OutOfUse.decode(src[superOutOfUse:superOutOfUse+slotListSize]) && s.Listed >= 0 &&
		s.Ends.decode(src[superEnds:superEnds+endListSize]) &&
		s.Suspects.decode(src[superSuspects:superSuspects+slotListSize])
	for i := range s.Ancestors {
		a := src[superAncestors+i*ancestorSize:]
		s.Ancestors[i] = Ancestor{Timeline(binary.LittleEndian.Uint64(a)), LSN(binary.LittleEndian.Uint64(a[8:]))}
		valid = valid && s.Ancestors[i].Branch >= 0
	}
	if s.SegmentSize < MinSegmentSize || s.SegmentSize > MaxSegmentSize || s.SegmentSize%Align != 0 ||
		s.End < 0 || s.Floor < 0 || s.Branch < 0 || s.NextPage > MaxPageID+1 || src[14] > superFlags ||
		s.Sequence > math.MaxInt64 || !valid { // the next sequence number must be higher
		return Superblock{}, errors.New("a field is out of range")
	}
	return s, nil
}
