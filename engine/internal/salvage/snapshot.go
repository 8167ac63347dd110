package salvage

import (
	"fmt"
	"io"
	"slices"

	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// snapFile implements recovery.SnapshotFile without a map. It keeps the block that was read last.
type snapFile struct {
	vfs.File
	off   int64
	block []byte
}

// View implements recovery.SnapshotFile.
func (f *snapFile) View(off int64, n int) ([]byte, error) {
	if f.block == nil || f.off != off || len(f.block) != n {
		f.block = nil
		b := make([]byte, n)
		if _, err := f.ReadAt(b, off); err != nil && err != io.EOF {
			return nil, err
		}
		f.off, f.block = off, b
	}
	return f.block, nil
}

// Guard implements recovery.SnapshotFile. Views are on the heap.
func (f *snapFile) Guard(g func() error) error { return g() }

// openSnapshot opens the newest snapshot of this store whose header and lists are intact. Each of its blocks is
// verified when it is used.
func (r *Reader) openSnapshot() {
	names, err := r.c.Snapshots.Names()
	if err != nil {
		r.loseFile(r.c.Snapshots.Dir(), err)
	}
	for _, name := range slices.Backward(names) {
		f, err := r.c.Snapshots.OpenNamed(name)
		if err != nil {
			r.loseFile(name, err)
			continue
		}
		file := &snapFile{File: f}
		snap, err := r.ownSnapshot(file, name)
		if err == nil && snap != nil {
			r.snap, r.snapFile = snap, file
			r.known = max(r.known, snap.High)
			return
		}
		if err != nil {
			r.loseFile(name, err)
		}
		_ = f.Close()
	}
}

// ownSnapshot opens a snapshot. It returns nil if it belongs to another store, or, as far as the superblock tells, to a
// copy of this one (rule 14).
func (r *Reader) ownSnapshot(f *snapFile, name string) (*recovery.Snapshot, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, format.SnapshotBlock)
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, err
	}
	h, err := format.DecodeSnapshotHeader(b, size)
	if err != nil {
		return nil, err
	}
	if format.KeyOf(h.Store) != r.key {
		return nil, nil
	}
	if _, end, known := r.Super.Lineage().Span(h.Timeline); r.trusted && (!known || h.High >= end && !h.High.IsZero()) {
		return nil, nil
	}
	return recovery.OpenSnapshot(f, name, h.Store, r.Super.SegmentSize)
}

// loseFile reports a file that cannot be read or is corrupt.
func (r *Reader) loseFile(name string, err error) {
	r.lose(recovery.Loss{Kind: recovery.LossFile, Text: fmt.Sprintf("%s: %v", name, err), Err: err})
}
