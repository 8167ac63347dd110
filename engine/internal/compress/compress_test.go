package compress

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"pagecache/engine/internal/scratch"
)

func random(n int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func newCompressor(t testing.TB, level int) *Compressor {
	t.Helper()
	c, err := New(level, scratch.New(1<<30))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// unpack decompresses with an Unpacker that all tests share.
func unpack(body []byte, limit int) ([]byte, error) { return unpacker.Unpack(body, limit) }

var unpacker, _ = NewUnpacker(scratch.New(1 << 30))

// Every value comes back as it was, at every level, and Pack keeps the bytes that dst already had.
func TestPackThenUnpack(t *testing.T) {
	text := []byte(strings.Repeat("all work and no play ", 500))
	for _, level := range []int{1, 3, 9, 22} {
		c := newCompressor(t, level)
		for _, v := range [][]byte{nil, {7}, make([]byte, MinLen), text, random(100_000, 1), make([]byte, 3<<20)} {
			packed := c.Pack([]byte("prefix"), v)
			body, ok := bytes.CutPrefix(packed, []byte("prefix"))
			if !ok {
				t.Fatalf("level %d: Pack overwrote its destination: %q", level, packed[:6])
			}
			got, err := unpack(body, len(v))
			if err != nil || !bytes.Equal(got, v) {
				t.Errorf("level %d: %d bytes came back as %d: %v", level, len(v), len(got), err)
			}
		}
		if n := len(c.Pack(nil, text)); n > len(text)/10 {
			t.Errorf("level %d: %d bytes of repeated text take %d", level, len(text), n)
		}
	}
}

// The limit is inclusive. A length that does not match the frame, and a body that is cut short, are errors. Proves
// rule 12.
func TestUnpackRefusesBadBodies(t *testing.T) {
	c := newCompressor(t, 3)
	bomb := c.Pack(nil, make([]byte, 1<<20))
	if b, err := unpack(bomb, 1<<20); err != nil || len(b) != 1<<20 {
		t.Error(len(b), err)
	}
	if _, err := unpack(bomb, 1<<20-1); err == nil {
		t.Error("a value that is longer than the limit was unpacked")
	}
	for _, claimed := range []uint32{0, 1, 1<<20 - 1, 1<<20 + 1, 1 << 31} {
		b := bytes.Clone(bomb)
		binary.LittleEndian.PutUint32(b, claimed)
		if _, err := unpack(b, 2<<20); err == nil {
			t.Errorf("a value of %d bytes was unpacked from a body that claims %d", 1<<20, claimed)
		}
	}
	for n := range len(bomb) {
		if _, err := unpack(bomb[:n], 1<<20); err == nil {
			t.Errorf("a value was unpacked from %d of %d bytes", n, len(bomb))
		}
	}
	if _, err := unpack(append(bytes.Clone(bomb), 1, 2, 3), 1<<20); err == nil {
		t.Error("a value was unpacked from a body with more bytes after its frame")
	}
}

// allocated returns how many bytes f allocates, give or take what other goroutines do.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Neither the length field nor the frame can make Unpack allocate more than its limit. Proves rule 12.
func TestUnpackAllocatesWithinLimit(t *testing.T) {
	const limit, slack = 64 << 10, 2 << 20
	c := newCompressor(t, 3)
	long := c.Pack(nil, make([]byte, 64<<20)) // a frame of a few KiB that holds 64 MiB
	if _, err := unpack(c.Pack(nil, make([]byte, limit)), limit); err != nil {
		t.Fatal(err) // the decoder has its own memory now
	}
	for _, claimed := range []uint32{0, 1, limit, limit + 1, 64 << 20, 1<<32 - 1} {
		b := bytes.Clone(long)
		binary.LittleEndian.PutUint32(b, claimed)
		n := allocated(func() {
			if _, err := unpack(b, limit); err == nil {
				t.Errorf("a frame of 64 MiB that claims %d bytes was unpacked", claimed)
			}
		})
		if n > limit+slack {
			t.Errorf("a body that claims %d bytes made Unpack allocate %d, the limit is %d", claimed, n, limit)
		}
	}
}

// One Compressor and one Unpacker serve many goroutines at once.
func TestConcurrentUse(t *testing.T) {
	c := newCompressor(t, 1)
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			for i := range uint64(100) {
				v := bytes.Repeat(random(50, g*1000+i), int(i)+1)
				if got, err := unpack(c.Pack(nil, v), len(v)); err != nil || !bytes.Equal(got, v) {
					t.Errorf("goroutine %d: value %d came back as %d bytes: %v", g, i, len(got), err)
				}
			}
		})
	}
	wg.Wait()
}

