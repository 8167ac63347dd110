package recovery

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"pagecache/segments/format"
)

const (
	// maxProbedZero is the number of never-written slots that are searched for evidence. The engine keeps only a few.
	maxProbedZero = 16
	// maxProbeGenerations is the number of generations that are tried for a slot without a valid header.
	maxProbeGenerations = 64
	// olderGenerations is the number of generations below each one seen that are tried, too.
	olderGenerations = 3
)

// readHeaders reads the header of every slot, classifies the slots, and finds the chain of segments.
func (s *scanner) readHeaders() error {
	var err error
	if s.fileSize, err = s.src.Size(); err != nil {
		return fmt.Errorf("scan %s: size: %w", s.o.File, err)
	}
	count := (s.fileSize + int64(s.size) - 1) / int64(s.size)
	if count >= math.MaxUint32 {
		return fmt.Errorf("scan %s: file too large: %d bytes exceed the segment limit", s.o.File, s.fileSize)
	}
	s.stable, s.durable = format.NoLSN, s.o.Floor
	if s.o.From > 0 {
		s.stable = max(s.o.From-1, s.o.Stable)
	}
	s.res.MaxGeneration = s.o.Generation
	s.left(s.o.Left, s.o.Recycled)
	all := make([]byte, count*format.SegmentHeaderSize) // small beside the file
	if err := s.readInParallel(all); err != nil {
		return err
	}
	for id := range format.SegmentID(count) {
		if err := s.addHeader(all[:format.SegmentHeaderSize], id); err != nil {
			return err
		}
		all = all[format.SegmentHeaderSize:]
	}
	if err := s.adoptUnread(); err != nil {
		return err
	}
	return s.findChain()
}

