package iobuf

import (
	"bytes"
	"testing"

	"pagecache/segments/format"
)

// Before a small write reaches blank space, the leader zeroes the next step of it, and nothing that was written before:
// neither stable bytes nor the header of a free slot. Proves rules 1 and 9.
func TestBlankSpaceIsZeroedAheadOfSmallWrites(t *testing.T) {
	const segment = 1 << 20
	for _, blank := range []int{0, format.SegmentStart, segment} {
		r := newRig(t, setup{segment: segment, block: 4096, slots: 4, blank: &blank})
		for range 300 { // more than one segment
			lsn, err := r.put(format.KindCompact, 2, make([]byte, 3900))
			if err == nil {
				err = r.MakeStable(lsn)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		bySlot := map[int64]int64{}
		zeroed := r.dev.zeroedSoFar()
		for _, z := range zeroed {
			slot, from := z[0]/segment, z[0]%segment
			if want := max(int64(blank), bySlot[slot]); from != want || from+z[1] > segment {
				t.Errorf("blank from %d: %d bytes are zeroed at %d of slot %d, want %d", blank, z[1], from, slot, want)
			}
			bySlot[slot] = from + z[1]
		}
		steps := 4 + 1 // the second segment holds less than a step
		if blank == segment {
			steps = 0
		}
		if len(zeroed) != steps {
			t.Errorf("blank from %d: zeroed in %d steps, want %d: %v", blank, len(zeroed), steps, zeroed)
		}
		r.messages(r.DurableEnd())
		if _, err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Large writes to blank space are not zeroed ahead: that would write everything twice.
func TestLargeWritesAreNotZeroedAhead(t *testing.T) {
	const segment = 1 << 20
	blank := 0
	r := newRig(t, setup{segment: segment, block: 4096, slots: 4, blank: &blank})
	var last format.LSN
	for range 20 {
		for range 4 {
			lsn, err := r.put(format.KindCompact, 2, make([]byte, 40<<10))
			if err != nil {
				t.Fatal(err)
			}
			last = lsn
		}
		if err := r.MakeStable(last); err != nil {
			t.Fatal(err)
		}
	}
	if zeroed := r.dev.zeroedSoFar(); len(zeroed) > 4 { // a rest of a chunk or of a segment may be small
		t.Errorf("zeroed %d times: %v", len(zeroed), zeroed)
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// A small write to blank space after a large one waits for no zeroing; the next one does.
func TestFirstSmallWriteAfterLargeOneIsNotZeroedAhead(t *testing.T) {
	for small := range 3 {
		blank := 0
		r := newRig(t, setup{segment: 8 << 20, block: 4096, slots: 4, blank: &blank})
		write := func(size int) {
			t.Helper()
			lsn, err := r.put(format.KindCompact, 2, make([]byte, size))
			if err == nil {
				err = r.MakeStable(lsn)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for range 10 {
			write(2 * defaultZeroStep)
			for range small {
				write(3900)
			}
		}
		want := 10 * max(0, small-1)
		if zeroed := r.dev.zeroedSoFar(); len(zeroed) != want {
			t.Errorf("%d small writes after each of 10 large ones: zeroed %d times, want %d: %v", small, len(zeroed),
				want, zeroed)
		}
		if _, err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A short segment ends with a pad below its limit, from which on nothing is written, whatever the lengths of the
// messages are. The log goes on in the next segment, which is whole. Proves rule 9.
func TestShortSegmentEndsBelowItsLimit(t *testing.T) {
	const segment, block = 64 << 10, 512
	for limit := format.SegmentStart + 2*block; limit < segment; limit += 11 * block {
		for _, size := range []int{8, 40, 448, 480, 1000, 7000} {
			r := newRig(t, setup{segment: segment, block: block, slots: 4, limit: limit, seed: uint64(limit)})
			want := map[format.LSN][]byte{}
			last := format.LSN(0)
			for i := 0; last < segment*3/2; i++ {
				body := bytes.Repeat([]byte{byte(i + 1)}, size+i%3*8)
				lsn, err := r.put(format.KindCompact, format.PageID(i), body)
				if err != nil {
					t.Fatal(err)
				}
				if want[lsn], last = body, lsn; i%5 == 0 {
					if err := r.MakeStable(lsn); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := r.Flush(); err != nil {
				t.Fatal(err)
			}
			got := r.messages(r.DurableEnd())
			for lsn, body := range want {
				if !bytes.Equal(got[lsn].body, body) || lsn < segment && int(lsn)+len(body) > limit {
					t.Fatalf("limit %d, messages of %d bytes: the one at %d has %d bytes", limit, size, lsn,
						len(got[lsn].body))
				}
			}
			slot, beyond := int(r.space.slots[0]), 0
			for b := (slot*segment + limit) / block; b < (slot+1)*segment/block; b++ {
				if r.dev.written[b] {
					beyond++
				}
			}
			if beyond > 0 || len(r.space.slots) != 2 || !r.space.sealed[0] {
				t.Errorf("limit %d, messages of %d bytes: %d blocks beyond the limit were written; segments %v, %v",
					limit, size, beyond, r.space.slots, r.space.sealed)
			}
			if _, err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
