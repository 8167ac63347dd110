package checkpoint

import (
	"fmt"

	"pagecache/segments/format"
)

// checkSegment verifies the header and all messages of a segment: b is its used bytes. It calls blob with the pointer
// to each blob in it; blob may be nil. The error comes with the offset in b.
func checkSegment(b []byte, g segment, sb *format.Superblock, blob func(format.BlobPtr)) (at int, err error) {
	h, err := format.DecodeSegmentHeader(b, g.slot, sb.SegmentSize)
	switch {
	case err != nil:
		return 0, err
	case h.State != format.SegmentStateInUse || h.Base != g.base || h.Store != sb.Store || h.Identity() != g.identity:
		return 0, fmt.Errorf("slot %v holds another segment, with base %d", g.slot, h.Base)
	}
	seed := format.MakeSeed(sb.Store, h.Generation, g.slot)
	return walk(b, format.SegmentStart, g.base, seed, blob)
}

// walk verifies the messages of a segment from offset pos on.
func walk(b []byte, pos int, base format.LSN, seed format.Seed, blob func(format.BlobPtr)) (at int, err error) {
	for len(b)-pos >= format.HeaderSize {
		lsn := base + format.LSN(pos)
		h, body, err := format.DecodeMessage(b[pos:], lsn, seed)
		if err == nil && h.Kind == format.KindGroup {
			err = checkGroup(h, body, seed, blob)
		} else if err == nil {
			err = visitBlob(h.Kind, body, blob)
		}
		if err != nil {
			return pos, fmt.Errorf("LSN %d: %w", lsn, err)
		}
		pos += format.AlignUp(h.Len)
	}
	return 0, nil
}

// checkGroup verifies the messages of a group whose own checksum is right.
func checkGroup(h format.Header, body []byte, seed format.Seed, blob func(format.BlobPtr)) error {
	if err := format.CheckGroup(body, h.LSN, seed); err != nil {
		return err
	}
	for at := format.GroupHeadSize; at < len(body); {
		lsn := h.LSN + format.HeaderSize + format.LSN(at)
		m, err := format.DecodeHeader(body[at:], len(body)-at, lsn)
		if err == nil {
			err = visitBlob(m.Kind, body[at+format.HeaderSize:at+m.Len], blob)
		}
		if err != nil {
			return err
		}
		at += format.AlignUp(m.Len)
	}
	return nil
}

// visitBlob calls visit if the message points to a blob.
func visitBlob(k format.Kind, body []byte, visit func(format.BlobPtr)) error {
	if !k.Blob() {
		return nil
	}
	_, body, err := format.CutPrev(k, body)
	if err != nil {
		return err
	}
	ptr, err := format.DecodeBlobPtr(body)
	if err == nil && visit != nil {
		visit(ptr)
	}
	return err
}
