package checkpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"pagecache/engine/internal/logstore"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// tmpSuffix is what the name of a directory has more while a store is made in it.
const tmpSuffix = ".installing"

// Install makes a store in dir, where nothing is, of a complete stream and of incremental ones, each of which continues
// the one before. It verifies every byte, calls check with the path of the finished store, which has another name then,
// makes everything durable, and renames the directory. If it fails, or a crash ends it, there is nothing under the name
// dir; but if the disk refuses to make durable that there is not, a power cut may give a whole store the name, and the
// error says so. The next Install to dir removes files that were left under the other name.
func Install(ctx context.Context, fsys vfs.FS, dir string, check Check, streams []io.Reader) (Info, error) {
	return (&installer{}).install(ctx, fsys, dir, check, streams)
}

// Check verifies a store that was installed, at the path that it has before it gets its name.
type Check func(path string, i Info) error

// install is Install, with an installer that may know where to clone bytes from.
func (x *installer) install(ctx context.Context, fsys vfs.FS, dir string, check Check,
	streams []io.Reader) (info Info, err error) {
	abs, err := fsys.Abs(dir)
	if err != nil {
		return info, err
	}
	name := filepath.Base(abs)
	parent, err := fsys.OpenDir(filepath.Dir(abs))
	if err != nil {
		return info, err
	}
	defer parent.Close()
	if _, err := parent.Identify(name); err == nil {
		return info, &fs.PathError{Op: "install", Path: dir, Err: fs.ErrExist}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return info, err
	}
	x.parent, x.name, x.base = parent, name+tmpSuffix, true
	defer func() { err = errors.Join(err, x.end(err != nil)) }()
	if err := x.makeDir(); err != nil {
		return info, err
	}
	info, st, err := readChain(ctx, x, streams)
	if err != nil {
		return info, err
	}
	if err := x.finish(st); err != nil {
		return info, err
	}
	// From now on others may look at it, and Check does, but a second Install cannot remove it.
	if err := x.lock(vfs.LockShared); err != nil {
		return info, err
	}
	if err := check(filepath.Join(filepath.Dir(abs), x.name), info); err != nil {
		return info, err
	}
	if _, err := parent.Identify(name); err == nil {
		return info, &fs.PathError{Op: "install", Path: dir, Err: fs.ErrExist}
	}
	if err := parent.Rename(x.name, name); err != nil {
		return info, err
	}
	x.named = true
	if err := parent.Sync(); err != nil {
		return info, errors.Join(err, x.unname(name))
	}
	return info, nil
}

// unname takes the name away again, since it may not be durable. The files are removed only once they are known to have
// lost it: after a power cut the name may come back, and then the store must be whole.
func (x *installer) unname(name string) error {
	if err := x.parent.Rename(name, x.name); err != nil {
		return fmt.Errorf("install: the store has its name, which a power cut may take back: %w", err)
	}
	if err := x.parent.Sync(); err != nil {
		return fmt.Errorf("install: the store is left as %s; a power cut may give it its name: %w", x.name, err)
	}
	x.named = false
	return nil
}

// installer writes the files of a store. It implements sink.
type installer struct {
	parent  vfs.Dir
	name    string  // of the directory in parent
	dir     vfs.Dir // nil: not open
	log     vfs.File
	snap    vfs.File // the snapshot being written; nil: none
	blobDir vfs.Dir  // nil: not open
	blob    vfs.File // the blob being written; nil: none
	cloned  int64    // its first bytes that were cloned
	room    room     // of the snapshot or the blob
	size    int      // of a segment in bytes
	base    bool     // no stream was read yet
	made    bool     // the directory is this installer's
	named   bool     // the store has its name, or may get it by a power cut
	from    *origin  // where the bytes are; nil: nowhere but in the streams
}

// makeDir makes an empty directory. It removes the files that an earlier Install has left there.
func (x *installer) makeDir() (err error) {
	made := x.parent.Mkdir(x.name)
	if made != nil && !errors.Is(made, fs.ErrExist) {
		return made
	}
	if x.dir, err = x.parent.OpenDir(x.name); err != nil {
		return err
	}
	if made != nil { // an Install may have left it that could not make it durable that it has no other name
		if err := x.parent.Sync(); err != nil {
			return err
		}
	}
	names, err := x.dir.ReadDir()
	if err != nil {
		return err
	}
	for _, name := range names {
		if !ofStore(name) {
			return fmt.Errorf("install: directory %s holds a file that is not of a store: %s", x.dir.Name(), name)
		}
	}
	if x.log, err = x.dir.Open(logstore.LogName, vfs.FlagWrite|vfs.FlagCreate); err != nil {
		if made == nil { // and the disk has no room for a file
			_ = x.dir.Unlink() // which fails if another Install has one there
		}
		return err
	}
	if err := x.lock(vfs.LockExclusive); err != nil {
		return err
	}
	if err := x.log.Truncate(0); err != nil {
		return err
	}
	return x.clear(false)
}

