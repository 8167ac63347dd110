package checkpoint

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"pagecache/internal/simdisk"
	"pagecache/recovery"
	"pagecache/segments"
	"pagecache/segments/format"
)

// forged returns a stream with valid checksums that ends after the parts that put writes. change may change the first
// part.
func forged(t *testing.T, change func(*begin), put func(*partWriter) error) []byte {
	t.Helper()
	var b bytes.Buffer
	w := partWriter{w: &b}
	head := begin{super: format.Superblock{Sequence: 1, Store: format.StoreID{1}, SegmentSize: 16 << 10, Clean: true}}
	if change != nil {
		change(&head)
	}
	if err := errors.Join(w.put(kindBegin, 0, head.append(nil)), put(&w)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// reserved counts the bytes of disk space that a disk is asked to reserve.
func reserved(d *simdisk.Disk) func() int64 {
	var mu sync.Mutex
	var sum int64
	d.SetFault(func(op simdisk.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind == simdisk.OpAllocate {
			sum += int64(op.Len)
		}
		return nil
	})
	return func() int64 {
		mu.Lock()
		defer mu.Unlock()
		return sum
	}
}

// A length in a stream takes disk space as the bytes come, and not before. Rule 12.
func TestInstallReservesWhatComes(t *testing.T) {
	const long = 1 << 40
	name := format.SnapshotID{Store: format.StoreID{1}, Number: 1}.Name()
	header := format.BlobPtr{ID: 7, Len: format.MaxBlob}.AppendHeader(nil, format.StoreID{1}, 0)
	for what, stream := range map[string][]byte{
		"snapshot": forged(t, nil, func(w *partWriter) error {
			return errors.Join(w.put(kindSnapshot, long, []byte(name)), w.put(kindSnapshotData, 0, make([]byte, 100)))
		}),
		"blob": forged(t, func(b *begin) { b.blobs = 1 }, func(w *partWriter) error {
			ids := binary.LittleEndian.AppendUint64(nil, 7)
			return errors.Join(w.put(kindBlobs, 0, ids), w.put(kindBlob, 7, header))
		}),
	} {
		d := simdisk.New(1, simdisk.Options{})
		sum := reserved(d)
		_, err := Install(context.Background(), d, "/copy", func(string, Info) error { return nil },
			[]io.Reader{bytes.NewReader(stream)})
		if !errors.Is(err, errEnds) {
			t.Errorf("%s: %v", what, err)
		}
		if sum() > 2*roomAhead {
			t.Errorf("%s: %d bytes of disk space for a stream of %d", what, sum(), len(stream))
		}
		if names, err := d.ReadDir("/"); err != nil || len(names) > 0 {
			t.Errorf("%s: left: %v, %v", what, names, err)
		}
	}
}

// Space is reserved ahead of the bytes, in steps, up to the length and not beyond.
func TestReserveInSteps(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	dir, err := d.OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	x := &installer{dir: dir}
	const size = 2*roomAhead + 100
	sum := reserved(d)
	if err := x.snapshot(format.SnapshotID{Store: format.StoreID{1}, Number: 1}, size); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < size; off += piece {
		n := min(piece, size-off)
		if err := x.snapshotData(off, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		if got := sum(); got < off+n || got > min(off+n+roomAhead, size) {
			t.Fatalf("%d bytes are reserved after %d of %d", got, off+n, size)
		}
	}
}

// A log file is as long as its segments say, whatever the superblock in a stream does. Rule 12.
func TestSlotsWithoutSegments(t *testing.T) {
	for _, slots := range []uint32{1, segments.MaxSlots} {
		stream := forged(t, func(b *begin) { b.super.Extent.Slots = slots }, (*partWriter).end)
		d := simdisk.New(1, simdisk.Options{})
		long := false
		d.SetFault(func(op simdisk.Op) error {
			long = long || op.Kind == simdisk.OpTruncate && op.Off > 0
			return nil
		})
		_, err := Install(context.Background(), d, "/copy", func(string, Info) error { return nil },
			[]io.Reader{bytes.NewReader(stream)})
		if !errors.Is(err, recovery.ErrCorrupt) || !strings.Contains(err.Error(), "slots") {
			t.Errorf("%d slots and no segments: %v", slots, err)
		}
		if long {
			t.Errorf("%d slots and no segments: the log file was made longer", slots)
		}
	}
}

// If the name cannot be made durable, there is nothing under it, and the next Install succeeds. If it cannot be taken
// away durably either, the store is whole under one of both names, whatever the power cut leaves. Proves Z3.
func TestInstallWithoutADurableName(t *testing.T) {
	for fails := 1; fails <= 2; fails++ {
		d := simdisk.New(1, simdisk.Options{})
		left, renamed := fails, false
		d.SetFault(func(op simdisk.Op) error {
			renamed = renamed || op.Kind == simdisk.OpRename
			if op.Kind == simdisk.OpSyncDir && op.Name == "/" && renamed && left > 0 {
				left--
				return syscall.EIO
			}
			return nil
		})
		if err := install(t, d); !errors.Is(err, syscall.EIO) {
			t.Errorf("%d failed syncs: %v", fails, err)
		}
		names, err := d.ReadDir("/")
		if err != nil || len(names) != fails-1 || slices.Contains(names, "copy") {
			t.Errorf("%d failed syncs: left: %v, %v", fails, names, err)
		}
		for seed := range uint64(20) {
			c := d.Crash(seed)
			if names, err := c.ReadDir("/"); err == nil && slices.Contains(names, "copy") {
				wantStoreIn(t, c, "/copy")
			}
		}
	}
}

// After a failed Sync of the name, a second Install to the same place succeeds.
func TestInstallAgainAfterAFailedName(t *testing.T) {
	for fails := 1; fails <= 2; fails++ {
		d := simdisk.New(1, simdisk.Options{})
		left := fails
		d.SetFault(func(op simdisk.Op) error {
			if op.Kind == simdisk.OpSyncDir && op.Name == "/" && left > 0 {
				left--
				return syscall.EIO
			}
			return nil
		})
		_ = install(t, d)
		if err := install(t, d); err != nil {
			t.Errorf("%d failed syncs, then again: %v", fails, err)
		}
		wantStoreIn(t, d, "/copy")
	}
}
