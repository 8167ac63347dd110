package engine_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

var (
	putbackSeeds = flag.Int("putback.seeds", 2, "the number of stores whose parts are put back")
	putbackSeed  = flag.Uint64("putback.seed", 0, "if not 0, the only seed of a store whose parts are put back")
	putbackPairs = flag.Int("putback.pairs", 400,
		"the number of pairs of parts that are put back into each store; 0: all pairs")
)

// sweepStores calls test with stores of several seeds, page stores and standalone logs, in the state of a clean close
// and in that of a kill a moment before.
func sweepStores(t *testing.T, test func(t *testing.T, seed uint64, isLog bool)) {
	seeds := uint64(*putbackSeeds)
	if testing.Short() {
		seeds = min(seeds, 1)
	}
	for seed := uint64(1); seed <= seeds; seed++ {
		if *putbackSeed != 0 && *putbackSeed != seed {
			continue
		}
		for _, isLog := range []bool{false, true} {
			t.Run(fmt.Sprintf("seed=%d/log=%v", seed, isLog), func(t *testing.T) { test(t, seed, isLog) })
		}
	}
	if *putbackSeed > uint64(*putbackSeeds) {
		for _, isLog := range []bool{false, true} {
			test(t, *putbackSeed, isLog)
		}
	}
}

// judge is the oracle for a store with parts that are not the newest ones.
type judge struct {
	*pastStore
	im     enginetest.Image // as it should be
	acked  engine.LSN       // everything below was acknowledged
	full   engine.LSN       // where its log ends
	other  *enginetest.Past // of the store that the parts come from; nil: from this one
	branch engine.LSN       // where the other one began to differ
	counts [verdictForeign + 1]atomic.Int64
}

// verdict is a verdict of a judge that is not an error.
type verdict int

const (
	verdictRight   verdict = iota // everything that was acknowledged
	verdictRefused                // or some pages were
	verdictEarlier                // the contents of an earlier moment
	verdictForeign                // the contents of the other store
)

// newJudge returns the judge of a store as it is in im, and fails the test unless that is right.
func newJudge(t *testing.T, s *pastStore, im enginetest.Image) *judge {
	t.Helper()
	j := &judge{pastStore: s, im: im, acked: s.past.Last() + 1}
	l, err := s.look(im.Disk(), true, look{end: unknown}, nil)
	if err != nil || l.refused > 0 {
		t.Fatalf("nothing is put back: %d refused, %v", l.refused, err)
	}
	j.full = l.end
	if v, err := j.judge(); err != nil || v != verdictRight {
		t.Fatalf("nothing is put back: verdict %d, %v", v, err)
	}
	return j
}

// judge opens the store after changes. An opening is right if it shows the newest contents, or if it is refused. Pages
// may be refused by themselves, too.
//
// There is one exception, which no store can avoid. If the newest parts of a store are put back as they were earlier,
// and no other part shows that anything newer was durable, then this is the store as it was earlier: as after a power
// cut that came then, or as the whole store from a backup. So contents of an earlier moment may be shown, but only as
// they were at the place where the log ends; never a mixture, and never those below an end that any unchanged part
// proves to have been durable: see Image.Proof. In the same way, a store may be shown as the other one if no unchanged
// part of its superblock and log proves anything that the other one does not have.
func (j *judge) judge(changes ...enginetest.Change) (verdict, error) {
	im := j.im.With(changes...)
	proof, other := j.im.Proof(crashSegment, changes), j.other
	if max(proof.Stable, proof.Durable, proof.Super) > j.branch {
		other = nil
	}
	proven := max(proof.Stable, proof.Super, proof.Snapshot, j.past.Cut(proof.Durable))
	l, err := j.look(im.Disk(), true, look{end: unknown}, other)
	if errors.Is(err, engine.ErrCorrupt) {
		_, wErr := j.look(im.Disk(), false, look{end: unknown}, other)
		if !errors.Is(wErr, engine.ErrCorrupt) {
			return 0, enginetest.Violated("ReadOnly: %v; for writing: %v", err, wErr)
		}
		return verdictRefused, nil
	}
	if err != nil {
		return 0, fmt.Errorf("ReadOnly: %w", err)
	}
	if l.end < proven && !l.foreign {
		return 0, enginetest.Violated("the log ends at LSN %d, below %d: %+v", l.end, proven, proof)
	}
	w, err := j.look(im.Disk(), false, look{end: l.end}, other)
	if errors.Is(err, engine.ErrCorrupt) {
		return verdictRefused, nil
	}
	if err == nil {
		err = j.again(changes, l, w, other)
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("for writing: %w", err)
	case l.foreign:
		return verdictForeign, nil
	case l.refused > 0:
		return verdictRefused, nil
	case l.end < j.acked:
		return verdictEarlier, nil
	}
	return verdictRight, nil
}

