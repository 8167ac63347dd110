package stream

import (
	"bytes"
	"fmt"
	"slices"

	"pagecache/engine/internal/logstore"
	"pagecache/mmapread"
	"pagecache/segments/format"
)

// Note is a small named value of a stream.
type Note struct {
	Name  string // 1 … 255 bytes
	Value []byte // at most 1 KiB; nil: there is no such note
}

// noted is what the newest message of a note says. It is never changed.
type noted struct {
	value []byte
	set   bool // false: the note was removed. Forget removes it from the stream once its segment is dropped
	// seg holds the newest message of the note. An older one in the same segment has no run of its own in the index.
	seg *segment
}

// encoded returns n as it is written.
func (n Note) encoded() format.Note {
	return format.Note{Name: []byte(n.Name), Value: n.Value, Set: n.Value != nil}
}

// noteRoom returns the length of the message of a note in bytes.
func noteRoom(n format.Note) int { return format.AlignUp(format.HeaderSize + n.Size()) }

// checkNotes returns ErrTooLarge if one of the notes is too long, or if all of the log, with these set, would take more
// than a quarter of a segment, so that they could not be carried forward at once. A value that is replaced or removed
// does not count. The messages of one call take no more than that, either, so that they fit a segment beside the
// message of a long record. The caller holds Set.mu.
func (t *Stream) checkNotes(notes []Note) error {
	all, given := t.set.noteBytes, 0
	var set map[string]int // the room that the notes before take by which one of several is replaced
	if len(notes) > 1 {
		set = make(map[string]int, len(notes))
	}
	for _, n := range notes {
		if len(n.Name) == 0 || len(n.Name) > format.MaxNoteName {
			return tooLarge("note with a name of %d bytes, must be 1 to %d", len(n.Name), format.MaxNoteName)
		}
		if len(n.Value) > format.MaxNoteValue {
			return tooLarge("note %q: value of %d bytes, limit %d", n.Name, len(n.Value), format.MaxNoteValue)
		}
		old, earlier := set[n.Name]
		if x, found := t.Note(n.Name); found && !earlier {
			old = noteRoom(Note{n.Name, x}.encoded())
		}
		room := 0
		if n.Value != nil {
			room = noteRoom(n.encoded())
		}
		all, given = all+room-old, given+room
		if set != nil {
			set[n.Name] = room
		}
	}
	if limit := t.set.store.SegmentHolds() / 4; max(all, given) > limit {
		return tooLarge("notes of %d bytes, limit %d for all of a log", max(all, given), limit)
	}
	return nil
}

// limitError is an ErrTooLarge about another limit than the length of a segment, which the text of that is about.
type limitError struct{ text string }

func (e *limitError) Error() string { return e.text }

func (e *limitError) Unwrap() error { return logstore.ErrTooLarge }

// tooLarge returns an ErrTooLarge with this text.
func tooLarge(text string, args ...any) error { return &limitError{fmt.Sprintf(text, args...)} }

// Note returns the value of a note, set last, and false if there is none. It must not be modified.
func (t *Stream) Note(name string) ([]byte, bool) {
	n, found := t.note(name)
	return n.value, found && n.set
}

// note returns what is known of a note.
func (t *Stream) note(name string) (*noted, bool) {
	if n, found := t.notes.Load(name); found {
		return n.(*noted), true
	}
	return &noted{}, false
}

// Notes returns the names of the notes, in order.
func (t *Stream) Notes() (names []string) {
	t.notes.Range(func(name, n any) bool {
		if n.(*noted).set {
			names = append(names, name.(string))
		}
		return true
	})
	slices.Sort(names)
	return names
}