// lock locks the log file, and verifies that the directory still has the other name: an Install that held the lock
// before may have renamed or removed it. Another kind of lock is taken by releasing the one before. If another Install
// takes the lock in between, the files are its own.
func (x *installer) lock(kind vfs.LockKind) error {
	x.made = false
	if err := x.log.Lock(kind); err != nil {
		if errors.Is(err, vfs.ErrLocked) {
			err = fmt.Errorf("%w: %w", logstore.ErrLocked, err)
		}
		return err
	}
	named, err := x.parent.OpenDir(x.name)
	if err != nil {
		return fmt.Errorf("%w: another Install was at work here: %w", logstore.ErrLocked, err)
	}
	defer named.Close()
	want, err := x.log.Identity()
	if err != nil {
		return err
	}
	if got, err := named.Identify(logstore.LogName); err != nil || got != want {
		return errors.Join(fmt.Errorf("%w: another Install was at work here", logstore.ErrLocked), err)
	}
	x.made = true
	return nil
}

// ofStore reports whether a file or directory has a name that the installer gives.
func ofStore(name string) bool {
	return name == logstore.LogName || name == logstore.SuperName || name == logstore.BlobDir ||
		format.IsSnapshotName(name)
}

// clear removes the files of the directory; the log only if all is true.
func (x *installer) clear(all bool) (err error) {
	names, err := x.dir.ReadDir()
	if err != nil {
		return err
	}
	for _, name := range names {
		switch {
		case name == logstore.BlobDir:
			err = errors.Join(err, x.removeBlobs(func(format.BlobID) bool { return true }, all))
		case ofStore(name) && (all || name != logstore.LogName):
			err = errors.Join(err, x.dir.Remove(name))
		}
	}
	return err
}

// removeBlobs removes the blobs for which which returns true, and, if all is true, their directory.
func (x *installer) removeBlobs(which func(format.BlobID) bool, all bool) error {
	err := x.openBlobs()
	if err != nil {
		return err
	}
	names, err := x.blobDir.ReadDir()
	if err != nil {
		return err
	}
	for _, name := range names {
		if id, ok := format.ParseBlobID(name); ok && which(id) {
			err = errors.Join(err, x.blobDir.Remove(name))
		}
	}
	if all && err == nil {
		err = x.blobDir.Unlink()
	}
	return err
}

