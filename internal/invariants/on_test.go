//go:build invariants

package invariants

import (
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// object is tracked by value, as a reservation is.
type object struct {
	tracker Tracker
	n       int
}

//go:noinline
func begin(excuse Excuse) object { return object{tracker: Track("test object", excuse), n: 1} }

//go:noinline
func drop(excuse Excuse) { begin(excuse) }

// catch collects the reports of dropped objects until the test ends.
func catch(t *testing.T) <-chan string {
	reports := make(chan string, 16)
	t.Cleanup(CatchDropped(func(report string) { reports <- report }))
	return reports
}

// nextReport collects garbage until there is a report.
func nextReport(t *testing.T, reports <-chan string) string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		runtime.GC()
		select {
		case r := <-reports:
			return r
		case <-time.After(time.Millisecond):
		}
	}
	t.Fatal("a dropped object is not reported")
	return ""
}

// A dropped object is reported with the place where it was begun.
func TestDroppedObjectIsReported(t *testing.T) {
	reports := catch(t)
	drop(nil)
	r := nextReport(t, reports)
	for _, want := range []string{"test object dropped", "invariants.begin", "invariants.drop", "on_test.go"} {
		if !strings.Contains(r, want) {
			t.Errorf("the report does not contain %q:\n%s", want, r)
		}
	}
}

// Objects that were ended, are excused, or are still reachable through a copy are not reported.
func TestOtherObjectsAreNotReported(t *testing.T) {
	reports := catch(t)
	var stopped atomic.Bool
	func() {
		o := begin(nil)
		o.tracker.Done()
		stopped.Store(true)
		drop(&stopped)
	}()
	kept := begin(nil)
	for range 3 {
		drop(nil) // a later object, whose report tells that the collector has been here
		if r := nextReport(t, reports); !strings.Contains(r, "on_test.go") {
			t.Error(r)
		}
	}
	if n := len(reports); n > 0 {
		t.Errorf("%d reports too many, such as %s", n, <-reports)
	}
	if !strings.Contains(kept.tracker.Begun(), "TestOtherObjectsAreNotReported") {
		t.Errorf("begun at %s", kept.tracker.Begun())
	}
	kept.tracker.Done()
}

// Ending two copies of an object panics. The zero Tracker tracks nothing.
func TestEndingTwicePanics(t *testing.T) {
	var zero Tracker
	zero.Done()
	zero.Done()
	if zero.Begun() != "" {
		t.Errorf("the zero Tracker was begun at %s", zero.Begun())
	}
	o := begin(nil)
	twin := o
	o.tracker.Done()
	defer func() {
		if s, _ := recover().(string); !strings.Contains(s, "test object ended twice") {
			t.Errorf("got %q", s)
		}
	}()
	twin.tracker.Done()
}

// Sometimes counts how often a condition was true, and NeverTrue finds the conditions that never were.
func TestSometimes(t *testing.T) {
	paths.Clear()
	for i := range 5 {
		Sometimes("sometimes: a", i == 7)
		Sometimes("sometimes: b", i%2 == 0)
		Sometimes("other: c", false)
	}
	a, b, none := Count("sometimes: a"), Count("sometimes: b"), Count("no such name")
	if a != 0 || b != 3 || none != 0 {
		t.Errorf("counts are %d, %d and %d", a, b, none)
	}
	if got := NeverTrue("sometimes: "); !slices.Equal(got, []string{"sometimes: a"}) {
		t.Errorf("never true: %q", got)
	}
}

// Reach ends once all conditions were true, and tells which were not within the limit.
func TestReach(t *testing.T) {
	paths.Clear()
	turns := 0
	never := Reach("reach: ", time.Hour, func() {
		turns++
		Sometimes("reach: third turn", turns == 3)
	})
	if len(never) > 0 || turns != 3 {
		t.Errorf("%d turns, never true: %q", turns, never)
	}
	if got := Reach("unreachable", 0, func() { Sometimes("unreachable", false) }); len(got) != 1 {
		t.Errorf("never true: %q", got)
	}
}

// Jitter leaves the clock of a bubble alone, so that tests may expect exact times in this build, too.
func TestJitterKeepsTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		for range 100_000 {
			Jitter()
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("100 000 calls moved the clock by %v", d)
		}
	})
}
