package blob

import (
	"errors"
	"fmt"

	"pagecache/internal/vfs"
	"pagecache/iouring"
	"pagecache/segments/format"
)

const (
	// longBlob is the length in bytes from which on blobs are written through a Device.
	longBlob = 1 << 20
	// pieceSize is the length in bytes of one write to the Device, and pieces the number of writes in flight.
	pieceSize, pieces = 1 << 20, 4
)

// Write writes contents to a new blob and returns the pointer to it. When it returns, the file and its name are durable
// (B1). The caller draws id and never uses one twice. If Write fails, it removes the file. The error wraps ErrTooLarge
// if contents are longer than the limit.
func (s *Store) Write(id format.BlobID, contents []byte) (format.BlobPtr, error) {
	if err := s.CheckLen(len(contents)); err != nil {
		return format.BlobPtr{}, fmt.Errorf("write blob %v: %w", id, err)
	}
	ptr := format.MakeBlobPtr(id, contents)
	dir, err := s.makeDir()
	if err != nil {
		return format.BlobPtr{}, fmt.Errorf("write blob %v: %w", id, err)
	}
	if err := s.writeFile(dir, ptr, contents); err != nil {
		if vfs.IsNoSpace(err) {
			s.c.Report.DiskFull("blobs", err)
		}
		return format.BlobPtr{}, errors.Join(fmt.Errorf("write blob %v: %w", id, err), s.remove(id))
	}
	s.c.Report.Room("blobs")
	s.Adopt(ptr)
	return ptr, nil
}

// CheckLen returns an error that wraps ErrTooLarge if a value of n bytes is longer than the limit.
func (s *Store) CheckLen(n int) error {
	if n > s.c.MaxLen {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, n, s.c.MaxLen)
	}
	return nil
}

// writeFile writes the file of a blob, syncs it, and then its directory.
func (s *Store) writeFile(dir vfs.Dir, ptr format.BlobPtr, contents []byte) error {
	f, err := dir.Open(ptr.ID.String(), vfs.FlagWrite|vfs.FlagCreate|vfs.FlagTrunc)
	if err != nil {
		return err
	}
	err = f.Allocate(0, format.BlobHeaderSize+ptr.Len) // a full disk is found out before anything is written
	header := ptr.AppendHeader(nil, s.c.Store, s.c.Timeline)
	switch {
	case err != nil:
	case len(contents) >= longBlob:
		err = s.writeLong(f, header, contents)
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
	return dir.Sync()
}

// writeLong writes header and contents through a Device, past the page cache if that works: it is several times as
// fast, and evicts nothing.
func (s *Store) writeLong(f vfs.File, header, contents []byte) error {
	o := s.c.Device
	o.Depth, o.Buffers = pieces, nil
	dev, report, err := f.OpenDevice(o)
	if err != nil {
		return err
	}
	s.c.Report.Degraded("blob device", "", report.Reason)
	buf, err := iouring.AllocBuffer(pieceSize * pieces)
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	block := dev.Block()
	size := int64(len(header) + len(contents))
	for off := int64(0); err == nil && off < size; {
		var writes []vfs.Write
		for i := 0; i < pieces && off < size; i++ {
			piece := buf[i*pieceSize : (i+1)*pieceSize]
			n := copy(piece, header)
			n += copy(piece[n:], contents)
			header, contents = nil, contents[n-len(header):]
			clear(piece[n:])
			// The last block is written whole; the Truncate below cuts the file back.
			writes = append(writes, vfs.Write{Off: off, Buf: piece[:(n+block-1)&^(block-1)], Tag: uint64(i)})
			off += int64(n)
		}
		err = vfs.WriteAll(dev, writes)
	}
	closeErr := dev.Close()
	if !errors.Is(closeErr, vfs.ErrInFlight) { // else the kernel may still read buf, so it is never freed
		iouring.FreeBuffer(buf)
	}
	if err = errors.Join(err, closeErr); err != nil {
		return err
	}
	return f.Truncate(size)
}
