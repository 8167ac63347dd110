package iobuf

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"pagecache/segments/format"
)

// indexes checks that each segment that is sealed below end ends with an index of exactly the records and batch markers
// that the segment holds, except for those that bare names by base. It returns the messages below end.
func (r *rig) indexes(end format.LSN, bare ...format.LSN) map[format.LSN]found {
	r.t.Helper()
	ms := r.messages(end)
	size := format.LSN(r.seg)
	for base := format.LSN(0); base+size <= end; base += size {
		var want []format.LSN
		var at *found
		for lsn := base + format.SegmentStart; size-lsn%size >= format.HeaderSize && lsn < base+size; {
			m, ok := ms[lsn]
			if !ok {
				r.t.Fatalf("no message at LSN %v", lsn)
			}
			switch m.h.Kind {
			case format.KindData, format.KindBatchBegin, format.KindBatchEnd:
				want = append(want, lsn)
			case format.KindIndex:
				at = &m
			}
			lsn += format.LSN(m.h.Step())
		}
		if at == nil {
			if !slices.Contains(bare, base) {
				r.t.Fatalf("the segment at %v has no index", base)
			}
			continue
		}
		v, err := format.DecodeIndex(at.body, at.h, r.seg, format.MakeSeed(format.StoreID{}, testGeneration,
			r.space.slots[base]))
		if err != nil {
			r.t.Fatalf("the segment at %v: %v", base, err)
		}
		var got []format.LSN
		for i := range v.Len() {
			off, k := v.Entry(i)
			if got = append(got, base+format.LSN(off)); ms[got[i]].h.Kind != k {
				r.t.Fatalf("the segment at %v: entry %d is a %v", base, i, k)
			}
		}
		for lsn, begin := range v.Markers() {
			if k := ms[lsn].h.Kind; begin != 0 && ms[begin].h.Kind != format.KindBatchBegin ||
				(begin == 0) != (k == format.KindBatchBegin) {
				r.t.Fatalf("marker at LSN %v begins at %v", lsn, begin)
			}
		}
		if !slices.Equal(got, want) {
			r.t.Fatalf("the segment at %v lists %v, and has %v", base, got, want)
		}
	}
	return ms
}

// Records of any length, groups, batches, aborted reservations, flushes and marks of many goroutines, with several
// processor counts, block sizes and completion orders: each sealed segment ends with an index of its messages, and
// nothing is lost. Proves L9, rules 1 and 5.
func TestSealedSegmentsEndWithIndexes(t *testing.T) {
	for _, procs := range []int{1, 2, 8} {
		for _, block := range []int{512, 4096} {
			for seed := range uint64(6) {
				t.Run(fmt.Sprintf("procs=%d/block=%d/seed=%d", procs, block, seed), func(t *testing.T) {
					defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
					testIndexes(t, block, seed)
				})
			}
		}
	}
}

