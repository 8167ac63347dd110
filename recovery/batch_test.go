package recovery

import (
	"math/rand/v2"
	"testing"

	"pagecache/segments/format"
)

// Proves V2, trap 1.
func TestBatchIsWholeOrAbsent(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(b *builder) (end format.LSN)
	}{
		{"whole", func(b *builder) format.LSN {
			x := b.begin()
			b.pages(2, 100)
			b.end(x)
			return b.lsn()
		}},
		{"open", func(b *builder) format.LSN {
			x := b.begin()
			b.pages(2, 100)
			return x
		}},
		{"open, with a whole one after it", func(b *builder) format.LSN {
			x := b.begin()
			b.pages(1, 100)
			b.end(b.begin())
			return x
		}},
		{"nested, the inner open", func(b *builder) format.LSN {
			x := b.begin()
			b.pages(1, 100)
			b.begin()
			b.end(x)
			return x
		}},
		{"nested, the outer open", func(b *builder) format.LSN {
			x := b.begin()
			y := b.begin()
			b.end(y)
			return x
		}},
		{"a chain of interleaved ones, the last open", func(b *builder) format.LSN {
			w := b.begin()
			x := b.begin()
			b.end(w)
			y := b.begin()
			b.end(x)
			b.begin()
			b.end(y)
			return w
		}},
		{"a whole one before an open one", func(b *builder) format.LSN {
			b.end(b.begin())
			b.pages(1, 10)
			return b.begin()
		}},
		{"the end torn", func(b *builder) format.LSN {
			x := b.begin()
			b.pages(1, 10)
			b.file[int(b.end(x))+30] ^= 1
			return x
		}},
		{"the end of another log's batch", func(b *builder) format.LSN {
			b.end(8)
			return b.lsn()
		}},
		{"across segments", func(b *builder) format.LSN {
			x := b.begin()
			known := b.stable
			b.fill()
			b.known(known)
			b.open(1, testSize, format.SegmentStateInUse)
			b.pages(2, 10)
			return x
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBuilder().open(0, 0, format.SegmentStateInUse)
			b.pages(2, 100)
			end := c.run(b)
			r := b.scanned(t, b.options(), end)
			if torn := end < b.lsn(); r.Torn != torn {
				t.Errorf("torn %v (%s)", r.Torn, r.Why)
			}
			if c.name == "the end torn" {
				return
			}
			o := b.clean(b.lsn())
			b.scanned(t, o, end)
		})
	}
}

// Ids never repeat: a counter in a batch that is cut off still counts.
func TestCounterInDiscardedBatchCounts(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.counter(1000)
	b.put(format.KindRoot, 2, []byte{1})
	end := b.begin()
	b.counter(3000)
	b.put(format.KindRoot, 2, []byte{1})
	b.counter(2000)
	tip := b.lsn()
	b.counter(9000)
	b.file[tip+24] ^= 1
	r := b.scanned(t, b.options(), end)
	if r.Counter != 3000 || r.Tip != tip {
		t.Errorf("counter %d, tip %v", r.Counter, r.Tip)
	}
	b = newBuilder().open(0, 0, format.SegmentStateInUse)
	b.counter(5000)
	b.begin()
	b.counter(4000)
	if r, err := Scan(b.file, b.options()); err != nil || r.Counter != 5000 {
		t.Errorf("%+v, %v", r, err)
	}
}

// The end of a stable batch cannot be missing.
func TestStableOpenBatchIsAnError(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.begin()
	b.pages(2, 100)
	b.known(b.lsn() - 1)
	b.block()
	wantCorrupt(t, b.file, b.options(), stableOpenBatch)
}

// The end of a batch cannot be missing from the moment on at which the first byte of its begin marker is stable.
func TestStableOpenBatchBegins(t *testing.T) {
	for _, stable := range []format.LSN{-1, 0} { // relative to the begin marker
		b := newBuilder().open(0, 0, format.SegmentStateInUse)
		b.pages(1, 100)
		x := b.begin()
		b.known(x + stable)
		b.block() // a pad that carries it
		if stable == 0 {
			wantCorrupt(t, b.file, b.options(), stableOpenBatch)
		} else if r := b.scanned(t, b.options(), x); !r.Torn {
			t.Errorf("%+v, want a torn log", r)
		}
	}
}

// A missing segment was recycled only if the whole of it is known to have been stable. If its last byte is not, it is
// missing.
func TestHoleBelowStable(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.pages(2, 100)
	b.fill()
	b.open(1, testSize, format.SegmentStateInUse)
	b.fill()
	b.known(2*testSize - 2)
	b.open(2, 2*testSize, format.SegmentStateInUse)
	b.pages(1, 100)
	clear(b.file[testSize : 2*testSize])
	wantCorrupt(t, b.file, b.options(), endsBelowDurable)
}

// The messages of an open batch may be durable. They are cut off all the same. Proves V8.
func TestDurableOpenBatchIsCut(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.pages(2, 100)
	x := b.begin()
	b.known(x - 1)
	b.pages(2, 100)
	b.durable = b.lsn()
	b.block()
	end := b.lsn()
	b.stable = x - 1
	b.pages(1, 100)
	for _, clean := range []bool{false, true} {
		o := b.clean(b.lsn())
		o.Clean = clean
		r := b.scanned(t, o, x)
		if !r.Torn || r.Tip != b.lsn() || r.Durable != end || r.Stable != x-1 {
			t.Errorf("clean %v: %+v", clean, r)
		}
	}
}

// cutByFixpoint computes cutBatches by its definition: the earliest beginning without an end, then the earliest
// beginning of a batch that this cut splits, until nothing changes.
func cutByFixpoint(marks []mark, tip format.LSN) format.LSN {
	end := func(b format.LSN) format.LSN {
		for _, m := range marks {
			if m.begin == b {
				return m.lsn
			}
		}
		return 1 << 60
	}
	cut := tip
	for again := true; again; {
		again = false
		for _, m := range marks {
			if m.begin == 0 && m.lsn < cut && end(m.lsn) >= cut {
				cut, again = m.lsn, true
			}
		}
	}
	return cut
}

func TestCutBatchesMatchesItsDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 20000 {
		var marks []mark
		var open []format.LSN
		lsn := format.LSN(64)
		for range r.IntN(12) {
			if len(open) > 0 && r.IntN(2) == 0 {
				i := r.IntN(len(open))
				marks = append(marks, mark{lsn, open[i]})
				if r.IntN(8) > 0 {
					open = append(open[:i], open[i+1:]...)
				}
			} else {
				marks = append(marks, mark{lsn, 0})
				open = append(open, lsn)
			}
			lsn += 32
		}
		if got, want := cutBatches(marks, lsn), cutByFixpoint(marks, lsn); got != want {
			t.Fatalf("%v: cut at %v, want %v", marks, got, want)
		}
	}
}
