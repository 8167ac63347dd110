package recovery

import (
	"slices"
	"testing"

	"pagecache/segments/format"
)

// A copy of a store goes on in a timeline of its own. No segment that it has written can take the place of one of the
// original, or the reverse, the tail included. Proves rule 14, trap 26.
func TestSegmentOfCopyIsRefused(t *testing.T) {
	const s = testSize
	o, c := fiveSegments(), fiveSegments()
	o.goOn(0xa, 5, 2)
	c.goOn(0xc, 5, 2)
	o.ends(t, o.options(), o.lsn(), 0, 1, 2, 3, 4, 5, 6)
	c.ends(t, c.options(), c.lsn(), 0, 1, 2, 3, 4, 5, 6)
	for _, to := range []struct {
		what     string
		into, of *builder
	}{{"the copy's in the original", o, c}, {"the original's in the copy", c, o}} {
		for slot := 5; slot < 8; slot++ {
			for _, clean := range []bool{false, true} {
				b := *to.into
				b.file = slices.Clone(b.file)
				copy(b.file[slot*s:(slot+1)*s], to.of.file[slot*s:])
				opts := b.options()
				if clean {
					opts = b.clean(b.lsn())
				}
				err := wantCorrupt(t, b.file, opts, "comes from a copy of the store")
				if got, _ := err.Place.Slot(); int(got) != slot {
					t.Errorf("%s, slot %d: %v", to.what, slot, err)
				}
			}
		}
	}
}

// Beside the superblock of a copy, the log of the original is refused if it has a segment that was written after the
// copy had gone on in a timeline of its own. Proves rule 14.
func TestSegmentAfterBranchIsRefused(t *testing.T) {
	const s = testSize
	o, c := fiveSegments(), fiveSegments()
	c.goOn(0xc, 5, 1)
	c.ends(t, c.options(), c.lsn(), 0, 1, 2, 3, 4, 5)
	o.fill()
	o.open(6, 5*s, format.SegmentStateInUse)
	o.pages(2, 100)
	o.ends(t, o.options(), o.lsn(), 0, 1, 2, 3, 4, 5)
	err := wantCorrupt(t, o.file, c.options(), "comes from a copy of the store")
	if got, _ := err.Place.Slot(); got != 6 {
		t.Error(err)
	}
}

// An old tail that takes the place of the one that the last opening wrote is refused, since other headers show that
// the opening was complete. Proves rule 14, trap 26.
func TestOldTailIsRefused(t *testing.T) {
	const s = testSize
	b := fiveSegments()
	end := b.lsn()
	old := slices.Clone(b.file)
	b.goOn(2, 5, 0)
	b.ends(t, b.options(), b.lsn(), 0, 1, 2, 3, 4)
	clear(b.file[5*s:])
	copy(b.file[2*s:3*s], old[2*s:])
	// Now the store looks as if the last opening had been cut off, unless something else shows that it was not.
	b.ends(t, b.options(), end, 0, 1, 2, 3, 4)
	b.mark(5)
	err := wantCorrupt(t, b.file, b.options(), "wrote the log's last segment anew")
	if got, _ := err.Place.Slot(); got != 2 {
		t.Error(err)
	}
}

// A timeline that is no longer listed may own segments below Listed, and none above. The newest segment's is listed.
func TestTimelinesBelowListed(t *testing.T) {
	b := fiveSegments()
	b.goOn(2, 5, 1)
	o := b.options()
	o.Lineage, o.Listed = o.Lineage[:1], o.Lineage[0].Branch
	b.ends(t, o, b.lsn(), 0, 1, 2, 3, 4, 5)
	o.Listed = 3 * testSize
	wantCorrupt(t, b.file, o, "not one of this store's")
	o.Listed, o.Lineage = b.lsn(), format.Lineage{{Timeline: 1}}
	wantCorrupt(t, b.file, o, "not one of this store's last ones")
	o.Lineage = nil
	wantCorrupt(t, b.file, o, "not one of this store's last ones")
}
