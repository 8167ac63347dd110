package engine

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
)

// Values are compressed if that makes them smaller. A store may hold both sorts, and the option may change. Meta,
// counter, batch markers, pads and frees are never compressed. Proves trap 3.
func TestCompression(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	want := map[PageID][]byte{}
	for i, c := range []Compression{CompressionNone, CompressionZstd, CompressionZstd, CompressionNone} {
		o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 3, Compression: c,
			CompressionLevel: []int{0, 1, 22, 0}[i], seam: seam.Options{Eager: true, FS: d}}
		pc := openTest(t, "/store", o)
		tx := begin(t, pc)
		for pid, v := range want {
			if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, v) {
				t.Fatalf("page %d: %d bytes, want %d, %v", pid, len(p.Value), len(v), err)
			}
		}
		before := pc.Stats().Space.LiveBytes
		b, err := pc.PinLog()
		if err != nil {
			t.Fatal(err)
		}
		for n := range 40 {
			text := []byte(strings.Repeat("all work and no play ", n*10))
			for _, v := range [][]byte{nil, bytes.Repeat([]byte{'x'}, n), text, random(n*100, uint64(n))} {
				pid, ptr, err := pc.Allocate(tx, v)
				if err != nil {
					t.Fatal(err)
				}
				for range n % 6 {
					ptr = must(t)(pc.Link(tx, pid, ptr, v))
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
		t.Logf("%v: %d live bytes more, %d in %d blobs", c, s.Space.LiveBytes-before, s.Space.BlobBytes, s.Space.Blobs)
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		cleanAll(t, pc)
		closeTest(t, pc)
	}
	o := simOptions(d)
	o.ReadOnly = true
	pc := openTest(t, "/store", o)
	defer closeTest(t, pc)
	tx := begin(t, pc)
	defer tx.End()
	if m, err := pc.Meta(tx); err != nil || len(m) != 4 {
		t.Errorf("%v, %v", m, err)
	}
}

// Compressing makes pages smaller on disk.
func TestCompressionSaves(t *testing.T) {
	live := map[Compression]int64{}
	for _, c := range []Compression{CompressionNone, CompressionZstd} {
		pc := openTest(t, t.TempDir(), &Options{Compression: c})
		tx := begin(t, pc)
		for range 1000 {
			if _, _, err := pc.Allocate(tx, []byte(strings.Repeat("all work and no play ", 20))); err != nil {
				t.Fatal(err)
			}
		}
		tx.End()
		live[c] = pc.Stats().Space.LiveBytes
		closeTest(t, pc)
	}
	if live[CompressionZstd] > live[CompressionNone]/4 {
		t.Errorf("%d bytes compressed, %d not", live[CompressionZstd], live[CompressionNone])
	}
}
