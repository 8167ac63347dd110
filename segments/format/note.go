package format

import "fmt"

// A Note is a small named value of a stream. The newest message of a name says what its value is. Its encoding, the
// body of a KindNote message:
//
//	0  1  length of the name in bytes, not 0
//	1  1  1: the note has a value; 0: it was removed, and no value follows
//	2  …  the name, then the value
type Note struct {
	Name  []byte
	Value []byte
	Set   bool // false: there is no such note from here on
}

const noteHeadSize = 2

// MaxNoteName is the longest name of a note in bytes. MaxNoteValue is the longest value of one in bytes.
const (
	MaxNoteName  = 255
	MaxNoteValue = 1024
)

// Size returns the length of the encoded note in bytes.
func (n Note) Size() int { return noteHeadSize + len(n.Name) + len(n.Value) }

// Put encodes n into dst, which has Size bytes.
func (n Note) Put(dst []byte) {
	dst[0], dst[1] = byte(len(n.Name)), 0
	if n.Set {
		dst[1] = 1
	}
	copy(dst[noteHeadSize:], n.Name)
	copy(dst[noteHeadSize+len(n.Name):], n.Value)
}

// DecodeNote decodes the body of a KindNote message, which it aliases. Errors wrap ErrRecord.
func DecodeNote(body []byte) (Note, error) {
	if len(body) < noteHeadSize || body[0] == 0 || len(body) < noteHeadSize+int(body[0]) {
		return Note{}, fmt.Errorf("%w: a note of %d bytes", ErrRecord, len(body))
	}
	end := noteHeadSize + int(body[0])
	n := Note{Name: body[noteHeadSize:end:end], Value: body[end:], Set: body[1] == 1}
	if body[1] > 1 || len(n.Value) > MaxNoteValue || !n.Set && len(n.Value) > 0 {
		return Note{}, fmt.Errorf("%w: a note with flags %d and a value of %d bytes", ErrRecord, body[1], len(n.Value))
	}
	return n, nil
}