// setNote makes a message in g the newest one of its note. The caller holds Set.mu.
func (t *Stream) setNote(g *segment, n format.Note) {
	name := string(n.Name)
	old, _ := t.note(name)
	if old.set {
		t.set.noteBytes -= noteRoom(format.Note{Name: n.Name, Value: old.value})
		old.seg.notes--
	}
	if n.Set {
		t.set.noteBytes += noteRoom(n)
		g.notes++
	}
	if old.seg != g && g.mapped.Load() == nil {
		g.runs = append(g.runs, nil)
	}
	t.notes.Store(name, &noted{value: bytes.Clone(n.Value), set: n.Set, seg: g})
}

// appendNote appends a note as a message of its own. The caller holds Set.mu.
func (t *Stream) appendNote(n format.Note) (lsn format.LSN, opened bool, err error) {
	s := t.set
	m, err := s.store.Log.Reserve(format.KindNote, format.PageID(t.id), n.Size())
	if err != nil {
		return 0, false, err
	}
	lsn = m.LSN()
	g, opened, err := s.segmentAt(lsn, m.Ptr().Off)
	if err != nil {
		m.Abort()
		return 0, false, err
	}
	n.Put(m.Body())
	m.Complete()
	t.setNote(g, n)
	return lsn, opened, nil
}

// loadNote applies a note that was read from g. Its value may be a part of the map.
func (t *Stream) loadNote(g *segment, body []byte) error {
	n, err := format.DecodeNote(body)
	if err == nil {
		t.setNote(g, n)
	}
	return err
}

// loadNoteAt applies the note whose message is at an offset of g, according to the index of g.
func (t *Stream) loadNoteAt(g *segment, off int) error {
	at := At{LSN: g.base + format.LSN(off)}
	at.Ptr.Off = g.slot.Offset(int(t.set.size)) + format.Offset(off)
	h, err := t.set.store.ReadHeader(at.LSN, at.Ptr.Off)
	if err != nil {
		return err
	}
	at.Ptr.Len = uint32(h.Len)
	m, err := t.set.store.Read(at.LSN, at.Ptr)
	if err != nil {
		return err
	}
	err = errIndex
	if m.Kind == format.KindNote && format.StreamID(m.Page) == t.id {
		err = mmapread.Guard(func() error { return t.loadNote(g, m.Body) })
	}
	return t.set.store.CorruptMessage(at.LSN, at.Ptr, err)
}

// CarryNotes writes the notes again whose newest messages lie in segments that end at or below low, so that these can
// leave the log. The message by which they leave comes later, so once it is stable the copies are stable, too. Errors:
// those of the log's Reserve; after an error nothing was done.
func (s *Set) CarryNotes(low format.LSN) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := func(g *segment) bool { return g.notes > 0 && g.base+s.size <= low }
	if !slices.ContainsFunc(s.segments, old) {
		return nil
	}
	type carried struct {
		t *Stream
		n format.Note
	}
	var all []carried
	size := format.GroupSize()
	for _, t := range s.all() {
		t.notes.Range(func(name, v any) bool {
			if n := v.(*noted); n.set && old(n.seg) {
				c := carried{t, Note{name.(string), n.value}.encoded()}
				c.n.Set = true
				all = append(all, c)
				size += noteRoom(c.n)
			}
			return true
		})
	}
	m, err := s.store.Log.ReserveCarried(size, len(all)*format.IndexUnits(format.KindNote))
	if err != nil {
		return err
	}
	g, _, err := s.segmentAt(m.LSN(), m.Ptr().Off)
	if err != nil {
		m.Abort()
		return err
	}
	for _, c := range all {
		body, _, _ := m.Add(format.KindNote, format.PageID(c.t.id), c.n.Size())
		c.n.Put(body)
	}
	m.Complete()
	for _, c := range all {
		c.t.setNote(g, c.n)
	}
	return nil
}

// forgetNotes forgets the notes that were removed by messages in segments below first. The caller holds Set.mu.
func (s *Set) forgetNotes(first format.LSN) {
	for _, t := range s.all() {
		t.notes.Range(func(name, v any) bool {
			if n := v.(*noted); !n.set && n.seg.base < first {
				t.notes.Delete(name)
			}
			return true
		})
	}
}
