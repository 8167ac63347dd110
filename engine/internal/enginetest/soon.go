package enginetest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Soon fails the test if f takes longer than 30 seconds, as Within counts them. No call takes that long that another
// wakes.
func Soon(t testing.TB, what string, f func()) {
	t.Helper()
	Within(t, 30*time.Second, what, f)
}

// Within fails the test if f takes longer than limit. It is for calls that wait: time counts in full only while this
// process neither runs nor waits for a processor, else a tenth. Time in which it is stopped does not count. So a call
// that hangs fails on every machine, and a busy machine fails no call.
func Within(t testing.TB, limit time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	const tick = 50 * time.Millisecond
	c := time.NewTicker(tick)
	defer c.Stop()
	for took, before := time.Duration(0), busy(); took < limit; {
		select {
		case <-done:
			return
		case <-c.C: // a tick that is late counts once: the ticker drops the others
		}
		now := busy()
		if now-before < tick/4 {
			took += tick
		} else {
			took += tick / 10
		}
		before = now
	}
	t.Fatalf("%s: hangs", what)
}

// busy returns the time for which the threads of this process have run, and for which they have waited for a processor
// while they could have run.
func busy() (sum time.Duration) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err == nil {
		sum = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	tasks, _ := filepath.Glob("/proc/self/task/*/schedstat") // none: waiting does not count
	for _, name := range tasks {
		text, _ := os.ReadFile(name) // of a thread that has ended: empty
		if fields := strings.Fields(string(text)); len(fields) > 1 {
			n, _ := strconv.ParseInt(fields[1], 10, 64)
			sum += time.Duration(n)
		}
	}
	return sum
}
