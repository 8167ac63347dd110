package pagestack

import (
	"sync/atomic"
	"unsafe"

	"pagecache/segments/format"
)

// Slot is the place in the page table that holds the head of a page. It publishes the page's chain of entries.
//
// The OnDisk entry of a page in one message takes no memory, as long as its numbers are small: the slot holds it packed
// into the word that is the address of the entry otherwise. Such a word is a value. Two that are equal stand for the
// same state in the same message (K5), so a compare-and-swap may take one for the other.
//
//	bit  63      1: no address of a process has it
//	bits 62…61   the form; 2 is no form, so that no word is the value by which the runtime marks dead variables
//	bits 60…38   the write timestamp and, in the lower bits, the length of the message in bytes (forms)
//	bits 37…0    the file offset / 8
//
// The LSN is that of the segment at the offset, plus the offset in it. Segments that a page refers to stay in place, as
// long as a goroutine can see it (rule 4).
//
// Go's collector ignores addresses outside its heap, which may belong to memory that a program has mapped. The race
// detector looks at addresses that are used. The checks of pointers accept one that is not aligned, if it refers to
// what has no pointers (Head).
type Slot struct {
	// word is nil, the address of an entry or of the Head of an intent (package txn), or a packed entry. Its writers
	// are the goroutines that change the page. A stale word costs a failed compare-and-swap.
	word atomic.Pointer[Head]
}

const (
	packedBit    = 1 << 63
	formShift    = 61
	numbersShift = 38
	numberBits   = formShift - numbersShift // of the timestamp and the length together
	maxPackedOff = 1<<numbersShift - 1      // in units of format.Align
)

// forms are the numbers of bits of the length, by form; 0 is no form. Longer messages leave less for the timestamp, but
// a page with long messages is seldom changed so often.
var forms = [4]uint8{9, 12, 0, 15}

// IsPacked reports whether h is no address, but a packed entry. It must not be dereferenced then.
func IsPacked(h *Head) bool { return int64(uintptr(unsafe.Pointer(h))) < 0 }

// IsEntry reports whether h is the address of an entry or of an intent: neither nil nor packed.
func IsEntry(h *Head) bool { return int64(uintptr(unsafe.Pointer(h))) > 0 }

// Word returns what the slot holds: nil, an entry, an intent or a packed entry.
func (s *Slot) Word() *Head { return s.word.Load() }

// Entry returns the entry or the intent that the slot holds, and nil if it is empty or holds a packed entry.
func (s *Slot) Entry() *Head {
	h := s.word.Load()
	if IsPacked(h) {
		return nil
	}
	return h
}

// IsEmpty reports whether the slot holds nothing.
func (s *Slot) IsEmpty() bool { return s.word.Load() == nil }

// Holds reports whether the slot holds the entry h, which may be nil: it does not, if an intent has taken its place.
func (s *Slot) Holds(h *Head) bool { return s.word.Load() == wordOf(h) }

// CompareAndSwap replaces the entry or intent old by new, either of which may be nil. It reports whether the slot held
// old.
func (s *Slot) CompareAndSwap(old, new *Head) bool {
	return s.word.CompareAndSwap(wordOf(old), wordOf(new))
}

// Store sets what the slot holds. No other goroutine writes it.
func (s *Slot) Store(h *Head) { s.word.Store(wordOf(h)) }

// Place returns the file offset of the message of a packed entry, and false if the slot holds none.
func (s *Slot) Place() (format.Offset, bool) {
	h := s.word.Load()
	return PackedOffset(h), IsPacked(h)
}

// wordOf returns the word of a slot that holds h, which may be packed already.
func wordOf(h *Head) *Head {
	if h == nil || IsPacked(h) || h.place>>kindShift != place(KindOnDisk) {
		return h
	}
	return pack(h)
}

// pack returns an OnDisk entry as a packed one; as it is, if it has several messages, points to a blob, or its numbers
// are too large. The same entry always gives the same word.
func pack(h *Head) *Head {
	ptr := h.Ptr()
	if h.Depth() != 1 || ptr.Blob || ptr.Len == 0 || ptr.Off/format.Align > maxPackedOff {
		return h
	}
	for form, lenBits := range forms {
		if lenBits == 0 || ptr.Len>>lenBits != 0 {
			continue
		}
		ts := h.TS()
		if ts >= 1<<(numberBits-lenBits)-1 { // with all ones, it might look like an address of the kernel
			continue
		}
		numbers := ts<<lenBits | uint64(ptr.Len)
		word := packedBit | uint64(form)<<formShift | numbers<<numbersShift | uint64(ptr.Off/format.Align)
		return *(**Head)(unsafe.Pointer(&word)) // no address: nothing dereferences it
	}
	return h
}

// numbersOf returns the timestamp of a packed entry, and the length of its message.
func numbersOf(h *Head) (ts uint64, n uint32) {
	word := uint64(uintptr(unsafe.Pointer(h)))
	lenBits := forms[word>>formShift&3]
	numbers := word >> numbersShift & (1<<numberBits - 1)
	return numbers >> lenBits, uint32(numbers & (1<<lenBits - 1))
}

// PackedOffset returns the file offset of the message of a packed entry.
func PackedOffset(h *Head) format.Offset {
	return format.Offset(uint64(uintptr(unsafe.Pointer(h)))&maxPackedOff) * format.Align
}

// PackedTS returns the write timestamp of a packed entry.
func PackedTS(h *Head) uint64 {
	ts, _ := numbersOf(h)
	return ts
}

// Unpack returns the entry that a packed one stands for. lsnAt returns the LSN of the message at an offset of the file.
func Unpack(h *Head, lsnAt func(format.Offset) format.LSN) *Head {
	off := PackedOffset(h)
	ts, n := numbersOf(h)
	return newOnDiskSingle(ts, Ref{LSN: lsnAt(off), Ptr: format.DiskPtr{Off: off, Len: n}})
}

// Is reports whether two heads of a page, neither of which is packed, are the same entry, as far as a slot can tell.
func (h *Head) Is(other *Head) bool { return h == other || wordOf(h) == wordOf(other) }
