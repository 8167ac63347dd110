package engine_test

import (
	"fmt"
	"strings"
	"testing"

	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// sweptPlace is a byte of a file.
type sweptPlace struct {
	name string
	off  int64
}

func (p sweptPlace) String() string { return fmt.Sprintf("%s, offset %#x", p.name, p.off) }

// sweptBit is a bit of a file.
type sweptBit struct {
	sweptPlace
	bit uint
}

func (b sweptBit) String() string { return fmt.Sprintf("bit %d of %v flipped", b.bit, b.sweptPlace) }

func (b sweptBit) flip(d *simdisk.Disk) { d.FlipBit(b.name, b.off, b.bit) }

// fillerOf returns the bytes of the log that mean nothing, after it has proved that.
func fillerOf(t *testing.T, s *enginetest.Specimen) map[sweptPlace]bool {
	t.Helper()
	ranges := s.Filler(t)
	if err := s.Unread(ranges); err != nil {
		t.Fatal(err)
	}
	filler := map[sweptPlace]bool{}
	for _, r := range ranges {
		for at := r.From; at < r.To; at++ {
			filler[sweptPlace{r.Name, at}] = true
		}
	}
	return filler
}

// sweptBits returns the bits to flip one by one, each in a run of its own: all bits of all files, but for those of which
// it is proved that their effect is that of others. These are the bytes of the log that mean nothing, and long runs of
// zeros in the superblock and in snapshots: their decoders must give the same answer for all bits of a run. Of such a
// run a bit in 61 is returned.
func sweptBits(t *testing.T, s *enginetest.Specimen) (bits []sweptBit) {
	t.Helper()
	filler := fillerOf(t, s)
	for _, name := range s.Files {
		b := s.Disk.ReadDurable(name)
		decode := sweptDecoder(name, b)
		for at := 0; at < len(b); at++ {
			run := 0
			for decode != nil && at+run < len(b) && b[at+run] == 0 && (run == 0 || (at+run)%format.SnapshotBlock != 0) {
				run++
			}
			if run >= 64 {
				bits = append(bits, sweptRun(t, name, b, at, run)...)
				at += run - 1
				continue
			}
			for bit := range uint(8) {
				if p := (sweptPlace{name, int64(at)}); !filler[p] {
					bits = append(bits, sweptBit{p, bit})
				}
			}
		}
	}
	return bits
}

// sweptRun returns the bits to flip in a run of zeros.
func sweptRun(t *testing.T, name string, b []byte, at, run int) (bits []sweptBit) {
	t.Helper()
	decode, want := sweptDecoder(name, b), ""
	for i := range 8 * run {
		off, bit := at+i/8, uint(i%8)
		b[off] ^= 1 << bit
		got := decode(off)
		b[off] ^= 1 << bit
		if i == 0 {
			want = got
		}
		if got != want {
			t.Fatalf("bit %d of byte %#x of %s: %s; another bit of the same zeros: %s", bit, off, name, got, want)
		}
		if i%61 == 0 {
			bits = append(bits, sweptBit{sweptPlace{name, int64(off)}, bit})
		}
	}
	return bits
}

// sweptDecoder returns a function that says what the decoder makes of the part of b that offset off lies in, if b is the
// superblock or a snapshot. It returns nil for another file.
func sweptDecoder(name string, b []byte) func(off int) string {
	switch {
	case strings.HasSuffix(name, "/"+enginetest.SuperName):
		return func(int) string {
			sb, states, err := format.DecodeSuperCopies(b)
			return fmt.Sprintf("%+v %v %v", sb, states, err)
		}
	case strings.Contains(name, "/snapshot."):
		intact, _ := format.DecodeSnapshotHeader(b[:format.SnapshotBlock], int64(len(b)))
		return func(off int) string {
			if off < format.SnapshotBlock {
				h, err := format.DecodeSnapshotHeader(b[:format.SnapshotBlock], int64(len(b)))
				return fmt.Sprintf("%+v %v", h, err)
			}
			if int64(off) >= intact.RestOffset() {
				return fmt.Sprint(off) // the lists have one checksum, and are short
			}
			number := off / format.SnapshotBlock
			block := b[number*format.SnapshotBlock:][:format.SnapshotBlock]
			return fmt.Sprint(format.CheckSnapshotBlock(block, intact.Seed(), int64(number)))
		}
	}
	return nil
}
