package recovery

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"pagecache/segments/format"
)

// holey is a Source with bytes [from, to) that cannot be read.
type holey struct {
	file
	from, to int64
}

func (f holey) ReadAt(p []byte, off int64) (int, error) {
	if off < f.to && off+int64(len(p)) > f.from {
		return 0, fmt.Errorf("medium error: %w", syscall.EIO)
	}
	return f.file.ReadAt(p, off)
}

func unreadableOptions(b *builder) Options {
	o := b.options()
	o.Unreadable = func(err error) bool { return errors.Is(err, syscall.EIO) }
	return o
}

// Whichever 512 bytes of the file cannot be read, Scan finds the whole log, or returns an error that has the place and
// wraps the cause. It never returns a part of the log. Proves rule 10; trap 30.
func TestEveryUnreadableSector(t *testing.T) {
	b := threeSegments()
	b.block()
	end := b.lsn()
	used := b.at(b.pos)
	b.open(3, 0, format.SegmentStateFree)
	b.open(5, 0, format.SegmentStateFree) // slot 4 was never written
	for _, clean := range []bool{false, true} {
		o := unreadableOptions(b)
		if o.Clean = clean; clean {
			o.End, o.Joined = end, b.joined(end)
		}
		whole, refused := 0, 0
		for at := int64(0); at < int64(len(b.file)); at += 512 {
			r, err := Scan(holey{b.file, at, at + 512}, o)
			if err == nil {
				whole++
				if r.End != end || !equal(collect(t, r), upTo(b.want, end)) {
					t.Fatalf("clean %v, %d … %d unreadable: the log ends at %v, want %v", clean, at, at+511, r.End, end)
				}
				continue
			}
			refused++
			ce := (*CorruptError)(nil)
			if !errors.Is(err, ErrCorrupt) || !errors.Is(err, syscall.EIO) || !errors.As(err, &ce) {
				t.Fatalf("clean %v, bytes %d … %d unreadable: %v", clean, at, at+511, err)
			}
			if off, known := ce.Place.Offset(); !known || at >= int64(used) && off.String() == "" {
				t.Errorf("clean %v, bytes %d … %d unreadable: no place in %v", clean, at, at+511, err)
			}
			if at >= 3*testSize {
				t.Errorf("clean %v, bytes %d … %d of a free slot unreadable: %v", clean, at, at+511, err)
			}
		}
		if whole == 0 || refused == 0 {
			t.Errorf("clean %v: %d openings, %d refusals", clean, whole, refused)
		}
	}
}

// A slot whose header cannot be read is left out if the log ends inside a segment. If the log ends where a segment
// would follow, it is left out if its first message was never written; else Scan does not take that for the log's end.
func TestUnreadableHeader(t *testing.T) {
	b := threeSegments()
	end := b.lsn()
	b.open(3, 0, format.SegmentStateFree)
	r, err := Scan(holey{b.file, 3 * testSize, 3*testSize + 64}, unreadableOptions(b))
	if err != nil || r.End != end || len(r.Unreadable) != 1 || r.Unreadable[0] != 3 || len(r.Corrupt) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	b = threeSegments()
	b.fill()
	end = b.lsn()
	b.open(3, 0, format.SegmentStateFree) // no message was written to it
	r, err = Scan(holey{b.file, 3 * testSize, 3*testSize + 64}, unreadableOptions(b))
	if err != nil || r.End != end || len(r.Unreadable) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	b.open(3, end, format.SegmentStateInUse).pages(1, 10)
	b.file[b.at(format.SegmentStart)+format.HeaderSize] ^= 1 // the first message cannot be verified
	_, err = Scan(holey{b.file, 3 * testSize, 3*testSize + 64}, unreadableOptions(b))
	if !errors.Is(err, syscall.EIO) {
		t.Fatalf("the first message is corrupt: %v", err)
	}
	_, err = Scan(holey{b.file, 3 * testSize, 3*testSize + format.SegmentStart + 64}, unreadableOptions(b))
	ce := (*CorruptError)(nil)
	if !errors.As(err, &ce) || !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if slot, known := ce.Place.Slot(); !known || slot != 3 {
		t.Errorf("slot %v, want 3: %v", slot, err)
	}
	b = newBuilder().open(0, 0, format.SegmentStateInUse) // nothing else can be read
	b.pages(3, 10)
	if _, err = Scan(holey{b.file, 0, 64}, unreadableOptions(b)); !errors.Is(err, syscall.EIO) {
		t.Errorf("the only header cannot be read: %v", err)
	}
}
