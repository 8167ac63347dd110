package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// StreamID is the number of a stream of a standalone log. It takes the place of the page id in a message's header.
type StreamID uint64

// MaxStreamID is the highest number of a stream.
const MaxStreamID = StreamID(MaxPageID)

// Seq is the number of a record in its stream. The numbers of a stream rise in the order of the log, except behind a
// Cut. 0 stands for no record.
type Seq uint64

// MaxSeq is the highest number of a record.
const MaxSeq Seq = math.MaxUint64 - 1

// IsZero reports whether q is the number of no record.
func (q Seq) IsZero() bool { return q == 0 }

// RecordHeadSize is the length in bytes of the beginning of the body of a KindRecord message, its Seq. The record's own
// bytes follow.
const RecordHeadSize = 8

// CutSize is the length of an encoded Cut in bytes.
const CutSize = 16

// ErrRecord reports that the body of a message of a stream is not valid.
var ErrRecord = errors.New("invalid message of a stream")

// PutSeq writes the number of a record to the beginning of its body.
func PutSeq(body []byte, q Seq) { binary.LittleEndian.PutUint64(body, uint64(q)) }

// CutSeq splits the body of a KindRecord message. Errors wrap ErrRecord.
func CutSeq(body []byte) (Seq, []byte, error) {
	if len(body) < RecordHeadSize {
		return 0, nil, fmt.Errorf("%w: %d bytes", ErrRecord, len(body))
	}
	q := Seq(binary.LittleEndian.Uint64(body))
	if q.IsZero() || q > MaxSeq {
		return 0, nil, fmt.Errorf("%w: number %d", ErrRecord, q)
	}
	return q, body[RecordHeadSize:], nil
}

// Cut is the body of a KindTruncate message: of the records of the stream that lie before the message in the log, those
// with numbers below First or above Last do not count any more.
//
//	0  8  First
//	8  8  Last
type Cut struct{ First, Last Seq }

// Put encodes c into dst, which has CutSize bytes.
func (c Cut) Put(dst []byte) {
	binary.LittleEndian.PutUint64(dst, uint64(c.First))
	binary.LittleEndian.PutUint64(dst[8:], uint64(c.Last))
}

// DecodeCut decodes the body of a KindTruncate message. Errors wrap ErrRecord.
func DecodeCut(body []byte) (Cut, error) {
	if len(body) != CutSize {
		return Cut{}, fmt.Errorf("%w: a cut of %d bytes", ErrRecord, len(body))
	}
	return Cut{Seq(binary.LittleEndian.Uint64(body)), Seq(binary.LittleEndian.Uint64(body[8:]))}, nil
}

// CheckStream checks the body of a message of kind k at lsn, if it is one of a stream (rule 12). Errors wrap ErrRecord.
func CheckStream(k Kind, body []byte, lsn LSN) (err error) {
	switch k {
	case KindRecord:
		_, _, err = CutSeq(body)
	case KindTruncate:
		_, err = DecodeCut(body)
	case KindNote:
		_, err = DecodeNote(body)
	case KindLongRecord:
		_, err = DecodeLongRecord(body, lsn)
	}
	return err
}

// RunType says what a Run lists. On disk: do not renumber.
type RunType uint8

// The types of a Run.
const (
	RunRecords RunType = 0 // records, with numbers that rise from First to Last
	RunCut     RunType = 1 // a Cut with this First and Last
	RunNote    RunType = 2 // the newest message in the segment of one note; First is its offset there
	RunLong    RunType = 3 // a LongRecord; First is its number, Last the LSN of its first part
)

// A Run is a part of the index of a segment: records of one stream that follow each other in the segment, with rising
// numbers and without a Cut between them; or else one Cut, one LongRecord, or the newest message of one note. On disk:
//
//	 0  8  bits 35…0 the stream, bits 59…36 the number of records, bits 63…60 the RunType
//	 8  8  First
//	16  8  Last
type Run struct {
	Stream      StreamID
	Type        RunType
	Count       int // of records; else 0
	First, Last Seq // see RunType
}

