package checkpoint

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"runtime"
	"testing"

	"pagecache/recovery"
	"pagecache/segments/format"
)

// emptyStream returns the stream of a store without segments.
func emptyStream(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := partWriter{w: &b}
	head := begin{super: format.Superblock{Sequence: 1, Store: format.StoreID{1}, SegmentSize: 16 << 10, Clean: true}}
	if err := errors.Join(w.put(kindBegin, 0, head.append(nil)), w.end()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A stream of nothing is verified, and its bytes are those of docs/FORMAT.md.
func TestEmptyStream(t *testing.T) {
	b := emptyStream(t)
	i, err := Verify(context.Background(), bytes.NewReader(b))
	if err != nil || i.Bytes != int64(len(b)) || i.Store != (format.StoreID{1}) || i.Streams != 1 {
		t.Fatalf("%+v, %v", i, err)
	}
	end := len(b) - 48
	if string(b[:4]) != "PCKP" || b[4] != 1 || b[6] != 1 || b[end+6] != 8 ||
		binary.LittleEndian.Uint64(b[end+16:]) != 16 || binary.LittleEndian.Uint64(b[end+40:]) != uint64(end) {
		t.Errorf("% x … % x", b[:32], b[end:])
	}
}

// A header that says that a part is long costs no memory before the bytes were read. Rule 12.
func TestLongPartIsRead(t *testing.T) {
	var b [partHeaderSize]byte
	copy(b[:], partMagic)
	b[4], b[6] = Version, byte(kindBegin)
	binary.LittleEndian.PutUint64(b[16:], MaxPayload)
	binary.LittleEndian.PutUint32(b[28:], crc32.Checksum(b[:28], castagnoli))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Verify(context.Background(), bytes.NewReader(b[:]))
	runtime.ReadMemStats(&after)
	if !errors.Is(err, recovery.ErrCorrupt) || !errors.Is(err, errEnds) {
		t.Error(err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
		t.Errorf("%d bytes for a part of which nothing was there", n)
	}
}

// An error of the reader is returned as it is, and is none of corruption.
func TestReaderFails(t *testing.T) {
	broken := errors.New("the network is down")
	r := io.MultiReader(bytes.NewReader(emptyStream(t)[:100]), failing{broken})
	if _, err := Verify(context.Background(), r); !errors.Is(err, broken) || errors.Is(err, recovery.ErrCorrupt) {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// No stream makes Verify panic. The checksums are made right, so that the fields behind them are reached.
func FuzzVerify(f *testing.F) {
	f.Add(emptyStream(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b)
		crc := uint32(0)
		for at := 0; len(b)-at >= partHeaderSize; {
			h := b[at : at+partHeaderSize]
			n := binary.LittleEndian.Uint64(h[16:])
			rest := b[at+partHeaderSize:]
			if n > uint64(len(rest)) {
				break
			}
			binary.LittleEndian.PutUint32(h[24:], crc32.Checksum(rest[:n], castagnoli))
			crc = crc32.Update(crc, castagnoli, h[:28])
			binary.LittleEndian.PutUint32(h[28:], crc)
			at += partHeaderSize + int(n)
		}
		_, _ = Verify(context.Background(), bytes.NewReader(b))
	})
}
