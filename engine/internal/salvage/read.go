// Package salvage reads what is intact in a corrupt store: the messages of its log, one by one, wherever they begin. It
// never writes. The engine writes them to a new store.
package salvage

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/compress"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/snapshot"
	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// Config describes the store to read.
type Config struct {
	Dir       vfs.Dir
	Snapshots *snapshot.Store   // where the identity of the store is, if the superblock is corrupt
	Blobs     blob.Config       // Store is filled in
	Lost      func(what string) // called for everything that cannot be read
}

// A Message is an intact message of the log.
type Message struct {
	recovery.Message
	seed format.Seed
}

// A Reader holds the intact messages of a store. It belongs to one goroutine.
type Reader struct {
	Super    format.Superblock
	Messages []Message // in the order of the log
	Corrupt  int64     // bytes of the log that are no message

	c     Config
	file  vfs.File
	blobs *blob.Store
	most  format.PageID // ids from here on are implausible
}

// lostPages is the number of pages, besides those that the log has room for, that may have been lost with parts of it.
// At most lostPages ids are freed in the new store for them, each with 24 bytes on disk and 32 in memory.
const lostPages = 1 << 23

// Open locks the store and reads everything that is intact in its log. Errors: logstore.ErrLocked, and those of a log
// that cannot be read at all.
func Open(c Config) (*Reader, error) {
	r := &Reader{c: c}
	if err := r.open(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Close releases the store, except Config.Dir and Config.Snapshots.
func (r *Reader) Close() {
	if r.blobs != nil {
		r.blobs.Close()
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
	if err := r.identify(); err != nil {
		return err
	}
	r.c.Blobs.Store = r.Super.Store
	r.blobs = blob.New(r.c.Blobs)
	return r.readLog()
}

// identify reads the superblock, or else takes what is needed of it from a snapshot.
func (r *Reader) identify() error {
	sb, err := logstore.ReadSuper(r.c.Dir)
	if err == nil {
		r.Super = sb
		return nil
	}
	r.c.Lost(err.Error())
	names, _ := r.c.Snapshots.Names()
	var newest format.SnapshotHeader
	for _, name := range names {
		h, headerErr := r.snapshotHeader(name)
		if headerErr != nil {
			continue
		}
		if newest.Number > 0 && newest.Store != h.Store {
			return fmt.Errorf("no readable superblock, and snapshots of several stores: store id unknown: %w", err)
		}
		if h.Number > newest.Number {
			newest = h
		}
	}
	if newest.Number == 0 {
		return fmt.Errorf("no readable superblock or snapshot, so store id and segment size are unknown: %w", err)
	}
	r.Super = format.Superblock{
		Store: newest.Store, SegmentSize: newest.SegmentSize, NextID: newest.Counter, NextPage: newest.NextPage,
	}
	return nil
}

func (r *Reader) snapshotHeader(name string) (h format.SnapshotHeader, err error) {
	f, err := r.c.Snapshots.OpenNamed(name)
	if err != nil {
		return h, err
	}
	b := make([]byte, format.SnapshotBlock)
	size, err := f.Size()
	_, readErr := f.ReadAt(b, 0)
	h, decodeErr := format.DecodeSnapshotHeader(b, size)
	return h, errors.Join(err, readErr, decodeErr, f.Close())
}

// copyOf is one slot's copy of a segment.
type copyOf struct {
	base     format.LSN
	gen      format.Generation
	messages []Message
}

// readLog reads every slot. If two slots hold the same segment, the one of the newer generation counts: the other is an
// older copy of the tail.
func (r *Reader) readLog() error {
	size, err := r.file.Size()
	if err != nil {
		return err
	}
	seg := make([]byte, r.Super.SegmentSize)
	r.most = min(logstore.MaxMessages(int(size/int64(len(seg))), len(seg))+lostPages, format.MaxPageID+1)
	newest := map[format.LSN]format.Generation{}
	var copies []copyOf
	for slot := format.SegmentID(0); int64(slot.Offset(len(seg))) < size; slot++ {
		n, err := r.file.ReadAt(seg, int64(slot.Offset(len(seg))))
		if err != nil && err != io.EOF {
			r.c.Lost(fmt.Sprintf("slot %v: %v", slot, err))
		}
		clear(seg[n:])
		messages, gen := r.segment(seg, slot)
		if len(messages) == 0 {
			continue
		}
		base := messages[0].LSN - messages[0].LSN%format.LSN(len(seg))
		if g, ok := newest[base]; ok && g >= gen {
			continue
		}
		newest[base] = gen
		copies = append(copies, copyOf{base, gen, messages})
	}
	for _, c := range copies {
		if newest[c.base] == c.gen {
			r.Messages = append(r.Messages, c.messages...)
		}
	}
	slices.SortFunc(r.Messages, func(a, b Message) int { return cmp.Compare(a.LSN, b.LSN) })
	return nil
}

// maxGenerations is the number of openings back from which the messages of a slot with a corrupt header may date.
const maxGenerations = 1000

// segment finds the intact messages of a slot, wherever they begin.
func (r *Reader) segment(seg []byte, slot format.SegmentID) ([]Message, format.Generation) {
	h, err := format.DecodeSegmentHeader(seg, slot, len(seg))
	var gens []format.Generation
	switch {
	case errors.Is(err, format.ErrSegmentZero):
		return nil, 0
	case err != nil:
		r.c.Lost(fmt.Sprintf("slot %v: its header: %v", slot, err))
		gens = r.generations()
	case h.State != format.SegmentStateInUse:
		return nil, 0
	default:
		gens = []format.Generation{h.Generation}
	}
	var best walk
	for _, g := range gens {
		w := walk{r: r, seg: seg, slot: slot, base: h.Base, known: err == nil, gen: g,
			seed: format.MakeSeed(r.Super.Store, g, slot)}
		if w.run(); len(w.messages) > len(best.messages) {
			best = w
			r.Corrupt += w.corrupt
		}
	}
	return best.messages, best.gen
}

// generations returns the generations that a slot with a corrupt header may be of.
func (r *Reader) generations() (gens []format.Generation) {
	for g, n := r.Super.Generation+1, 0; g > 0 && n < maxGenerations; g, n = g-1, n+1 {
		gens = append(gens, g-1)
	}
	if r.Super.Generation == 0 { // it is not known
		for g := range format.Generation(maxGenerations) {
			gens = append(gens, g)
		}
	}
	return gens
}

// walk finds the messages of one generation in a slot. It goes from message to message, and over corrupt bytes by
// trying each place where a message can begin.
type walk struct {
	r     *Reader
	seg   []byte
	slot  format.SegmentID
	base  format.LSN
	known bool // base is
	gen   format.Generation
	seed  format.Seed

	messages []Message
	corrupt  int64
}

func (w *walk) run() {
	size := format.LSN(len(w.seg))
	hole := 0 // bytes since the last message
	for pos := format.SegmentHeaderSize; len(w.seg)-pos >= format.HeaderSize; {
		lsn := w.base + format.LSN(pos)
		if !w.known {
			lsn = format.LSN(binary.LittleEndian.Uint64(w.seg[pos+8:]))
			if lsn < 0 || lsn%size != format.LSN(pos) {
				pos += format.Align
				continue
			}
		}
		h, body, err := format.DecodeMessage(w.seg[pos:], lsn, w.seed)
		if err != nil {
			pos, hole = pos+format.Align, hole+format.Align
			continue
		}
		if hole > 0 { // messages follow, so the hole is not the end of the log
			w.report(pos, hole, lsn)
			w.corrupt += int64(hole)
			hole = 0
		}
		w.base, w.known = lsn-format.LSN(pos), true
		w.add(h, body, pos)
		pos += format.AlignUp(h.Len)
	}
}

func (w *walk) report(pos, hole int, lsn format.LSN) {
	at := w.slot.Offset(len(w.seg)) + format.Offset(pos-hole)
	const text = "slot %v, offset %v: %d corrupt bytes, LSN %v … %v; " +
		"pages that were changed there are as they were before"
	w.r.c.Lost(fmt.Sprintf(text, w.slot, at, hole, lsn-format.LSN(hole), lsn-1))
}

func (w *walk) add(h format.Header, body []byte, pos int) {
	ptr := format.DiskPtr{Off: w.slot.Offset(len(w.seg)) + format.Offset(pos), Len: uint32(h.Len), Blob: h.Kind.Blob()}
	m := recovery.Message{Kind: h.Kind, LSN: w.base + format.LSN(pos), Page: h.Page, Ptr: ptr}
	if h.Kind == format.KindMeta || h.Kind == format.KindCounter {
		m.Body = slices.Clone(body)
	}
	w.messages = append(w.messages, Message{m, w.seed})
}

// Value reads the encoded value of a message.
func (r *Reader) Value(m Message) ([]byte, error) {
	b := make([]byte, m.Ptr.Len)
	if _, err := r.file.ReadAt(b, int64(m.Ptr.Off)); err != nil {
		return nil, err
	}
	_, body, err := format.DecodeMessage(b, m.LSN, m.seed)
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
		return compress.Unpack(body, r.Super.SegmentSize)
	}
	return body, nil
}
