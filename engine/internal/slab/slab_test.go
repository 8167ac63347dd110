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
		n := int(10_000 * math.Exp(rng.Float64()*math.Log(30)))
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
	old := p.Alloc(0, 20_000)
	fill(old, 1)
	p.Retire(0, old)
	p.Flush()
	var others [][]byte
	for i := range uint64(1000) {
		b := p.Alloc(0, 20_000)
		fill(b, 100+i)
		others = append(others, b)
	}
	if err := check(old, 1); err != nil || p.Stats().Pinned < 20_000 || !p.Waits() {
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
						b := p.Alloc(uint32(w), 1+rng.IntN(60_000))
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
			live += int64(sizeOf(classOf(len(v.b))))
		}
	}
	if st := p.Stats(); st.Live != live || st.Pinned != 0 {
		t.Errorf("%+v, want %d bytes live", st, live)
	}
	t.Logf("%d values replaced, %+v", replaced.Load(), p.Stats())
}

// Under churn, with sizes from 16 KiB to 256 KiB whose distribution changes, the pool takes at most 1.15 times the
// bytes of the values, whether its chunks are huge or not. Proves H4.
func TestFragmentationIsBounded(t *testing.T) {
	if raced {
		t.Skip("one goroutine, and slow")
	}
	for _, live := range []int{48 << 20, 192 << 20} {
		c := &churn{t: t, live: live, rng: rand.New(rand.NewPCG(5, 6))}
		c.pool, c.domain = open(t, int64(live)*6/5)
		c.tx = enter(t, c.domain)
		logUniform := func(lo, hi float64) func() int {
			return func() int { return int(lo * math.Exp(c.rng.Float64()*math.Log(hi/lo))) }
		}
		share := 1.5
		if testing.Short() {
			share = 0.3
		}
		for phase, size := range []func() int{
			logUniform(16<<10, 256<<10), logUniform(16<<10, 20<<10), func() int { return 64<<10 + 16 },
			logUniform(100<<10, 256<<10), func() int { return 16<<10 + c.rng.IntN(240<<10) },
			func() int { return 17_000 }, logUniform(16<<10, 256<<10), func() int { return 64 << 10 },
			func() int { return 200_000 }, logUniform(16<<10, 64<<10),
		} {
			c.run(size, int(share*float64(live)))
			t.Logf("phase %d: %.3f, worst %.3f", phase, float64(c.pool.Stats().Resident)/float64(c.sum), c.worst)
		}
		if c.worst > 1.15 {
			t.Errorf("the pool took %.3f times the bytes of its values", c.worst)
		}
		for len(c.values) > live>>20 {
			c.drop()
		}
		c.renew()
		c.pool.Flush()
		if st := c.pool.Stats(); st.Resident > int64(c.sum)*2+int64(live)/64+someHoles+chunkSize {
			t.Errorf("%+v when few values are left, of %d bytes", st, c.sum)
		}
	}
}

// churn replaces values of a pool by others of changing sizes.
type churn struct {
	t      *testing.T
	pool   *Pool
	domain *epoch.Domain
	tx     *epoch.Slot
	rng    *rand.Rand
	live   int // the most bytes of all values
	values [][]byte
	sum    int
	worst  float64 // the most memory, in proportion to sum
}

func (c *churn) renew() {
	c.tx.Leave()
	c.pool.Collect()
	c.tx.TryEnter(c.domain)
}

func (c *churn) add(n int) {
	b := c.pool.Alloc(0, n)
	if b == nil {
		c.t.Fatalf("no memory: %+v", c.pool.Stats())
	}
	b[0], b[n-1] = byte(n), byte(n)
	c.values, c.sum = append(c.values, b), c.sum+n
}

func (c *churn) drop() {
	k := c.rng.IntN(len(c.values))
	b := c.values[k]
	if b[0] != byte(len(b)) || b[len(b)-1] != byte(len(b)) {
		c.t.Fatalf("a value of %d bytes has changed", len(b))
	}
	last := len(c.values) - 1
	c.values[k], c.values, c.sum = c.values[last], c.values[:last], c.sum-len(b)
	c.pool.Retire(0, b)
}

// run adds values of the given sizes, of most bytes together.
func (c *churn) run(size func() int, most int) {
	for written := 0; written < most; {
		for step := 0; step < 1<<20; {
			n := size()
			for c.sum+n > c.live {
				c.drop()
			}
			c.add(n)
			step, written = step+n, written+n
		}
		c.renew()
		if st := c.pool.Stats(); c.sum > c.live/2 {
			c.worst = max(c.worst, float64(st.Resident)/float64(c.sum))
		}
	}
}

// Alloc returns nothing above the limit, and works again when values are released, also those of other lengths.
func TestLimit(t *testing.T) {
	for _, limit := range []int64{leastLimit, 140 << 20} {
		if raced && limit > leastLimit {
			continue
		}
		p, _ := open(t, limit)
		for _, n := range []int{30_000, 60_000, 17_000} {
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
		if p.SetLimit(leastLimit - 1); p.Alloc(0, 30_000) != nil {
			t.Error("memory below the least limit")
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
		p.Free(b)
		if p.Retire(0, b) {
			t.Errorf("a pool retires %q", b)
		}
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
	for _, n := range []int{16 << 10, 64 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p, _ := open(b, 256<<20)
			b.ReportAllocs()
			for range b.N {
				v := p.Alloc(0, n)
				p.Retire(0, v)
			}
		})
	}
}
