package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/scope"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// A View is a file system with one directory in it, which holds the checkpoint as a store that was closed cleanly. A
// ReadOnly opening of the directory reads the checkpoint from the files of the store that goes on. While the directory
// is open, everything that the checkpoint shows is held, whether the checkpoint is closed or not, and the store waits
// for its end when it is closed.
type View struct {
	c     Config
	image logstore.Image
	super []byte
	snap  source
	log   *logstore.Hold
	blobs *blob.Hold
	slots map[format.SegmentID]int // index in the image, by slot
	bytes map[format.LSN][]byte    // of segments that were in io buffers, by base
	call  *scope.Scope
	done  sync.Once
}

// ViewDir is the path of the directory of a View.
const ViewDir = "checkpoint"

// View returns a file system with the checkpoint. It reads the segments that are still being written to memory: those
// are not read through the map (rule 2). The directory can be opened once; when it is closed, the View is.
func (k *Checkpoint) View() (_ *View, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	select {
	case <-k.closed:
		return nil, errClosed
	default:
	}
	v := &View{c: k.c, image: k.image, super: k.image.Super.Append(nil), bytes: map[format.LSN][]byte{},
		slots: map[format.SegmentID]int{}}
	for i, g := range v.image.Segments {
		v.slots[g.Slot] = i
	}
	if v.call, err = k.c.Enter(); err != nil {
		return nil, err
	}
	v.log, v.blobs = k.log.Clone(), k.blobs.Clone()
	if v.snap = k.snap; v.snap.file != nil {
		v.snap.file, err = k.c.Snaps.OpenFile(k.snap.id)
		if errors.Is(err, fs.ErrNotExist) { // the log alone is enough
			v.snap, err = source{}, nil
		}
	}
	if err == nil {
		err = v.readBuffered()
	}
	if err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

// readBuffered reads the segments that are in io buffers.
func (v *View) readBuffered() error {
	r, err := v.c.Store.OpenImages()
	if err != nil {
		return err
	}
	for _, g := range v.image.Segments {
		whole := g.Used == v.image.Super.SegmentSize
		if whole && v.c.Store.IsSealed(g.Slot.Offset(v.image.Super.SegmentSize)) {
			continue
		}
		for done := 0; done < g.Used && err == nil; {
			done, err = r.Read(g, done, logstore.Piece)
		}
		if err != nil {
			break
		}
		v.bytes[g.Base] = bytes.Clone(r.Bytes(g))
	}
	return errors.Join(err, r.Close())
}

// Close releases everything that the view holds. More than one call does no harm.
func (v *View) Close() {
	v.done.Do(func() {
		if v.snap.file != nil {
			_ = v.snap.file.Close()
		}
		v.log.Release()
		v.blobs.Release()
		v.c.Kick()
		v.call.End()
	})
}

// Abs implements vfs.FS.
func (v *View) Abs(name string) (string, error) { return name, nil }

// MkdirAll implements vfs.FS.
func (v *View) MkdirAll(string) error { return iobuf.ErrReadOnly }

// OpenReader implements vfs.FS.
func (v *View) OpenReader(ring vfs.Mode) vfs.Reader { return v.c.Store.FS.OpenReader(ring) }

// OpenDir implements vfs.FS.
func (v *View) OpenDir(dir string) (vfs.Dir, error) {
	if dir != ViewDir {
		return nil, notExist("open", dir)
	}
	return &viewDir{readOnlyDir: readOnlyDir{ViewDir}, v: v}, nil
}

func notExist(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

// readOnlyDir is the part of a directory that writes.
type readOnlyDir struct{ name string }

// Name implements vfs.Dir.
func (d readOnlyDir) Name() string { return d.name }

// Mkdir implements vfs.Dir.
func (d readOnlyDir) Mkdir(string) error { return iobuf.ErrReadOnly }

// Rename implements vfs.Dir.
func (d readOnlyDir) Rename(string, string) error { return iobuf.ErrReadOnly }

// Remove implements vfs.Dir.
func (d readOnlyDir) Remove(string) error { return iobuf.ErrReadOnly }

// Unlink implements vfs.Dir.
func (d readOnlyDir) Unlink() error { return iobuf.ErrReadOnly }

// Sync implements vfs.Dir.
func (d readOnlyDir) Sync() error { return iobuf.ErrReadOnly }

// viewDir is the directory of a View.
type viewDir struct {
	readOnlyDir
	v *View
}

// Open implements vfs.Dir.
func (d *viewDir) Open(name string, _ vfs.Flag) (vfs.File, error) {
	switch {
	case name == logstore.SuperName:
		return &viewFile{name: name, size: int64(len(d.v.super)), from: bytes.NewReader(d.v.super)}, nil
	case name == logstore.LogName:
		size := int64(d.v.image.Super.Extent.Slots) * int64(d.v.image.Super.SegmentSize)
		return &viewFile{name: d.v.c.Store.LogFile(), size: size, from: viewLog{d.v}, v: d.v}, nil
	case d.v.snap.file != nil && name == d.v.snap.id.Name():
		return kept{d.v.snap.file}, nil
	}
	return nil, notExist("open", name)
}

// OpenDir implements vfs.Dir.
func (d *viewDir) OpenDir(name string) (vfs.Dir, error) {
	if name != logstore.BlobDir {
		return nil, notExist("open", name)
	}
	return &viewBlobs{readOnlyDir{name}, d.v}, nil
}

// ReadDir implements vfs.Dir.
func (d *viewDir) ReadDir() ([]string, error) {
	names := []string{logstore.BlobDir, logstore.LogName, logstore.SuperName}
	if d.v.snap.file != nil {
		names = append(names, d.v.snap.id.Name())
	}
	slices.Sort(names)
	return names, nil
}

// Identify implements vfs.Dir: no file changes its name.
func (d *viewDir) Identify(string) (vfs.Identity, error) { return vfs.Identity{}, nil }

// Close implements vfs.Dir.
func (d *viewDir) Close() error {
	d.v.Close()
	return nil
}

// kept is a file that stays open when it is closed.
type kept struct{ vfs.File }

// Close implements vfs.File.
func (kept) Close() error { return nil }

// viewBlobs is the directory of the blobs.
type viewBlobs struct {
	readOnlyDir
	v *View
}

// Open implements vfs.Dir.
func (d *viewBlobs) Open(name string, _ vfs.Flag) (vfs.File, error) {
	id, ok := format.ParseBlobID(name)
	if !ok || !d.v.blobs.Has(id) {
		return nil, notExist("open", name)
	}
	return d.v.c.Blobs.OpenFile(id)
}

// OpenDir implements vfs.Dir.
func (d *viewBlobs) OpenDir(name string) (vfs.Dir, error) { return nil, notExist("open", name) }

// ReadDir implements vfs.Dir.
func (d *viewBlobs) ReadDir() (names []string, err error) {
	for _, id := range d.v.blobs.IDs() {
		names = append(names, id.String())
	}
	return names, nil
}

// Identify implements vfs.Dir.
func (d *viewBlobs) Identify(string) (vfs.Identity, error) { return vfs.Identity{}, nil }

// Close implements vfs.Dir.
func (d *viewBlobs) Close() error { return nil }

// viewFile is a file of a View that is no file.
type viewFile struct {
	name string
	size int64
	from io.ReaderAt
	v    *View // of the log; nil: another file
}

// ReadAt implements vfs.File.
func (f *viewFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= f.size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), f.size-off)
	m, err := f.from.ReadAt(p[:n], off)
	if err == nil && n < int64(len(p)) {
		err = io.EOF
	}
	return m, err
}

