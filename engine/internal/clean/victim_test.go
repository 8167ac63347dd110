package clean

import (
	"fmt"
	"math"
	"testing"

	"pagecache/segments"
	"pagecache/segments/format"
)

const mib = 1 << 20

// The limit follows the garbage in percent of the live data. In a busy store of few segments, everything that is not
// live has a limit, too, of which there is a least. An idle store keeps next to no garbage.
func TestLimitFollowsGarbage(t *testing.T) {
	const live, least = 1000 * mib, fewSegments * mib // a percent of live is 10 segments
	plain, eager := policy{threshold: 0.4}, policy{threshold: 0.4, eager: true}
	for _, c := range []struct {
		policy
		mode
		live, slack int64
		want        float64 // 0: no segment needs cleaning
	}{
		{plain, modeBusy, live, 0, 0},
		{plain, modeBusy, live, live * softSlack / 100, 0},
		{plain, modeBusy, live, live*softSlack/100 + 1, 0.4},
		{plain, modeBusy, live, live * hardSlack / 100, 0.4},
		{plain, modeBusy, live, live*hardSlack/100 + 1, hopeless},
		{plain, modeIdle, live, live * idleSlack / 100, 0},
		{plain, modeIdle, live, live*idleSlack/100 + 1, hopeless},
		{plain, modeByHand, live, live * softSlack / 100, 0},
		{plain, modeByHand, live, live*softSlack/100 + 1, 0.4},
		{plain, modeByHand, live, 10 * live, hopeless},
		{eager, modeBusy, live, 0, hopeless},
		{eager, modeIdle, 0, 0, hopeless},
		// A small store, for which least is more than any percentage.
		{plain, modeBusy, mib, least, 0},
		{plain, modeBusy, mib, least + 1, hopeless},
		{plain, modeIdle, mib, least, hopeless},
		{plain, modeIdle, mib, mib * idleSlack / 100, 0},
		{plain, modeIdle, mib, mib*idleSlack/100 + 1, hopeless},
		{plain, modeIdle, 0, 1, hopeless},
		{plain, modeIdle, 0, 0, 0},
		{plain, modeBusy, 0, least + 1, hopeless},
	} {
		for _, uncleanable := range []int64{0, 7 * mib} { // which counts for nothing
			u := usage{used: c.live + c.slack + uncleanable, live: c.live, uncleanable: uncleanable, segment: mib}
			if n := u.slack(); n != c.slack {
				t.Errorf("%+v: slack %d, want %d", u, n, c.slack)
			}
			limit, need := c.limit(u, c.mode)
			if limit != c.want || need != (c.want > 0) {
				t.Errorf("%+v, %v, %+v: limit %v, need %v, want %v", c.policy, c.mode, u, limit, need, c.want)
			}
		}
	}
}

// In a store of few segments, those that cannot be cleaned and those that are kept lower the limit: everything that is
// not live stays below wholeSlack less wholeSegments, or, in a small store, below smallSlack and smallStore segments in
// all. Garbage alone stays below hardSlack. Writers wait only above the limit of the cleaner.
func TestLimitOfSmallStore(t *testing.T) {
	largest := int64(0)
	for segs := int64(0); segs < 300; segs++ {
		u := usage{live: segs * mib, uncleanable: 5 * mib, kept: 6 * mib, segment: mib}
		for u.used = u.live; !u.above(hardSlack, 0); u.used += mib {
			if u.above(behindSlack, behindSegments) {
				t.Fatalf("%d segments: writers wait before anything is cleaned", segs)
			}
		}
		whole, least := u.used-mib+u.kept-u.live, u.uncleanable+u.kept+fewSegments*mib
		small := min(u.live*smallSlack/100, smallStore*mib-u.live)
		large := u.live*wholeSlack/100 - wholeSegments*mib
		if most := max(large, small, least); whole > most {
			t.Errorf("%d segments: %d MiB are not live, at most %d may be", segs, whole/mib, most/mib)
		}
		most := max(u.live*hardSlack/100, small-u.uncleanable-u.kept, fewSegments*mib)
		if u.slack() > most+mib {
			t.Errorf("%d segments: %d MiB are garbage, at most %d may be", segs, u.slack()/mib, most/mib)
		}
		if large <= small {
			if all := u.live + whole; all < largest-mib || all > max(smallStore*mib, u.live+least) {
				t.Errorf("%d segments take %d MiB, fewer took %d", segs, all/mib, largest/mib)
			}
			largest = max(largest, u.live+whole)
		}
	}
	if largest != smallStore*mib {
		t.Errorf("the largest small store takes %d MiB, want %d", largest/mib, smallStore)
	}
}