// again opens a store once more that was killed right after it was opened for writing. It shows the same (rule 11). An
// id is higher than all before it, unless the superblock is older or the end of the log is lost.
func (j *judge) again(changes []enginetest.Change, l, w look, other *enginetest.Past) error {
	again, err := j.look(w.after.Disk(), true, look{end: l.end}, other)
	if err != nil {
		return fmt.Errorf("opened once more: %w", err)
	}
	if again.refused > w.refused || again.foreign != w.foreign {
		return enginetest.Violated("opened once more: refused %d, then %d; foreign %v, then %v", w.refused,
			again.refused, w.foreign, again.foreign)
	}
	for _, c := range changes {
		if c.File == enginetest.SuperName {
			return nil
		}
	}
	if l.end >= j.full && !l.foreign && !j.isLog && w.id < j.h.NextID {
		return enginetest.Violated("id %d was handed out, and %d before", w.id, j.h.NextID-1)
	}
	return nil
}

// all judges each of the sets of changes, in parallel, and reports at most five failures.
func (j *judge) all(t *testing.T, sets [][]enginetest.Change) {
	t.Helper()
	var wg sync.WaitGroup
	var next, failures atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(sets) && failures.Load() < 5; i = int(next.Add(1)) - 1 {
				v, err := j.judge(sets[i]...)
				if err != nil {
					failures.Add(1)
					t.Errorf("%v: %v", describeChanges(sets[i]), err)
				}
				if err == nil {
					j.counts[v].Add(1)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d sets of changes: %s", len(sets), j.summary())
}

// summary lists the counts of the verdicts.
func (j *judge) summary() string {
	return fmt.Sprintf("%d right, %d refused, %d show an earlier moment, %d the other store",
		j.counts[verdictRight].Load(), j.counts[verdictRefused].Load(), j.counts[verdictEarlier].Load(),
		j.counts[verdictForeign].Load())
}

// describeChanges describes changes in one line.
func describeChanges(changes []enginetest.Change) string {
	var s []string
	for _, c := range changes {
		part := c.File
		if c.Len > 0 {
			part += fmt.Sprintf(" part %d", c.Off/c.Len)
		}
		s = append(s, fmt.Sprintf("%s as at %q", part, c.From))
	}
	return strings.Join(s, ", ")
}

// singlesAndPairs returns each change by itself, and pairs of them: n, or all if n is 0.
func singlesAndPairs(changes []enginetest.Change, n int, seed uint64) (sets [][]enginetest.Change) {
	for _, c := range changes {
		sets = append(sets, []enginetest.Change{c})
	}
	add := func(i, k int) {
		if pair := []enginetest.Change{changes[i], changes[k]}; enginetest.Disjoint(pair) {
			sets = append(sets, pair)
		}
	}
	if testing.Short() && n > 0 {
		n = min(n, 50)
	}
	if n == 0 {
		for i := range changes {
			for k := range i {
				add(k, i)
			}
		}
		return sets
	}
	rng := rand.New(rand.NewPCG(seed, 2))
	for range n {
		add(rng.IntN(len(changes)), rng.IntN(len(changes)))
	}
	return sets
}

// Each slot, copy of the superblock, superblock, log, snapshot and blob is put back as it was at each earlier moment,
// alone and in pairs, in a store that was closed and in one that was killed: all contents, or a refusal; see judge for
// the one exception. Proves rule 14; trap 26.
func TestOldPartsPutBack(t *testing.T) {
	t.Parallel()
	sweepStores(t, func(t *testing.T, seed uint64, isLog bool) {
		s := newPast(seed, isLog)
		if err := s.grow(5, 12); err != nil {
			t.Fatal(err)
		}
		if s.recycled == 0 {
			t.Error("no segment was recycled")
		}
		earlier := s.images[:len(s.images)-1]
		for name, im := range map[string]enginetest.Image{"closed": s.closed, "killed": s.killed} {
			t.Run(name, func(t *testing.T) {
				j := newJudge(t, s, im)
				changes := im.Changes(earlier, s.names, crashSegment)
				j.all(t, singlesAndPairs(changes, *putbackPairs, seed))
			})
		}
	})
}

// The judge notices that the last change that was acknowledged is missing, after a clean close and after a kill.
func TestJudgeFindsMissingChange(t *testing.T) {
	t.Parallel()
	sweepStores(t, func(t *testing.T, seed uint64, isLog bool) {
		s := newPast(seed, isLog)
		if err := s.grow(2, 5); err != nil {
			t.Fatal(err)
		}
		judges := []*judge{newJudge(t, s, s.closed), newJudge(t, s, s.killed)}
		s.past.Keep(&enginetest.History{Effects: []enginetest.Effect{
			{LSN: s.past.Last() + 1, Page: engine.FirstUserPage, Val: []byte("planted")},
		}}, enginetest.Unlimited)
		for _, j := range judges {
			if v, err := j.judge(); !errors.As(err, new(enginetest.Violation)) {
				t.Errorf("verdict %d, error %v", v, err)
			}
		}
	})
}
