package recovery

import "pagecache/segments/format"

// Message is a message of the recovered log.
type Message struct {
	Kind format.Kind
	LSN  format.LSN
	Page format.PageID
	Ptr  format.DiskPtr
	Body []byte // of KindCounter and KindMeta only, else nil; valid during the call
}

// Apply hands the messages below End to visit in the order of the log, and stops at its first error, which it returns. Pads,
// aborted messages and batch markers are left out.
func (r *Result) Apply(visit func(Message) error) error {
	for i, seg := range r.Segments {
		bodies := r.index[i].bodies
		start := seg.Slot.Offset(r.size)
		for _, e := range r.index[i].entries {
			m := Message{Kind: e.word.Kind(), LSN: seg.Base + format.LSN(e.pos), Page: e.page,
				Ptr: format.DiskPtr{Off: start + format.Offset(e.pos), Len: uint32(e.word.Len()), Blob: e.word.Kind().Blob()}}
			if m.LSN >= r.End {
				return nil
			}
			if keepsBody(m.Kind) {
				n := e.word.Len() - format.HeaderSize
				m.Body, bodies = bodies[:n:n], bodies[n:]
			}
			if err := visit(m); err != nil {
				return err
			}
		}
	}
	return nil
}
