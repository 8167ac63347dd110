package pagetest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"

	"pagecache/engine"
)

const (
	materializerRounds = 200 // chains of fragments
	maxFragments       = 6   // of a chain
	concurrentCallers  = 8
	concurrentRounds   = 50
)

// Materializer checks a Materializer against its contract (docs/MATERIALIZER.md), with random fragments:
//
//   - Merge is associative: a merged page, also after Append and Decode, merges with later deltas as its fragments do.
//     It changes no fragment, does not keep the slice that it is given, and its result does not alias bytes that Decode
//     was given.
//   - Append and Decode are inverse. Append extends dst, keeps neither dst nor the fragment, and changes neither.
//     Decode does not change src, and what it returns of src has no room behind it. For other bytes than those of
//     Append Decode returns an error or a value, and does not panic.
//   - Size returns the same number each time, which is at least half of the memory that a value visibly takes.
//   - No method depends on what was called before or at the same time. Under the race detector, data races are found
//     too.
//
// gen returns a random fragment: a whole page, as it would be given to Allocate or Replace, or a delta, as it would be
// given to Link. It is called by one goroutine at a time. Values are the same if their encodings are, or if
// reflect.DeepEqual says so. Each violation is reported once.
func Materializer[P any](t testing.TB, m engine.Materializer[P], gen func(r *rand.Rand, delta bool) P) {
	t.Helper()
	c := &contract[P]{t: t, m: m, reported: map[string]bool{}}
	for seed := range uint64(materializerRounds) {
		r := rand.New(rand.NewPCG(seed, 0x3a7))
		chain := []P{gen(r, false)}
		for range 1 + r.IntN(maxFragments-1) {
			chain = append(chain, gen(r, true))
		}
		c.where = fmt.Sprintf("chain %d of %d fragments", seed, len(chain))
		c.guarded(func() { c.round(r, chain) })
		if c.panicked {
			return
		}
		c.kept = append(c.kept, chain)
	}
	c.where = "concurrent calls"
	if len(c.reported) == 0 { // otherwise concurrent calls may end the process before the report is read
		c.guarded(c.concurrent)
	}
}

// contract checks one Materializer.
type contract[P any] struct {
	t        testing.TB
	m        engine.Materializer[P]
	where    string
	reported map[string]bool // the laws whose violation was reported
	panicked bool            // in a call that must not panic
	kept     [][]P           // the chains so far
}

// violated reports that a law does not hold.
func (c *contract[P]) violated(law, format string, args ...any) {
	c.t.Helper()
	if !c.reported[law] {
		c.reported[law] = true
		c.t.Errorf("%s: %s (%s)", law, fmt.Sprintf(format, args...), c.where)
	}
}

// guarded calls f and reports a panic.
func (c *contract[P]) guarded(f func()) {
	defer func() {
		if p := recover(); p != nil {
			c.panicked = true
			c.violated("no method panics", "%v\n%s", p, debug.Stack())
		}
	}()
	f()
}

// encode returns the encoding of a value, in memory of its own.
func (c *contract[P]) encode(p P) []byte { return slices.Clone(c.m.Append(nil, p)) }

// decode returns the value of an encoding and the memory that Decode was given.
func (c *contract[P]) decode(enc []byte) (p P, src []byte, ok bool) {
	src = make([]byte, len(enc), len(enc)+64) // behind it lies other memory
	copy(src, enc)
	p, err := c.m.Decode(src[:len(enc):len(enc)])
	if err != nil {
		c.violated("Decode accepts what Append has written", "%v", err)
	}
	return p, src, err == nil
}

// same reports whether two values are the same.
func (c *contract[P]) same(a, b P) bool {
	return bytes.Equal(c.encode(a), c.encode(b)) || reflect.DeepEqual(a, b)
}

