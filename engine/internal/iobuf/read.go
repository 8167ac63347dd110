package iobuf

import (
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// Tail returns the LSN below which everything has been reserved. It may be too high by the length of a message that did
// not fit its buffer. Since the flusher calls it, Tail takes no lock that a writer holds while it waits for a buffer.
func (l *Log) Tail() format.LSN {
	if b := l.active.Load(); b != nil {
		base := b.base.Load()
		invariants.Jitter()
		tail := tailWord(b.tail.Load())
		if !b.full(tail) && b.base.Load() == base && base >= 0 {
			return format.LSN(base) + format.LSN(tail.off())
		}
	}
	// The active buffer is full, or is being opened for another segment, which open does under mu.
	l.state.mu.Lock()
	defer l.state.mu.Unlock()
	b := l.active.Load()
	if b == nil {
		return l.state.durable
	}
	base := b.base.Load()
	invariants.Sometimes("iobuf: Tail finds the active buffer retired", base < 0)
	if base < 0 {
		return l.state.durable
	}
	return format.LSN(base) + format.LSN(b.reserved())
}

// holder returns the buffer that holds the LSN, and its base; nil if there is none. Unless the caller holds read and
// finds the same base, the buffer may be used for another segment.
func (l *Log) holder(lsn format.LSN) (*buffer, format.LSN) {
	for _, b := range l.bufs {
		base := format.LSN(b.base.Load())
		if base < 0 || lsn < base || lsn >= base+format.LSN(l.segmentSize) {
			continue
		}
		return b, base
	}
	return nil, format.NoLSN
}

// Read copies len(dst) bytes at lsn, where a message begins, out of the io buffers. It copies zeros if the message is
// not committed yet. It returns false if no buffer holds the bytes: then the segment is sealed and can be read from
// the file.
func (l *Log) Read(dst []byte, lsn format.LSN) bool {
	b, base := l.holder(lsn)
	if b == nil {
		return false
	}
	b.read.RLock()
	defer b.read.RUnlock()
	off := int(lsn - base)
	ok := format.LSN(b.base.Load()) == base && off+len(dst) <= len(b.mem)
	if ok && b.word(off).Load() == 0 { // the owner of the reservation may be writing the other bytes
		clear(dst)
	} else if ok {
		copy(dst, b.mem[off:])
	}
	return ok
}

// AppendMessage appends the message that begins at lsn, header included, to dst. It returns false, and dst as it was,
// if no buffer holds the message, if it takes more than most bytes, and if it is not committed yet. It does not verify
// the message.
func (l *Log) AppendMessage(dst []byte, lsn format.LSN, most int) ([]byte, bool) {
	b, base := l.holder(lsn)
	if b == nil {
		return dst, false
	}
	b.read.RLock()
	defer b.read.RUnlock()
	off, n := int(lsn-base), 0
	if format.LSN(b.base.Load()) == base && off <= len(b.mem)-format.HeaderSize {
		n = format.Word(b.word(off).Load()).Len() // 0 if the owner of the reservation may be writing the bytes
	}
	ok := n >= format.HeaderSize && n <= min(most, len(b.mem)-off)
	if ok {
		dst = append(dst, b.mem[off:off+n]...)
	}
	return dst, ok
}
