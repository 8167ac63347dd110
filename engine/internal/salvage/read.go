// Package salvage reads what is intact in a corrupt store: the messages of its log, one by one, wherever they begin. It
// never writes. The engine writes them to a new store.
//
//   - The log is read block by block where a larger read fails: a block that the disk does not return costs the
//     messages in it, and a corrupt message costs itself.
//   - Neither superblock nor snapshot is needed: any intact segment header gives the segment size, and the messages
//     themselves give what their checksums start from.
//   - Everything that may be lost is reported. A page gets no delta that is out of place: each delta names the message
//     that it was appended to. If that is not the page's message before it, the page is saved as it was before (rule
//     14).
//
// Reading the code: identify.go finds out whose log it is; slots.go reads the slots; gaps.go finds what is missing;
// gather.go derives the pages.
package salvage

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/compress"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/scratch"
	"pagecache/engine/internal/snapshot"
	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// Config describes the store to read.
type Config struct {
	Dir       vfs.Dir
	Snapshots *snapshot.Store
	Blobs     blob.Config         // Store is filled in
	Lost      func(recovery.Loss) // called for everything that cannot be read
	// SegmentSize is used if nothing in the store tells the size of its segments; 0: not known.
	SegmentSize int
}

// A Message is an intact message of the log.
type Message struct {
	recovery.Message
	seed format.Seed
}

// A Reader holds the intact messages of a store. It belongs to one goroutine.
type Reader struct {
	Super      format.Superblock // as far as it is known
	Log        bool              // a standalone log, not a page store
	Messages   []Message         // in the order of the log
	Corrupt    int64             // bytes of the log that should be messages and are none
	Unreadable int64             // bytes of the log that the disk does not return

	c     Config
	file  vfs.File
	bulk  vfs.Bulk
	size  int64 // of the file
	blobs *blob.Store
	unzip *compress.Unpacker
	most  format.PageID // ids from here on are implausible

	trusted  bool            // Super was read and belongs to this log
	key      format.StoreKey // what checksums start from
	snap     *recovery.Snapshot
	snapFile *snapFile

	suspects []Message // messages that a corrupt header claims; only Kind, LSN and Page are set
	groups   []gap     // groups that are not valid as a whole, as their headers say
	// undecided are the first parts of commits in parts that are not known to have taken effect.
	undecided []format.LSN
	gaps      []gap      // parts of the log that are lost, in order
	known     format.LSN // the log was stable up to here
}

// lostPages is the number of pages, besides those that the log has room for, that may have been lost with parts of it.
// At most lostPages ids are freed in the new store for them, each with 24 bytes on disk and 32 in memory.
const lostPages = 1 << 23

