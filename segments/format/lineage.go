package format

import (
	"math"
	"slices"
	"strconv"
)

// Timeline identifies what one opening for writing adds to a store. It is drawn at random, so that a copy of a store
// and its original go on in different timelines. 0 stands for none.
type Timeline uint64

// String returns the timeline in hexadecimal.
func (t Timeline) String() string { return "0x" + strconv.FormatUint(uint64(t), 16) }

// MaxAncestors is the number of ancestors that a superblock has room for.
const MaxAncestors = 64

// An Ancestor is a timeline of a store, and the LSN from which on the log belonged to it.
//
//	0  8  timeline
//	8  8  branch
type Ancestor struct {
	Timeline Timeline
	Branch   LSN
}

const ancestorSize = 16

// Lineage is the timelines of a store, newest first. The log belongs to each from its branch to that of the next newer
// one. Timelines that own nothing are left out.
type Lineage []Ancestor

// Lineage returns the timelines that the superblock lists: its own, then its ancestors.
func (s *Superblock) Lineage() (l Lineage) {
	if s.Timeline == 0 {
		return nil
	}
	l = append(l, Ancestor{s.Timeline, s.Branch})
	for _, a := range s.Ancestors {
		if a.Timeline == 0 {
			break
		}
		l = append(l, a)
	}
	return l
}

// Span returns the part of the log that belongs to a timeline: LSNs [branch, end). known is false if the timeline is
// not listed.
func (l Lineage) Span(t Timeline) (branch, end LSN, known bool) {
	end = math.MaxInt64
	for _, a := range l {
		if a.Timeline == t {
			return a.Branch, end, true
		}
		end = a.Branch
	}
	return 0, 0, false
}

// Descend begins timeline t at LSN branch: the timelines so far become its ancestors, as far as keep says that they
// still own something. If there are too many, the oldest are dropped, but never pinned.
func (s *Superblock) Descend(t Timeline, branch LSN, pinned Timeline, keep func(Timeline) bool) {
	l := slices.DeleteFunc(s.Lineage(), func(a Ancestor) bool { return a.Timeline != pinned && !keep(a.Timeline) })
	for len(l) > MaxAncestors {
		i := len(l) - 1
		if l[i].Timeline == pinned {
			i--
		}
		s.Listed = max(s.Listed, l[i-1].Branch) // all that belongs to l[i] lies below
		l = slices.Delete(l, i, i+1)
	}
	s.Timeline, s.Branch, s.Ancestors = t, branch, [MaxAncestors]Ancestor{}
	copy(s.Ancestors[:], l)
}
