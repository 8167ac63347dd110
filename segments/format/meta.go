package format

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// ErrMeta reports that the body of a KindMeta message is not a Meta map.
var ErrMeta = errors.New("corrupt meta map")

// AppendMeta appends the body of a KindMeta message, the Meta map, to dst and returns the extended slice. The names are
// in order:
//
//	uvarint  number of names
//	for each: uvarint length of the name in bytes, the name, uvarint page id
func AppendMeta(dst []byte, m map[string]PageID) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(m)))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		dst = binary.AppendUvarint(dst, uint64(len(name)))
		dst = append(dst, name...)
		dst = binary.AppendUvarint(dst, uint64(m[name]))
	}
	return dst
}

// DecodeMeta decodes the body of a KindMeta message. The map is not nil unless there is an error, which wraps ErrMeta.
// Names must be in order, so a map has one encoding.
func DecodeMeta(body []byte) (map[string]PageID, error) {
	n, body, err := uvarint(body)
	if err != nil {
		return nil, err
	}
	if n > uint64(len(body))/2 { // an entry takes two bytes at least
		return nil, fmt.Errorf("%w: %d names in %d bytes", ErrMeta, n, len(body))
	}
	m := make(map[string]PageID, n)
	last := ""
	for i := range n {
		var length, page uint64
		if length, body, err = uvarint(body); err != nil {
			return nil, err
		}
		if length > uint64(len(body)) {
			return nil, fmt.Errorf("%w: name of %d bytes with %d bytes left", ErrMeta, length, len(body))
		}
		name := string(body[:length])
		if page, body, err = uvarint(body[length:]); err != nil {
			return nil, err
		}
		if page > uint64(MaxPageID) || i > 0 && name <= last {
			return nil, fmt.Errorf("%w: name %q, page %d, after name %q", ErrMeta, name, page, last)
		}
		m[name], last = PageID(page), name
	}
	if len(body) != 0 {
		return nil, fmt.Errorf("%w: %d bytes after the last name", ErrMeta, len(body))
	}
	return m, nil
}

// uvarint decodes a number and returns it and the bytes after it. Only the shortest encoding is valid.
func uvarint(src []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(src)
	if n <= 0 || n > 1 && src[n-1] == 0 {
		return 0, nil, fmt.Errorf("%w: invalid varint", ErrMeta)
	}
	return v, src[n:], nil
}
