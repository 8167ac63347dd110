package pagemap

import (
	"cmp"
	"errors"
	"fmt"

	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/txn"
	"pagecache/segments/format"
)

// Part is one message of a commit: a delta or a whole page, without the format.Prev of a delta.
type Part struct {
	Kind format.Kind
	Body []byte
	// Blob is the blob that the message points to, if any.
	Blob format.BlobID
}

// bodyLen returns the length of the message's body.
func (p *Part) bodyLen() int {
	if p.Kind.Delta() {
		return format.PrevSize + len(p.Body)
	}
	return len(p.Body)
}

// A Write changes one page of a commit.
type Write struct {
	Read txn.Read // the page, with the version that it must still have
	// Parts are the messages in the order of the log. The first one may be of any kind, all others are deltas. There
	// are none if the page is none (RenewNames).
	Parts []Part
	// Prepare, if set, runs before the commit has a place in the log, with the head that Entry will get. It may panic:
	// then nothing was done.
	Prepare func(h *Head)
	// Entry makes the page's new entry for its messages, on top of head h, which may be nil. It runs while the commit
	// holds a place in the log: it must not block or panic, and calls no code of the embedder.
	Entry func(h *Head, msgs []pagestack.Ref) *Head

	below *Head
	head  *Head
}

// Head returns the page's new entry, after the commit.
func (w *Write) Head() *Head { return w.head }

// Below returns the entry that the new one has replaced, after the commit.
func (w *Write) Below() *Head { return w.below }

// ErrConflict reports that a page has changed since it was read.
var ErrConflict = errors.New("conflict")

// A ConflictError names the page of a conflict. Nothing was done. It wraps ErrConflict.
type ConflictError struct{ Page format.PageID }

// Error implements error.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("%v: page %d was changed by another transaction", ErrConflict, e.Page)
}

// Unwrap returns ErrConflict.
func (e *ConflictError) Unwrap() error { return ErrConflict }

// Commit is one attempt to change several pages in one step.
type Commit struct {
	Age    uint64     // an older transaction has a lower one; see txn.Views.Record
	Writes []Write    // in the order of their page ids, each page once
	Reads  []txn.Read // the other pages that were read; the commit keeps the slice

	refs []pagestack.Ref // memory that the next call of Map.Commit uses again
}

// Commit makes the changes of c, if all its pages still have the versions that were read, and returns the LSN of the
// last message: once that is stable, so are all changes. They are one message in the log, or one group of messages,
// which has several parts if it takes more than a quarter of a segment. So recovery finds all of them or none. Errors:
// a *ConflictError, iobuf.ErrTooLarge if the messages take more than MostCommitted, and those of iobuf.Log.Reserve.
// After an error nothing was done.
func (m *Map) Commit(c *Commit) (format.LSN, error) {
	size, err := c.groupSize()
	if err != nil {
		return 0, err
	}
	rec, prepared := m.Clock.Record(c.Age, len(c.Writes)), false
	defer func() {
		if !prepared {
			rec.Abort()
		}
	}()
	for i := range c.Writes {
		w, ok := &c.Writes[i], false
		if w.below, ok = rec.Install(&w.Read); !ok {
			return 0, &ConflictError{w.Read.Page}
		}
		if w.Prepare != nil {
			w.Prepare(w.below)
		}
	}
	if page, changed := txn.Changed(c.Reads); changed { // before the log has lost the room of a group
		return 0, &ConflictError{page}
	}
	at, err := m.reserve(c, rec, size)
	if err != nil {
		return 0, err
	}
	refs, err := c.write(&at)
	if err != nil {
		return 0, err
	}
	prepared = true
	first := 0
	for i := range c.Writes {
		end := first + len(c.Writes[i].Parts)
		rec.SetResult(i, c.Writes[i].entry(refs[first:end:end]))
		m.Clock.Begin(c.Writes[i].Read.Page)
		first = end
	}
	// Rule 7: the accounts include the messages before the group completes; and before anybody finds the new entries,
	// whose messages are counted as dead when they are replaced.
	for _, r := range refs[at.parts.ready(refs):] {
		m.store.Space.Live(r.Ptr)
	}
	won := rec.Decide(c.Reads)
	for i := range c.Writes {
		if won {
			m.Clock.Stamp(c.Writes[i].Read.Page)
		}
		m.Clock.End(c.Writes[i].Read.Page)
	}
	if !won {
		at.abort()
		for _, r := range refs {
			m.store.Space.Dead(r.Ptr)
		}
		return 0, &ConflictError{rec.Conflict()}
	}
	at.complete()
	for i := range c.Writes {
		if w := &c.Writes[i]; len(w.Parts) > 0 && !w.Parts[0].Kind.Delta() {
			m.dead(w.below, w.Parts[0].Blob)
		}
	}
	return refs[len(refs)-1].LSN, nil
}

