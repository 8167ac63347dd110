package load

import (
	"encoding/binary"
	"math/rand/v2"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/pick"
	"pagecache/engine"
)

// values are the contents that a worker writes: a few buffers that are prepared once and written again and again, as
// fio reuses its I/O buffers. The engine keeps the slices that it is given, so the buffers never change.
type values struct {
	sizes  pick.Sizes
	how    *job.Buffers
	verify *verifier
	bufs   [][]byte // each of the largest size; nil if each value is made anew
	next   int
	rng    *rand.PCG
}

func newValues(sizes pick.Sizes, how *job.Buffers, verify *verifier, rng *rand.PCG) *values {
	v := &values{sizes: sizes, how: how, verify: verify, rng: rng}
	if how.Refill || verify != nil {
		return v
	}
	const memory, maxBuffers = 256 << 10, 64
	size := int(sizes.Most)
	n := min(max(memory/size, 2), maxBuffers)
	all := make([]byte, n*size)
	for i := range n {
		b := all[i*size : (i+1)*size : (i+1)*size]
		if i > 0 && v.repeats() {
			copy(b, v.bufs[i-1])
		} else {
			v.fill(b)
		}
		v.bufs = append(v.bufs, b)
	}
	return v
}

// repeats draws whether a buffer repeats the one before.
func (v *values) repeats() bool {
	return v.how.Dedupe > 0 && int(pick.Uniform(v.rng, 100)) < v.how.Dedupe
}

// fill makes the contents of a buffer.
func (v *values) fill(b []byte) {
	switch {
	case v.how.Zero:
		clear(b)
		return
	case v.how.Pattern != nil:
		repeat(b, v.how.Pattern)
		return
	}
	pick.Fill(b, v.rng)
	if v.how.Compress == 0 {
		return
	}
	chunk := int(v.how.CompressChunk)
	for at := 0; at < len(b); at += chunk {
		n := min(chunk, len(b)-at)
		clear(b[at+n-n*v.how.Compress/100 : at+n])
	}
}

// take returns the next value, for page i. The caller must not modify it.
func (v *values) take(i int64) ([]byte, error) {
	n := v.sizes.Next(v.rng)
	if v.bufs == nil {
		b := make([]byte, n)
		v.fill(b)
		return b, v.verify.seal(b, i)
	}
	v.next++
	if v.next >= len(v.bufs) {
		v.next = 0
	}
	return v.bufs[v.next][:n:n], nil
}

// patched is the Materializer for pages that are updated by deltas. A delta overwrites len(delta) bytes of the page,
// at an offset that its first bytes determine, so a page never changes its size.
type patched struct{ engine.Bytes }

// Merge copies the page and applies the deltas to the copy, the oldest first.
func (patched) Merge(frags [][]byte) []byte {
	page := append([]byte(nil), frags[0]...)
	for _, d := range frags[1:] {
		var at [8]byte
		copy(at[:], d)
		room := uint64(max(len(page)-len(d), 0) + 1)
		copy(page[binary.LittleEndian.Uint64(at[:])%room:], d)
	}
	return page
}
