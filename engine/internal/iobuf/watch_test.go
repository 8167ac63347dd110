package iobuf

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/engine/internal/report"
)

// A write that takes long is reported once while it is under way and once when it has ended, and no other write is. The
// timer runs only while something is in flight.
func TestSlowWritesAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slow = 10 * time.Second
		var mu sync.Mutex // the test holds it, except while it sleeps
		mu.Lock()
		defer mu.Unlock()
		var got []report.SlowWriteInfo
		l := &Log{began: time.Now(), report: report.New(report.Config{Events: report.Events{
			SlowWrite: func(i report.SlowWriteInfo) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, i)
			},
		}})}
		l.watch.init(l, slow)
		pass := func(d time.Duration, events int) {
			t.Helper()
			mu.Unlock()
			time.Sleep(d)
			synctest.Wait()
			mu.Lock()
			if len(got) != events {
				t.Fatalf("%d events, want %d: %+v", len(got), events, got)
			}
			for _, i := range got {
				if i.Bytes != 4096 || i.Took < slow {
					t.Errorf("%+v", i)
				}
			}
		}
		var pending []deviceWrite
		begin := func() {
			off := int64(len(pending)) << 20
			pending = append(pending, deviceWrite{off: off, to: 4096})
			l.watch.begun(pending, 1)
		}
		end := func() {
			l.watch.ended(&pending[0])
			pending = pending[1:]
			l.watch.inFlight(pending)
		}
		for range 2 { // the second time the timer has run out
			got = nil
			pass(time.Minute, 0)
			begin()
			pass(slow-1, 0)
			pass(3*slow, 1)
			if end(); got[0].Ended {
				t.Errorf("%+v is said to have ended", got[0])
			}
			pass(0, 2)
			if !got[1].Ended || got[1].Took != 4*slow-1 {
				t.Errorf("%+v, which took %v", got[1], 4*slow-1)
			}
			begin()
			pass(slow/2, 2)
			end() // a fast one
			pass(time.Minute, 2)
			begin()
			pass(slow/2, 2)
			begin()
			pass(slow/4, 2)
			end() // the second is the oldest now, and slow later than the first would be
			pass(slow/2, 2)
			pass(slow, 3)
			end()
			pass(0, 4)
		}
		l.watch.stop()
	})
}
