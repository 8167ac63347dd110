package recovery

import (
	"errors"
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

// Error returns the file, the known parts of the place, the reason and the cause. It states each of them once: it omits
// the reason if the text of Err contains it, and Err if the reason contains its text.
func (e *CorruptError) Error() string {
	var where, why []string
	if e.File != "" {
		where = append(where, e.File)
	}
	if place := e.Place.String(); place != "" {
		where = append(where, place)
	}
	cause := ""
	if e.Err != nil {
		cause = e.Err.Error()
	}
	if e.Reason != "" && !strings.Contains(cause, e.Reason) {
		why = append(why, e.Reason)
	}
	if cause != "" && (!strings.Contains(e.Reason, cause) || len(why) == 0) {
		why = append(why, cause)
	}
	parts := []string{ErrCorrupt.Error()}
	if len(where) > 0 {
		parts = append(parts, strings.Join(where, ", "))
	}
	return strings.Join(append(parts, why...), ": ")
}

// Unwrap returns ErrCorrupt and Err.
func (e *CorruptError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrCorrupt}
	}
	return []error{ErrCorrupt, e.Err}
}
