package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"

	"pagecache/internal/vfs"
	"pagecache/iouring"
	"pagecache/mmapread"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// blobs are the values that are too long for the log, each in a file of its own.
//
//	B1  A blob's file and its name are durable before a message that points to it is reserved (trap 5).
//	B2  It is removed once what replaced the last message that points to it is stable, and every Tx that was open then has ended (rule 4).
//	B3  A file that no page's state points to at an opening was left by a crash, and is removed then.
type blobs struct {
	fs     vfs.FS
	dir    string
	store  format.StoreID
	device vfs.DeviceOptions
	reader vfs.Reader
	limit  int // the longest, in bytes
	log    *slog.Logger

	mu     sync.Mutex
	made   bool // the directory is there, durably
	live   map[format.BlobID]*blob
	doomed []doomedBlob
	mapped atomic.Int32 // of live; written under mu

	bytes atomic.Int64 // of the files in live and doomed
}

// blob is a file of which something may be read.
type blob struct {
	size int64 // of the file
	file vfs.File
	view vfs.Map // nil: not mapped
}

// doomedBlob is one that no page's current state points to.
type doomedBlob struct {
	id    format.BlobID
	lsn   LSN    // what replaced it is stable once that is
	epoch uint64 // nobody inside entered before this
}

const (
	blobDirName = "blobs"
	// maxBlobMaps bounds how many blobs are mapped at a time: each takes a descriptor. Others are read into the heap.
	maxBlobMaps = 256
)

func (b *blobs) init(s *store) {
	b.fs, b.dir, b.store, b.log = s.fs, filepath.Join(s.dir, blobDirName), s.super.Store, s.opts.Logger
	b.device, b.reader = s.opts.device(), s.reader
	b.limit = format.MaxBlob
	b.live = map[format.BlobID]*blob{}
}

func (b *blobs) name(id format.BlobID) string { return filepath.Join(b.dir, id.String()) }

// write makes a blob of contents, durably.
func (b *blobs) write(newID func() (uint64, error), contents []byte) (payload, error) {
	if len(contents) > b.limit {
		return payload{}, fmt.Errorf("%w: a value of %d bytes, at most %d", ErrTooLarge, len(contents), b.limit)
	}
	id, err := newID()
	if err != nil {
		return payload{}, err
	}
	ptr := format.MakeBlobPtr(format.BlobID(id), contents)
	if err := b.makeDir(); err != nil {
		return payload{}, err
	}
	if err := b.writeFile(ptr, contents); err != nil {
		return payload{}, errors.Join(fmt.Errorf("write blob %v: %w", ptr.ID, err), b.remove(ptr.ID))
	}
	b.adopt(ptr)
	return payload{body: ptr.Append(nil), form: inBlob, blob: ptr.ID}, nil
}

func (b *blobs) makeDir() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.made {
		return nil
	}
	err := b.fs.MkdirAll(b.dir)
	b.made = err == nil
	return err
}

