package blob

import (
	"errors"
	"math"
	"slices"
	"testing"

	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// While a Hold is being made, no blob is removed; then those are kept that a page could refer to at the cut. Proves B2.
func TestHold(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	s := open(t, d, simDir)
	for id := range format.BlobID(4) {
		write(t, s, id, 5000)
	}
	s.Retire(0, 1000, 1)
	h := s.Hold()
	s.Retire(1, 2000, 1)
	s.Retire(2, 3000, 1)
	if n := s.Reap(5000, math.MaxUint64); n != 0 {
		t.Errorf("%d blobs were removed while a hold was being made", n)
	}
	write(t, s, 4, 5000)
	h.Keep(2000)
	if ids := h.IDs(); !slices.Equal(ids, []format.BlobID{2, 3, 4}) || h.Size(2) != 5000+format.BlobHeaderSize {
		t.Errorf("the hold keeps %v", ids)
	}
	write(t, s, 5, 5000)
	s.Retire(5, 4000, 1)
	if n := s.Reap(5000, math.MaxUint64); n != 3 {
		t.Errorf("%d blobs were removed, want 0, 1 and 5", n)
	}
	wantBlobs(t, s, 2, 3, 4)
	other := h.Clone()
	h.Release()
	h.Release()
	if n := s.Reap(5000, math.MaxUint64); n != 0 || !other.Has(2) || other.Has(1) {
		t.Errorf("%d blobs were removed while another hold was open", n)
	}
	other.Release()
	if n := s.Reap(5000, math.MaxUint64); n != 1 {
		t.Errorf("%d blobs were removed after the hold, want 1", n)
	}
	wantBlobs(t, s, 3, 4)
}

// A hold keeps a blob whose write is given up: a complete part of that write may lie below what the hold is for.
func TestHoldKeepsDiscardedBlob(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	s := open(t, d, simDir)
	for id := range format.BlobID(3) {
		write(t, s, id, 5000)
	}
	h := s.Hold()
	h.Keep(0)
	write(t, s, 3, 5000)
	s.Discard(1)
	s.Discard(3) // which is later than the hold
	if n := s.Reap(math.MaxInt64, math.MaxUint64); n != 0 {
		t.Errorf("%d blobs were removed", n)
	}
	wantBlobs(t, s, 0, 1, 2)
	h.Release()
	if n := s.Reap(0, 0); n != 1 {
		t.Errorf("%d blobs were removed after the hold, want 1", n)
	}
	wantBlobs(t, s, 0, 2)
}

// CheckFiles finds a blob that is missing, has another length, or the header of another one.
func TestCheckFiles(t *testing.T) {
	for name, hurt := range map[string]func(f vfs.File) error{
		"good":   func(vfs.File) error { return nil },
		"longer": func(f vfs.File) error { return f.Truncate(6000) },
		"header": func(f vfs.File) error { _, err := f.WriteAt([]byte{9}, 33); return err },
	} {
		d := simdisk.New(1, simdisk.Options{})
		s := open(t, d, simDir)
		write(t, s, 7, 5000)
		f, err := d.Open(simDir+"/"+format.BlobID(7).String(), vfs.FlagWrite)
		if err != nil {
			t.Fatal(err)
		}
		if err := hurt(f); err != nil {
			t.Fatal(err)
		}
		err = s.CheckFiles()
		if name != "good" {
			if !errors.Is(err, recovery.ErrCorrupt) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Error(err)
		}
		if err := d.Remove(simDir + "/" + format.BlobID(7).String()); err != nil {
			t.Fatal(err)
		}
		if err := s.CheckFiles(); !errors.Is(err, recovery.ErrCorrupt) {
			t.Errorf("missing: %v", err)
		}
	}
}
