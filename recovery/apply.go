package recovery

import "pagecache/segments/format"

// A Message is a message of the recovered log.
type Message struct {
	Kind format.Kind
	LSN  format.LSN
	Page format.PageID
	Ptr  format.DiskPtr
	Body []byte // of KindCounter and KindMeta, otherwise nil; valid during the call
}

// Apply calls visit for the messages below End in the order of the log, without pads, aborted messages and batch
// markers. It stops at visit's first error and returns it unchanged.
func (r *Result) Apply(visit func(Message) error) error {
	for i, seg := range r.Segments {
		bodies := r.index[i].bodies
		start := seg.Slot.Offset(r.size)
		for _, e := range r.index[i].entries {
			kind := e.word.Kind()
			m := Message{Kind: kind, LSN: seg.Base + format.LSN(e.pos), Page: e.page, Ptr: format.DiskPtr{
				Off: start + format.Offset(e.pos), Len: uint32(e.word.Len()), Blob: kind.Blob()}}
			if m.LSN >= r.End {
				return nil
			}
			if keepsBody(kind) {
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
