//go:build linux

package engine_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// freeOn returns the free bytes of a file system, once everything is on the disk.
func freeOn(t *testing.T, dir string) int64 {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := errors.Join(unix.Syncfs(int(d.Fd())), unix.Fstatfs(int(d.Fd()), &st)); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bfree) * st.Bsize
}

// On a file system that can, a copy shares its bytes with the store: it takes next to no space, and stays what it is
// when the store changes, and when the store is removed. On other file systems, the bytes are written.
func TestCheckpointCopy(t *testing.T) {
	for _, kind := range []string{"xfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			m := newLoopMount(t, kind, 400)
			dir, copied := filepath.Join(m.dir, "store"), filepath.Join(m.dir, "copy")
			o := &engine.Options{SegmentSize: 1 << 20}
			pc := enginetest.Open(t, dir, o)
			pids := enginetest.AllocateMany(t, pc, 5000, 4000)
			long, _ := enginetest.Allocate(t, pc, enginetest.Random(5_000_001, 1))        // a blob
			enginetest.Allocate(t, pc, enginetest.Random(1<<20-format.BlobHeaderSize, 1)) // one of whole blocks
			enginetest.Churn(t, pc, pids[:10], 5)
			enginetest.Flush(t, pc)
			contents := enginetest.Contents(t, pc)
			c := take(t, pc)
			before := freeOn(t, m.dir)
			if _, err := c.CopyTo(t.Context(), copied, nil); err != nil {
				t.Fatal(err)
			}
			took := before - freeOn(t, m.dir)
			t.Logf("a copy of 26 MB takes %d bytes", took)
			if shared := took < 5<<20; shared != (kind == "xfs") {
				t.Errorf("the copy takes %d bytes", took)
			}
			if _, err := c.CopyTo(t.Context(), copied, nil); !errors.Is(err, fs.ErrExist) {
				t.Errorf("copy to a directory that exists: %v", err)
			}
			c.Close()
			tx := enginetest.Begin(t, pc)
			p, err := pc.Get(tx, long)
			if err != nil {
				t.Fatal(err)
			}
			enginetest.Must(t)(pc.Replace(tx, long, p.Ptr, enginetest.Random(5_000_001, 2)))
			tx.End()
			enginetest.Churn(t, pc, pids, 2)
			enginetest.CleanAll(t, pc)
			enginetest.Close(t, pc)
			check := func() {
				t.Helper()
				cp := enginetest.Open(t, copied, o)
				if got := enginetest.Contents(t, cp); got != contents {
					t.Error("the copy differs")
				}
				enginetest.Close(t, cp)
			}
			check()
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			check()
		})
	}
}

// A store that is not open is copied without a checkpoint of the caller's.
func TestBackupTo(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	o := enginetest.WithSeam(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 2}, seam.Options{FS: d})
	pc := enginetest.Open(t, "/store", o)
	enginetest.AllocateMany(t, pc, 50, 500)
	enginetest.Allocate(t, pc, enginetest.Random(9001, 1))
	contents := enginetest.Contents(t, pc)
	enginetest.Close(t, pc)
	i, err := engine.BackupTo(t.Context(), "/store", o, "/copy")
	if err != nil || i.Segments == 0 || i.Blobs != 1 {
		t.Fatalf("%+v, %v", i, err)
	}
	cp := enginetest.Open(t, "/copy", o)
	if got := enginetest.Contents(t, cp); got != contents {
		t.Error("the copy differs")
	}
	enginetest.Close(t, cp)
	if _, err := engine.BackupTo(t.Context(), "/nothing", o, "/copy2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("copy of nothing: %v", err)
	}
}

// A copy that fails, because the checkpoint or the context ends meanwhile, or the disk fails or is full, leaves
// nothing. One that does not fail is whole.
func TestCheckpointCopyFails(t *testing.T) {
	t.Parallel()
	step := 1
	if testing.Short() {
		step = 7
	}
	for _, noClone := range []bool{false, true} {
		for n := 0; ; n += step {
			d := simdisk.New(1, simdisk.Options{NoClone: noClone})
			o := enginetest.WithSeam(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1},
				seam.Options{FS: d, Eager: true})
			pc := enginetest.Open(t, "/store", o)
			enginetest.AllocateMany(t, pc, 80, 500)
			enginetest.Allocate(t, pc, enginetest.Random(9001, 1))
			enginetest.Flush(t, pc)
			contents := enginetest.Contents(t, pc)
			c := take(t, pc)
			ctx, cancel := context.WithCancel(t.Context())
			var at simdisk.Op
			want, hit := error(nil), false
			left := n / 4
			d.SetFault(func(op simdisk.Op) error {
				if !strings.HasPrefix(op.Name, "/copy") || hit {
					return nil
				}
				if left--; left >= 0 {
					return nil
				}
				hit, at = true, op
				switch n % 4 {
				case 0:
					want = unix.EIO
					return want
				case 1:
					want = context.Canceled
					cancel()
				case 2:
					want = engine.ErrClosed
					go c.Close() // which waits for the stream
				case 3:
					want = unix.ENOSPC
					return want
				}
				return nil
			})
			_, err := c.CopyTo(ctx, "/copy", o)
			d.SetFault(nil)
			cancel()
			c.Close()
			if err == nil { // the fault came too late, or changes nothing, as when the superblock cannot be read once
				cp := enginetest.Open(t, "/copy", o)
				if got := enginetest.Contents(t, cp); got != contents {
					t.Fatalf("no clones %v, fault %d, at %+v: the copy differs", noClone, n, at)
				}
				enginetest.Close(t, cp)
			} else if !errors.Is(err, want) {
				t.Fatalf("no clones %v, fault %d, at %+v: %v, want %v", noClone, n, at, err, want)
			}
			for name := range d.Sizes() {
				if err != nil && strings.HasPrefix(name, "/copy") {
					t.Fatalf("no clones %v, fault %d: %s is left after %v", noClone, n, name, err)
				}
			}
			enginetest.Close(t, pc)
			if !hit {
				break
			}
		}
	}
}

// A copy of a store that has a blob which is cut short fails, and says which blob, not that the stream between the two
// stores has ended. It leaves nothing.
func TestCheckpointCopyOfCorruption(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	o := enginetest.WithSeam(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 2}, seam.Options{FS: d})
	pc := enginetest.Open(t, "/store", o)
	enginetest.NoCheck(t, pc)
	enginetest.AllocateMany(t, pc, 50, 500)
	enginetest.Allocate(t, pc, enginetest.Random(30_001, 1))
	c := take(t, pc)
	blob := enginetest.BlobNames(t, d, "/store")[0]
	f, err := d.Open("/store/blobs/"+blob, vfs.FlagWrite)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(10_000), f.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = c.CopyTo(t.Context(), "/copy", o)
	corrupt := &engine.CorruptError{}
	if !errors.As(err, &corrupt) || !strings.HasSuffix(corrupt.File, blob) || strings.Contains(err.Error(), "stream") {
		t.Errorf("copy without a part of blob %s: %v", blob, err)
	}
	for name := range d.Sizes() {
		if strings.HasPrefix(name, "/copy") {
			t.Errorf("%s is left", name)
		}
	}
	c.Close()
	enginetest.Close(t, pc)
}