// openBlobs opens the directory of the blobs, and makes it if there is none.
func (x *installer) openBlobs() (err error) {
	if x.blobDir != nil {
		return nil
	}
	if err := x.dir.Mkdir(logstore.BlobDir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	x.blobDir, err = x.dir.OpenDir(logstore.BlobDir)
	return err
}

// begin implements sink. Segments that the stream replaces, or that have left since, give their space back.
func (x *installer) begin(b begin, list []segment, old *state) error {
	if x.base && b.since != 0 {
		return fmt.Errorf("install: %w: the first stream continues LSN %d, and is not complete", ErrChain, b.since)
	}
	x.base, x.size = false, b.super.SegmentSize
	size := int64(x.size)
	if err := x.log.Truncate(int64(b.super.Extent.Slots) * size); err != nil {
		return err
	}
	if old == nil {
		return nil
	}
	stay := map[format.Identity]bool{}
	for _, g := range list {
		stay[g.identity] = !g.sent
	}
	for _, g := range old.segments {
		if stay[g.identity] || uint32(g.slot) >= b.super.Extent.Slots {
			continue
		}
		if err := x.zero(g, size); err != nil {
			return err
		}
	}
	return nil
}

// zero makes a slot one that was never written.
func (x *installer) zero(g segment, size int64) error {
	off := int64(g.slot.Offset(int(size)))
	err := x.log.Punch(off, size)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	zeros := make([]byte, piece)
	for at := int64(0); at < size; at += piece {
		if _, err := x.log.WriteAt(zeros[:min(piece, size-at)], off+at); err != nil {
			return err
		}
	}
	return nil
}

// segment implements sink.
func (x *installer) segment(g segment, b []byte) error {
	off := int64(g.slot.Offset(x.size))
	const block = vfs.BulkAlign
	n, err := x.from.cloneSegment(x.log, g, int64(len(b)))
	if off, b = off+n, b[n:]; err != nil || len(b) == 0 {
		return err
	}
	if err := x.log.Allocate(off, int64(len(b)+block-1)&^(block-1)); err != nil { // a full disk is found out at once
		return err
	}
	_, err = x.log.WriteAt(b, off)
	return err
}

// snapshot implements sink. There is one snapshot: older ones are removed.
func (x *installer) snapshot(id format.SnapshotID, size int64) (err error) {
	names, err := x.dir.ReadDir()
	if err != nil {
		return err
	}
	if x.snap != nil { // of an older stream
		err = x.snap.Close()
	}
	for _, name := range names {
		if format.IsSnapshotName(name) {
			err = errors.Join(err, x.dir.Remove(name))
		}
	}
	if x.snap = nil; err == nil {
		x.snap, err = x.dir.Open(id.Name(), vfs.FlagWrite|vfs.FlagCreate|vfs.FlagTrunc)
	}
	x.room = room{size: size}
	return err
}

// roomAhead is the number of bytes of disk space that are reserved before the bytes come that need them: a stream may
// say that a file is long and then end (rule 12).
const roomAhead = 16 << 20

// room is the disk space of a file that is being written.
type room struct {
	size int64 // of the whole file, as the stream says
	have int64 // bytes [0, have) have space
}

// reserve makes sure that bytes [0, end) of the file have space.
func (r *room) reserve(f vfs.File, end int64) error {
	if end <= r.have {
		return nil
	}
	to := max(end, min(r.have+roomAhead, r.size))
	err := f.Allocate(r.have, to-r.have)
	if err == nil {
		r.have = to
	}
	return err
}

// snapshotData implements sink.
func (x *installer) snapshotData(off int64, b []byte) error {
	if err := x.room.reserve(x.snap, off+int64(len(b))); err != nil {
		return err
	}
	_, err := x.snap.WriteAt(b, off)
	return err
}

// closeFile makes the contents of a file durable, and closes it.
func closeFile(f *vfs.File) error {
	if *f == nil {
		return nil
	}
	err := errors.Join((*f).Sync(), (*f).Close())
	*f = nil
	return err
}

// blobs implements sink.
func (x *installer) blobs(keep map[format.BlobID]bool) error {
	if len(keep) == 0 && x.blobDir == nil {
		return nil
	}
	return x.removeBlobs(func(id format.BlobID) bool { return !keep[id] }, false)
}

// blobData implements sink.
func (x *installer) blobData(id format.BlobID, off int64, b []byte) (err error) {
	if off == 0 {
		if err := errors.Join(closeFile(&x.blob), x.openBlobs()); err != nil {
			return err
		}
		ptr, _, err := format.DecodeBlobHeader(b)
		if err != nil {
			return err
		}
		if x.blob, err = x.blobDir.Open(id.String(), vfs.FlagWrite|vfs.FlagCreate|vfs.FlagTrunc); err != nil {
			return err
		}
		n, err := x.from.cloneBlob(x.blob, id, format.BlobHeaderSize+ptr.Len)
		if err != nil {
			return err
		}
		x.cloned, x.room = n, room{size: format.BlobHeaderSize + ptr.Len, have: n}
	}
	if skip := min(max(x.cloned-off, 0), int64(len(b))); skip > 0 {
		off, b = off+skip, b[skip:]
	}
	if len(b) == 0 {
		return nil
	}
	if err := x.room.reserve(x.blob, off+int64(len(b))); err != nil {
		return err
	}
	_, err = x.blob.WriteAt(b, off)
	return err
}

// finish makes everything durable, the superblock last.
func (x *installer) finish(st *state) error {
	err := cmp.Or(closeFile(&x.snap), closeFile(&x.blob), x.log.Sync())
	if err == nil && x.blobDir != nil {
		err = x.blobDir.Sync()
	}
	if err != nil {
		return err
	}
	f, err := x.dir.Open(logstore.SuperName, vfs.FlagWrite|vfs.FlagCreate|vfs.FlagTrunc)
	if err != nil {
		return err
	}
	if err = f.Allocate(0, format.SuperblockSize); err == nil {
		_, err = f.WriteAt(st.super.Append(nil), 0)
	}
	return cmp.Or(err, closeFile(&f), x.dir.Sync())
}

// end closes all files. It removes them if the store did not get its name.
func (x *installer) end(failed bool) (err error) {
	for _, f := range []*vfs.File{&x.snap, &x.blob} {
		if *f != nil {
			_ = (*f).Close()
		}
	}
	if failed && x.made && !x.named {
		if err = x.clear(true); err == nil {
			err = x.dir.Unlink()
		}
	}
	if x.blobDir != nil {
		_ = x.blobDir.Close()
	}
	if x.log != nil {
		_ = x.log.Close()
	}
	if x.dir != nil {
		_ = x.dir.Close()
	}
	return err
}