func (b *blobs) writeFile(ptr format.BlobPtr, contents []byte) error {
	f, err := b.fs.Open(b.name(ptr.ID), vfs.FlagWrite|vfs.FlagCreate|vfs.FlagTrunc)
	if err != nil {
		return err
	}
	err = f.Allocate(0, format.BlobHeaderSize+ptr.Len)
	header := ptr.AppendHeader(nil, b.store)
	switch {
	case err != nil:
	case len(contents) >= longBlob:
		err = b.writeLong(f, header, contents)
	default:
		if _, err = f.WriteAt(header, 0); err == nil {
			_, err = f.WriteAt(contents, format.BlobHeaderSize)
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return b.fs.SyncDir(b.dir)
}

const (
	// longBlob is the length from which on a device of its own is worth it.
	longBlob = 1 << 20
	// blobPiece is how much is written at once, and blobDepth how many pieces are under way.
	blobPiece, blobDepth = 1 << 20, 4
)

// writeLong writes a file past the page cache if it can: several times as fast as through it, and nothing else has to leave it.
func (b *blobs) writeLong(f vfs.File, header, contents []byte) error {
	o := b.device
	o.Depth = blobDepth
	dev, _, err := f.OpenDevice(o)
	if err != nil {
		return err
	}
	buf, err := iouring.AllocBuffer(blobPiece * blobDepth)
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	block := dev.Block()
	size := int64(len(header) + len(contents))
	for off := int64(0); err == nil && off < size; {
		var writes []vfs.Write
		for i := 0; i < blobDepth && off < size; i++ {
			piece := buf[i*blobPiece : (i+1)*blobPiece]
			n := copy(piece, header)
			n += copy(piece[n:], contents)
			header, contents = nil, contents[n-len(header):]
			clear(piece[n:])
			writes = append(writes, vfs.Write{Off: off, Buf: piece[:(n+block-1)&^(block-1)], Tag: uint64(i)})
			off += int64(n)
		}
		err = writeAll(dev, writes)
	}
	cerr := dev.Close()
	if !errors.Is(cerr, vfs.ErrInFlight) {
		iouring.FreeBuffer(buf)
	}
	if err = errors.Join(err, cerr); err != nil {
		return err
	}
	return f.Truncate(size)
}

// adopt says that a blob is there.
func (b *blobs) adopt(ptr format.BlobPtr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.live[ptr.ID] == nil {
		b.live[ptr.ID] = &blob{size: format.BlobHeaderSize + ptr.Len}
		b.bytes.Add(format.BlobHeaderSize + ptr.Len)
	}
}

// discard removes a blob that no message points to.
func (b *blobs) discard(id format.BlobID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.removeLocked(id)
}

// doom has a blob removed when that is due. Nothing that comes into being later points to it.
func (b *blobs) doom(id format.BlobID, lsn LSN, epoch uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.doomed = append(b.doomed, doomedBlob{id, lsn, epoch})
}

// reap removes the blobs whose time has come, and returns how many.
func (b *blobs) reap(stable LSN, oldest uint64) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	kept := b.doomed[:0]
	for _, d := range b.doomed {
		if stable < d.lsn || d.epoch > oldest {
			kept = append(kept, d)
			continue
		}
		b.removeLocked(d.id)
		n++
	}
	b.doomed = kept
	return n
}

func (b *blobs) removeLocked(id format.BlobID) {
	if f := b.live[id]; f != nil {
		b.bytes.Add(-f.size)
		delete(b.live, id)
		b.unmapLocked(f)
	}
	if err := b.remove(id); err != nil { // the next opening tries again
		b.log.Warn("blob not removed", "file", b.name(id), "err", err)
	}
}

func (b *blobs) unmapLocked(f *blob) {
	if f.view != nil {
		_, _ = f.view.Close(), f.file.Close()
		f.view, f.file = nil, nil
		b.mapped.Add(-1)
	}
}

func (b *blobs) remove(id format.BlobID) error {
	err := b.fs.Remove(b.name(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// read returns the contents of the blob that the body of a message points to. They are valid until it is removed, which is after every Tx that could
// have called for them, or until Close.
func (b *blobs) read(body []byte) (contents []byte, view bool, err error) {
	ptr, err := format.DecodeBlobPtr(body)
	if err != nil {
		return nil, false, err
	}
	contents, view, err = b.contents(ptr)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = &CorruptError{Reason: "a blob is missing", Err: err}
	case errors.Is(err, format.ErrBlob) || errors.Is(err, vfs.ErrFault):
		err = &CorruptError{Reason: "a blob is damaged", Err: err}
	}
	if ce := (*CorruptError)(nil); errors.As(err, &ce) {
		ce.File, ce.Place = b.name(ptr.ID), recovery.Place{}
	}
	return contents, view, err
}

func (b *blobs) contents(ptr format.BlobPtr) (contents []byte, view bool, err error) {
	v, f, err := b.open(ptr.ID)
	if err != nil {
		return nil, false, err
	}
	size, err := f.Size()
	if err == nil && size != format.BlobHeaderSize+ptr.Len {
		err = fmt.Errorf("%w: its file is %d bytes long, not %d", format.ErrBlob, size, format.BlobHeaderSize+ptr.Len)
	}
	if v == nil {
		defer f.Close()
	}
	if err != nil {
		return nil, false, err
	}
	if v == nil {
		all := make([]byte, size) // no longer than the file
		if _, err := f.ReadAt(all, 0); err != nil {
			return nil, false, err
		}
		contents, err = checkBlob(ptr, b.store, all)
		return contents, false, err
	}
	err = mmapread.Guard(func() error {
		all, err := v.View(0, int(size))
		if err == nil {
			contents, err = checkBlob(ptr, b.store, all)
		}
		return err
	})
	return contents, len(contents) > 0 && v.Holds(contents), err
}

func checkBlob(ptr format.BlobPtr, store format.StoreID, all []byte) ([]byte, error) {
	contents := all[format.BlobHeaderSize:len(all):len(all)]
	err := ptr.CheckHeader(all[:format.BlobHeaderSize], store)
	if err == nil {
		err = ptr.CheckContents(contents)
	}
	return contents, err
}

// open returns the blob's file and map. The map stays open until the blob is removed; without one the file is the caller's to close.
func (b *blobs) open(id format.BlobID) (vfs.Map, vfs.File, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.live[id]
	if l != nil && l.view != nil {
		return l.view, l.file, nil
	}
	f, err := b.fs.Open(b.name(id), vfs.FlagRead)
	if err != nil {
		return nil, nil, err
	}
	if l == nil || b.mapped.Load() == maxBlobMaps {
		return nil, f, nil
	}
	v, err := f.OpenMap(vfs.PatternSequential, b.reader)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	l.view, l.file = v, f
	b.mapped.Add(1)
	return v, f, nil
}

// ahead begins to bring in a blob.
func (b *blobs) ahead(ptr format.BlobPtr) {
	v, f, err := b.open(ptr.ID)
	switch {
	case err != nil: // Get will tell
	case v == nil:
		_ = f.Close()
	default:
		v.ReadAhead([]vfs.Range{{Len: int(format.BlobHeaderSize + ptr.Len)}})
	}
}

// holds reports whether v, not empty, lies in a blob's map.
func (b *blobs) holds(v []byte) bool {
	if b.mapped.Load() == 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.live {
		if l.view != nil && l.view.Holds(v) {
			return true
		}
	}
	return false
}

// sweep removes what crashes have left: files with names of blobs that are not live.
func (b *blobs) sweep() error {
	names, err := b.fs.ReadDir(b.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if id, ok := format.ParseBlobID(name); ok && b.live[id] == nil {
			if err := b.remove(id); err != nil {
				return fmt.Errorf("remove a blob that nothing refers to: %w", err)
			}
		}
	}
	return nil
}

// close unmaps everything.
func (b *blobs) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.live {
		b.unmapLocked(f)
	}
}

// removeAll removes the files of a temporary store.
func (b *blobs) removeAll() {
	if b.fs == nil { // nothing was looked at yet
		return
	}
	for id := range b.live {
		_ = b.remove(id)
	}
	for _, d := range b.doomed {
		_ = b.remove(d.id)
	}
	_ = b.fs.Remove(b.dir)
}

// count returns how many blobs there are, those to be removed included, and their bytes.
func (b *blobs) count() (n int, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.live), b.bytes.Load()
}
