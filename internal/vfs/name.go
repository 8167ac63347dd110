package vfs

import (
	"io/fs"
	"strings"
)

// CheckName returns an error that wraps fs.ErrInvalid unless name is the name of an entry in a directory: one element
// of a path, and neither "." nor "..". op and dir are for the error.
func CheckName(op, dir, name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return &fs.PathError{Op: op, Path: dir + "/" + name, Err: fs.ErrInvalid}
	}
	return nil
}