const (
	runSize       = 24
	runCountShift = 36
	runTypeShift  = 60
	maxRunCount   = 1<<(runTypeShift-runCountShift) - 1
)

func (r Run) put(dst []byte) {
	head := uint64(r.Stream) | uint64(r.Count)<<runCountShift | uint64(r.Type)<<runTypeShift
	binary.LittleEndian.PutUint64(dst, head)
	binary.LittleEndian.PutUint64(dst[8:], uint64(r.First))
	binary.LittleEndian.PutUint64(dst[16:], uint64(r.Last))
}

// decodeRun decodes the Run at the beginning of src.
func decodeRun(src []byte) Run {
	head := binary.LittleEndian.Uint64(src)
	return Run{
		Stream: StreamID(head) & MaxStreamID, Type: RunType(head >> runTypeShift),
		Count: int(head >> runCountShift & maxRunCount),
		First: Seq(binary.LittleEndian.Uint64(src[8:])), Last: Seq(binary.LittleEndian.Uint64(src[16:])),
	}
}

// valid reports whether r is a Run that an Index writes whose messages end below offset end of the segment.
func (r Run) valid(end int) bool {
	switch r.Type {
	case RunRecords:
		return r.Count > 0 && !r.First.IsZero() && r.Last >= r.First && r.Last <= MaxSeq &&
			uint64(r.Last-r.First) >= uint64(r.Count-1)
	case RunCut:
		return r.Count == 0
	case RunLong:
		return r.Count == 1 && !r.First.IsZero() && r.First <= MaxSeq && r.Last >= SegmentStart && r.Last%Align == 0 &&
			r.Last <= math.MaxInt64
	case RunNote:
		return r.Count == 0 && r.Last == 0 && r.First%Align == 0 && r.First >= SegmentStart &&
			r.First <= Seq(end-HeaderSize)
	}
	return false
}

// streamIndex is the part of an Index that lists the messages of streams.
type streamIndex struct {
	runs    []Run
	records []indexedRecord
	open    map[StreamID]int // the run of each stream that its next record may join
	notes   map[noteKey]int  // the run of each note
}

// noteKey names a note.
type noteKey struct {
	stream StreamID
	name   string
}

// indexedRecord is a record of a run.
type indexedRecord struct {
	off uint32 // in the segment
	run uint32 // ordinal
}

func (x *streamIndex) reset() streamIndex {
	clear(x.open)
	clear(x.notes)
	return streamIndex{runs: x.runs[:0], records: x.records[:0], open: x.open, notes: x.notes}
}

// add adds the message of kind k, of a stream, at offset off of the segment, which begins at msg.
func (x *streamIndex) add(k Kind, off int, msg []byte) {
	stream := StreamID(MessagePage(msg))
	if k == KindNote {
		x.addNote(stream, off, msg)
		return
	}
	first := Seq(binary.LittleEndian.Uint64(msg[HeaderSize:]))
	if k == KindTruncate {
		last := Seq(binary.LittleEndian.Uint64(msg[HeaderSize+8:]))
		x.runs = append(x.runs, Run{Stream: stream, Type: RunCut, First: first, Last: last})
		delete(x.open, stream)
		return
	}
	if k == KindLongRecord { // the records behind it begin another run
		x.records = append(x.records, indexedRecord{uint32(off), uint32(len(x.runs))})
		part := Seq(binary.LittleEndian.Uint64(msg[HeaderSize+longHeadSize:]))
		x.runs = append(x.runs, Run{Stream: stream, Type: RunLong, Count: 1, First: first, Last: part})
		delete(x.open, stream)
		return
	}
	i := len(x.runs) - 1
	found := i >= 0 && x.runs[i].Stream == stream && x.runs[i].Type == RunRecords
	if !found {
		i, found = x.open[stream]
	}
	if !found || first <= x.runs[i].Last {
		i = len(x.runs)
		x.runs = append(x.runs, Run{Stream: stream, First: first})
		if x.open == nil {
			x.open = map[StreamID]int{}
		}
		x.open[stream] = i
	}
	x.runs[i].Count++
	x.runs[i].Last = first
	x.records = append(x.records, indexedRecord{uint32(off), uint32(i)})
}

