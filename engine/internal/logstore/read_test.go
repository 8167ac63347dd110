package logstore

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pagecache/internal/osfs"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

const readRoom = 16 << 10 // bytes of the only segment

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
	d, err := osfs.OS.OpenDir(filepath.Dir(name))
	if err != nil {
		t.Fatal(err)
	}
	f, err := d.Open("log", vfs.FlagRead)
	if err := errors.Join(err, d.Close()); err != nil {
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

func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// putMessage encodes a message of page 7 and returns the pointer to it, at offset 0.
func putMessage(b []byte, lsn format.LSN, body []byte, seed format.Seed) format.DiskPtr {
	w := format.MakeWord(format.KindAppend, format.HeaderSize+len(body))
	format.PutHeader(b, lsn, 7, 0)
	copy(b[format.HeaderSize:], body)
	format.PutCRC(b, w, seed)
	format.PutWord(b, w)
	return format.DiskPtr{Len: uint32(w.Len())}
}

// Every way in which a pointer and the message at it can disagree is found.
func TestReadMapped(t *testing.T) {
	const seed, lsn, at = 99, 4096, 128
	body := noise(1000)
	file := make([]byte, readRoom)
	ptr := putMessage(file[at:], lsn, body, seed)
	ptr.Off = at
	f, m := openMapped(t, file)
	h, got, err := readMapped(m, ptr, lsn, seed)
	if err != nil || !bytes.Equal(got, body) || h.Page != 7 || h.LSN != lsn || h.Kind != format.KindAppend {
		t.Fatalf("readMapped: %+v, %v", h, err)
	}
	with := func(n uint32) format.DiskPtr { return format.DiskPtr{Off: at, Len: n} }
	for _, c := range []struct {
		name string
		ptr  format.DiskPtr
		lsn  format.LSN
		seed format.Seed
		want error
	}{
		{"seed", ptr, lsn, seed + 1, format.ErrCRC},
		{"LSN", ptr, lsn + 8, seed, format.ErrLSN},
		{"pointer too short", with(ptr.Len - 1), lsn, seed, format.ErrLength},
		{"pointer too long", with(ptr.Len + 1), lsn, seed, errPointer},
		{"pointer to nothing", format.DiskPtr{}, lsn, seed, format.ErrLength},
		{"pointer beyond the file", format.DiskPtr{Off: 1 << 40, Len: 100}, lsn, seed, vfs.ErrBounds},
		{"zeros", format.DiskPtr{Off: 8192, Len: 100}, lsn, seed, format.ErrNoMessage},
	} {
		if h, body, err := readMapped(m, c.ptr, c.lsn, c.seed); !errors.Is(err, c.want) || body != nil {
			t.Errorf("%s: %+v, %d bytes, %v, want %v", c.name, h, len(body), err, c.want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _, _, _ = readMapped(m, ptr, lsn, seed) }); n != 0 {
		t.Errorf("readMapped allocates %v times", n)
	}
	// Proves rule 12: a flip of any bit is found.
	for i := range int(ptr.Len) * 8 {
		flip := file[at+i/8] ^ 1<<(i%8)
		if _, err := f.WriteAt([]byte{flip}, int64(at+i/8)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := readMapped(m, ptr, lsn, seed); err == nil {
			t.Fatalf("bit %d was flipped and not found", i)
		}
		if _, err := f.WriteAt(file[at+i/8:at+i/8+1], int64(at+i/8)); err != nil {
			t.Fatal(err)
		}
	}
}

// Glance returns what readMapped returns, wherever the message lies in its block and however long it is, and finds none
// that is longer than allowed, not valid, or a delta.
func TestGlance(t *testing.T) {
	const seed = 99
	file := make([]byte, readRoom)
	for _, size := range []int{0, glanced - format.HeaderSize, glanced, 1000, 5000} {
		for _, at := range []int{0, 128, readBlock - 40, readBlock - 32, readBlock - 8, readBlock - 300, readBlock} {
			body := noise(size)
			lsn := format.LSN(4096 + at)
			ptr := putMessage(file[at:], lsn, body, seed)
			ptr.Off = format.Offset(at)
			w := format.MakeWord(format.KindRecord, int(ptr.Len))
			format.PutCRC(file[at:], w, seed)
			format.PutWord(file[at:], w)
			f, m := openMapped(t, file)
			want, wantBody, err := readMapped(m, ptr, lsn, seed)
			if err != nil {
				t.Fatal(err)
			}
			look := func(most int, lsn format.LSN, seed format.Seed) bool {
				t.Helper()
				h, got, found := glance(m, ptr.Off, most, lsn, seed)
				if found && (h != want || !bytes.Equal(got, wantBody)) || !found && got != nil {
					t.Errorf("%d bytes at %d: %+v, %d bytes, want %+v", size, at, h, len(got), want)
				}
				return found
			}
			whole := readBlock-at%readBlock >= format.HeaderSize // else Glance leaves it to others
			if look(readRoom-at, lsn, seed) != whole || look(int(ptr.Len), lsn, seed) != whole {
				t.Errorf("%d bytes at %d: found %v, want %v", size, at, !whole, whole)
			}
			if look(int(ptr.Len)-1, lsn, seed) || look(readRoom-at, lsn+8, seed) || look(readRoom-at, lsn, seed+1) {
				t.Errorf("%d bytes at %d: a message that is too long, or another one, was found", size, at)
			}
			for _, i := range []int{0, format.HeaderSize - 1, int(ptr.Len) - 1} { // Proves rule 12
				if _, err := f.WriteAt([]byte{file[at+i] ^ 4}, int64(at+i)); err != nil {
					t.Fatal(err)
				}
				if look(readRoom-at, lsn, seed) {
					t.Errorf("%d bytes at %d: byte %d is corrupt, and the message was found", size, at, i)
				}
				if _, err := f.WriteAt(file[at+i:at+i+1], int64(at+i)); err != nil {
					t.Fatal(err)
				}
			}
			if n := testing.AllocsPerRun(10, func() { _, _, _ = glance(m, ptr.Off, readRoom-at, lsn, seed) }); n != 0 {
				t.Errorf("glance allocates %v times", n)
			}
			if err := f.Truncate(0); err != nil {
				t.Fatal(err)
			}
			if look(readRoom-at, lsn, seed) {
				t.Error("a message was found in a file that was truncated")
			}
		}
	}
	putMessage(file, 4096, noise(100), seed) // a delta
	_, m := openMapped(t, file)
	for _, at := range []format.Offset{0, readRoom} {
		if _, _, found := glance(m, at, readRoom, 4096, seed); found {
			t.Errorf("a delta, or a message beyond the end, was found at %d", at)
		}
	}
}

// A pointer that leaves its segment, or that no message can have, is refused before anything is read.
func TestReadRefusesPointers(t *testing.T) {
	s := &Store{Super: format.Superblock{SegmentSize: readRoom}}
	const lsn, at = readRoom + 128, 128
	for _, c := range []struct {
		name string
		lsn  format.LSN
		ptr  format.DiskPtr
	}{
		{"pointer beyond the segment", lsn, format.DiskPtr{Off: at, Len: readRoom - at + 1}},
		{"pointer to nothing", lsn, format.DiskPtr{}},
		{"pointer too short for a header", lsn, format.DiskPtr{Off: at, Len: format.HeaderSize - 1}},
		{"negative offset", lsn, format.DiskPtr{Off: at - readRoom, Len: 100}},
		{"LSN of another place", lsn + format.Align, format.DiskPtr{Off: at, Len: 100}},
		{"LSN that is not aligned", lsn + 1, format.DiskPtr{Off: at + 1, Len: 100}},
		{"no LSN", 0, format.DiskPtr{Off: readRoom, Len: 100}},
	} {
		m, err := s.Read(c.lsn, c.ptr)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("read LSN %d", c.lsn)) || m.Body != nil {
			t.Errorf("%s: %+v, %v", c.name, m, err)
		}
	}
}

// If the file is truncated under the map, the call that reads it returns an error, and the process lives.
func TestReadMappedTruncated(t *testing.T) {
	file := make([]byte, 3*readRoom)
	ptr := putMessage(file[2*readRoom:], 8, noise(5000), 1)
	ptr.Off = 2 * readRoom
	f, m := openMapped(t, file)
	if _, _, err := readMapped(m, ptr, 8, 1); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(2 * readRoom); err != nil {
		t.Fatal(err)
	}
	h, body, err := readMapped(m, ptr, 8, 1)
	if !errors.Is(err, vfs.ErrFault) || body != nil || h != (format.Header{}) {
		t.Fatalf("beyond the end: %v", err)
	}
}

func BenchmarkReadMapped(b *testing.B) {
	const seed, lsn = 99, 4096
	for _, size := range []int{64, 4096} {
		file := make([]byte, readRoom)
		ptr := putMessage(file, lsn, noise(size), seed)
		_, m := openMapped(b, file)
		b.Run(fmt.Sprintf("value=%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := readMapped(m, ptr, lsn, seed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A segment may leave the log only once the first message of the next one is stable: then a scan finds where the log
// goes on. The header of the next segment alone is not enough. Proves rule 4.
func TestSegmentIsFollowed(t *testing.T) {
	s := &Store{Super: format.Superblock{SegmentSize: readRoom}}
	const base = 3 * readRoom
	first := format.LSN(base + readRoom + format.SegmentStart) // of the messages behind it
	for _, c := range []struct {
		stable format.LSN // the stable end
		want   bool
	}{
		{base, false}, {base + 1, false}, {base + readRoom, false}, {first - 1, false}, {first, false},
		{first + 1, true}, {first + readRoom, true},
	} {
		if got := s.isFollowed(base, c.stable); got != c.want {
			t.Errorf("stable end %d, base %d: followed %v, want %v", c.stable, int64(base), got, c.want)
		}
	}
}
