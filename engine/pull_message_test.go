package engine

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pagecache/internal/osfs"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

const pullRoom = 16 << 10 // bytes of the only segment

// openMapped writes a file and maps it.
func openMapped(t testing.TB, content []byte) (*os.File, vfs.Map) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f, err := osfs.OS.Open(name, vfs.FlagRead)
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.OpenMap(vfs.PatternRandom, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(m.Close(), f.Close(), w.Close()); err != nil {
			t.Error(err)
		}
	})
	return w, m
}

func pullNoise(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// putPullMessage encodes a message of page 7 and returns the pointer to it, at offset 0.
func putPullMessage(b []byte, lsn format.LSN, body []byte, seed format.Seed) format.DiskPtr {
	w := format.MakeWord(format.KindAppend, format.HeaderSize+len(body))
	format.PutHeader(b, lsn, 7)
	copy(b[format.HeaderSize:], body)
	format.PutCRC(b, w, seed)
	format.PutWord(b, w)
	return format.DiskPtr{Len: uint32(w.Len())}
}

// Every way in which a pointer and the message at it may disagree is found.
func TestPullMessage(t *testing.T) {
	const seed, lsn, at = 99, 4096, 128
	body := pullNoise(1000)
	file := make([]byte, pullRoom)
	ptr := putPullMessage(file[at:], lsn, body, seed)
	ptr.Off = at
	room := pullRoom - at
	f, m := openMapped(t, file)
	h, got, err := pullMessage(m, ptr, lsn, seed, room)
	if err != nil || !bytes.Equal(got, body) || h.Page != 7 || h.LSN != lsn || h.Kind != format.KindAppend {
		t.Fatalf("pullMessage: %+v, %v", h, err)
	}
	with := func(n uint32) format.DiskPtr { return format.DiskPtr{Off: at, Len: n} }
	for _, c := range []struct {
		name string
		ptr  format.DiskPtr
		lsn  format.LSN
		seed format.Seed
		room int
		want error
	}{
		{"seed", ptr, lsn, seed + 1, room, format.ErrCRC},
		{"LSN", ptr, lsn + 8, seed, room, format.ErrLSN},
		{"pointer too short", with(ptr.Len - 1), lsn, seed, room, format.ErrLength},
		{"pointer too long", with(ptr.Len + 1), lsn, seed, room, errPointer},
		{"pointer beyond the segment", ptr, lsn, seed, int(ptr.Len) - 1, errPointer},
		{"pointer of nothing", format.DiskPtr{}, lsn, seed, room, errPointer},
		{"pointer beyond the file", format.DiskPtr{Off: 1 << 40, Len: 100}, lsn, seed, room, vfs.ErrBounds},
		{"zeros", format.DiskPtr{Off: 8192, Len: 100}, lsn, seed, room, format.ErrNoMessage},
	} {
		if _, _, err := pullMessage(m, c.ptr, c.lsn, c.seed, c.room); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _, _, _ = pullMessage(m, ptr, lsn, seed, room) }); n != 0 {
		t.Errorf("pullMessage allocates %v times", n)
	}
	// proves rule 12: a flip of any bit is found.
	for i := range int(ptr.Len) * 8 {
		flip := file[at+i/8] ^ 1<<(i%8)
		if _, err := f.WriteAt([]byte{flip}, int64(at+i/8)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := pullMessage(m, ptr, lsn, seed, room); err == nil {
			t.Fatalf("bit %d flipped and not found", i)
		}
		if _, err := f.WriteAt(file[at+i/8:at+i/8+1], int64(at+i/8)); err != nil {
			t.Fatal(err)
		}
	}
}

// A file that is truncated under the map is an error from the call that reads it, and the process lives.
func TestPullMessageTruncated(t *testing.T) {
	file := make([]byte, 3*pullRoom)
	ptr := putPullMessage(file[2*pullRoom:], 8, pullNoise(5000), 1)
	ptr.Off = 2 * pullRoom
	f, m := openMapped(t, file)
	if _, _, err := pullMessage(m, ptr, 8, 1, pullRoom); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(2 * pullRoom); err != nil {
		t.Fatal(err)
	}
	if h, body, err := pullMessage(m, ptr, 8, 1, pullRoom); !errors.Is(err, vfs.ErrFault) || body != nil || h != (format.Header{}) {
		t.Fatalf("beyond the end: %v", err)
	}
}

func BenchmarkPullMessage(b *testing.B) {
	const seed, lsn = 99, 4096
	for _, size := range []int{64, 4096} {
		file := make([]byte, pullRoom)
		ptr := putPullMessage(file, lsn, pullNoise(size), seed)
		_, m := openMapped(b, file)
		b.Run(map[int]string{64: "value=64", 4096: "value=4096"}[size], func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := pullMessage(m, ptr, lsn, seed, pullRoom); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
