package clean

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/report"
	"pagecache/segments"
)

// A step that fails stops cleaning, and a later one that does something makes it go on. Steps that may work later, such
// as while a read ahead has not ended, count only when many in a row have failed. Lack of room and Close do not count.
func TestStepsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		c := New()
		hear := func(e report.Event) { got = append(got, e.String()) }
		c.c.Report = report.New(report.Config{Events: report.All(hear)})
		want := func(texts ...string) {
			t.Helper()
			time.Sleep(time.Minute)
			synctest.Wait()
			if !slices.Equal(got, texts) {
				t.Errorf("events %q, want %q", got, texts)
			}
			got = nil
		}
		c.report(false, fmt.Errorf("x: %w", iobuf.ErrClosed))
		c.report(false, fmt.Errorf("x: %w", segments.ErrNoRoom))
		c.report(true, nil)
		for range 3 {
			for range fewLater - 1 {
				c.report(false, logstore.ErrLater)
			}
			c.report(false, nil)
		}
		want()
		for range 2 * fewLater {
			c.report(false, fmt.Errorf("cause: %w", logstore.ErrLater))
		}
		want("cleaning has stopped: cause: " + logstore.ErrLater.Error())
		c.report(false, nil)
		want()
		c.report(true, nil)
		want("cleaning goes on, after 2m1s")
		c.report(false, errors.New("broken"))
		want("cleaning has stopped: broken")
	})
}