// However many segments a store has, the worst that the cleaner allows stays below 1.7 times the live data, with
// wholeSegments by which it may be late, in each store that is not small.
func TestLimitIsKeptByStoresOfAnySize(t *testing.T) {
	for segs := int64(26); segs < 2000; segs++ {
		u := usage{live: segs * mib, uncleanable: 3 * mib, kept: 5 * mib, segment: mib}
		for u.used = u.live; !u.above(hardSlack, 0); u.used += mib {
		}
		if all := u.used - mib + u.kept + wholeSegments*mib; all*10 > u.live*17 {
			t.Errorf("%d segments take %d at worst", segs, all/mib)
		}
	}
}

// A small store is not cleaned before it takes three times its live data, so that little of what is cleaned is live.
// The log is not flushed for it before that.
func TestSmallStoreIsCleanedLate(t *testing.T) {
	u := usage{live: smallStore / 3 * mib, uncleanable: 3 * mib, kept: 5 * mib, segment: mib}
	for u.used = u.live; !u.above(softSlack, 0); u.used += mib {
		if u.whole() {
			t.Errorf("%d segments used: too many", u.used/mib)
		}
	}
	if all, want := u.used-mib+u.kept, int64(3*u.live); all != want {
		t.Errorf("%d MiB are taken before anything is cleaned, want %d", all/mib, want/mib)
	}
}

// Segments that were emptied and wait for a reader are no reason to empty more, however small the store is.
func TestWaitingSegmentsAreNoGarbage(t *testing.T) {
	for segs := int64(0); segs < 100; segs++ {
		u := usage{live: segs * mib, uncleanable: 3 * mib, kept: 6 * mib, segment: mib}
		for u.used = u.live; !u.above(hardSlack, 0); u.used += mib {
		}
		for u.used -= mib; u.waiting < 50*mib; u.waiting, u.used = u.waiting+mib, u.used+mib {
			if u.above(hardSlack, 0) || u.above(softSlack, 0) && segs < 20 {
				t.Fatalf("%d segments live, %d wait: more are cleaned", segs, u.waiting/mib)
			}
		}
	}
}

// More garbage than could be cleaned is no garbage.
func TestSlackBelowUncleanableSegments(t *testing.T) {
	u := usage{used: 10, live: 3, uncleanable: 9, segment: 1}
	if n := u.slack(); n != -2 || u.above(0, 0) || u.aboveIdle() {
		t.Errorf("slack %d, above nothing %v, %v", n, u.above(0, 0), u.aboveIdle())
	}
}

// A score is not negative exactly if the live share is at most the limit, which rises with the age by skew, up to
// hopeless.
func TestScoreLimitsTheLiveShare(t *testing.T) {
	const segment = 1000
	for _, c := range []struct {
		skew, limit float64
		age, oldest int
		most        int64 // live bytes up to which the segment is worth cleaning
	}{
		{0, 0.4, 1, 1, 400},
		{0, 0.4, 9, 10, 400},
		{0.2, 0.4, 0, 10, 400},
		{0.2, 0.4, 5, 10, 500},
		{0.2, 0.4, 10, 10, 600},
		{0.9, 0.4, 10, 10, 950}, // no more than hopeless
		{0, hopeless, 1, 1, 950},
		{0.5, hopeless, 1, 1, 950},
		{0, 0, 3, 3, 0},
	} {
		p := policy{threshold: 0.4, skew: c.skew}
		for live := int64(0); live <= segment; live += 10 {
			s := p.score(segments.Candidate{Live: live, Age: c.age}, segment, c.limit, c.oldest)
			if s >= 0 != (live <= c.most) || math.IsNaN(s) {
				t.Errorf("%+v: %d live bytes have the score %v", c, live, s)
			}
		}
	}
}

// Among segments below the limit, the emptier one and the older one have the higher score: by cost and benefit, with
// the root of the age.
func TestScoreOrder(t *testing.T) {
	const segment, oldest = 1000, 100
	score := func(live int64, age int) float64 {
		return policy{}.score(segments.Candidate{Live: live, Age: age}, segment, hopeless, oldest)
	}
	for age := 1; age <= oldest; age++ {
		for live := int64(10); live <= 950; live += 10 {
			if a, b := score(live, age), score(live-10, age); a >= b {
				t.Fatalf("age %d: %d live bytes have the score %v, %d have %v", age, live, a, live-10, b)
			}
			if a, b := score(live, age-1), score(live, age); a >= b {
				t.Fatalf("%d live bytes: age %d has the score %v, age %d has %v", live, age-1, a, age, b)
			}
		}
	}
	for _, c := range []struct {
		live int64
		age  int
		want float64
	}{
		{0, 1, 1}, {0, 9, 3}, {500, 1, 1.0 / 3}, {500, 4, 2.0 / 3}, {600, 16, 1}, {0, 0, 0},
	} {
		if s := score(c.live, c.age); math.Abs(s-c.want) > 1e-12 {
			t.Errorf("%d live bytes at age %d have the score %v, want %v", c.live, c.age, s, c.want)
		}
	}
}

