package slab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine/internal/epoch"
)

// open returns a pool with an arena of its own.
func open(t testing.TB, limit int64) (*Pool, *epoch.Domain) {
	t.Helper()
	if !supported() {
		t.Skip("no slabs on this system")
	}
	d := new(epoch.Domain)
	return newPool(newArena(reserve), d, limit, true), d
}

// enter returns a slot that is inside.
func enter(t testing.TB, d *epoch.Domain) *epoch.Slot {
	t.Helper()
	s := new(epoch.Slot)
	d.Join(s)
	if !s.TryEnter(d) {
		t.Fatal("cannot enter")
	}
	return s
}

// fill writes a pattern that depends on seed and on the length.
func fill(b []byte, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, uint64(len(b))))
	var word [8]byte
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(word[:], rng.Uint64())
		copy(b[i:], word[:])
	}
}

// check reports a value that is not as fill has left it.
func check(b []byte, seed uint64) error {
	want := make([]byte, len(b))
	if fill(want, seed); !slices.Equal(b, want) {
		return fmt.Errorf("the value %d of %d bytes has changed", seed, len(b))
	}
	return nil
}

// Every length has a class whose slots are long enough and at most an eighth longer, and the slots of a span fill its
// pages. Proves H4.
func TestClassesFit(t *testing.T) {
	for n := 1; n <= MaxLen; n += 1 + n/1000 {
		c := classOf(n)
		if size := sizeOf(c); size < n || n > minSlot && size-n > n/8 || c > 0 && sizeOf(c-1) >= n {
			t.Fatalf("%d bytes: class %d, size %d", n, c, size)
		}
	}
	if c := classOf(MaxLen); c != numClasses-1 || sizeOf(c) != MaxLen {
		t.Errorf("the last class is %d with %d bytes", c, sizeOf(c))
	}
	for c := range numClasses {
		n := slotsOf(c) * sizeOf(c)
		if n%pageSize != 0 || slotsOf(c) > maxSlots || n > chunkSize || classOf(sizeOf(c)) != c {
			t.Errorf("class %d: %d slots of %d bytes", c, slotsOf(c), sizeOf(c))
		}
	}
}

