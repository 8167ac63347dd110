package salvage

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"pagecache/engine/internal/logstore"
	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// An identity is a store id and the place that it was found in.
type identity struct {
	id    format.StoreID
	where string
}

// identify reads the superblock and finds the segment size. It returns the store ids that the log may have, the most
// likely first.
func (r *Reader) identify() (ids []identity, err error) {
	sb, err := logstore.ReadSuper(r.c.Dir)
	switch {
	case err == nil:
		r.Super, r.trusted = sb, true
		ids = append(ids, identity{sb.Store, "superblock"})
	case errors.Is(err, logstore.ErrFormat):
		return nil, err
	default:
		r.lose(recovery.Loss{Kind: recovery.LossFile, Text: err.Error(), Err: err})
	}
	h, found, err := r.firstHeader()
	if err != nil {
		return nil, err
	}
	if found {
		ids = addID(ids, h.Store, fmt.Sprintf("header of slot %v", h.Slot))
	}
	var snapSize int
	ids, snapSize = r.addIDs(ids)
	size := h.SegmentSize
	switch {
	case found:
	case r.trusted:
		size = r.Super.SegmentSize
	case snapSize > 0:
		size = snapSize
	default:
		size = r.c.SegmentSize
	}
	if size == 0 {
		const text = "no readable superblock, snapshot or segment header, so the segment size is unknown"
		return nil, logstore.CorruptFile(r.logFile(), text, nil)
	}
	if r.trusted && r.Super.SegmentSize != size {
		r.distrust(fmt.Sprintf("it names segments of %d bytes, the log has segments of %d", r.Super.SegmentSize, size))
	}
	r.Super.SegmentSize = size
	return ids, nil
}

// distrust forgets the superblock, which belongs to another store.
func (r *Reader) distrust(why string) {
	name := filepath.Join(r.c.Dir.Name(), logstore.SuperName)
	r.lose(recovery.Loss{Kind: recovery.LossFile, Text: fmt.Sprintf("%s: it belongs to another store: %s", name, why)})
	r.trusted = false
	r.Super = format.Superblock{SegmentSize: r.Super.SegmentSize}
}

// addID adds a store id unless it is there.
func addID(ids []identity, id format.StoreID, where string) []identity {
	if slices.ContainsFunc(ids, func(i identity) bool { return i.id == id }) {
		return ids
	}
	return append(ids, identity{id, where})
}

// maxBlobs is the number of blobs that are asked for a store id.
const maxBlobs = 16

// addIDs adds the store ids that snapshots and blobs name. It returns the segment size that the newest snapshot names,
// 0 if there is none.
func (r *Reader) addIDs(ids []identity) (_ []identity, segmentSize int) {
	b := make([]byte, format.SnapshotBlock)
	names, _ := r.c.Snapshots.Names() // without snapshots the log has to do
	for _, name := range slices.Backward(names) {
		f, err := r.c.Snapshots.OpenNamed(name)
		if err != nil {
			continue
		}
		size, err := readStart(f, b)
		if err != nil {
			continue
		}
		if h, err := format.DecodeSnapshotHeader(b, size); err == nil {
			ids = addID(ids, h.Store, name)
			if segmentSize == 0 {
				segmentSize = h.SegmentSize
			}
		}
	}
	blobs, err := r.c.Blobs.In.OpenDir(r.c.Blobs.Name)
	if err != nil {
		return ids, segmentSize
	}
	defer blobs.Close()
	names, _ = blobs.ReadDir()
	for _, name := range names[:min(len(names), maxBlobs)] {
		if _, ok := format.ParseBlobID(name); !ok {
			continue
		}
		f, err := blobs.Open(name, vfs.FlagRead)
		if err != nil {
			continue
		}
		if _, err := readStart(f, b[:format.BlobHeaderSize]); err != nil {
			continue
		}
		if id, ok := format.BlobStore(b); ok {
			ids = addID(ids, id, "blob "+name)
		}
	}
	return ids, segmentSize
}

// readStart reads the first bytes of a file into b, closes it, and returns its size.
func readStart(f vfs.File, b []byte) (int64, error) {
	defer f.Close()
	if _, err := f.ReadAt(b, 0); err != nil {
		return 0, err
	}
	return f.Size()
}

