package engine_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
)

// A store reads back what was written with and without compression, in one file, while the option changes between
// openings. The store's own messages (meta, counter, batch markers, pads, frees) survive compression. Proves trap 3.
func TestCompressionRoundTrip(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	want := map[engine.PageID][]byte{}
	const none, zstd = engine.CompressionNone, engine.CompressionZstd
	for i, c := range []engine.Compression{none, zstd, zstd, none} {
		o := enginetest.WithSeam(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1,
			ConsolidateAfter: 3, Compression: c,
			CompressionLevel: []int{0, 1, 22, 0}[i]}, seam.Options{Eager: true, FS: d})
		pc := enginetest.Open(t, "/store", o)
		tx := enginetest.Begin(t, pc)
		for pid, v := range want {
			if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, v) {
				t.Fatalf("page %d holds %d bytes, want %d, error %v", pid, len(p.Value), len(v), err)
			}
		}
		before := pc.Stats().Space.LiveBytes
		b, err := pc.PinLog()
		if err != nil {
			t.Fatal(err)
		}
		for n := range 40 {
			text := []byte(strings.Repeat("all work and no play ", n*10))
			for _, v := range [][]byte{nil, bytes.Repeat([]byte{'x'}, n), text, enginetest.Random(n*100, uint64(n))} {
				pid, ptr, err := pc.Allocate(tx, v)
				if err != nil {
					t.Fatal(err)
				}
				for range n % 6 {
					ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, v))
				}
				want[pid] = bytes.Repeat(v, n%6+1)
			}
		}
		for range 100 {
			if _, err := pc.GenerateID(); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := pc.CASRoot(tx, strings.Repeat(fmt.Sprintf("r%d", i), 50), 0, 5); err != nil {
			t.Fatal(err)
		}
		if err := b.Seal(); err != nil {
			t.Fatal(err)
		}
		tx.End()
		s := pc.Stats()
		grown, blobs := s.Space.LiveBytes-before, s.Space.Blobs
		t.Logf("%v: live bytes grew by %d, %d bytes are in %d blobs", c, grown, s.Space.BlobBytes, blobs)
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		enginetest.CleanAll(t, pc)
		enginetest.Close(t, pc)
	}
	o := enginetest.SimOptions(d)
	o.ReadOnly = true
	pc := enginetest.Open(t, "/store", o)
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	if m, err := pc.Meta(tx); err != nil || len(m) != 4 {
		t.Errorf("roots %v, want 4, error %v", m, err)
	}
}

// With compression, repetitive pages take at most a quarter of the space on disk.
func TestCompressionShrinksPages(t *testing.T) {
	t.Parallel()
	live := map[engine.Compression]int64{}
	const none, zstd = engine.CompressionNone, engine.CompressionZstd
	for _, c := range []engine.Compression{none, zstd} {
		pc := enginetest.Open(t, t.TempDir(), &engine.Options{Compression: c})
		tx := enginetest.Begin(t, pc)
		for range 1000 {
			if _, _, err := pc.Allocate(tx, []byte(strings.Repeat("all work and no play ", 20))); err != nil {
				t.Fatal(err)
			}
		}
		tx.End()
		live[c] = pc.Stats().Space.LiveBytes
		enginetest.Close(t, pc)
	}
	if live[zstd] > live[none]/4 {
		t.Errorf("%d live bytes with compression, %d without", live[zstd], live[none])
	}
}
