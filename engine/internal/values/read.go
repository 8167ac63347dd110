package values

import (
	"errors"
	"fmt"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/internal/vfs"
	"pagecache/mmapread"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// Encoded returns the encoded fragment of a message: a view of the log or of a blob, or memory of its own if the
// fragment was compressed, lies in an io buffer, or cannot be mapped. older is that of fetch.
func (v *IO) Encoded(pid format.PageID, r pagestack.Ref, older format.LSN) (b []byte, view bool, err error) {
	m, err := v.Store.Read(r.LSN, r.Ptr)
	if err == nil {
		err = v.Store.CorruptMessage(r.LSN, r.Ptr, checkLink(&m, r.LSN, older))
	}
	if err != nil {
		return nil, false, logstore.InPage(pid, err)
	}
	switch {
	case m.Kind.Blob():
		ptr, err := format.DecodeBlobPtr(m.Body)
		if err != nil {
			return nil, false, logstore.InPage(pid, v.Store.CorruptMessage(r.LSN, r.Ptr, err))
		}
		if b, view, err = v.Blobs.Read(ptr); err != nil {
			return nil, false, inMessage(r.LSN, pid, err)
		}
		return b, view, nil
	case m.Kind.Zstd():
		err = mmapread.Guard(func() (err error) {
			b, err = v.Unzip.Unpack(m.Body, v.Store.SegmentSize())
			return err
		})
		return b, false, logstore.InPage(pid, v.Store.CorruptMessage(r.LSN, r.Ptr, err))
	}
	return m.Body, m.View, nil
}

// checkLink returns an error if the message at lsn cannot be the one that follows the message at LSN older in its page,
// or the oldest one if older is 0 (rule 14).
func checkLink(m *logstore.Message, lsn, older format.LSN) error {
	switch {
	case older == 0 && m.Kind.Plain() != format.KindCompact:
		return fmt.Errorf("a message of kind %v, where the page has its base", m.Kind)
	case older != 0 && !m.Kind.Delta():
		return fmt.Errorf("a message of kind %v, where the page has a delta", m.Kind)
	case older != 0 && m.Prev != format.PrevOf(older):
		return errors.New(m.Prev.Mismatch(lsn))
	}
	return nil
}

// inMessage names the message and the page in an error of corruption.
func inMessage(lsn format.LSN, pid format.PageID, err error) error {
	if ce := (*recovery.CorruptError)(nil); errors.As(err, &ce) {
		ce.Place = ce.Place.WithLSN(lsn).WithPage(pid)
	}
	return err
}

// FetchBlocks reads all messages of a page without a resident base into the page cache in one batch, parking the
// goroutine: no page fault blocks a P. The error of a message that cannot be read shows
// when it is decoded.
func (v *IO) FetchBlocks(h *pagestack.Head) {
	warm := true
	h.Refs(func(r pagestack.Ref) { warm = warm && v.Store.View.IsWarm(rangeOf(r)) })
	if warm {
		return
	}
	if cold, _ := v.Store.View.Warm(AppendSealed(nil, v.Store, h)); cold > 0 {
		v.Cold.Add(int64(cold))
	}
}

func rangeOf(r pagestack.Ref) vfs.Range { return vfs.Range{Off: int64(r.Ptr.Off), Len: int(r.Ptr.Len)} }

// AppendSealed appends the places of the page's messages that are read through the map.
func AppendSealed(ranges []vfs.Range, s *logstore.Store, h *pagestack.Head) []vfs.Range {
	h.Refs(func(r pagestack.Ref) {
		if s.IsSealed(r.Ptr.Off) {
			ranges = append(ranges, rangeOf(r))
		}
	})
	return ranges
}

// Guard calls f, which looks at values of a page. If they may be views, a fault becomes an error: the file was
// truncated, or the disk failed.
func (v *IO) Guard(views bool, pid format.PageID, f func() error) error {
	if !views {
		return f()
	}
	err := mmapread.Guard(f)
	if errors.Is(err, vfs.ErrFault) {
		at := recovery.Place{}.WithPage(pid)
		return v.Store.Reporter().Corrupt(&recovery.CorruptError{File: v.Store.LogFile(), Place: at, Err: err})
	}
	return err
}
