package iobuf

import (
	"pagecache/segments/format"
)

// A sealed segment of a standalone log ends with an index of its messages (Config.Index, L9). The room for it grows
// with each reservation: the units in the tail word say how much of it is needed, so that one atomic add reserves both.
// The writer that would leave too little room seals the segment. The leader lists the messages as it walks over them,
// in order, and once it has walked over the last one it completes the segment: a pad, if the index does not need all
// of the rest, then the index.
//
//	┌────────┬───────────────────────────────┬───────┬───────────┐
//	│ header │ messages …                    │ pad   │ index     │
//	└────────┴───────────────────────────────┴───────┴───────────┘
//	                                         ▲                   ▲
//	                                      sealedAt           len(mem)

// maxBody returns the longest body of a message, in bytes. With an index, a segment must have room for a record and an
// index of it.
func maxBody(segmentSize int, indexed bool) int {
	if !indexed {
		return format.MaxBody(segmentSize)
	}
	return format.MaxBody(segmentSize) - format.IndexRoom(format.IndexUnits(format.KindData))
}

// walk moves the progress of b over the messages that are committed, and completes the segment if it is sealed and they
// are all of them. Only the leader calls it.
func (l *Log) walk(b *buffer) {
	l.count(b.walk(l.block))
	if at := int(b.sealedAt.Load()); b.indexed && at != 0 && at == b.progress.walked {
		b.complete(at, l.known())
		l.count(b.walk(l.block))
	}
}

// complete commits the rest of a sealed segment, from offset at on. Only the leader calls it.
func (b *buffer) complete(at int, k format.Known) {
	p := &b.progress
	begin := len(b.mem) - p.index.Len()
	if p.known && begin < at { // there are runs here whose records expected to continue one in the segment before
		p.index.Unlist()
		begin = len(b.mem) - p.index.Len()
	}
	if !p.known || begin < at { // see indexAgain
		b.pad(at, len(b.mem), k)
		return
	}
	if begin-at < format.HeaderSize {
		begin = at
	} else {
		b.pad(at, begin, k)
	}
	lsn := format.LSN(b.base.Load() + int64(begin))
	b.commit(begin, p.index.Put(b.mem[begin:], lsn, k, b.seed))
}

// A Listing lists the messages of a segment that is partly filled.
type Listing struct {
	index  format.Index
	intact bool
}

// List lists the messages in mem, the first bytes of the segment with this base, up to a message boundary.
func List(mem []byte, base format.LSN) *Listing {
	l := &Listing{intact: true}
	for pos := format.SegmentStart; pos < len(mem); {
		h, err := format.DecodeHeader(mem[pos:], len(mem)-pos, base+format.LSN(pos))
		if l.intact = err == nil; err != nil {
			break
		}
		l.index.Add(h.Kind, pos, mem[pos:])
		pos += h.Step()
	}
	return l
}

// indexAgain takes over the listing of a segment that is partly filled, up to offset used, and returns the tail of the
// buffer. If the messages leave no room for an index, or are not intact, it seals the segment, which then ends with a
// pad. The first happens if a pad was written there when the log's tail was moved.
func (b *buffer) indexAgain(l *Listing, used int) tailWord {
	p := &b.progress
	p.index, p.known = l.index, l.intact
	tail := makeTail(used, p.index.Units())
	if !p.known || b.full(tail) {
		tail = makeTail(len(b.mem)+1, 0)
		b.sealedAt.Store(int64(used))
	}
	return tail
}
