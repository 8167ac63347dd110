package recovery

import (
	"encoding/binary"
	"sync"

	"pagecache/segments/format"
)

// An opening for writing writes the tail of the log anew, so it needs the newest segment of a standalone log in memory.
// Scan reads it to where the caller needs it, and so it is read, and its messages are verified, once. One goroutine
// reads it piece by piece while the other one verifies the messages of the pieces before.

// tailPiece is the number of bytes that are read at once. It is a multiple of BulkAlign.
const tailPiece = 1 << 20

// memoryFor returns the memory for slot i of s.slots, and whether it is Options.Tail.
func (r *reader) memoryFor(i int) (buf []byte, tail bool, err error) {
	s := r.s
	if n := len(s.chain); len(s.o.Tail) == s.size && n > 0 && s.chain[n-1] == i {
		s.res.TailFilled = s.size
		return s.o.Tail, true, nil
	}
	buf, err = r.buffer()
	return buf, false, err
}

// walkTail reads and walks slot i of s.slots, the newest segment of the log, in Options.Tail. Of a log that was closed
// cleanly it reads no more than a few bytes behind the clean end, if the messages end there. It returns false if the
// disk does not return all of the segment: then nothing is known of it.
func (r *reader) walkTail(i int) bool {
	s := r.s
	clean := int(s.o.End - s.slots[i].base)
	if s.o.Clean && clean >= format.SegmentStart && clean <= s.size-2*BulkAlign {
		n := (clean+BulkAlign-1)&^(BulkAlign-1) + BulkAlign
		if w := &s.segments[i]; r.fillAndWalk(i, n) && w.end == clean && !w.rest {
			s.res.TailFilled = n
			return true
		}
	}
	return r.fillAndWalk(i, s.size)
}

// fillAndWalk reads and walks the first n bytes of slot i of s.slots in Options.Tail. It reports whether the disk has
// returned them.
func (r *reader) fillAndWalk(i, n int) bool {
	s := r.s
	t, w := &s.slots[i], &s.segments[i]
	fresh := walked{read: true, log: true, stable: format.NoLSN}
	*w = fresh
	f := &filling{}
	f.more.L = &f.mu
	var wg sync.WaitGroup
	wg.Go(func() { f.fill(s, s.o.Tail[:n], int64(t.id.Offset(s.size))) })
	r.walk(i, s.o.Tail, f)
	wg.Wait()
	if w.inTail = f.err == nil; !w.inTail {
		*w = fresh
	}
	return w.inTail
}

// filling is the state of memory that a goroutine fills.
type filling struct {
	mu   sync.Mutex
	more sync.Cond // on mu: n or done has changed
	n    int       // bytes that are filled. mu guards it and done
	done bool      // no more will be
	err  error     // of reading. Belongs to fill until it has ended
}

// fill reads buf at off.
func (f *filling) fill(s *scanner, buf []byte, off int64) {
	src := s.body()
	if s.o.TailSource != nil {
		src = s.o.TailSource
	}
	for pos := 0; pos < len(buf) && f.err == nil; pos += tailPiece {
		piece := buf[pos:min(pos+tailPiece, len(buf))]
		if f.err = s.readAt(src, piece, off+int64(pos)); f.err == nil {
			f.add(len(piece), false)
		}
	}
	f.add(0, true)
}

// add says that n more bytes are filled.
func (f *filling) add(n int, done bool) {
	f.mu.Lock()
	f.n, f.done = f.n+n, done
	f.mu.Unlock()
	f.more.Broadcast()
}

// await waits until n bytes are filled, or no more will be, and returns how many are.
func (f *filling) await(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.n < n && !f.done {
		f.more.Wait()
	}
	return f.n
}

// awaitMessage waits until the message at an offset of seg is filled, or no more of it will be. have is the number of
// bytes that are known to be filled, and it returns a higher one.
func (f *filling) awaitMessage(seg []byte, pos, have int) int {
	if end := pos + format.HeaderSize; end > have {
		have = f.await(end)
	}
	if pos+format.HeaderSize > have {
		return have // of a valid message nothing is missing
	}
	end := min(pos+format.Word(binary.LittleEndian.Uint32(seg[pos:])).Len(), len(seg))
	if end > have {
		have = f.await(end)
	}
	return have
}
