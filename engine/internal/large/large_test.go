package large

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"pagecache/engine/internal/epoch"
	"pagecache/engine/internal/pagestack"
	"pagecache/segments/format"
)

// open returns Values with slabs.
func open(t testing.TB, limit int64) (*Values, *epoch.Domain) {
	t.Helper()
	d, v := new(epoch.Domain), new(Values)
	v.Open(d, limit)
	b := v.Alloc(0, Least)
	if b == nil {
		t.Skip("no slabs on this system")
	}
	v.Drop(0, b)
	v.Pool().Flush()
	return v, d
}

func at(lsn format.LSN) pagestack.Ref {
	return pagestack.Ref{LSN: lsn, Ptr: format.DiskPtr{Off: format.Offset(lsn), Len: 64}}
}

func whole(k pagestack.Kind, lsn format.LSN, b []byte) *pagestack.Head {
	e := pagestack.New[[]byte](k, uint64(lsn), 1, lsn, at(lsn).Ptr)
	e.Frag = b
	return &e.Head
}

func delta(below *pagestack.Head, lsn format.LSN, b []byte) *pagestack.Head {
	return &pagestack.NewDelta(below, b, lsn, at(lsn).Ptr).Head
}

// Whatever replaces a chain, exactly the values that the new one has no more are retired. Proves D2 and D4.
func TestReplacedRetiresWhatIsGone(t *testing.T) {
	const base, first, second = 1, 2, 4 // sets of values
	for name, c := range map[string]struct {
		now  func(old *pagestack.Head, value []byte) *pagestack.Head
		gone int
	}{
		"delta on top": {func(old *pagestack.Head, _ []byte) *pagestack.Head { return delta(old, 400, nil) }, 0},
		"replaced": {func(*pagestack.Head, []byte) *pagestack.Head {
			return whole(pagestack.KindBase, 400, make([]byte, Least))
		}, base | first | second},
		"freed": {func(old *pagestack.Head, _ []byte) *pagestack.Head {
			return pagestack.NewFree(old.TS()+1, 400, at(400).Ptr)
		}, base | first | second},
		"evicted": {func(old *pagestack.Head, _ []byte) *pagestack.Head { return old.ToOnDisk() },
			base | first | second},
		"merged": {func(*pagestack.Head, []byte) *pagestack.Head {
			return whole(pagestack.KindMerged, 300, make([]byte, 3*Least))
		}, base | first | second},
		"moved with its base": {func(_ *pagestack.Head, base []byte) *pagestack.Head {
			return whole(pagestack.KindBase, 400, base)
		}, first | second},
		"base evicted": {func(old *pagestack.Head, _ []byte) *pagestack.Head {
			d := old.Next()
			h := delta(d.Next().ToOnDisk(), 200, valueOf(d))
			return delta(h, 300, valueOf(old))
		}, base},
		"same values in other entries": {func(old *pagestack.Head, base []byte) *pagestack.Head {
			h := whole(pagestack.KindBase, 100, base)
			return delta(delta(h, 200, valueOf(old.Next())), 300, valueOf(old))
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			v, _ := open(t, 64<<20)
			lens := []int{base: Least, first: 2 * Least, second: 4 * Least}
			value := v.Alloc(0, lens[base])
			old := whole(pagestack.KindBase, 100, value)
			old = delta(old, 200, v.Alloc(0, lens[first]))
			old = delta(old, 300, v.Alloc(0, lens[second]))
			all := v.Stats().Live
			v.Replaced(0, old, c.now(old, value))
			want := all
			for set, n := range lens {
				if c.gone&set != 0 {
					want -= int64(n)
				}
			}
			if st := v.Stats(); all != 7*Least || st.Live != want || st.Pinned != all-want {
				t.Errorf("%+v, want %d bytes live", st, want)
			}
			v.Pool().Flush()
			if st := v.Pool().Stats(); st.Live != want || st.Pinned != 0 {
				t.Errorf("%+v after release, want %d bytes live", st, want)
			}
		})
	}
}

// Values on the Go heap, views, and the zero Values are left alone.
func TestOthersAreLeftAlone(t *testing.T) {
	v, _ := open(t, 64<<20)
	for _, v := range []*Values{v, new(Values)} {
		heap := make([]byte, Least)
		old := whole(pagestack.KindBase, 100, heap)
		v.Replaced(0, nil, old)
		v.Replaced(0, old, old.ToOnDisk())
		v.Replaced(0, old.ToOnDisk(), old)
		v.Drop(0, heap)
		v.Drop(0, nil)
		if st := v.Stats(); st.Live != 0 || st.Pinned != 0 || v.Alloc(0, Least-1) != nil {
			t.Errorf("%+v", st)
		}
	}
	new(Values).SetLimit(1)
	new(Values).Close()
	if v := new(Values); v.Alloc(0, Least) != nil || v.Beside() != 0 {
		t.Error("slabs that were not opened")
	}
}

// Beside counts free room and retired values, but few retired values do not count, and all of it is half of the
// capacity at most. Proves D4.
func TestBesideCountsWhatIsNotLive(t *testing.T) {
	const limit = 64 << 20
	v, d := open(t, limit)
	reader := new(epoch.Slot)
	d.Join(reader)
	reader.TryEnter(d)
	var all [][]byte
	for range 16 {
		all = append(all, v.Alloc(0, 1<<20))
	}
	free := v.Beside() // the lists of slots
	if free > 1<<16 {
		t.Fatalf("%d bytes beside values that fill their slots", free)
	}
	for i, b := range all {
		v.Drop(0, b)
		v.Pool().Flush()
		want := free + max(0, int64(i+1)<<20-limit/pinnedShare)
		if n := v.Beside(); n != want {
			t.Fatalf("%d bytes beside the values when %d MiB are retired, want %d", n, i+1, want)
		}
	}
	v.limit.Store(8 << 20)
	if n := v.Beside(); n != 4<<20 {
		t.Errorf("%d bytes beside the values, in a cache of 8 MiB", n)
	}
	reader.Leave()
	v.Pool().Flush()
	if st := v.Stats(); st.Pinned != 0 {
		t.Errorf("%+v after the reader has left", st)
	}
}

// BenchmarkCopy compares copies of values on the Go heap with copies in slabs, as Replace makes them: in random order,
// each drops an older one. Least is the length from which on slabs are faster.
func BenchmarkCopy(b *testing.B) {
	for _, n := range []int{4 << 10, 8 << 10, 16 << 10, 64 << 10, 256 << 10} {
		for _, where := range []string{"heap", "slab"} {
			b.Run(fmt.Sprintf("value=%d/where=%s", n, where), func(b *testing.B) {
				v, d := open(b, 512<<20)
				tx := new(epoch.Slot)
				d.Join(tx)
				src, all := make([]byte, n), make([][]byte, 128<<20/n)
				rng := rand.New(rand.NewPCG(1, 2))
				for i := range all {
					all[i] = copyOf(v, src, where)
				}
				b.SetBytes(int64(n))
				b.ResetTimer()
				for range b.N {
					tx.TryEnter(d)
					i := rng.IntN(len(all))
					old := all[i]
					all[i] = copyOf(v, src, where)
					v.Pool().Retire(0, old)
					if tx.Leave(); v.Pool().Waits() {
						v.Pool().Collect()
					}
				}
				v.Close()
			})
		}
	}
}

func copyOf(v *Values, src []byte, where string) []byte {
	if where == "heap" {
		return bytes.Clone(src)
	}
	to := v.Pool().Alloc(0, len(src))
	copy(to, src)
	return to
}
