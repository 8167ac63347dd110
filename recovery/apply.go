package recovery

import (
	"sort"

	"pagecache/segments/format"
)

// A Message is a message of the recovered log.
type Message struct {
	Kind format.Kind
	LSN  format.LSN
	Page format.PageID
	Prev format.Prev // of a delta
	Ptr  format.DiskPtr
	Body []byte // of KindCounter and KindRoot, otherwise nil; valid during the call
}

// Apply calls visit for the messages below End in the order of the log, without pads, aborted messages and batch
// markers. It stops at visit's first error and returns it unchanged.
func (r *Result) Apply(visit func(Message) error) error {
	return r.ApplyBelow(format.MaxPageID+1, visit)
}

// ApplyBelow is Apply for the messages of the pages below end alone.
func (r *Result) ApplyBelow(end format.PageID, visit func(Message) error) error {
	for i := range r.Segments {
		bodies := r.index[i].bodies
		for _, e := range r.entries(i) {
			var body []byte
			if kind := e.word.Kind(); keepsBody(kind) {
				n := e.word.Len() - format.HeaderSize
				body, bodies = bodies[:n:n], bodies[n:]
			}
			if e.page() >= end {
				continue
			}
			m := r.message(i, e)
			m.Body = body
			if err := visit(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// EachRoot calls visit for the KindRoot messages below End that lie in segment i of Segments, in the order of the log.
// Calls for different segments may run at the same time.
func (r *Result) EachRoot(i int, visit func(Message)) {
	bodies := r.index[i].bodies
	if len(bodies) == 0 {
		return
	}
	for _, e := range r.entries(i) {
		kind := e.word.Kind()
		if !keepsBody(kind) {
			continue
		}
		n := e.word.Len() - format.HeaderSize
		m := r.message(i, e)
		m.Body, bodies = bodies[:n:n], bodies[n:]
		if kind == format.KindRoot {
			visit(m)
		}
	}
}

// Len returns an upper bound on the number of messages that Apply visits.
func (r *Result) Len() (n int) {
	for _, w := range r.index {
		n += len(w.entries)
	}
	return n
}

// entries returns the index of the messages below End in segment i.
func (r *Result) entries(i int) []entry {
	entries, room := r.index[i].entries, r.End-r.Segments[i].Base
	if room >= format.LSN(r.size) {
		return entries
	}
	return entries[:sort.Search(len(entries), func(n int) bool { return format.LSN(entries[n].pos()) >= room })]
}

// message returns the message that e is the index of, in segment i, without its body.
func (r *Result) message(i int, e entry) Message {
	lsn := r.Segments[i].Base + format.LSN(e.pos())
	ptr := r.pointer(i, e.pos(), e.word)
	return Message{Kind: e.word.Kind(), LSN: lsn, Page: e.page(), Prev: e.prev, Ptr: ptr}
}

// pointer returns the place of the message at offset pos of segment i.
func (r *Result) pointer(i, pos int, w format.Word) format.DiskPtr {
	off := r.Segments[i].Slot.Offset(r.size) + format.Offset(pos)
	return format.DiskPtr{Off: off, Len: uint32(w.Len()), Blob: w.Kind().Blob()}
}