// messages returns the number of messages.
func (c *Commit) messages() (n int) {
	for i := range c.Writes {
		n += len(c.Writes[i].Parts)
	}
	return n
}

// MostCommitted is the greatest length in bytes of the messages of a commit, with their headers. A commit is in memory
// until it is done, and nothing that it has written is reclaimed before.
const MostCommitted = 4 << 30

// groupSize returns the length of the group of all messages.
func (c *Commit) groupSize() (int, error) {
	size := format.GroupSize()
	for i := range c.Writes {
		for j := range c.Writes[i].Parts {
			size += format.AlignUp(format.HeaderSize + c.Writes[i].Parts[j].bodyLen())
		}
	}
	if size > MostCommitted {
		const text = "%w: the messages of the transaction take %d bytes, limit %d"
		return 0, fmt.Errorf(text, iobuf.ErrTooLarge, size, MostCommitted)
	}
	return size, nil
}

// place is the place of a commit in the log: that of a group, of a part of one, or of a message that is alone.
type place struct {
	group iobuf.Group
	alone iobuf.Reservation
	one   bool    // it is that of a message that is alone
	parts *parted // nil unless the group has several parts
}

// reserve takes the place of a commit, whose group would be of the given size, or of its first part.
func (m *Map) reserve(c *Commit, rec *txn.Record, size int) (at place, err error) {
	n := c.messages()
	if at.one = n == 1; !at.one {
		if most := cmp.Or(m.commits.groupLimit, m.store.SegmentSize()/4); size > most {
			at.parts, err = m.divide(c, rec, most)
			return at, err
		}
		at.group, err = m.store.Log.ReserveGroup(n, size)
		return at, err
	}
	for i := range c.Writes {
		if w := &c.Writes[i]; len(w.Parts) > 0 {
			p := &w.Parts[0]
			at.alone, err = m.store.Log.Reserve(p.Kind, w.Read.Page, p.bodyLen())
		}
	}
	return at, err
}

// add adds a message, as iobuf.Group.Add does.
func (a *place) add(k format.Kind, page format.PageID, n int) (body []byte, lsn format.LSN, ptr format.DiskPtr) {
	if !a.one {
		return a.group.Add(k, page, n)
	}
	return a.alone.Body(), a.alone.LSN(), a.alone.Ptr()
}

func (a *place) complete() {
	a.parts.end(true)
	if a.one {
		a.alone.Complete()
	} else {
		a.group.Complete()
	}
}

func (a *place) abort() {
	a.parts.end(false)
	if a.one {
		a.alone.Abort()
	} else {
		a.group.Abort()
	}
}

// write writes all messages to the log and returns their places. After an error it holds no place.
func (c *Commit) write(at *place) (refs []pagestack.Ref, err error) {
	refs = c.refs[:0]
	for i := range c.Writes {
		if refs, err = c.Writes[i].add(at, refs); err != nil {
			at.parts.giveUp(refs)
			break
		}
	}
	c.refs = refs
	return refs, err
}

// add writes the page's messages to the log, and appends their places to refs.
func (w *Write) add(at *place, refs []pagestack.Ref) ([]pagestack.Ref, error) {
	prev := format.LSN(0)
	if w.below != nil {
		prev = w.below.LSN
	}
	for i := range w.Parts {
		if err := at.parts.room(at, refs); err != nil {
			return refs, err
		}
		p := &w.Parts[i]
		body, lsn, ptr := at.add(p.Kind, w.Read.Page, p.bodyLen())
		if p.Kind.Delta() {
			body = format.PutPrev(body, prev)
		}
		copy(body, p.Body)
		prev = lsn
		refs = append(refs, pagestack.Ref{LSN: lsn, Ptr: ptr})
	}
	return refs, nil
}

// entry makes the page's new entry.
func (w *Write) entry(msgs []pagestack.Ref) *Head {
	w.head = w.Entry(w.below, msgs)
	return w.head
}