// Values do not overlap, whatever their lengths and the order of their release.
func TestValuesDoNotOverlap(t *testing.T) {
	p, _ := open(t, 256<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	var live [][]byte
	var seeds []uint64
	values := uint64(5000)
	if raced {
		values = 1000
	}
	for i := range values {
		if len(live) > 500 {
			k := rng.IntN(len(live))
			if err := check(live[k], seeds[k]); err != nil {
				t.Fatal(err)
			}
			p.Free(live[k])
			live[k], seeds[k] = live[len(live)-1], seeds[len(seeds)-1]
			live, seeds = live[:len(live)-1], seeds[:len(seeds)-1]
		}
		n := int(math.Exp(rng.Float64() * math.Log(80<<10)))
		b := p.Alloc(0, n)
		if b == nil || len(b) != n || cap(b) != n || !p.Holds(b) {
			t.Fatalf("value of %d bytes: %d, capacity %d", n, len(b), cap(b))
		}
		fill(b, i)
		live, seeds = append(live, b), append(seeds, i)
	}
	for i, b := range live {
		if err := check(b, seeds[i]); err != nil {
			t.Fatal(err)
		}
		p.Free(b)
	}
	if st := p.Stats(); st.Live != 0 || st.Pinned != 0 {
		t.Errorf("%+v when nothing is live", st)
	}
}

// A retired value stays as it is while a goroutine is inside that was so before, and is released when that one has
// left. Proves H2.
func TestRetiredValueOutlivesItsReaders(t *testing.T) {
	p, d := open(t, 64<<20)
	reader := enter(t, d)
	old := p.Alloc(0, 5000)
	fill(old, 1)
	p.Retire(0, old)
	p.Flush()
	var others [][]byte
	for i := range uint64(1000) {
		b := p.Alloc(0, 5000)
		fill(b, 100+i)
		others = append(others, b)
	}
	if err := check(old, 1); err != nil || p.Stats().Pinned < 5000 || !p.Waits() {
		t.Fatal(err, p.Stats())
	}
	later := enter(t, d)
	reader.Leave()
	p.Collect()
	if st := p.Stats(); st.Pinned != 0 || p.Waits() {
		t.Errorf("%+v after the reader has left, though a later one is inside", st)
	}
	later.Leave()
	for _, b := range others {
		p.Free(b)
	}
	if st := p.Stats(); st.Live != 0 {
		t.Errorf("%+v", st)
	}
}

// Goroutines replace values that others read: no reader ever sees a value change, and when all have left, everything is
// released without a further call of Retire. Proves H1 and H2.
func TestReadersAndWriters(t *testing.T) {
	const cells, workers = 64, 8
	p, d := open(t, 64<<20)
	type value struct {
		b    []byte
		seed uint64
	}
	var slots [cells]atomic.Pointer[value]
	var seeds atomic.Uint64
	limit := time.Second
	if testing.Short() {
		limit /= 4
	}
	end := time.Now().Add(limit)
	var wg sync.WaitGroup
	var replaced atomic.Int64
	for w := range uint64(workers) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(3, w))
			tx := new(epoch.Slot)
			d.Join(tx)
			for time.Now().Before(end) {
				tx.TryEnter(d)
				for range 1 + rng.IntN(20) {
					cell := &slots[rng.IntN(cells)]
					old := cell.Load()
					if rng.IntN(2) == 0 {
						seed := seeds.Add(1)
						b := p.Alloc(uint32(w), 1+rng.IntN(20_000))
						if b == nil {
							continue
						}
						fill(b, seed)
						if cell.CompareAndSwap(old, &value{b, seed}) {
							replaced.Add(1)
							if old != nil {
								p.Retire(uint32(w), old.b)
							}
						} else {
							p.Free(b)
						}
					}
					if old == nil {
						continue
					}
					if err := check(old.b, old.seed); err != nil {
						t.Error(err)
						return
					}
				}
				tx.Leave()
				if p.Waits() {
					p.Collect()
				}
			}
		})
	}
	wg.Wait()
	if p.Waits() {
		t.Error("batches wait though no goroutine is inside")
	}
	p.Flush()
	live := int64(0)
	for i := range slots {
		if v := slots[i].Load(); v != nil {
			live += int64(Cost(len(v.b)))
		}
	}
	if st := p.Stats(); st.Live != live || st.Pinned != 0 {
		t.Errorf("%+v, want %d bytes live", st, live)
	}
	t.Logf("%d values replaced, %+v", replaced.Load(), p.Stats())
}