// best returns the first candidate with the highest score, and none if all scores are negative.
func TestBest(t *testing.T) {
	for _, c := range []struct {
		scores []float64
		want   format.SegmentID
		ok     bool
	}{
		{nil, 0, false},
		{[]float64{-1}, 0, false},
		{[]float64{-1, -2, -0.5}, 0, false},
		{[]float64{0}, 0, true},
		{[]float64{-1, 0, -1}, 1, true},
		{[]float64{1, 3, 2}, 1, true},
		{[]float64{1, 2, 3}, 2, true},
		{[]float64{2, 3, 3, 1}, 1, true},
		{[]float64{-1, 0, 1e-9, 0}, 2, true},
	} {
		t.Run(fmt.Sprint(c.scores), func(t *testing.T) {
			var all []segments.Candidate
			for i := range c.scores {
				all = append(all, segments.Candidate{ID: format.SegmentID(i), Live: int64(i + 1)})
			}
			asked := 0
			v, ok := best(all, func(v segments.Candidate) float64 { asked++; return c.scores[v.ID] })
			if ok != c.ok || ok && (v.ID != c.want || v.Live != int64(c.want)+1) {
				t.Errorf("%+v, %v, want %v, %v", v, ok, c.want, c.ok)
			}
			if asked != len(all) {
				t.Errorf("%d of %d candidates were scored", asked, len(all))
			}
		})
	}
}

// The budget is credited with moveFactor bytes for each byte written or freed, never with less than nothing, and never
// exceeds twice the space in use.
func TestBudgetRefill(t *testing.T) {
	const much = int64(1) << 40
	for _, c := range []struct {
		name                string
		budget              budget
		used, live, written int64
		left                int64
	}{
		{"nothing happened", budget{left: 7, written: 10, live: 5}, much, 5, 10, 7},
		{"written", budget{left: 7, written: 10, live: 5}, much, 5, 13, 7 + 3*moveFactor},
		{"written, live grew with it", budget{left: 7, written: 10, live: 5}, much, 8, 13, 7 + 3*moveFactor},
		{"freed", budget{left: 7, written: 10, live: 5}, much, 1, 10, 7 + 4*moveFactor},
		{"written and freed", budget{left: 7, written: 10, live: 5}, much, 1, 13, 7 + 7*moveFactor},
		{"overdrawn", budget{left: -100, written: 10, live: 5}, much, 5, 20, 10*moveFactor - 100},
		{"the first call", budget{left: 40}, much, 5, 0, 40},
		{"capped by what is used", budget{left: 7, written: 10, live: 5}, 50, 5, 1000, 100},
		{"the cap falls", budget{left: 90, written: 10, live: 5}, 20, 5, 10, 40},
		{"nothing in use", budget{left: 90, written: 10, live: 5}, 0, 0, 1000, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.budget
			b.refill(moveFactor, usage{used: c.used, live: c.live}, c.written)
			if want := (budget{c.left, c.written, c.live}); b != want {
				t.Errorf("%+v, want %+v", b, want)
			}
			b.refill(moveFactor, usage{used: c.used, live: c.live}, c.written)
			if b.left != c.left {
				t.Errorf("credited twice: %d bytes left, want %d", b.left, c.left)
			}
		})
	}
}

// Moving pages without any writes ends: moves spend the budget, and nothing but writes and frees refills it.
func TestBudgetEnds(t *testing.T) {
	b := budget{left: 2 * mib}
	b.refill(moveFactor, usage{used: mib, live: mib / 2}, 0)
	steps := 0
	for ; b.left > 0; steps++ {
		b.left -= mib / 8
		b.refill(moveFactor, usage{used: mib, live: mib / 2}, 0)
	}
	if steps != 16 {
		t.Errorf("%d steps", steps)
	}
}

// A segment is skipped until its live bytes change.
func TestSkippedUntilLiveBytesChange(t *testing.T) {
	s := skipped{3: 100}
	for _, c := range []struct {
		v    segments.Candidate
		want bool
	}{
		{segments.Candidate{ID: 3, Live: 100}, true},
		{segments.Candidate{ID: 3, Live: 99}, false},
		{segments.Candidate{ID: 3, Live: 0}, false},
		{segments.Candidate{ID: 4, Live: 100}, false},
		{segments.Candidate{ID: 4}, false},
	} {
		if s.has(c.v) != c.want {
			t.Errorf("%+v: skipped %v", c.v, !c.want)
		}
	}
}
