package report

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A Watch looks at intervals while something is open, and starts again when something is opened, however late.
func TestWatchLooksWhileSomethingIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const every = time.Second
		var mu sync.Mutex // the test holds it, except while it sleeps
		mu.Lock()
		defer mu.Unlock()
		sleep := func(d time.Duration) {
			mu.Unlock()
			time.Sleep(d)
			synctest.Wait()
			mu.Lock()
		}
		open, looks := false, 0
		var between func() // what happens after a look
		var w Watch
		w.Init(every, func() bool {
			mu.Lock()
			defer mu.Unlock()
			looks++
			was := open
			if between != nil {
				between()
			}
			return was
		})
		want := func(n int) {
			t.Helper()
			sleep(10*every + every/2)
			if looks != n {
				t.Errorf("%d looks, want %d", looks, n)
			}
			looks = 0
		}
		want(0)
		open = true
		w.Opened()
		w.Opened()
		want(10)
		open = false
		want(2) // the second is for what was opened at that moment
		want(0)
		for range 2 {
			open = true
			w.Opened()
			want(10)
			between = func() { // a caller opens something after the look, and sees that the Watch is on
				between, open = nil, true
				w.Opened()
			}
			open = false
			want(12)
			open = false
			want(2)
		}
		open = true
		w.Opened()
		between = w.Stop // before the timer is set again
		sleep(every)
		if looks != 1 || w.timer.Load().Stop() {
			t.Errorf("%d looks, and a timer keeps a stopped Watch in memory", looks)
		}
		looks, between = 0, nil
		mu.Unlock()
		w.run() // the timer had fired
		mu.Lock()
		want(0)
	})
}