// readInParallel reads the headers of all slots into all. Each is a separate read that waits for the disk, so several
// goroutines read at once.
func (s *scanner) readInParallel(all []byte) error {
	const readers, few = 16, 8
	count := len(all) / format.SegmentHeaderSize
	errs := make([]error, min(readers, (count+few-1)/few))
	var next atomic.Int64
	var mu sync.Mutex // on s.unread
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			var m small
			for id := int(next.Add(1)) - 1; id < count && errs[i] == nil; id = int(next.Add(1)) - 1 {
				b := all[id*format.SegmentHeaderSize:][:format.SegmentHeaderSize]
				errs[i] = m.readAt(s, b, int64(format.SegmentID(id).Offset(s.size)))
				if s.canSkip(errs[i]) {
					mu.Lock()
					if s.unread == nil {
						s.unread = map[format.SegmentID]error{}
					}
					s.unread[format.SegmentID(id)], errs[i] = errs[i], nil
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// addHeader decodes the header of slot id and adds the slot to a list of the result or to s.slots.
func (s *scanner) addHeader(buf []byte, id format.SegmentID) error {
	r := s.res
	if slices.Contains(s.o.OutOfUse, id) {
		r.OutOfUse = append(r.OutOfUse, id)
		delete(s.unread, id)
		return nil
	}
	if s.unread[id] != nil {
		return nil // adoptUnread decides
	}
	h, err := format.DecodeSegmentHeader(buf, id, s.size)
	switch {
	case errors.Is(err, format.ErrSegmentVersion):
		return fmt.Errorf("%s, %v: %w", s.o.File, s.placeOf(id, 0), err)
	case errors.Is(err, format.ErrSegmentForeign):
		return &CorruptError{File: s.o.File, Place: s.placeOf(id, 0), Err: err,
			Reason: "segment belongs to another kind of store"}
	case errors.Is(err, format.ErrSegmentZero):
		r.Zero = append(r.Zero, id)
		if !s.o.Clean && len(r.Zero) <= maxProbedZero {
			s.slots = append(s.slots, slot{id: id, invalid: err})
		}
		return nil
	case err != nil:
		if len(r.Corrupt) == 0 {
			s.firstCorrupt = err
		}
		r.Corrupt = append(r.Corrupt, id)
		if !s.o.Clean {
			s.slots = append(s.slots, slot{id: id, invalid: err})
		}
		return nil
	}
	if h.Store != s.o.Store { // it is never taken for a free or void one: its slot has lost its contents
		return &CorruptError{File: s.o.File, Place: s.placeOf(id, 0),
			Reason: fmt.Sprintf("segment belongs to another store, %v; this one is %v", h.Store, s.o.Store)}
	}
	s.enter(h)
	if h.State != format.SegmentStateInUse {
		r.Free = append(r.Free, id)
		return nil
	}
	r.Timelines[h.Timeline] = true
	s.slots = append(s.slots, slot{id: id, valid: true, header: h, gen: h.Generation, base: h.Base,
		identity: h.Identity()})
	return nil
}

// enter notes what a valid header says beyond its own slot.
func (s *scanner) enter(h format.SegmentHeader) {
	r := s.res
	r.MaxGeneration = max(r.MaxGeneration, h.Generation)
	s.stable = max(s.stable, h.Stable)
	s.writers[writer{h.Timeline, h.Generation}] = true
	s.left(h.Ledger.Left, h.Ledger.Recycled)
	if h.Ledger.Shrinks == s.o.Shrinks {
		r.Slots = max(r.Slots, h.Ledger.Slots)
	}
}

// left notes what all segments add up to that had left the log at some time, and their number. The highest counts.
func (s *scanner) left(sum format.Identity, recycled uint64) {
	if r := s.res; recycled > r.Recycled {
		r.Recycled, r.Left = recycled, sum
	}
}

// findChain sorts the slots by base and selects those that form the log according to their headers. Of several slots
// with the same base it takes the one of the highest generation. It takes none of a lower generation than one before
// it. The chain may have holes; findStop decides on them.
func (s *scanner) findChain() error {
	slices.SortFunc(s.slots, func(a, b slot) int {
		switch {
		case a.valid && !b.valid:
			return -1
		case b.valid && !a.valid:
			return 1
		}
		return cmp.Or(cmp.Compare(a.base, b.base), cmp.Compare(b.gen, a.gen), cmp.Compare(a.id, b.id))
	})
	next := s.firstBase
	for i := range s.slots {
		t := &s.slots[i]
		if !t.valid {
			break
		}
		if i > 0 && s.slots[i-1].base == t.base {
			if s.slots[i-1].gen == t.gen {
				return &CorruptError{File: s.o.File, Place: s.placeOf(t.id, 0).WithLSN(t.base),
					Reason: fmt.Sprintf("slot %d holds the same segment", s.slots[i-1].id)}
			}
			t.void = true // an older copy
			continue
		}
		if t.gen < s.newest {
			t.void = true // part of a discarded tail
			continue
		}
		s.newest = t.gen
		if t.base < s.firstBase {
			s.chain = append(s.chain, i)
		} else if t.base >= next {
			s.chain = append(s.chain, i)
			next = t.base + format.LSN(s.size)
		}
	}
	return nil
}

// probeGenerations returns the generations, highest first, to try for a slot without a valid header.
func (s *scanner) probeGenerations() []format.Generation {
	if len(s.res.Corrupt)+len(s.res.Zero) == 0 || s.o.Clean {
		return nil
	}
	seen := make([]format.Generation, 0, len(s.slots)+1)
	seen = append(seen, s.o.Generation)
	for i := range s.slots {
		if s.slots[i].valid {
			seen = append(seen, s.slots[i].gen)
		}
	}
	slices.Sort(seen)
	seen = slices.Compact(seen)
	var gens []format.Generation
	for _, g := range slices.Backward(seen) {
		for d := format.Generation(0); d <= olderGenerations && d <= g && len(gens) < maxProbeGenerations; d++ {
			if len(gens) == 0 || g-d < gens[len(gens)-1] {
				gens = append(gens, g-d)
			}
		}
	}
	return gens
}
