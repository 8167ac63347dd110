package enginetest

import (
	"slices"
	"testing"

	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// A FileRange is bytes [From, To) of a file.
type FileRange struct {
	Name     string
	From, To int64
}

// Filler returns the parts of the intact log that should mean nothing: the rest of the blocks of segment headers,
// the filler of pads, and the slots that hold nothing. The tail of the last segment is not among them: a recovery looks
// for messages there.
func (s *Specimen) Filler(t testing.TB) (ranges []FileRange) {
	t.Helper()
	d := s.Disk.Copy()
	res, err := ScanLog(d, "/store")
	if err != nil {
		t.Fatal(err)
	}
	name := "/store/" + LogName
	log, size := d.ReadDurable(name), s.Opts.SegmentSize
	add := func(from, to int) {
		if from < to {
			ranges = append(ranges, FileRange{name, int64(from), int64(to)})
		}
	}
	for at := 0; at < len(log); at += size {
		add(at+format.SegmentHeaderSize, at+format.SegmentStart)
	}
	for _, id := range slices.Concat(res.Free, res.Zero, res.Void) {
		at := int(id.Offset(size))
		add(at+format.SegmentStart, at+size)
	}
	for _, g := range res.Segments {
		seg := log[g.Slot.Offset(size):][:g.Used]
		for pos := format.SegmentStart; len(seg)-pos >= format.HeaderSize; {
			h, err := format.DecodeHeader(seg[pos:], len(seg)-pos, g.Base+format.LSN(pos))
			if err != nil {
				t.Fatalf("the intact log, LSN %d: %v", g.Base+format.LSN(pos), err)
			}
			if h.Kind == format.KindPad {
				at := int(g.Slot.Offset(size)) + pos
				add(at+min(format.PadSummed, h.Len), at+h.Len)
			}
			pos += h.Step()
		}
	}
	return ranges
}

// Unread returns an error unless the ranges mean nothing: however their bytes are changed, all at once or range by
// range, the store shows all of its contents, and all openings agree.
func (s *Specimen) Unread(ranges []FileRange) error {
	change := func(ranges []FileRange, how func(b []byte)) func(*simdisk.Disk) {
		return func(d *simdisk.Disk) {
			for _, r := range ranges {
				b := d.ReadDurable(r.Name)[r.From:r.To]
				how(b)
				d.Alter(r.Name, r.From, b)
			}
		}
	}
	invert := func(b []byte) {
		for i := range b {
			b[i] ^= 0xff
		}
	}
	hurts := []func(*simdisk.Disk){change(ranges, invert)}
	for seed := range uint64(8) {
		hurts = append(hurts, change(ranges, func(b []byte) { copy(b, Random(len(b), seed)) }))
	}
	for i := range ranges {
		hurts = append(hurts, change(ranges[i:i+1], invert))
	}
	for i, hurt := range hurts {
		switch outcome, err := s.Agree(hurt); {
		case err != nil:
			return err
		case outcome != OutcomeWhole:
			return Violated("filler means something: change %d of %v has outcome %v", i, ranges, outcome)
		}
	}
	return nil
}
