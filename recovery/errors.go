package recovery

import (
	"errors"
	"slices"
	"strings"
)

// ErrCorrupt is the sentinel that errors.Is finds in every *CorruptError: acknowledged data is corrupt.
var ErrCorrupt = errors.New("store is corrupt")

// A CorruptError reports that acknowledged data is corrupt, and where, as closely as that is known.
type CorruptError struct {
	File   string // path of the file; empty if it is not known
	Place  Place  // position in the file and in the log
	Reason string // the rule that the data breaks; empty if Err says it
	Err    error  // the error that revealed the corruption; may be nil
}

// Error returns the file, the known parts of the place, the reason and the text of Err. It states each of them once: if
// reason and Err contain one another it omits the shorter one, and it removes the file from the text of Err.
func (e *CorruptError) Error() string {
	parts := []string{ErrCorrupt.Error(), e.where()}
	switch cause := e.cause(); {
	case strings.Contains(cause, e.Reason):
		parts = append(parts, cause)
	case strings.Contains(e.Reason, cause):
		parts = append(parts, e.Reason)
	default:
		parts = append(parts, e.Reason, cause)
	}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ": ")
}

// where returns the file and the known parts of the place, or an empty text.
func (e *CorruptError) where() string {
	place := e.Place.String()
	if e.File == "" || place == "" {
		return e.File + place
	}
	return e.File + ", " + place
}

// cause returns the text of Err without the file, or an empty text.
func (e *CorruptError) cause() string {
	if e.Err == nil {
		return ""
	}
	text := e.Err.Error()
	if e.File == "" {
		return text
	}
	return strings.ReplaceAll(strings.TrimPrefix(text, e.File+": "), " "+e.File+":", ":") // as in "open FILE: cause"
}

// Unwrap returns ErrCorrupt and Err.
func (e *CorruptError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrCorrupt}
	}
	return []error{ErrCorrupt, e.Err}
}