// round checks a chain of fragments.
func (c *contract[P]) round(r *rand.Rand, chain []P) {
	for _, p := range chain {
		c.fragment(r, p)
	}
	encoded := make([][]byte, len(chain))
	for i, p := range chain {
		encoded[i] = c.encode(p)
	}
	whole := c.m.Merge(slices.Clone(chain))
	for i, p := range chain {
		if again, _, ok := c.decode(encoded[i]); ok && !c.same(p, again) {
			c.violated("Merge changes no fragment", "fragment %d is another one afterwards", i)
		}
	}
	c.independent(chain, whole)
	c.fragment(r, whole)
	c.associative(chain, whole)
	c.aliases(chain, encoded)
}

// independent checks that later calls do not change what Merge and Decode have returned.
func (c *contract[P]) independent(chain []P, whole P) {
	enc := c.encode(whole)
	stored, _, ok := c.decode(enc)
	again, _, _ := c.decode(enc)
	for _, other := range c.kept[max(0, len(c.kept)-2):] {
		c.m.Merge(slices.Clone(other))
		c.decode(c.encode(other[0]))
	}
	if ok && !c.unchanged(whole, enc, again) {
		c.violated("what Merge returns is its own", "a later call changes it")
	}
	if ok && !c.unchanged(stored, enc, whole) {
		c.violated("what Decode returns is its own", "a later call changes it")
	}
}

// associative checks that merging in two steps gives the same as in one, also if the first result was on disk.
func (c *contract[P]) associative(chain []P, whole P) {
	for n := 2; n < len(chain); n++ {
		first := c.m.Merge(slices.Clone(chain[:n]))
		if got := c.m.Merge(append([]P{first}, chain[n:]...)); !c.same(got, whole) {
			c.violated("Merge is associative", "%d fragments and then the other %d give another value than all at once",
				n, len(chain)-n)
		}
		stored, _, ok := c.decode(c.encode(first))
		if !ok {
			continue
		}
		if got := c.m.Merge(append([]P{stored}, chain[n:]...)); !c.same(got, whole) {
			c.violated("Merge is associative after Append and Decode",
				"%d fragments, stored, and then the other %d, give another value than all at once", n, len(chain)-n)
		}
	}
}

// aliases checks that the result of Merge depends neither on the bytes that fragments were decoded from nor on the
// slice of fragments.
func (c *contract[P]) aliases(chain []P, encoded [][]byte) {
	frags, srcs := make([]P, len(chain)), make([][]byte, len(chain))
	for i, enc := range encoded {
		ok := false
		if frags[i], srcs[i], ok = c.decode(enc); !ok {
			return
		}
	}
	merged := c.m.Merge(frags)
	want := c.encode(merged)
	stored, _, _ := c.decode(want)
	clear(frags)
	if !c.unchanged(merged, want, stored) {
		c.violated("Merge does not keep its argument", "its result changes when the slice of fragments is used again")
		return
	}
	for _, src := range srcs {
		spoil(src)
	}
	if !c.unchanged(merged, want, stored) {
		c.violated("the result of Merge aliases no fragment",
			"it changes when the bytes are overwritten that the fragments were decoded from")
	}
}

// unchanged reports whether a value still has the encoding, or is the value. A value that cannot be encoded any more
// has changed.
func (c *contract[P]) unchanged(p P, enc []byte, value P) (same bool) {
	defer func() {
		if recover() != nil {
			same = false
		}
	}()
	return bytes.Equal(c.encode(p), enc) || reflect.DeepEqual(p, value)
}

// spoil overwrites bytes.
func spoil(b []byte) {
	for i := range b {
		b[i] = ^b[i]
	}
}

// fragment checks Append, Decode and Size of one value.
func (c *contract[P]) fragment(r *rand.Rand, p P) {
	enc := c.encode(p)
	c.appends(p, enc)
	got, src, ok := c.decode(enc)
	if !ok {
		return
	}
	if !bytes.Equal(src, enc) {
		c.violated("Decode does not change src", "%d bytes in", len(enc))
	}
	if !c.same(p, got) {
		c.violated("Append and Decode are inverse", "the value that Decode returns is another one")
	}
	if n := roomBehind(reflect.ValueOf(&got).Elem(), src); n > 0 {
		c.violated("what Decode returns of src is clipped", "a slice has room for %d elements behind it", n)
	}
	c.sizes(p)
	c.sizes(got)
	c.hostile(r, enc)
}

