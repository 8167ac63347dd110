package format

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"math"
)

// A sealed segment of a standalone log ends with an index: one message that lists the records and batch markers of the
// segment, so that the segment need not be read to know them. It ends exactly where the segment ends. Its body:
//
//	┌─────────────────┬────────────────┬───────────────┬─────────────────┬─────────┬─────────────┐
//	│ entries, 4 each │ begins, 8 each │ runs, 24 each │ offsets, 4 each │ zeros … │ trailer, 32 │
//	└─────────────────┴────────────────┴───────────────┴─────────────────┴─────────┴─────────────┘
//
// There is an entry for each record without a stream, batch marker and leave, in the order of the log:
//
//	bits 31…3  offset of the message in the segment, without its three lowest bits, which are zero
//	bits 2…0   0 record, 1 batch-begin, 2 batch-end, 3 leave
//
// and a begin for each batch-end among them: the LSN of its batch-begin. The messages of streams are listed by runs, in
// the order in which they begin (see Run); the offsets of their records follow, run after run. The trailer lies in the
// last bytes of the segment, so a reader finds the index from there:
//
//	 0  8  the stable LSN known when the index was written
//	 8  4  number of entries
//	12  4  number of begins
//	16  4  length of the message in bytes
//	20  4  number of runs; all ones: the messages of streams are not listed, since there was no room
//	24  4  number of offsets
//	28  4  CRC-32C of the LSN of the segment's end (8 bytes) and bytes 0…27, from the segment's Seed
//
// The trailer has a checksum of its own, beside that of the message, so that either end of an index that has become
// corrupt still shows that it is one. The LSN is in it because a slot may hold several segments under one seed, one
// after another.
const (
	IndexTrailerSize = 32
	trailerSummed    = IndexTrailerSize - 4
	notListed        = math.MaxUint32
	indexEntrySize   = 4
	indexBeginSize   = 8
	indexMark        = Align - 1 // the bits of an entry that say what it is of
)

// The values of the low bits of an entry. On disk: do not renumber.
const (
	indexRecord     = 0
	indexBatchBegin = 1
	indexBatchEnd   = 2
	indexLeave      = 3
)

// Errors of DecodeIndexTrailer and DecodeIndex.
var (
	ErrNoIndex = errors.New("the segment does not end with an index")
	ErrIndex   = errors.New("invalid index")
)

// IndexUnits returns the room that the index of a segment needs for a message of kind k, in units of 4 bytes.
func IndexUnits(k Kind) int {
	switch k {
	case KindData, KindBatchBegin, KindLeave:
		return 1
	case KindBatchEnd:
		return 1 + indexBeginSize/indexEntrySize
	case KindRecord:
		return 1
	case KindTruncate, KindNote:
		return RunUnits
	case KindLongRecord:
		return RunUnits + 1
	}
	return 0
}

// RunUnits is the room that a run needs beside that of its records, in units.
const RunUnits = runSize / indexEntrySize

// MaxIndexUnits is the largest number of units that the messages of a segment can need: batch-ends need most for their
// length.
const MaxIndexUnits = MaxSegmentSize / (HeaderSize + ManifestSize) * (1 + indexBeginSize/indexEntrySize)

// IndexRoom returns the length of an index message with the given number of units, in bytes. It is a multiple of Align.
func IndexRoom(units int) int { return AlignUp(HeaderSize + units*indexEntrySize + IndexTrailerSize) }

// An Index is an index that is being built. The zero Index is empty. It belongs to one goroutine.
type Index struct {
	entries []uint32
	begins  []LSN
	streams streamIndex
	// unlisted says that there is no room for the messages of streams.
	unlisted bool
}

// Reset returns an empty Index that uses the memory of x.
func (x *Index) Reset() Index {
	return Index{entries: x.entries[:0], begins: x.begins[:0], streams: x.streams.reset()}
}

// Unlist leaves out the messages of streams, to make the index shorter. A reader finds them in the segment itself.
func (x *Index) Unlist() { x.unlisted = true }

// Add adds the message of kind k at offset off of the segment, which begins at msg. Messages that an index does not
// list are left out.
func (x *Index) Add(k Kind, off int, msg []byte) {
	switch k {
	case KindData:
		x.entries = append(x.entries, uint32(off)|indexRecord)
	case KindBatchBegin:
		x.entries = append(x.entries, uint32(off)|indexBatchBegin)
	case KindLeave:
		x.entries = append(x.entries, uint32(off)|indexLeave)
	case KindBatchEnd:
		x.entries = append(x.entries, uint32(off)|indexBatchEnd)
		x.begins = append(x.begins, LSN(binary.LittleEndian.Uint64(msg[HeaderSize:])))
	case KindRecord, KindTruncate, KindNote, KindLongRecord:
		x.streams.add(k, off, msg)
	}
}

// Units returns the room that the lists need, in units of 4 bytes.
func (x *Index) Units() int {
	units := len(x.entries) + len(x.begins)*(indexBeginSize/indexEntrySize)
	if !x.unlisted {
		units += x.streams.units()
	}
	return units
}