// heap returns the bytes on the heap.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// heapBelow returns heap once it is at most limit, or after two seconds: goroutines that have ended their work may keep
// memory for a moment.
func heapBelow(limit int64) (n int64) {
	for range 100 {
		if n = heap(); n <= limit {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return n
}

// The memory that encoders and decoders take is counted, is limited, and is released when they are idle. Trap 48.
func TestIdleCodersAreReleased(t *testing.T) {
	v := random(2<<20, 7)
	for i := range v {
		v[i] %= 30
	}
	packed := make([]byte, 0, 3<<20)
	for _, level := range []int{1, 3, 9, 22} {
		before := heap()
		k := scratch.New(1 << 30)
		c, err := New(level, k)
		if err != nil {
			t.Fatal(err)
		}
		u, err := NewUnpacker(k)
		if err != nil {
			t.Fatal(err)
		}
		if k.Bytes() != 0 {
			t.Errorf("level %d: %d bytes before the first call", level, k.Bytes())
		}
		var wg sync.WaitGroup
		packed = c.Pack(packed[:0], v)
		for range 4 {
			wg.Go(func() {
				for n := range 3 {
					if got, err := u.Unpack(c.Pack(nil, v[:100_000<<n]), len(v)); err != nil || len(got) != 100_000<<n {
						t.Error(len(got), err)
					}
				}
				if got, err := u.Unpack(packed, len(v)); err != nil || !bytes.Equal(got, v) {
					t.Error(len(got), err)
				}
			})
		}
		wg.Wait()
		counted := k.Bytes()
		taken := heapBelow(before+counted+counted/4+64<<10) - before
		if counted > MostKept(level) || taken > counted+counted/4+64<<10 {
			t.Errorf("level %d: %d bytes are taken, %d counted, at most %d", level, taken, counted, MostKept(level))
		}
		k.Tick() // it was used since the last tick
		if k.Bytes() != counted {
			t.Errorf("level %d: %d bytes after the first tick, %d before", level, k.Bytes(), counted)
		}
		k.Tick()
		if left := heapBelow(before+128<<10) - before; k.Bytes() != 0 || left > 128<<10 {
			t.Errorf("level %d: %d bytes are counted when idle, %d taken", level, k.Bytes(), left)
		}
		if got, err := u.Unpack(c.Pack(nil, v[:1000]), len(v)); err != nil || !bytes.Equal(got, v[:1000]) {
			t.Errorf("level %d: after the release: %d bytes, %v", level, len(got), err)
		}
		k.Stop()
	}
}

// Any body unpacks to a value within the limit that has the length the body claims, or is refused. Proves rule 12.
func FuzzUnpack(f *testing.F) {
	c := newCompressor(f, 3)
	f.Add(c.Pack(nil, []byte("hello hello hello hello")))
	f.Add(c.Pack(nil, make([]byte, 1<<20)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		const limit = 1 << 16
		b, err := unpack(body, limit)
		if err != nil {
			return
		}
		if cap(b) > limit || len(b) != int(binary.LittleEndian.Uint32(body)) {
			t.Errorf("%d bytes in memory of %d", len(b), cap(b))
		}
	})
}
