package engine

import (
	"errors"
	"fmt"

	"pagecache/internal/vfs"
	"pagecache/mmapread"
	"pagecache/segments/format"
)

// errPointer reports that a message is not as long as the pointer to it says, or that the pointer leaves its segment.
var errPointer = errors.New("message does not fit the pointer to it")

// pullMessage verifies the message at ptr and returns its header and body. The body aliases the view and is valid for as long as that is. lsn is
// the LSN that the message must carry, seed the seed of its segment, and room the number of bytes from ptr.Off to the end of the segment. Errors
// wrap those of format.DecodeMessage, errPointer, vfs.ErrFault, or the error of View. It allocates only if it fails.
func pullMessage(v vfs.Map, ptr format.DiskPtr, lsn format.LSN, seed format.Seed, room int) (h format.Header, body []byte, err error) {
	n := int(ptr.Len)
	if n < format.HeaderSize || n > room {
		return h, nil, fmt.Errorf("pull %v, %d bytes left in the segment: %w", ptr, room, errPointer)
	}
	err = mmapread.Guard(func() error {
		src, err := v.View(int64(ptr.Off), n)
		if err != nil {
			return err
		}
		touch(src)
		h, body, err = format.DecodeMessage(src, lsn, seed)
		return err
	})
	if err == nil && h.Len != n {
		err = fmt.Errorf("%w: it is %d bytes long", errPointer, h.Len)
	}
	if err != nil {
		return h, nil, fmt.Errorf("pull %v: %w", ptr, err)
	}
	return h, body, nil
}

// touch has the processor fetch all cache lines of a message at once. Decoding and summing would fetch one after another, which takes half as long
// again for 1 KiB of memory that is in no cache.
//
//go:noinline
func touch(b []byte) (sum byte) {
	const line, most = 64, 8 << 10
	for i := 0; i < min(len(b), most); i += line {
		sum += b[i]
	}
	return sum
}