// firstHeader returns the first intact segment header, or false if there is none. It looks where the superblock says
// that headers are, and then everywhere. The header tells the segment size and the store id (rule 16).
func (r *Reader) firstHeader() (h format.SegmentHeader, found bool, err error) {
	buf := make([]byte, 64*block)
	if n := r.Super.SegmentSize; n > 0 {
		for off := int64(0); off < r.size; off += int64(n) {
			if _, err := r.readBytes(buf[:block], off); err != nil {
				return h, false, err
			}
			if h, ok := format.FindSegmentHeader(buf, format.Offset(off)); ok {
				return h, true, nil
			}
		}
	}
	for off := int64(0); off < r.size; off += int64(len(buf)) {
		if _, err := r.readBytes(buf, off); err != nil {
			return h, false, err
		}
		for at := 0; at < len(buf); at += block {
			if h, ok := format.FindSegmentHeader(buf[at:], format.Offset(off+int64(at))); ok {
				return h, true, nil
			}
		}
	}
	return h, false, nil
}

// A ballot finds the key of a log: the one under which a message verifies, of those that are known, or else the one on
// which messages agree.
type ballot struct {
	ids    []identity
	votes  map[format.StoreKey]int
	found  bool
	key    format.StoreKey
	claims int // messages that are intact, or would be under another key
}

// few reports that the messages were too few to agree on a key, so that all of them may be corrupt.
func (b *ballot) few() bool { return b.claims < enoughVotes }

// enoughVotes is the number of messages that must agree. One in four billion pairs of messages agrees by chance.
const enoughVotes = 3

// count looks at the messages of a segment whose header is intact, until the key is found.
func (b *ballot) count(seg []byte, h format.SegmentHeader) {
	pos := firstMessage
	for ; len(seg)-pos >= format.HeaderSize && !b.found; pos += format.Align {
		m, seed, err := format.SeedOf(seg[pos:], h.Base+format.LSN(pos))
		if err != nil {
			continue
		}
		b.claims++
		key := format.KeyFrom(seed, h.Generation, h.Slot)
		known := slices.ContainsFunc(b.ids, func(i identity) bool { return format.KeyOf(i.id) == key })
		b.votes[key]++
		if known || b.votes[key] >= enoughVotes {
			b.found, b.key = true, key
		}
		if b.votes[key] > 1 { // it is likely to be intact
			pos += m.Step() - format.Align
		}
	}
}

// end decides once all segments were counted.
func (b *ballot) end() {
	for key, n := range b.votes {
		if n == enoughVotes-1 && !b.found {
			b.found, b.key = true, key
		}
	}
}

// adopt makes the Reader verify messages with the key, and finds the store id that belongs to it.
func (r *Reader) adopt(key format.StoreKey, ids []identity) {
	r.key = key
	if r.trusted && format.KeyOf(r.Super.Store) != key {
		r.distrust(fmt.Sprintf("no message of the log verifies under its store id, %v", r.Super.Store))
	}
	for _, i := range ids {
		if format.KeyOf(i.id) == key {
			r.Super.Store = i.id
			return
		}
	}
	r.lose(recovery.Loss{Kind: recovery.LossFile, Text: fmt.Sprintf(
		"the store id is unknown; messages of the log agree on what their checksums start from, so they can be read%s",
		withoutBlobs(r.c.Blobs.In, r.c.Blobs.Name))})
}

// withoutBlobs says what an unknown store id costs.
func withoutBlobs(in vfs.Dir, dir string) string {
	if blobs, err := in.OpenDir(dir); err == nil {
		defer blobs.Close()
		if names, err := blobs.ReadDir(); err == nil && len(names) == 0 {
			return ""
		}
	} else if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return ", except for blobs"
}

// noKey returns the error for a log of which no message verifies.
func (r *Reader) noKey(ids []identity) error {
	var tried []string
	for _, i := range ids {
		tried = append(tried, fmt.Sprintf("%v (%s)", i.id, i.where))
	}
	reason := "no message verifies under any known store id: " + strings.Join(tried, ", ")
	if len(tried) == 0 {
		reason = "no message verifies, and no store id is known"
	}
	return logstore.CorruptFile(r.logFile(), reason, nil)
}