// WriteAt implements vfs.File.
func (f *viewFile) WriteAt([]byte, int64) (int, error) { return 0, iobuf.ErrReadOnly }

// Close implements vfs.File.
func (f *viewFile) Close() error { return nil }

// Name implements vfs.File.
func (f *viewFile) Name() string { return f.name }

// Identity implements vfs.File.
func (f *viewFile) Identity() (vfs.Identity, error) { return vfs.Identity{}, nil }

// Size implements vfs.File.
func (f *viewFile) Size() (int64, error) { return f.size, nil }

// Truncate implements vfs.File.
func (f *viewFile) Truncate(int64) error { return iobuf.ErrReadOnly }

// Allocate implements vfs.File.
func (f *viewFile) Allocate(int64, int64) error { return iobuf.ErrReadOnly }

// Punch implements vfs.File.
func (f *viewFile) Punch(int64, int64) error { return iobuf.ErrReadOnly }

// Occupied implements vfs.File.
func (f *viewFile) Occupied() (int64, error) { return f.size, nil }

// Sync implements vfs.File.
func (f *viewFile) Sync() error { return nil }

// Lock implements vfs.File: nobody writes to it.
func (f *viewFile) Lock(vfs.LockKind) error { return nil }

// DropCache implements vfs.File.
func (f *viewFile) DropCache(int64, int64) error { return nil }

