package load

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/pick"
)

func take(t *testing.T, v *values) []byte {
	t.Helper()
	b, err := v.take(0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func valuesOf(size int64, how job.Buffers, rng *rand.PCG) *values {
	how.CompressChunk = 512
	return newValues(pick.OneSize(size), &how, nil, rng)
}

// Prepared values repeat, those of refill_buffers do not, and the same seed makes the same values.
func TestValues(t *testing.T) {
	v := valuesOf(100, job.Buffers{}, pick.New(1, 1))
	first := take(t, v)
	different := false
	for range 200 {
		b := take(t, v)
		if len(b) != 100 || cap(b) != 100 {
			t.Fatalf("%d bytes, capacity %d", len(b), cap(b))
		}
		different = different || !bytes.Equal(b, first)
	}
	if !different {
		t.Error("all values are equal")
	}
	r := valuesOf(64, job.Buffers{Refill: true}, pick.New(1, 1))
	if a, b := take(t, r), take(t, r); bytes.Equal(a, b) || &a[0] == &b[0] {
		t.Error("refilled values are equal")
	}
	a, b := valuesOf(100, job.Buffers{}, pick.New(5, 1)), valuesOf(100, job.Buffers{}, pick.New(5, 1))
	if !bytes.Equal(take(t, a), take(t, b)) {
		t.Error("the same seed made other values")
	}
}

// Zeros, patterns, compressible and repeated values have the shares that were asked for.
func TestContents(t *testing.T) {
	refill := func(how job.Buffers, size int64) []byte {
		how.Refill = true
		return take(t, valuesOf(size, how, pick.New(1, 1)))
	}
	if b := refill(job.Buffers{Zero: true}, 100); !bytes.Equal(b, make([]byte, 100)) {
		t.Error("zero_buffers are not zero")
	}
	if b := refill(job.Buffers{Pattern: []byte("abc")}, 7); string(b) != "abcabca" {
		t.Errorf("pattern: %q", b)
	}
	b := refill(job.Buffers{Compress: 75}, 4096)
	zeros := bytes.Count(b, []byte{0})
	if want := 4096 * 3 / 4; zeros < want || zeros > want+30 {
		t.Errorf("%d zeros, want about %d", zeros, want)
	}
	v := valuesOf(4096, job.Buffers{Dedupe: 100}, pick.New(1, 1))
	if a, b := take(t, v), take(t, v); !bytes.Equal(a, b) {
		t.Error("dedupe_percentage=100: values differ")
	}
}

// A page keeps its size with any number of deltas, and holds the last delta.
func TestPatched(t *testing.T) {
	base, rng := make([]byte, 1024), pick.New(1, 1)
	for _, n := range []int64{1, 7, 100, 1024} {
		v := valuesOf(n, job.Buffers{Refill: true}, rng)
		last := take(t, v)
		page := patched{}.Merge([][]byte{base, take(t, v), take(t, v), last})
		if len(page) != len(base) || !bytes.Contains(page, last) {
			t.Errorf("delta of %d: page of %d, with the last delta: %t", n, len(page), bytes.Contains(page, last))
		}
	}
	if !bytes.Equal(base, make([]byte, 1024)) {
		t.Error("the base was changed")
	}
}
