package iobuf

import (
	"fmt"
	"slices"
	"testing"

	"pagecache/segments/format"
)

// leftOut returns the ranges of a segment's slot that were not written, in bytes.
func (r *rig) leftOut(base format.LSN) (ranges [][2]int) {
	r.dev.locked(func(d *memDevice) {
		first := int(r.space.slots[base]) * r.seg / d.block
		for b := range r.seg / d.block {
			if d.written[first+b] {
				continue
			}
			if n := len(ranges); n > 0 && ranges[n-1][1] == b*d.block {
				ranges[n-1][1] += d.block
			} else {
				ranges = append(ranges, [2]int{b * d.block, (b + 1) * d.block})
			}
		}
	})
	return ranges
}

// The filler of a long pad at the end of a segment is not written: all other blocks are, and the log reads the same.
// The buffer is all zero when it is used again, whatever the next segment leaves out. Proves rules 1 and 5.
func TestFillerOfLongPadIsNotWritten(t *testing.T) {
	for _, index := range []bool{false, true} {
		for _, size := range []int{40, 500, 3000, 5000, 6500, 12000} {
			t.Run(fmt.Sprintf("index=%v/bytes=%d", index, size), func(t *testing.T) {
				const segment, block = 32 << 10, 512
				r := newRig(t, setup{segment: segment, block: block, slots: 40, index: index, seed: uint64(size)})
				want := map[format.LSN][]byte{}
				for i, last := 0, format.LSN(0); last < 15*segment; i++ {
					n := size
					if i%7 == 6 {
						n = 40 // so that segments end in other places
					}
					b := body(n, uint64(i))
					lsn, err := r.put(format.KindData, 0, b)
					if err == nil && i%3 == 0 {
						err = r.MakeStable(lsn)
					}
					if err != nil {
						t.Fatal(err)
					}
					want[lsn], last = b, lsn
				}
				if err := r.Flush(); err != nil {
					t.Fatal(err)
				}
				end := r.DurableEnd()
				got := r.messages(end)
				for lsn, b := range want {
					if !slices.Equal(got[lsn].body, b) {
						t.Fatalf("the message at LSN %v is not what was written", lsn)
					}
				}
				bytes, holes := 0, 0
				for base := format.LSN(0); base+segment <= end; base += segment {
					bytes += segment
					var pad format.Header
					for _, m := range got {
						if m.h.Kind == format.KindPad && m.h.LSN > base && m.h.LSN < base+segment && m.h.LSN > pad.LSN {
							pad = m.h
						}
					}
					out := r.leftOut(base)
					from := (int(pad.LSN-base) + format.PadSummed + block - 1) / block * block
					to := min(int(pad.LSN-base)+pad.Len, segment-block) / block * block
					if pad.LSN == 0 || to-from < segment/holeShare {
						if len(out) > 0 {
							t.Errorf("segment at %v without a long pad: %v are not written", base, out)
						}
						continue
					}
					holes++
					bytes -= to - from
					if len(out) != 1 || out[0] != [2]int{from, to} {
						t.Errorf("segment at %v: %v are not written, want %d to %d", base, out, from, to)
					}
				}
				if size >= 5000 && holes == 0 {
					t.Error("no segment ends with a long pad")
				}
				tail := int(end % segment)
				if written := r.Stats().BytesWritten; int(written) != bytes+tail {
					t.Errorf("%d bytes were written, want %d", written, bytes+tail)
				}
				if _, err := r.Close(); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// A commit that begins a segment is one write, although the rest of the segment before takes two.
func TestFirstCommitOfSegmentIsOneWrite(t *testing.T) {
	const segment, block = 64 << 10, 512
	r := newRig(t, setup{segment: segment, block: block, slots: 40, index: true})
	defer func() {
		if _, err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	for base := format.LSN(0); base < 30*segment; {
		before := 0
		r.dev.locked(func(d *memDevice) { before = d.writes })
		lsn, err := r.put(format.KindData, 0, body(9000, uint64(base)))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.MakeStable(lsn); err != nil {
			t.Fatal(err)
		}
		writes := 1
		if now := lsn - lsn%segment; now != base {
			base, writes = now, 3
		}
		r.dev.locked(func(d *memDevice) {
			if d.writes-before != writes {
				t.Errorf("the commit at LSN %v took %d writes, want %d", lsn, d.writes-before, writes)
			}
		})
	}
}

// Messages of a group that is aborted are not there, although Seal has committed them.
func TestSealedMessagesOfAbortedGroupAreNotThere(t *testing.T) {
	r := newRig(t, setup{index: true})
	sizes := []int{100, 8, 3000}
	size := format.GroupSize()
	for _, n := range sizes {
		size += format.AlignUp(format.HeaderSize + n)
	}
	write := func(seals int, end func(g *Group)) (lsns []format.LSN) {
		g, err := r.ReserveGroup(len(sizes), size)
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range sizes {
			b, lsn, _ := g.Add(format.KindData, 0, n)
			copy(b, body(n, uint64(i)))
			if lsns = append(lsns, lsn); i < seals {
				g.Seal()
			}
		}
		end(&g)
		return lsns
	}
	for seals := range len(sizes) + 1 {
		aborted, kept := write(seals, (*Group).Abort), write(seals, (*Group).Complete)
		for _, lsn := range aborted {
			if _, found := r.AppendMessage(nil, lsn, 1<<20); found {
				t.Errorf("%d sealed messages of a group that was aborted: that at LSN %v is there", seals, lsn)
			}
		}
		for i, lsn := range kept {
			b, found := r.AppendMessage([]byte("x"), lsn, 1<<20)
			if !found || b[0] != 'x' || !slices.Equal(b[1+format.HeaderSize:], body(sizes[i], uint64(i))) {
				t.Errorf("%d sealed messages of a group: that at LSN %v is not there, or another one", seals, lsn)
			}
			if b, found := r.AppendMessage([]byte("x"), lsn, sizes[i]); found || string(b) != "x" {
				t.Errorf("the message at LSN %v is longer than what was asked for, and was returned", lsn)
			}
		}
	}
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	r.messages(r.DurableEnd())
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}