// Advise implements vfs.File.
func (f *viewFile) Advise(vfs.Pattern) error { return nil }

// OpenDevice implements vfs.File.
func (f *viewFile) OpenDevice(vfs.DeviceOptions) (vfs.Device, vfs.DeviceReport, error) {
	return nil, vfs.DeviceReport{}, iobuf.ErrReadOnly
}

// OpenMap implements vfs.File.
func (f *viewFile) OpenMap(p vfs.Pattern, r vfs.Reader) (vfs.Map, error) {
	if f.v == nil {
		return nil, fmt.Errorf("map %s: %w", f.name, errors.ErrUnsupported)
	}
	m, err := f.v.c.Store.OpenMap(p, r)
	return viewMap{m, f.v}, err
}

// OpenBulk implements vfs.File.
func (f *viewFile) OpenBulk() vfs.Bulk { return viewBulk{f} }

// viewBulk reads as the file does.
type viewBulk struct{ *viewFile }

// Direct implements vfs.Bulk.
func (viewBulk) Direct() bool { return false }

// Buffer implements vfs.Bulk.
func (viewBulk) Buffer(n int) ([]byte, func(), error) { return make([]byte, n), func() {}, nil }

// viewLog is the log up to the cut: zeros where nothing is.
type viewLog struct{ v *View }

// find returns the segment of the image in which off lies, and the offset in it. ok is false if there is none.
func (v *View) find(off int64) (g logstore.ImageSegment, at int, ok bool) {
	size := int64(v.image.Super.SegmentSize)
	i, ok := v.slots[format.SegmentID(off/size)]
	if !ok {
		return g, 0, false
	}
	return v.image.Segments[i], int(off % size), true
}

// ReadAt implements io.ReaderAt.
func (l viewLog) ReadAt(p []byte, off int64) (n int, err error) {
	size := int64(l.v.image.Super.SegmentSize)
	for n < len(p) {
		at := off + int64(n)
		part := p[n : n+int(min(int64(len(p)-n), size-at%size))]
		if err := l.v.read(part, at); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// read reads a part of one slot.
func (v *View) read(p []byte, off int64) error {
	g, at, ok := v.find(off)
	b := v.bytes[g.Base]
	switch {
	case !ok:
		clear(p)
	case b != nil:
		n := 0
		if at < len(b) {
			n = copy(p, b[at:])
		}
		clear(p[n:])
	default:
		return v.c.Store.ReadFile(p, off)
	}
	return nil
}

// viewMap is a map of the log up to the cut.
type viewMap struct {
	vfs.Map
	v *View
}

// View implements vfs.Map.
func (m viewMap) View(off int64, n int) ([]byte, error) {
	size := int64(m.v.image.Super.SegmentSize)
	if n > 0 && off >= 0 && off/size == (off+int64(n)-1)/size {
		if g, _, ok := m.v.find(off); ok && m.v.bytes[g.Base] == nil {
			return m.Map.View(off, n)
		}
	}
	if off < 0 || n < 0 || off+int64(n) > int64(m.v.image.Super.Extent.Slots)*size {
		return nil, fmt.Errorf("view %d bytes at %d: %w", n, off, vfs.ErrBounds)
	}
	p := make([]byte, n)
	_, err := viewLog{m.v}.ReadAt(p, off)
	return p, err
}

// Holds implements vfs.Map.
func (m viewMap) Holds(off int64, b []byte) bool {
	g, _, ok := m.v.find(off)
	return ok && m.v.bytes[g.Base] == nil && m.Map.Holds(off, b)
}
