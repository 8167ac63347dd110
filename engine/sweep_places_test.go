package engine_test

import (
	"fmt"
	"slices"
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

// sweptBits returns the bits to flip one by one, each in an opening of its own: all bits of the files, but for those
// that are proved to have the effect of others. These are the bytes of the log that mean nothing, and long runs of
// zeros in the superblock and in snapshots: their decoders must give the same answer for all bits of a run. Of such a
// run a bit in 61 is returned.
func sweptBits(t *testing.T, s *enginetest.Specimen, files []string) (bits []sweptBit) {
	t.Helper()
	var filler map[sweptPlace]bool
	if slices.Contains(files, "/store/"+enginetest.LogName) {
		filler = fillerOf(t, s)
	}
	for _, name := range files {
		b := s.Disk.ReadDurable(name)
		decode := sweptDecoder(name, b)
		for at := 0; at < len(b); at++ {
			run := 0
			inBlock := format.SnapshotBlock - at%format.SnapshotBlock
			for decode != nil && run < inBlock && at+run < len(b) && b[at+run] == 0 {
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
	decode, want := sweptDecoder(name, b), [3]any{}
	for i := range 8 * run {
		off, bit := at+i/8, uint(i%8)
		b[off] ^= 1 << bit
		got := decode(off)
		b[off] ^= 1 << bit
		if i == 0 {
			want = got
		}
		if got != want {
			t.Fatalf("bit %d of byte %#x of %s: %v; another bit of the same zeros: %v", bit, off, name, got, want)
		}
		if i%61 == 0 {
			bits = append(bits, sweptBit{sweptPlace{name, int64(off)}, bit})
		}
	}
	return bits
}

// sweptDecoder returns a function that says what the decoder makes of the part of b that offset off lies in, if b is
// the superblock or a snapshot. It returns nil for another file.
func sweptDecoder(name string, b []byte) func(off int) [3]any {
	switch {
	case strings.HasSuffix(name, "/"+enginetest.SuperName):
		return func(int) [3]any {
			sb, states, err := format.DecodeSuperCopies(b)
			return [3]any{sb, states, fmt.Sprint(err)}
		}
	case strings.Contains(name, "/snapshot."):
		intact, _ := format.DecodeSnapshotHeader(b[:format.SnapshotBlock], int64(len(b)))
		return func(off int) [3]any {
			if off < format.SnapshotBlock {
				h, err := format.DecodeSnapshotHeader(b[:format.SnapshotBlock], int64(len(b)))
				return [3]any{h, fmt.Sprint(err)}
			}
			if int64(off) >= intact.RestOffset() {
				return [3]any{off} // the lists have one checksum, and are short
			}
			number := off / format.SnapshotBlock
			block := b[number*format.SnapshotBlock:][:format.SnapshotBlock]
			return [3]any{fmt.Sprint(format.CheckSnapshotBlock(block, intact.Seed(), int64(number)))}
		}
	}
	return nil
}