// appends checks how Append treats dst.
func (c *contract[P]) appends(p P, enc []byte) {
	for _, room := range []int{0, len(enc) + 64} {
		dst := append(make([]byte, 0, 5+room), "begin"...)
		got := c.m.Append(dst, p)
		if len(got) != 5+len(enc) || string(got[:5]) != "begin" || string(dst) != "begin" {
			c.violated("Append extends dst", "it returns %d bytes, want 5 of dst and %d more", len(got), len(enc))
			return
		}
		if decoded, _, ok := c.decode(got[5:]); ok && !c.same(p, decoded) {
			c.violated("Append extends dst", "behind dst is the encoding of another value")
		}
		held := slices.Clone(got)
		for _, chain := range c.kept[max(0, len(c.kept)-2):] {
			c.m.Append(nil, chain[0])
		}
		if !bytes.Equal(got, held) {
			c.violated("Append keeps no memory", "a later call changes the bytes that an earlier one has returned")
		}
		spoil(got)
		if decoded, _, ok := c.decode(enc); ok && !c.same(p, decoded) {
			c.violated("Append keeps no memory", "the value changes when dst is used again")
		}
	}
}

// sizes checks Size of a value.
func (c *contract[P]) sizes(p P) {
	n := c.m.Size(p)
	if again := c.m.Size(p); again != n {
		c.violated("Size returns the same number each time", "%d, then %d", n, again)
	}
	if least := visible(reflect.ValueOf(&p).Elem(), 0) / 2; n < least {
		c.violated("Size counts all memory", "%d bytes, but at least %d can be seen", n, 2*least)
	}
}

// hostile checks that Decode survives bytes that Append has not written.
func (c *contract[P]) hostile(r *rand.Rand, enc []byte) {
	defer func() {
		if p := recover(); p != nil {
			c.violated("Decode does not panic for wrong bytes", "%v", p)
		}
	}()
	_, _ = c.m.Decode(slices.Clone(enc[:r.IntN(len(enc)+1)]))
	if b := slices.Clone(enc); len(b) > 0 {
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		_, _ = c.m.Decode(b)
	}
}

// concurrent checks that calls at the same time do not disturb each other.
func (c *contract[P]) concurrent() {
	type answer struct {
		merged, enc []byte
		value       P
		size        int
	}
	chains := c.kept[:min(len(c.kept), 2*concurrentCallers)]
	want := make([]answer, len(chains))
	for i, chain := range chains {
		want[i] = answer{enc: c.encode(chain[0]), size: c.m.Size(chain[0])}
		want[i].value = c.m.Merge(slices.Clone(chain))
		want[i].merged = c.encode(want[i].value)
	}
	const law = "methods can be called concurrently"
	var mu sync.Mutex
	report := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		c.violated(law, format, args...)
	}
	var callers sync.WaitGroup
	for g := range concurrentCallers {
		callers.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					report("panic: %v", p)
				}
			}()
			for i := range concurrentRounds {
				n := (g + i) % len(chains)
				chain, w := chains[n], want[n]
				merged := c.m.Merge(slices.Clone(chain))
				enc := c.m.Append(nil, chain[0])
				value, err := c.m.Decode(slices.Clone(w.enc))
				size := c.m.Size(chain[0])
				runtime.Gosched() // others have used what they share by now
				switch {
				case err != nil || !c.unchanged(value, w.enc, chain[0]):
					report("Decode returns another value than alone, error %v", err)
				case !c.unchanged(merged, w.merged, w.value):
					report("Merge returns another value than alone")
				case size != w.size:
					report("Size returns %d, alone %d", size, w.size)
				case !bytes.Equal(enc, w.enc):
					if again, err := c.m.Decode(enc); err != nil || !c.unchanged(again, w.enc, chain[0]) {
						report("Append writes another value than alone, error %v", err)
					}
				}
			}
		})
	}
	callers.Wait()
}
