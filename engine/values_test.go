package engine

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"pagecache/internal/simdisk"
)

// Values are compressed where that makes them smaller, whatever they are; stores may hold both sorts, and the option may change. Meta, counter, batch
// markers, pads and frees are never compressed. Proves trap 3.
func TestCompression(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	want := map[PageID][]byte{}
	for i, c := range []Compression{CompressionNone, CompressionZstd, CompressionZstd, CompressionNone} {
		o := &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 3, Compression: c, CompressionLevel: []int{0, 1, 22, 0}[i], fs: d, eager: true}
		pc := openTest(t, "/store", o)
		tx := begin(t, pc)
		for pid, v := range want {
			if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, v) {
				t.Fatalf("page %d: %d bytes, want %d, %v", pid, len(p.Value), len(v), err)
			}
		}
		before := pc.Stats().LiveBytes
		b, err := pc.PinLog()
		if err != nil {
			t.Fatal(err)
		}
		for n := range 40 {
			for _, v := range [][]byte{nil, bytes.Repeat([]byte{'x'}, n), []byte(strings.Repeat("all work and no play ", n*10)), random(n*100, uint64(n))} {
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
		if _, _, err := pc.CASRoot(tx, bytes.Repeat([]byte{'r', byte('0' + i)}, 50), None, Some(5)); err != nil {
			t.Fatal(err)
		}
		if err := b.Seal(); err != nil {
			t.Fatal(err)
		}
		tx.End()
		s := pc.Stats()
		t.Logf("%v: %d live bytes more, %d in %d blobs", c, s.LiveBytes-before, s.BlobBytes, s.Blobs)
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
		live[c] = pc.Stats().LiveBytes
		closeTest(t, pc)
	}
	if live[CompressionZstd] > live[CompressionNone]/4 {
		t.Errorf("%d bytes compressed, %d not", live[CompressionZstd], live[CompressionNone])
	}
}

// Nothing that is unpacked takes more memory than it may. Proves rule 12.
func TestUnpackIsBounded(t *testing.T) {
	z, err := newZipper(3)
	if err != nil {
		t.Fatal(err)
	}
	bomb := z.pack(nil, make([]byte, 1<<20))
	if b, err := unpack(bomb, 1<<20); err != nil || len(b) != 1<<20 {
		t.Error(len(b), err)
	}
	if _, err := unpack(bomb, 1<<20-1); err == nil {
		t.Error("longer than the limit, and unpacked")
	}
	for _, says := range []uint32{0, 1, 1<<20 - 1, 1<<20 + 1, 1 << 31} {
		b := bytes.Clone(bomb)
		binary.LittleEndian.PutUint32(b, says)
		if _, err := unpack(b, 2<<20); err == nil {
			t.Errorf("%d bytes that say %d are unpacked", 1<<20, says)
		}
	}
	for n := range len(bomb) {
		if _, err := unpack(bomb[:n], 1<<20); err == nil {
			t.Errorf("%d of %d bytes are unpacked", n, len(bomb))
		}
	}
}

// Anything is unpacked to something bounded, or refused.
func FuzzUnpack(f *testing.F) {
	z, err := newZipper(3)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(z.pack(nil, []byte("hello hello hello hello")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		if b, err := unpack(body, 1<<16); err == nil && (len(b) > 1<<16 || len(b) != int(binary.LittleEndian.Uint32(body))) {
			t.Errorf("%d bytes", len(b))
		}
	})
}
