package checkpoint

import (
	"context"
	"errors"
	"io"

	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// CopyTo is Install of the checkpoint's complete stream. Where the file system can, it does not write the bytes of
// segments and blobs, which it verifies all the same: the copy shares those of the store until one of both changes.
// Only what the checkpoint shows is shared, so the copy holds no space that is free in the store.
func (k *Checkpoint) CopyTo(ctx context.Context, fsys vfs.FS, dir string, check Check) (Info, error) {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		_, err := k.Write(ctx, w, 0)
		_ = w.CloseWithError(err) // which returns nil
		written <- err
	}()
	info, err := (&installer{from: &origin{k: k}}).install(ctx, fsys, dir, check, []io.Reader{r})
	_ = r.CloseWithError(errStopped) // which returns nil
	if e := <-written; e != nil && !errors.Is(e, errStopped) {
		err = e // the reader has it, too, as one of the stream
	}
	return info, err
}

// errStopped ends a stream that nobody reads any more.
var errStopped = errors.New("the copy has ended")

// origin is a store whose checkpoint is copied.
type origin struct {
	k    *Checkpoint
	none bool // the file system cannot clone
}

// cloneSegment clones the whole blocks of the n used bytes of a segment, and returns how many bytes that were. They
// were verified before. Not those of the last segment, which may still be written to.
func (o *origin) cloneSegment(to vfs.File, g segment, n int64) (int64, error) {
	size := o.segmentSize()
	if size == 0 || g.base+format.LSN(size) >= o.k.LSN() {
		return 0, nil
	}
	return o.clone(n, func(n int64) error { return o.k.c.Store.CloneTo(to, int64(g.slot.Offset(size)), n) })
}

// segmentSize returns the length of a segment, 0 if there is nothing to clone from.
func (o *origin) segmentSize() int {
	if o == nil {
		return 0
	}
	return o.k.image.Super.SegmentSize
}

// cloneBlob clones the whole blocks of a blob of n bytes, and returns how many bytes that were. The stream
// verifies them afterwards.
func (o *origin) cloneBlob(to vfs.File, id format.BlobID, n int64) (int64, error) {
	if o == nil {
		return 0, nil
	}
	return o.clone(n, func(n int64) error {
		from, err := o.k.c.Blobs.OpenFile(id)
		if err != nil {
			return blobError(o.k.c.Blobs, id, err)
		}
		defer from.Close()
		return vfs.Clone(to, from, 0, n)
	})
}

// clone calls f with the length of the whole blocks of n bytes, and returns it, or 0 if the file system cannot clone.
// If the checkpoint is closed meanwhile, its bytes may be others by now; then the stream ends with an error, and the
// copy is removed.
func (o *origin) clone(n int64, f func(n int64) error) (int64, error) {
	if n -= n % vfs.BulkAlign; o.none || n == 0 {
		return 0, nil
	}
	call, err := o.k.c.Enter()
	if err != nil {
		return 0, err
	}
	defer call.End()
	if err := f(n); errors.Is(err, errors.ErrUnsupported) {
		o.none = true
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	return n, nil
}
