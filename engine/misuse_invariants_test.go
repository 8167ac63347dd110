//go:build invariants

package engine_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

// pausing is Bytes whose Append waits at the fragment "pause", once.
type pausing struct {
	engine.Bytes
	paused         atomic.Bool
	entered, leave chan struct{}
}

// Append is that of Bytes, and pauses at one fragment.
func (p *pausing) Append(dst, frag []byte) []byte {
	if string(frag) == "pause" && !p.paused.Swap(true) {
		p.entered <- struct{}{}
		<-p.leave
	}
	return append(dst, frag...)
}

// With the invariants tag, a Tx that two goroutines use at once panics and says so, whichever of its calls they are in.
func TestTxOfTwoGoroutinesPanics(t *testing.T) {
	m := &pausing{entered: make(chan struct{}), leave: make(chan struct{})}
	pc, err := engine.Open(t.TempDir(), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := pc.Close(); err != nil {
			t.Error(err)
		}
	}()
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	pid, err := tx.Allocate([]byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- tx.Link(pid, []byte("pause")) }()
	<-m.entered
	for name, call := range map[string]func(){
		"Get":      func() { _, _ = tx.Get(pid) },
		"Allocate": func() { _, _ = tx.Allocate(nil) },
		"Link":     func() { _ = tx.Link(pid, nil) },
		"Replace":  func() { _ = tx.Replace(pid, nil) },
		"Free":     func() { _ = tx.Free(pid) },
		"Commit":   func() { _, _ = tx.Commit() },
	} {
		func() {
			defer func() {
				text, _ := recover().(string)
				if !strings.Contains(text, "two goroutines use a Tx at once") {
					t.Errorf("%s while another goroutine is in Link: %q", name, text)
				}
			}()
			call()
		}()
	}
	close(m.leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := tx.Commit(); err != nil {
		t.Error(err)
	}
}