// Len returns the least length of the message in bytes, header included.
func (x *Index) Len() int { return IndexRoom(x.Units()) }

// Put writes the index message to dst, except for its word, which the caller stores last. dst ends where the segment
// ends; it is at least Len bytes long, a multiple of Align, and all zero. lsn is that of the message.
func (x *Index) Put(dst []byte, lsn LSN, k Known, seed Seed) Word {
	w := MakeWord(KindIndex, len(dst))
	PutHeader(dst, lsn, 0, k.Durable)
	b := dst[HeaderSize:]
	for _, e := range x.entries {
		binary.LittleEndian.PutUint32(b, e)
		b = b[indexEntrySize:]
	}
	for _, l := range x.begins {
		binary.LittleEndian.PutUint64(b, uint64(l))
		b = b[indexBeginSize:]
	}
	runs, records := uint32(notListed), 0
	if !x.unlisted {
		runs, records = uint32(len(x.streams.runs)), len(x.streams.records)
		x.streams.put(b)
	}
	t := dst[len(dst)-IndexTrailerSize:]
	binary.LittleEndian.PutUint64(t, uint64(k.Stable))
	binary.LittleEndian.PutUint32(t[8:], uint32(len(x.entries)))
	binary.LittleEndian.PutUint32(t[12:], uint32(len(x.begins)))
	binary.LittleEndian.PutUint32(t[16:], uint32(len(dst)))
	binary.LittleEndian.PutUint32(t[20:], runs)
	binary.LittleEndian.PutUint32(t[24:], uint32(records))
	end := lsn + LSN(len(dst))
	binary.LittleEndian.PutUint32(t[trailerSummed:], trailerCRC(t, end, seed))
	PutCRC(dst, w, seed)
	return w
}

// trailerCRC returns the checksum of the trailer t of a segment whose last byte is below LSN end.
func trailerCRC(t []byte, end LSN, seed Seed) uint32 {
	c := wordCRC(wordCRC(uint32(seed), uint32(end)), uint32(end>>32))
	return crc32.Update(c, castagnoli, t[:trailerSummed])
}

// IndexTrailer is a decoded trailer of an index.
type IndexTrailer struct {
	Stable  LSN // the stable LSN known when the index was written; NoLSN if none was
	Entries int // number of entries
	Begins  int // number of begins
	Runs    int // number of runs
	Records int // number of offsets
	Listed  bool
	Len     int // length of the message in bytes, header included
}

// units returns the room of the lists, in units of 4 bytes.
func (t IndexTrailer) units() int {
	return t.Entries + t.Begins*(indexBeginSize/indexEntrySize) + t.Runs*RunUnits + t.Records
}

// OffsetsAt returns where the offsets begin in the index message, in bytes.
func (t IndexTrailer) OffsetsAt() int { return HeaderSize + (t.units()-t.Records)*indexEntrySize }

// DecodeIndexTrailer decodes the trailer in the last IndexTrailerSize bytes of the segment of the given base and size.
// It returns an error that wraps ErrNoIndex if there is no valid trailer.
func DecodeIndexTrailer(src []byte, base LSN, segmentSize int, seed Seed) (IndexTrailer, error) {
	end := base + LSN(segmentSize)
	if len(src) < IndexTrailerSize ||
		binary.LittleEndian.Uint32(src[trailerSummed:]) != trailerCRC(src, end, seed) {
		return IndexTrailer{}, ErrNoIndex
	}
	t := IndexTrailer{
		Stable:  max(NoLSN, LSN(binary.LittleEndian.Uint64(src))),
		Entries: int(binary.LittleEndian.Uint32(src[8:])),
		Begins:  int(binary.LittleEndian.Uint32(src[12:])),
		Runs:    int(binary.LittleEndian.Uint32(src[20:])),
		Records: int(binary.LittleEndian.Uint32(src[24:])),
		Len:     int(binary.LittleEndian.Uint32(src[16:])),
	}
	if t.Listed = t.Runs != notListed; !t.Listed {
		t.Runs = 0
	}
	if t.Len > segmentSize-SegmentStart || t.Len%Align != 0 || t.Begins > t.Entries || t.Entries > MaxIndexUnits ||
		t.Runs > MaxIndexUnits || t.Records > MaxIndexUnits || t.Len < IndexRoom(t.units()) {
		return t, fmt.Errorf("%w: %d entries, %d begins, %d runs and %d offsets in %d bytes", ErrNoIndex, t.Entries,
			t.Begins, t.Runs, t.Records, t.Len)
	}
	return t, nil
}

// An IndexView is a decoded index. It aliases the body that it was decoded from.
type IndexView struct {
	Stable  LSN // that of the trailer
	entries []byte
	begins  []byte
	base    LSN
	marked  bool // there is a batch marker
	listed  bool // the messages of streams are listed, by these:
	runs    []byte
	offsets []byte
	at      int // of offsets in the segment
}