// addNote adds the note of the stream at offset off of the segment, which begins at msg. An older message of that note
// in the segment is not listed any more.
func (x *streamIndex) addNote(stream StreamID, off int, msg []byte) {
	name := msg[HeaderSize+noteHeadSize:][:msg[HeaderSize]]
	i, found := x.notes[noteKey{stream, string(name)}]
	if !found {
		i = len(x.runs)
		x.runs = append(x.runs, Run{Stream: stream, Type: RunNote})
		if x.notes == nil {
			x.notes = map[noteKey]int{}
		}
		x.notes[noteKey{stream, string(name)}] = i
	}
	x.runs[i].First = Seq(off)
}

// units returns the room that the lists need, in units.
func (x *streamIndex) units() int { return len(x.records) + RunUnits*len(x.runs) }

// put writes the runs and then the offsets of their records to b, which is all zero.
func (x *streamIndex) put(b []byte) {
	next := make([]uint32, len(x.runs)) // where the next offset of each run goes
	at := uint32(len(x.runs) * runSize)
	for i, r := range x.runs {
		r.put(b[i*runSize:])
		next[i] = at
		at += uint32(r.Count * indexEntrySize)
	}
	for _, r := range x.records {
		binary.LittleEndian.PutUint32(b[next[r.run]:], r.off)
		next[r.run] += indexEntrySize
	}
}

// checkRuns checks the runs of an index and the offsets of their records (rule 12). end is the offset at which the
// index begins. Errors wrap ErrIndex.
func checkRuns(runs, offsets []byte, end int) error {
	most := uint32(end - HeaderSize)
	for i := 0; len(runs) > 0; i++ {
		r := decodeRun(runs)
		if !r.valid(end) || r.Count*indexEntrySize > len(offsets) {
			return fmt.Errorf("%w: run %d of stream %d: %d records from %d to %d", ErrIndex, i, r.Stream, r.Count,
				r.First, r.Last)
		}
		last := uint32(SegmentStart - Align)
		for range r.Count {
			off := binary.LittleEndian.Uint32(offsets)
			if off <= last || off > most || off%Align != 0 {
				return fmt.Errorf("%w: a record of run %d is at offset %d", ErrIndex, i, off)
			}
			last, offsets = off, offsets[indexEntrySize:]
		}
		runs = runs[runSize:]
	}
	if len(offsets) > 0 {
		return fmt.Errorf("%w: %d records of no run", ErrIndex, len(offsets)/indexEntrySize)
	}
	return nil
}

// Listed reports whether the index lists the messages of streams. An index that has no room for them does not.
func (v IndexView) Listed() bool { return v.listed }

// Runs returns the number of runs.
func (v IndexView) Runs() int { return len(v.runs) / runSize }

// Run returns the i-th run.
func (v IndexView) Run(i int) Run { return decodeRun(v.runs[i*runSize:]) }

// RunsSum returns a checksum of the runs.
func (v IndexView) RunsSum() uint32 { return crc32.Checksum(v.runs, castagnoli) }

// Offsets returns the offsets of the records of all runs, 4 bytes each, run after run.
func (v IndexView) Offsets() []byte { return v.offsets }

// OffsetsAt returns where Offsets begin in the segment, in bytes.
func (v IndexView) OffsetsAt() int { return v.at }

// Outline returns a copy of v that has its runs only, without the offsets of their records. It aliases nothing.
func (v IndexView) Outline() IndexView {
	return IndexView{Stable: v.Stable, base: v.base, listed: v.listed, runs: bytes.Clone(v.runs), at: v.at}
}