func testIndexes(t *testing.T, block int, seed uint64) {
	mark := time.Duration(0)
	if seed%2 == 1 {
		mark = 20 * time.Microsecond
	}
	r := newRig(t, setup{buffers: 2 + int(seed%3), block: block, slots: 4000, seed: seed, index: true, markAfter: mark,
		flushEvery: 50 * time.Microsecond})
	const writers, each = 6, 150
	most := maxBody(r.seg, true)
	var mu sync.Mutex
	want := map[format.LSN][]byte{}
	var wg sync.WaitGroup
	for w := range uint64(writers) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, w))
			for range each {
				n := rng.IntN([]int{1, 30, 600}[seed%3])
				if rng.IntN(20) == 0 {
					n = most - rng.IntN(min(most, 200))
				}
				b := body(n, rng.Uint64())
				res, err := r.Reserve(format.KindData, 0, n)
				if err != nil {
					t.Error(err)
					return
				}
				copy(res.Body(), b)
				lsn := res.LSN()
				if rng.IntN(10) == 0 {
					res.Abort()
					continue
				}
				res.Complete()
				mu.Lock()
				want[lsn] = b
				mu.Unlock()
				switch rng.IntN(8) {
				case 0:
					err = r.MakeDurable(lsn)
				case 3:
					group := make([][]byte, 1+rng.IntN(5))
					for i := range group {
						group[i] = body(rng.IntN(300), rng.Uint64())
					}
					var lsns []format.LSN
					lsns, err = r.WriteGroup(group)
					mu.Lock()
					for i, lsn := range lsns {
						want[lsn] = group[i]
					}
					mu.Unlock()
				case 1, 2:
					var batch *Batch
					if batch, err = r.BeginBatch(); err == nil {
						runtime.Gosched()
						_, err = batch.End()
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	end, err := r.Close()
	if err != nil {
		t.Fatal(err)
	}
	got := r.indexes(end)
	for lsn, b := range want {
		if m, ok := got[lsn]; !ok || !bytes.Equal(m.body, b) {
			t.Fatalf("record at LSN %d is missing or wrong", lsn)
		}
	}
	for lsn, m := range got {
		if _, ok := want[lsn]; !ok && m.h.Kind == format.KindData {
			t.Fatalf("unexpected record at LSN %d", lsn)
		}
	}
}

// The index takes the room that its entries need, to the byte: a segment is full with the record that leaves no room
// for another of the same length. A body that leaves no room for its own entry is too large. Proves L9.
func TestRoomForIndex(t *testing.T) {
	for _, n := range []int{0, 1, 8, 100, 3000, 6000} {
		r := newRig(t, setup{seed: 1, index: true})
		length := format.AlignUp(format.HeaderSize + n)
		most := 0 // records in a segment
		for format.SegmentStart+(most+1)*length+format.IndexRoom(most+1) <= r.seg {
			most++
		}
		for range most {
			if lsn, err := r.put(format.KindData, 0, make([]byte, n)); err != nil || int(lsn) >= r.seg {
				t.Fatalf("body of %d bytes: LSN %v, %v", n, lsn, err)
			}
		}
		lsn, err := r.put(format.KindData, 0, make([]byte, n))
		if err != nil || int(lsn) != r.seg+format.SegmentStart {
			t.Fatalf("body of %d bytes, record %d: LSN %v, %v", n, most, lsn, err)
		}
		if err := r.MakeStable(lsn); err != nil {
			t.Fatal(err)
		}
		end, err := r.Close()
		if err != nil {
			t.Fatal(err)
		}
		r.indexes(end)
	}
	r := newRig(t, setup{seed: 1, index: true})
	most := maxBody(r.seg, true)
	if _, err := r.Reserve(format.KindData, 0, most+1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("body of %d bytes: %v", most+1, err)
	}
	for range 3 {
		if _, err := r.put(format.KindData, 0, make([]byte, most)); err != nil {
			t.Fatal(err)
		}
	}
	end, err := r.Close()
	if err != nil {
		t.Fatal(err)
	}
	if ms := r.indexes(end); len(ms) < 6 {
		t.Errorf("%d messages", len(ms))
	}
}

// The words of full buffers and of those with the most units do not overflow.
func TestTailWordHoldsAnySegment(t *testing.T) {
	const most = format.MaxIndexUnits
	if w := makeTail(format.MaxSegmentSize+1, most); w.off() != format.MaxSegmentSize+1 || w.units() != most {
		t.Errorf("%d and %d", w.off(), w.units())
	}
	w := makeTail(format.MaxSegmentSize, most)
	for range 1 << 18 {
		w += makeTail(format.MaxSegmentSize-format.SegmentStart, 0)
	}
	if w.units() != most || w.off() < format.MaxSegmentSize {
		t.Errorf("after many failed reservations: %d and %d", w.off(), w.units())
	}
}

// resumed starts a log where another has ended, on the same device.
func (r *rig) resumed(end format.LSN) *rig {
	r.t.Helper()
	var bufs [][]byte
	for range 2 {
		bufs = append(bufs, aligned(r.seg))
	}
	base := end - end%format.LSN(r.seg)
	slot := r.space.slots[base]
	l, err := New(Config{Device: r.dev, Space: r.space, Buffers: bufs, Generation: testGeneration, Chunk: r.seg / 4,
		Index: true, End: end, Slot: slot, Seed: format.MakeSeed(format.StoreID{}, testGeneration, slot),
		Fill: func(mem []byte) error {
			copy(mem, r.dev.data[int(slot)*r.seg:])
			return nil
		}})
	if err != nil {
		r.t.Fatal(err)
	}
	return &rig{Log: l, t: r.t, dev: r.dev, space: r.space, seg: r.seg}
}

// A segment that was begun by one log and is sealed by the next ends with an index of all its messages. If a message is
// not intact, or there is no room, the segment is sealed at once and ends with a pad. Proves L9.
func TestResumedSegmentIsIndexed(t *testing.T) {
	for _, records := range []int{1, 10, 11} {
		r := newRig(t, setup{seed: 1, index: true})
		for range records {
			if _, err := r.put(format.KindData, 0, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			b, err := r.BeginBatch()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.End(); err != nil {
				t.Fatal(err)
			}
		}
		end, err := r.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, corrupt := range []bool{false, true} {
			copied := r.copied()
			first := &copied.dev.data[int(copied.space.slots[0])*r.seg+format.SegmentStart+8] // its LSN
			var bare []format.LSN
			if corrupt {
				*first ^= 1
				bare = append(bare, 0)
			}
			again := copied.resumed(end)
			for range 30 {
				if _, err := again.put(format.KindData, 0, make([]byte, 700)); err != nil {
					t.Fatal(err)
				}
			}
			end, err := again.Close()
			if err != nil {
				t.Fatal(err)
			}
			if corrupt {
				*first ^= 1
			}
			again.indexes(end, bare...)
		}
		if _, err := r.resumed(end).Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// copied returns a rig without a log whose device has the same contents.
func (r *rig) copied() *rig {
	d := newMemDevice(r.t, r.dev.block, len(r.dev.data), 1)
	copy(d.data, r.dev.data)
	copy(d.written, r.dev.written)
	s := &memSpace{limit: r.space.limit, next: r.space.next, sealed: map[format.LSN]bool{},
		slots: map[format.LSN]format.SegmentID{}}
	for base, slot := range r.space.slots {
		s.slots[base] = slot
	}
	return &rig{t: r.t, dev: d, space: s, seg: r.seg}
}

// A pad that was written where the tail was moved may have taken the room of the index. Such a segment takes no more
// messages, and the pad that fills it is written without any other write.
func TestSegmentWithoutRoomForIndexIsSealed(t *testing.T) {
	r := newRig(t, setup{seed: 1, index: true})
	for i := range 180 { // 180 entries take 720 bytes, more than a block
		if _, err := r.put(format.KindData, 0, make([]byte, 30+i%2)); err != nil {
			t.Fatal(err)
		}
	}
	end, err := r.Close()
	if err != nil {
		t.Fatal(err)
	}
	c := r.copied()
	slot := int(c.space.slots[0])
	full := r.seg - c.dev.block // where the pad ends
	seed := format.MakeSeed(format.StoreID{}, testGeneration, format.SegmentID(slot))
	at := c.dev.data[slot*r.seg+int(end):]
	k := format.Known{Durable: end, Stable: end - 1}
	format.PutWord(at, format.PutPad(at, end, k, full-int(end), seed))
	for b := slot * r.seg / c.dev.block; b < (slot*r.seg+full)/c.dev.block; b++ {
		c.dev.written[b] = true
	}
	c = c.resumed(format.LSN(full))
	if tail := c.Tail(); int(tail) != r.seg {
		t.Errorf("the tail is %v", tail)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if c.StableEnd() != format.LSN(r.seg) {
		t.Errorf("stable below %v after Flush", c.StableEnd())
	}
	lsn, err := c.put(format.KindData, 0, nil)
	if err != nil || int(lsn) != r.seg+format.SegmentStart {
		t.Errorf("LSN %v, %v", lsn, err)
	}
	if end, err = c.Close(); err != nil {
		t.Fatal(err)
	}
	c.indexes(end, 0)
}

// On a full disk the writer that seals a segment gets the error, and the segment is completed all the same. Proves L9,
// rule 9.
func TestIndexOnFullDisk(t *testing.T) {
	r := newRig(t, setup{slots: 2, seed: 1, index: true})
	var err error
	for err == nil {
		_, err = r.put(format.KindData, 0, make([]byte, 900))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	if end := r.StableEnd(); int(end) != 2*r.seg {
		t.Errorf("stable below %v", end)
	}
	end, err := r.Close()
	if err != nil {
		t.Fatal(err)
	}
	r.indexes(end)
}

// A log without indexes writes none, and its messages may take all of a segment.
func TestLogWithoutIndexes(t *testing.T) {
	r := newRig(t, setup{seed: 1})
	for range 3 {
		if _, err := r.put(format.KindData, 0, make([]byte, format.MaxBody(r.seg))); err != nil {
			t.Fatal(err)
		}
	}
	end, err := r.Close()
	if err != nil || int(end) != 3*r.seg {
		t.Fatal(end, err)
	}
	for lsn, m := range r.messages(end) {
		if m.h.Kind == format.KindIndex {
			t.Errorf("index at LSN %v", lsn)
		}
	}
}
