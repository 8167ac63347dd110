package logstore

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// tornFile is the file of a superblock in memory. A write is durable at once, or the power is cut in it: then the bytes
// that it was to change are as before, as it wanted them, or garbage.
type tornFile struct {
	vfs.File
	b     []byte
	left  int // writes until the power is cut; negative: it stays on
	leave tornLeave
	cut   bool
	// failing is the number of the sync, from now on, that fails. It leaves garbage where the last write was. 0: none.
	failing int
	last    []byte // what the last write has changed
}

type tornLeave int

const (
	leaveOld tornLeave = iota
	leaveNew
	leaveGarbage
	leaves
)

var errCut = errors.New("the power is cut")

func (f *tornFile) Name() string         { return "superblock" }
func (f *tornFile) Size() (int64, error) { return int64(len(f.b)), nil }

func (f *tornFile) DropCache(int64, int64) error { return nil }

func (f *tornFile) ReadAt(p []byte, off int64) (int, error) {
	if n := copy(p, f.b[off:]); n < len(p) {
		return n, io.EOF
	}
	return len(p), nil
}

func (f *tornFile) WriteAt(p []byte, off int64) (int, error) {
	if f.cut {
		return 0, errCut
	}
	if f.left--; f.left == 0 {
		f.cut = true
	}
	at := f.b[off : off+int64(len(p))]
	f.last = at
	switch {
	case !f.cut || f.leave == leaveNew:
		copy(at, p)
	case f.leave == leaveGarbage:
		garble(at)
	}
	return len(p), nil
}

func garble(b []byte) {
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
}

func (f *tornFile) Sync() error {
	if f.cut {
		return errCut
	}
	if f.failing--; f.failing == 0 {
		garble(f.last)
		return syscall.EIO
	}
	return nil
}

// A power cut in any write of a change, and in those of the openings after it, leaves the superblock before the change
// or after it, whatever the sectors of the write that was under way hold. A change that was reported as complete stays,
// although one copy is lost then. Proves rule 16, trap 34.
func TestSuperblockSurvivesCuts(t *testing.T) {
	const deep = 4
	var try func(b []byte, must uint64, depth int)
	try = func(b []byte, must uint64, depth int) {
		for left := range 3 { // 0: the power is not cut
			for leave := range leaves {
				f := &tornFile{b: slices.Clone(b), left: left, leave: leave}
				var s superFile
				if _, err := s.open(f); err != nil || s.last.NextID < must {
					t.Fatalf("depth %d: id %d, want %d or more, error %v", depth, s.last.NextID, must, err)
				}
				next := s.last
				next.NextID++
				err := s.change(next)
				if (err == nil) != (left == 0) {
					t.Fatalf("depth %d: the power is cut at write %d: error %v", depth, left, err)
				}
				low := must
				if low = max(low, s.last.NextID); err == nil {
					low = next.NextID
					for i := range 2 { // whichever copy is lost
						lost := slices.Clone(f.b)
						clear(lost[i*format.SuperCopySize:][:format.SuperCopySize])
						if sb, err := format.DecodeSuperblock(lost); err != nil || sb.NextID != next.NextID {
							t.Fatalf("depth %d: copy %d is lost: id %d, want %d, error %v",
								depth, i, sb.NextID, next.NextID, err)
						}
					}
				}
				if depth < deep {
					try(f.b, low, depth+1)
				}
				if left == 0 {
					break
				}
			}
		}
	}
	first := format.Superblock{SegmentSize: format.MinSegmentSize, NextID: 1}
	try(first.Append(nil), 1, 1)
}

// After a sync that failed, nothing is known about the copy that was written. The next change begins with that one, so
// that a power cut in it does not cost the other one, too. Proves rule 16.
func TestSuperblockAfterFailedSync(t *testing.T) {
	first := format.Superblock{SegmentSize: format.MinSegmentSize, NextID: 1}
	for failing := 1; failing <= 2; failing++ {
		f := &tornFile{b: first.Append(nil), failing: failing}
		var s superFile
		if _, err := s.open(f); err != nil {
			t.Fatal(err)
		}
		next := s.last
		next.NextID = 2
		if err := s.change(next); !errors.Is(err, syscall.EIO) {
			t.Fatalf("sync %d fails: error %v", failing, err)
		}
		f.left, f.leave = 1, leaveGarbage
		if err := s.change(next); !errors.Is(err, errCut) {
			t.Fatalf("the power is cut in the next change: error %v", err)
		}
		sb, err := format.DecodeSuperblock(f.b)
		if want := uint64(failing); err != nil || sb.NextID != want { // copy 0 was durable before the second sync
			t.Errorf("sync %d failed: id %d, want %d, error %v", failing, sb.NextID, want, err)
		}
	}
}

// A copy that cannot be read is as good as lost. If neither can be read, that is an error of the disk and no
// corruption; if the other one is corrupt, the store is. Proves rule 16.
func TestUnreadableSuperblock(t *testing.T) {
	sb := format.Superblock{SegmentSize: format.MinSegmentSize, NextID: 1}
	good := sb.Append(nil)
	for _, c := range []struct {
		unreadable, corrupt []int
		want                error
	}{
		{nil, nil, nil}, {[]int{0}, nil, nil}, {[]int{1}, nil, nil}, {nil, []int{0}, nil}, {nil, []int{1}, nil},
		{[]int{0, 1}, nil, syscall.EIO}, {[]int{0}, []int{1}, recovery.ErrCorrupt},
		{[]int{1}, []int{0}, recovery.ErrCorrupt}, {nil, []int{0, 1}, recovery.ErrCorrupt},
	} {
		d := simdisk.New(1, simdisk.Options{})
		b := slices.Clone(good)
		for _, i := range c.corrupt {
			b[i*format.SuperCopySize+40] ^= 1
		}
		d.WriteFile("/superblock", b)
		d.SetFault(func(o simdisk.Op) error {
			if o.Kind == simdisk.OpRead && slices.Contains(c.unreadable, int(o.Off/format.SuperCopySize)) {
				return fmt.Errorf("sector: %w", syscall.EIO)
			}
			return nil
		})
		got, err := ReadSuper(root(t, d))
		if c.want == nil && (err != nil || got != sb) || c.want != nil && !errors.Is(err, c.want) ||
			errors.Is(c.want, syscall.EIO) && errors.Is(err, recovery.ErrCorrupt) {
			t.Errorf("unreadable %v, corrupt %v: %+v, error %v, want %v", c.unreadable, c.corrupt, got, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("an error of several lines: %v", err)
		}
	}
	d := simdisk.New(1, simdisk.Options{})
	d.WriteFile("/superblock", good)
	d.SetFault(func(o simdisk.Op) error {
		if o.Kind == simdisk.OpRead && o.Off == 0 {
			return syscall.EPERM
		}
		return nil
	})
	if _, err := ReadSuper(root(t, d)); !errors.Is(err, syscall.EPERM) || errors.Is(err, recovery.ErrCorrupt) {
		t.Errorf("a refusal: error %v, want EPERM", err)
	}
}

// root returns the root directory of a simulated disk.
func root(t *testing.T, d *simdisk.Disk) vfs.Dir {
	t.Helper()
	held, err := d.OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	return held
}