// Under churn, with sizes from 100 bytes to 64 KiB whose distribution changes, the pool takes at most 1.15 times the
// bytes of the values. Proves H4.
func TestFragmentationIsBounded(t *testing.T) {
	if raced {
		t.Skip("one goroutine, and slow")
	}
	const live = 96 << 20
	p, d := open(t, live*6/5)
	rng := rand.New(rand.NewPCG(5, 6))
	values := map[uint32][]byte{}
	var owners []uint32 // of the values, in any order
	sum, next, worst := 0, uint32(0), 0.0
	sparse := false
	p.OnSparse(func() { sparse = true })
	tx := enter(t, d)
	renew := func() {
		tx.Leave()
		p.Collect()
		tx.TryEnter(d)
	}
	add := func(n int) {
		b := p.Alloc(0, n)
		if b == nil {
			t.Fatalf("no memory: %+v", p.Stats())
		}
		next++
		b[0], b[n-1] = byte(next), byte(next)
		p.Own(b, next)
		values[next], owners, sum = b, append(owners, next), sum+n
	}
	drop := func() {
		k := rng.IntN(len(owners))
		id := owners[k]
		b := values[id]
		owners[k] = owners[len(owners)-1]
		owners = owners[:len(owners)-1]
		if b[0] != byte(id) || b[len(b)-1] != byte(id) {
			t.Fatalf("value %d has changed", id)
		}
		p.Retire(0, b)
		sum -= len(b)
		delete(values, id)
	}
	move := func(owner uint32, at uintptr) {
		b := values[owner]
		if b == nil || address(b) != at {
			return
		}
		moved := p.Alloc(0, len(b))
		if moved == nil {
			t.Fatalf("no memory to move: %+v", p.Stats())
		}
		copy(moved, b)
		p.Own(moved, owner)
		values[owner] = moved
		p.Retire(0, b)
	}
	logUniform := func(lo, hi float64) func() int {
		return func() int { return int(lo * math.Exp(rng.Float64()*math.Log(hi/lo))) }
	}
	phases := []func() int{
		logUniform(100, 64<<10), logUniform(100, 500), func() int { return 4096 + 16 }, logUniform(20<<10, 64<<10),
		func() int { return 100 + rng.IntN(64<<10-100) }, func() int { return 1100 }, logUniform(100, 64<<10),
		func() int { return 64 << 10 }, logUniform(300, 3000),
	}
	share := 1.0
	if testing.Short() {
		share = 0.2
	}
	for phase, size := range phases {
		written := 0
		for written < int(share*live*3/2) {
			for step := 0; step < 1<<20; {
				for sum > live {
					drop()
				}
				n := size()
				add(n)
				step, written = step+n, written+n
			}
			renew()
			if sparse {
				sparse = false
				p.Evacuate(move)
				renew()
				p.Flush()
			}
			if st := p.Stats(); sum > live/2 {
				worst = max(worst, float64(st.Resident)/float64(sum))
			}
		}
		t.Logf("phase %d: %.3f, worst %.3f", phase, float64(p.Stats().Resident)/float64(sum), worst)
	}
	if worst > 1.15 {
		t.Errorf("the pool took %.3f times the bytes of its values", worst)
	}
	for len(owners) > 0 {
		drop()
	}
	renew()
	p.Flush()
	p.Evacuate(move)
	renew()
	p.Flush()
	if st := p.Stats(); st.Live != 0 || st.Resident > 2*live/64+1<<20 {
		t.Errorf("%+v when nothing is live", st)
	}
}

// Alloc returns nothing above the limit, and works again when values are released, also those of other lengths.
func TestLimit(t *testing.T) {
	for _, limit := range []int64{1 << 20, 30 << 20, 140 << 20} {
		if raced && limit > 30<<20 {
			continue
		}
		p, _ := open(t, limit)
		for _, n := range []int{3000, 60_000, 700} {
			var all [][]byte
			for b := p.Alloc(0, n); b != nil; b = p.Alloc(0, n) {
				b[0] = 1
				all = append(all, b)
			}
			st := p.Stats()
			if st.Resident > limit || int64(len(all)*n) < limit*8/10 {
				t.Errorf("limit %d: %d values of %d bytes, %+v", limit, len(all), n, st)
			}
			for _, b := range all {
				p.Free(b)
			}
		}
	}
}

// While a goroutine that is inside for long pins much, Alloc returns nothing, so that not all values are pinned one
// after the other. Proves H5.
func TestLongReaderPinsAPart(t *testing.T) {
	const limit = 64 << 20
	p, d := open(t, limit)
	reader := enter(t, d)
	onHeap := 0
	for range 4000 {
		if b := p.Alloc(0, 30_000); b == nil {
			onHeap++
		} else {
			p.Retire(0, b)
		}
	}
	st := p.Stats()
	if st.Pinned > limit/8+limit/32 || st.Pinned < limit/8 || onHeap == 0 {
		t.Errorf("%+v, %d values on the heap", st, onHeap)
	}
	reader.Leave()
	p.Flush()
	if b := p.Alloc(0, 30_000); b == nil || p.Stats().Pinned != 0 {
		t.Errorf("%+v after the reader has left", p.Stats())
	}
}

