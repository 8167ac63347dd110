package iobuf

import (
	"encoding/binary"

	"pagecache/segments"
	"pagecache/segments/format"
)

// Group is a place in the log for a group of messages, which are recovered all or none, or for a part of one. It
// belongs to one goroutine, which adds the messages and then ends it, as a Reservation, in one call of Complete or
// Abort.
type Group struct {
	r     Reservation
	at    int // where the next message begins, in the body
	count int
	ready int        // the end of the messages that Seal has committed; 0 if it was not called
	first format.LSN // of the first part, if this is another one
	left  int        // number of parts that follow
}

// ReserveGroup takes a place for a group of n messages of the given size, from format.GroupSize. A group delays nobody:
// it needs no fence, as batches do. Waiting and errors as for Reserve. Safe for concurrent use.
func (l *Log) ReserveGroup(n, size int) (Group, error) {
	units := n * format.IndexUnits(format.KindData)
	r, err := l.reserve(format.KindGroup, 0, size-format.HeaderSize, units, segments.UrgencyOrdinary)
	return Group{r: r, at: format.GroupHeadSize}, err
}

// ReservePart takes a place for a part, of the given size, of a group that has several. first is the LSN of the first
// part, 0 if this is the first one. left is the number of parts that follow. Waiting and errors as for Reserve. Safe
// for concurrent use.
func (l *Log) ReservePart(first format.LSN, left, size int) (Group, error) {
	kind := format.KindGroup
	if first > 0 {
		kind = format.KindGroupPart
	}
	r, err := l.reserve(kind, 0, size-format.HeaderSize, 0, segments.UrgencyOrdinary)
	return Group{r: r, at: kind.GroupHeadSize(), first: first, left: left}, err
}

// WriteGroup writes records as one group and returns their LSNs. It fails with ErrTooLarge if they are longer than a
// quarter of a segment; other errors as for Reserve. Safe for concurrent use.
func (l *Log) WriteGroup(records [][]byte) ([]format.LSN, error) {
	size := format.GroupSize()
	for _, p := range records {
		size += format.AlignUp(format.HeaderSize + len(p))
	}
	if size > l.segmentSize/4 && l.bufs != nil {
		return nil, ErrTooLarge
	}
	g, err := l.ReserveGroup(len(records), size)
	if err != nil {
		return nil, err
	}
	lsns := make([]format.LSN, len(records))
	for i, p := range records {
		var body []byte
		body, lsns[i], _ = g.Add(format.KindData, 0, len(p))
		copy(body, p)
	}
	g.Complete()
	return lsns, nil
}

// LSN returns the LSN of the group, which lies before those of its messages.
func (g *Group) LSN() format.LSN { return g.r.LSN() }

// Ptr returns the place of the group in the file.
func (g *Group) Ptr() format.DiskPtr { return g.r.Ptr() }

// Add adds a message with a body of n bytes, which the caller writes before Complete. It returns the body, all zero,
// and the message's LSN and place.
func (g *Group) Add(kind format.Kind, page format.PageID, n int) (body []byte, lsn format.LSN, ptr format.DiskPtr) {
	group, size := g.r.Body(), format.HeaderSize+n
	msg := group[g.at:]
	lsn = g.r.LSN() + format.HeaderSize + format.LSN(g.at)
	ptr = g.r.Ptr()
	ptr.Off += format.Offset(format.HeaderSize + g.at)
	ptr.Len, ptr.Blob = uint32(size), kind.Blob()
	format.PutHeader(msg, lsn, page, g.r.l.DurableEnd())
	// The word is stored last, by Complete: until then it is kept where the checksum will be.
	binary.LittleEndian.PutUint32(msg[4:], uint32(format.MakeWord(kind, size)))
	g.at += format.AlignUp(size)
	g.count++
	return msg[format.HeaderSize:size:size], lsn, ptr
}

// Seal says that the body of each message added so far is written. It spares Complete to read them again, which takes
// longer once they have left the processor's cache. Nobody must know the place of a message before Complete.
func (g *Group) Seal() {
	group, head := g.r.Body(), g.r.kind.GroupHeadSize()
	for at := max(head, g.ready); at < g.at; {
		w := format.Word(binary.LittleEndian.Uint32(group[at+4:]))
		format.PutCRC(group[at:], w, g.r.b.seed)
		g.r.b.commit(g.r.off+format.HeaderSize+at, w)
		at += format.AlignUp(w.Len())
	}
	g.ready = g.at
}

// Complete commits the group, to which as many messages were added as ReserveGroup was called for.
//
// Each message is committed as it will be read, by itself, and then the group, which the leader looks for.
func (g *Group) Complete() {
	group := g.r.Body()
	if g.at != len(group) {
		panic("iobuf: group is not of the size that was reserved")
	}
	format.GroupHead{First: g.first, Left: g.left, Messages: g.count}.Put(group, g.r.kind)
	g.Seal()
	for at := g.r.kind.GroupHeadSize(); at < len(group); {
		g.r.l.filled(g.r.LSN() + format.HeaderSize + format.LSN(at)) // no leader waits for it, but readers may
		at += format.AlignUp(format.Word(binary.LittleEndian.Uint32(group[at:])).Len())
	}
	g.r.Complete()
}

// Abort ends the group without its messages. Readers of the log skip the place.
func (g *Group) Abort() {
	group := g.r.Body()
	for at := g.r.kind.GroupHeadSize(); at < g.ready; { // none of them ever reaches the disk
		n := format.Word(binary.LittleEndian.Uint32(group[at:])).Len()
		g.r.b.commit(g.r.off+format.HeaderSize+at, 0)
		at += format.AlignUp(n)
	}
	g.r.Abort()
}

// ReserveRecord takes a place for a record of a stream with a body of n bytes, its number included. runs is the number
// of runs that begin with it in the index of the segment, 0 or 1. Waiting and errors as for Reserve. Safe for
// concurrent use.
func (l *Log) ReserveRecord(stream format.StreamID, n, runs int) (Reservation, error) {
	units := format.IndexUnits(format.KindRecord) + runs*format.RunUnits
	return l.reserve(format.KindRecord, format.PageID(stream), n, units, segments.UrgencyOrdinary)
}

// ReserveMessages is ReserveGroup for messages of streams, as urgent as one of kind k is alone. An index of the segment
// needs room for them in the given number of units.
func (l *Log) ReserveMessages(k format.Kind, size, units int) (Group, error) {
	r, err := l.reserve(format.KindGroup, 0, size-format.HeaderSize, units, urgencyOfKind(k))
	return Group{r: r, at: format.GroupHeadSize}, err
}

// ReserveCarried is ReserveMessages for messages that replace others, so that segments can leave the log: they may use
// all slots that are reserved for urgent writers.
func (l *Log) ReserveCarried(size, units int) (Group, error) {
	r, err := l.reserve(format.KindGroup, 0, size-format.HeaderSize, units, segments.UrgencyCleaning)
	return Group{r: r, at: format.GroupHeadSize}, err
}
