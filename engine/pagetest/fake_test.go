package pagetest_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// recorder is a test that keeps what is reported to it, and fails nothing.
type recorder struct {
	testing.TB
	mu     sync.Mutex
	errors []string
	ends   []func()
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Cleanup(f func()) { r.ends = append(r.ends, f) }

// record runs f, and then what it has given to Cleanup, and returns what was reported.
func record(t *testing.T, f func(t testing.TB)) string {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	for i := len(r.ends) - 1; i >= 0; i-- {
		r.ends[i]()
	}
	return strings.Join(r.errors, "\n")
}