// If the system refuses memory, smaller pieces are tried, then Alloc returns nothing, and later it tries again. Proves
// H5.
func TestMemoryIsRefused(t *testing.T) {
	if !supported() {
		t.Skip("no slabs on this system")
	}
	most := 4 << 20
	a := newArena(func(n int) ([]byte, error) {
		if n > most {
			return nil, errors.New("refused")
		}
		return reserve(n)
	})
	p := newPool(a, new(epoch.Domain), 1<<30, true)
	for range 1000 {
		if p.Alloc(0, 30_000) == nil {
			t.Fatal("no memory, though small pieces are to be had")
		}
	}
	most = 0
	n := 0
	for p.Alloc(0, 30_000) != nil {
		n++
	}
	if n > 300 {
		t.Errorf("%d values without memory", n)
	}
	most = 64 << 20
	for n = 0; p.Alloc(0, 30_000) == nil; n++ {
		if n > 2*refusedRests {
			t.Fatal("Alloc does not try again")
		}
	}
}

// After Close, values stay readable, and once no goroutine is inside, the memory serves other pools. Proves H3.
func TestCloseGivesMemoryBack(t *testing.T) {
	if !supported() {
		t.Skip("no slabs on this system")
	}
	a := newArena(reserve)
	rounds := 50
	if raced {
		rounds = 2
	}
	for round := range rounds {
		d := new(epoch.Domain)
		p := newPool(a, d, 64<<20, true)
		tx := enter(t, d)
		var all [][]byte
		for i := range uint64(500) {
			b := p.Alloc(0, 20_000)
			fill(b, i)
			all = append(all, b)
		}
		p.Retire(0, all[7])
		p.Close()
		for i, b := range all {
			if err := check(b, uint64(i)); err != nil {
				t.Fatal(err)
			}
		}
		if p.Alloc(0, 20_000) != nil {
			t.Fatal("memory from a closed pool")
		}
		p.Retire(0, all[8])
		p.Free(all[9])
		tx.Leave()
		if !p.Waits() {
			t.Fatal("the pool does not wait for the last Tx")
		}
		p.Collect()
		if st := p.Stats(); st != (Stats{}) || p.Waits() {
			t.Fatalf("%+v in a closed pool", st)
		}
		for _, b := range all {
			if b[0] != 0 || b[len(b)-1] != 0 {
				t.Fatal("memory was not given back")
			}
		}
		if a.bytes > 64<<20 {
			t.Fatalf("round %d: %d bytes reserved", round, a.bytes)
		}
	}
}

// A second release of a value panics, and so does a write to a released value, in builds that look.
func TestSecondReleasePanics(t *testing.T) {
	p, _ := open(t, 64<<20)
	b := p.Alloc(0, 100)
	p.Free(b)
	defer func() {
		if recover() == nil {
			t.Error("a second release was accepted")
		}
	}()
	p.Free(b)
}

// Values outside of slabs are left alone.
func TestOtherMemory(t *testing.T) {
	p, _ := open(t, 64<<20)
	for _, b := range [][]byte{nil, {}, make([]byte, 100), []byte("constant")} {
		if p.Holds(b) {
			t.Errorf("a pool holds %q", b)
		}
		p.Own(b, 1)
		p.Free(b)
		p.Retire(0, b)
	}
	if st := p.Stats(); st != (Stats{}) || p.Alloc(0, 0) != nil || p.Alloc(0, MaxLen+1) != nil {
		t.Errorf("%+v", st)
	}
}

// In the steady state neither Alloc nor Retire allocates Go memory.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	p, _ := open(t, 64<<20)
	work := func() {
		for range 600 {
			p.Retire(1, p.Alloc(1, 5000))
		}
	}
	work()
	if n := testing.AllocsPerRun(50, work); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAllocRetire(b *testing.B) {
	for _, n := range []int{500, 4096, 64 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p, _ := open(b, 256<<20)
			b.ReportAllocs()
			for range b.N {
				v := p.Alloc(0, n)
				p.Own(v, 7)
				p.Retire(0, v)
			}
		})
	}
}