// Open locks the store and reads everything that is intact in its log. Errors: logstore.ErrLocked, logstore.ErrFormat,
// recovery.ErrCorrupt if nothing in the log can be verified, and those of a log that cannot be opened.
func Open(c Config) (*Reader, error) {
	unzip, err := compress.NewUnpacker(scratch.New(0))
	if err != nil {
		return nil, err
	}
	r := &Reader{c: c, known: format.NoLSN, unzip: unzip}
	if err := r.open(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Close releases the store, except Config.Dir and Config.Snapshots.
func (r *Reader) Close() {
	if r.snapFile != nil {
		_ = r.snapFile.Close()
	}
	if r.blobs != nil {
		r.blobs.Close()
	}
	if r.bulk != nil {
		_ = r.bulk.Close()
	}
	if r.file != nil {
		_ = r.file.Close()
	}
}

func (r *Reader) open() (err error) {
	if r.file, err = r.c.Dir.Open(logstore.LogName, vfs.FlagRead); err != nil {
		return err
	}
	if err := r.file.Lock(vfs.LockShared); err != nil {
		return fmt.Errorf("%w: %w", logstore.ErrLocked, err)
	}
	r.bulk = r.file.OpenBulk()
	if r.size, err = r.file.Size(); err != nil {
		return err
	}
	ids, err := r.identify()
	if err != nil {
		return err
	}
	n := r.Super.SegmentSize
	r.most = min(logstore.MaxMessages(int(r.size/int64(n)), n)+lostPages, format.MaxPageID+1)
	if err := r.readLog(ids); err != nil {
		return err
	}
	r.c.Blobs.Store = r.Super.Store
	r.blobs = blob.New(r.c.Blobs)
	return nil
}

func (r *Reader) logFile() string { return filepath.Join(r.c.Dir.Name(), logstore.LogName) }

// lose reports a loss.
func (r *Reader) lose(l recovery.Loss) { r.c.Lost(l) }

// block is the number of bytes that are read at once where a larger read has failed.
const block = 4096

// A span is bytes [from, to) of a segment. err says why they cannot be read.
type span struct {
	from, to int
	err      error
}

// readBytes reads part of the log into buf, once, and where that fails each block once, past the page cache: the kernel
// may read more than was asked for and fail as a whole. Bytes beyond the end of the file, and those that the disk does
// not return, are zeros; bad has the latter.
func (r *Reader) readBytes(buf []byte, off int64) (bad []span, err error) {
	n, err := r.file.ReadAt(buf, off)
	if err == nil || errors.Is(err, io.EOF) {
		clear(buf[n:])
		return nil, nil
	}
	if !vfs.IsUnreadable(err) {
		return nil, err
	}
	mem, free, err := r.bulk.Buffer(block)
	if err != nil {
		return nil, err
	}
	defer free()
	end := min(off+int64(len(buf)), r.size)
	clear(buf)
	for at := off - off%block; at < end; at += block {
		n, err := r.bulk.ReadAt(mem, at)
		from, to := int(max(at-off, 0)), int(min(at+block, end)-off)
		switch {
		case err != nil && vfs.IsUnreadable(err):
			bad = append(bad, span{from, to, err})
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		default:
			copy(buf[from:to], mem[min(n, int(max(off-at, 0))):n])
		}
	}
	return bad, nil
}

// Value reads the encoded value of a message.
func (r *Reader) Value(m Message) ([]byte, error) {
	b := make([]byte, m.Ptr.Len)
	bad, err := r.readBytes(b, int64(m.Ptr.Off))
	if err != nil {
		return nil, err
	}
	if len(bad) > 0 {
		return nil, bad[0].err
	}
	_, body, err := format.DecodeMessage(b, m.LSN, m.seed)
	if err == nil {
		_, body, err = format.CutPrev(m.Kind, body)
	}
	switch {
	case err != nil:
		return nil, err
	case m.Kind.Blob():
		ptr, err := format.DecodeBlobPtr(body)
		if err != nil {
			return nil, err
		}
		b, _, err := r.blobs.Read(ptr)
		return b, err
	case m.Kind.Zstd():
		return r.unzip.Unpack(body, r.Super.SegmentSize)
	case m.Kind == format.KindLongRecord:
		return r.whole(m, body)
	}
	return body, format.CheckStream(m.Kind, body, m.LSN)
}

// whole returns a long record with the body of its message, as the body of a record.
func (r *Reader) whole(m Message, body []byte) ([]byte, error) {
	long, err := format.DecodeLongRecord(body, m.LSN)
	if err != nil {
		return nil, err
	}
	b := make([]byte, format.RecordHeadSize)
	format.PutSeq(b, long.Seq)
	for _, lsn := range long.Parts {
		i, found := slices.BinarySearchFunc(r.Messages, lsn, func(m Message, lsn format.LSN) int {
			return cmp.Compare(m.LSN, lsn)
		})
		if !found || r.Messages[i].Kind != format.KindRecordPart || r.Messages[i].Page != m.Page {
			return nil, fmt.Errorf("record %d: its part at LSN %d is lost", long.Seq, lsn)
		}
		part, err := r.Value(r.Messages[i])
		if err != nil {
			return nil, fmt.Errorf("record %d: its part at LSN %d: %w", long.Seq, lsn, err)
		}
		b = append(b, part...)
	}
	if got := uint64(len(b) - format.RecordHeadSize); got != long.Len {
		return nil, fmt.Errorf("record %d: %d bytes of %d", long.Seq, got, long.Len)
	}
	return b, nil
}
