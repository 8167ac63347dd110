package format

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxRootName is the length of the longest name of a root, in bytes.
const MaxRootName = 8 << 10

// ErrRoot reports that the body of a KindRoot message, or an entry of a snapshot's list of roots, is not a root.
var ErrRoot = errors.New("corrupt root")

// Root is a name and the page that it names.
type Root struct {
	Name   string
	Target PageID // 1 … MaxPageID
}

// check returns an error unless r is a root that CASRoot can make.
func (r Root) check() error {
	if len(r.Name) > MaxRootName || r.Target == 0 || r.Target > MaxPageID {
		return fmt.Errorf("%w: %v, name of %d bytes", ErrRoot, r.Target, len(r.Name))
	}
	return nil
}

// AppendRoot appends the body of a KindRoot message to dst and returns the extended slice:
//
//	uvarint  id of the page that is named
//	rest     the name
func AppendRoot(dst []byte, r Root) []byte {
	return append(binary.AppendUvarint(dst, uint64(r.Target)), r.Name...)
}

// DecodeRoot decodes the body of a KindRoot message. Each root has one encoding. Its error wraps ErrRoot.
func DecodeRoot(body []byte) (Root, error) {
	target, name, err := cutRoot(body)
	if err != nil {
		return Root{}, err
	}
	return Root{Name: string(name), Target: target}, nil
}

// CheckRoot returns the error of DecodeRoot, and allocates nothing if there is none.
func CheckRoot(body []byte) error {
	_, _, err := cutRoot(body)
	return err
}

// cutRoot decodes the body of a KindRoot message. The name aliases it.
func cutRoot(body []byte) (PageID, []byte, error) {
	v, n := binary.Uvarint(body)
	if n <= 0 || n > 1 && body[n-1] == 0 { // only the shortest encoding is valid
		return 0, nil, fmt.Errorf("%w: invalid varint", ErrRoot)
	}
	if v == 0 || v > uint64(MaxPageID) || len(body)-n > MaxRootName {
		return 0, nil, fmt.Errorf("%w: %v, name of %d bytes", ErrRoot, PageID(v), len(body)-n)
	}
	return PageID(v), body[n:], nil
}

// SnapshotRoot is a root in a snapshot: the page whose newest message is the root's, and what that message says.
//
//	 0  8  page id
//	 8  8  id of the page that is named
//	16  2  length of the name in bytes
//	18  …  the name
type SnapshotRoot struct {
	Page PageID
	Root
}

const snapshotRootSize = 18 // without the name

// Append appends the encoding of r to dst and returns the extended slice.
func (r SnapshotRoot) Append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.Page))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.Target))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(r.Name)))
	return append(dst, r.Name...)
}

// decodeSnapshotRoots decodes n roots, in the order of their pages, whose ids lie below next. The names share one
// string. Its error wraps ErrSnapshot.
func decodeSnapshotRoots(src []byte, n int, next PageID) ([]SnapshotRoot, error) {
	if n < 0 || n > len(src)/snapshotRootSize {
		return nil, fmt.Errorf("%w: %d roots in %d bytes", ErrSnapshot, n, len(src))
	}
	roots, text, last := make([]SnapshotRoot, 0, n), string(src), FirstUserPage-1
	at := 0
	for len(roots) < n {
		if len(src)-at < snapshotRootSize {
			return nil, fmt.Errorf("%w: %d of %d roots", ErrSnapshot, len(roots), n)
		}
		length := int(binary.LittleEndian.Uint16(src[at+16:]))
		r := SnapshotRoot{Page: PageID(binary.LittleEndian.Uint64(src[at:]))}
		r.Target = PageID(binary.LittleEndian.Uint64(src[at+8:]))
		if at += snapshotRootSize; len(src)-at < length {
			return nil, fmt.Errorf("%w: name of %d bytes with %d bytes left", ErrSnapshot, length, len(src)-at)
		}
		r.Name = text[at : at+length]
		if err := r.check(); err != nil || r.Page <= last || r.Page >= next {
			return nil, fmt.Errorf("%w: root %.32q on %v after %v: %v", ErrSnapshot, r.Name, r.Page, last, err)
		}
		roots, at, last = append(roots, r), at+length, r.Page
	}
	if at != len(src) {
		return nil, fmt.Errorf("%w: %d bytes after the last root", ErrSnapshot, len(src)-at)
	}
	return roots, nil
}