// DecodeIndex decodes and checks the body of the index message with header h, whose checksum is right, in a segment of
// the given size (rule 12). Errors wrap ErrIndex or ErrNoIndex.
func DecodeIndex(body []byte, h Header, segmentSize int, seed Seed) (IndexView, error) {
	at := int(h.LSN % LSN(segmentSize))
	if at+h.Len != segmentSize || len(body) != h.BodyLen() || len(body) < IndexTrailerSize {
		return IndexView{}, fmt.Errorf("%w: it ends at offset %d", ErrIndex, at+h.Len)
	}
	t, err := DecodeIndexTrailer(body[len(body)-IndexTrailerSize:], h.LSN-LSN(at), segmentSize, seed)
	if err != nil {
		return IndexView{}, err
	}
	if t.Len != h.Len {
		return IndexView{}, fmt.Errorf("%w: its length is %d, its trailer says %d", ErrIndex, h.Len, t.Len)
	}
	entries, begins := body[:t.Entries*indexEntrySize], body[t.Entries*indexEntrySize:][:t.Begins*indexBeginSize]
	rest := body[len(entries)+len(begins):]
	runs := rest[:t.Runs*runSize]
	v := IndexView{Stable: t.Stable, entries: entries, begins: begins, base: h.LSN - LSN(at), listed: t.Listed,
		runs: runs, offsets: rest[len(runs):][:t.Records*indexEntrySize], at: at + t.OffsetsAt()}
	if err = v.check(at); err == nil {
		err = checkRuns(v.runs, v.offsets, at)
	}
	return v, err
}

// check sets marked, and returns an error unless the entries rise, lie in the part of the segment below offset end, and
// are of known types, and each batch-end has the begin of a batch before it.
func (v *IndexView) check(end int) error {
	last, most := uint32(SegmentStart-Align), uint32(end-HeaderSize)
	begins := v.begins
	for i := range v.Len() {
		e := binary.LittleEndian.Uint32(v.entries[i*indexEntrySize:])
		off := e &^ indexMark
		if off <= last || off > most || e&indexMark > indexLeave {
			return fmt.Errorf("%w: entry %d is %#x", ErrIndex, i, e)
		}
		last = off
		if e&indexMark == indexRecord {
			continue
		}
		if v.marked = true; e&indexMark != indexBatchEnd {
			continue
		}
		if len(begins) == 0 {
			return fmt.Errorf("%w: more batches end than %d", ErrIndex, len(v.begins)/indexBeginSize)
		}
		if b := LSN(binary.LittleEndian.Uint64(begins)); b <= 0 || b >= v.base+LSN(off) {
			return fmt.Errorf("%w: the batch that ends at offset %d begins at LSN %d", ErrIndex, off, b)
		}
		begins = begins[indexBeginSize:]
	}
	if len(begins) > 0 {
		return fmt.Errorf("%w: fewer batches end than %d", ErrIndex, len(v.begins)/indexBeginSize)
	}
	return nil
}

// Len returns the number of entries.
func (v IndexView) Len() int { return len(v.entries) / indexEntrySize }

// Entry returns the offset in the segment of the i-th message that the index lists, in bytes, and its kind.
func (v IndexView) Entry(i int) (off int, k Kind) {
	e := binary.LittleEndian.Uint32(v.entries[i*indexEntrySize:])
	switch off = int(e &^ indexMark); e & indexMark {
	case indexBatchBegin:
		return off, KindBatchBegin
	case indexLeave:
		return off, KindLeave
	case indexBatchEnd:
		return off, KindBatchEnd
	}
	return off, KindData
}

// Markers returns the LSNs of the batch markers, in order, each with the LSN of the batch-begin that it closes, which
// is 0 for a batch-begin.
func (v IndexView) Markers() iter.Seq2[LSN, LSN] {
	return func(yield func(LSN, LSN) bool) {
		if !v.marked {
			return
		}
		begins := v.begins
		for i := range v.Len() {
			off, k := v.Entry(i)
			if k == KindData || k == KindLeave {
				continue
			}
			begin := LSN(0)
			if k == KindBatchEnd {
				begin, begins = LSN(binary.LittleEndian.Uint64(begins)), begins[indexBeginSize:]
			}
			if !yield(v.base+LSN(off), begin) {
				return
			}
		}
	}
}

// Leaves returns the offsets in the segment of the messages by which segments leave, in order.
func (v IndexView) Leaves() iter.Seq[int] {
	return func(yield func(int) bool) {
		if !v.marked {
			return
		}
		for i := range v.Len() {
			if off, k := v.Entry(i); k == KindLeave && !yield(off) {
				return
			}
		}
	}
}

// IndexBegins reports whether the message at lsn, which is not valid, is all the same the index of its segment: because
// its header says that, or because the trailer does. So no record is missing, but only a list of them is. head is the
// beginning of the message, and end is the last IndexTrailerSize bytes of the segment.
func IndexBegins(head, end []byte, lsn LSN, segmentSize int, seed Seed) bool {
	pos := lsn % LSN(segmentSize)
	room := segmentSize - int(pos)
	if h, err := DecodeHeader(head, room, lsn); err == nil && h.Kind == KindIndex && h.Len == room {
		return true
	}
	t, err := DecodeIndexTrailer(end, lsn-pos, segmentSize, seed)
	return err == nil && t.Len == room
}
