package lru

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// eventually waits until the condition holds. It fails the test after 20 s.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// The adviser starts once more than half of the capacity is used, and stops below a quarter. Without it the policy
// feeds no hits. Proves U3.
func TestAdviserRunsOnlyIfHalfFull(t *testing.T) {
	w := newWorld(t, 1<<20, 1000)
	for key := range uint64(500) {
		w.put(key, 1000)
		w.put(key, 1000)
	}
	if s := w.p.Stats(); s.Active || s.Taken != 0 || s.Idle < 900 || s.Heap < 450000 || w.p.adviser != nil {
		t.Errorf("half full: %+v", s)
	}
	if n := testing.AllocsPerRun(100, func() { w.h.Add(1); w.p.Take(&w.h) }); n != 0 {
		t.Errorf("Take allocates %v times", n)
	}
	for key := range uint64(600) {
		w.put(key, 1000)
	}
	w.settleAll()
	if s := w.p.Stats(); !s.Active || s.Keys != 600 || s.Cost != 600000 || s.Capacity != 1<<20 {
		t.Errorf("more than half full: %+v", s)
	}
	w.p.Resize(2 << 20)
	w.settleAll()
	if s := w.p.Stats(); !s.Active {
		t.Errorf("more than a quarter full: %+v", s)
	}
	w.p.Resize(10 << 20)
	w.settleAll()
	if s := w.p.Stats(); s.Active || s.Keys != 0 || s.Cost != 0 || w.p.adviser != nil {
		t.Errorf("less than a quarter full: %+v", s)
	}
	w.p.Resize(1 << 20)
	w.settleAll()
	if s := w.p.Stats(); !s.Active || s.Keys != 600 {
		t.Errorf("full again: %+v", s)
	}
}

// A busy page is skipped and evicted once it is stable, unless it was hit meanwhile. Proves U4.
func TestBusyPageIsRetriedUnlessHit(t *testing.T) {
	w := newWorld(t, 100*1000, 1000)
	w.setAllBusy(true)
	for key := range uint64(150) {
		w.put(key, 1000)
	}
	w.settleAll()
	s := w.p.Stats()
	if w.moved.Load() != 150*1000 || s.Busy == 0 || !w.p.exhausted || !w.p.retries.waiting() {
		t.Fatalf("all busy: %d bytes resident, %+v", w.moved.Load(), s)
	}
	var victim uint64 // of the adviser
	for victim = range w.p.retries.keys {
		break
	}
	for range HitsLen { // more often than others
		w.put(victim, 1000)
	}
	w.put(victim, 1000)
	w.settleAll()
	if _, found := w.p.retries.keys[victim]; found {
		t.Errorf("page %d was hit and is still to be retried", victim)
	}
	w.setAllBusy(false)
	for range 3 {
		w.p.step()
	}
	if w.cost(victim) == 0 {
		t.Errorf("page %d was hit, but evicted", victim)
	}
	if w.p.retries.waiting() || w.p.exhausted {
		t.Errorf("%d keys are still to be retried", len(w.p.retries.keys))
	}
	w.check(t)
}

// A new adviser is loaded with the pages to be retried, too: they are evicted only if it evicts them. Proves U4.
func TestNewAdviserForgetsRetries(t *testing.T) {
	w := newWorld(t, 100*1000, 1000)
	w.setAllBusy(true)
	for key := range uint64(150) {
		w.put(key, 1000)
	}
	w.settleAll()
	if !w.p.retries.waiting() {
		t.Fatal("no key is to be retried")
	}
	w.p.Resize(1 << 20) // room for all of them
	w.p.start(1 << 20)
	if w.p.retries.waiting() || w.p.adviser.known != 150 {
		t.Errorf("%d keys to be retried, %d known", len(w.p.retries.keys), w.p.adviser.known)
	}
}

// The queue of retries has a limit, takes turns, and omits cancelled keys.
func TestRetriesAreLimitedAndFair(t *testing.T) {
	var r retries
	for key := range uint64(maxRetries + 10) {
		r.add(key)
		r.add(key)
	}
	if len(r.queue) != maxRetries {
		t.Fatalf("%d keys", len(r.queue))
	}
	r.cancel(maxBusy)
	var tried []uint64
	busy := func(key uint64) Outcome { tried = append(tried, key); r.add(key); return OutcomeBusy }
	goOn := func() bool { return false }
	r.try(busy, func() bool { return true })
	if len(tried) != 0 {
		t.Errorf("tried %d although told to stop", tried)
	}
	r.try(busy, goOn)
	r.try(busy, goOn)
	if len(tried) != 2*maxBusy || tried[maxBusy] != maxBusy+1 {
		t.Errorf("tried %d", tried)
	}
	n := 0
	r.try(func(uint64) Outcome { n++; return OutcomeEvicted }, goOn)
	if n != maxRetries-1 || r.waiting() || r.queue != nil {
		t.Errorf("%d evicted, %d left", n, len(r.keys))
	}
}

// Loading an adviser pauses for at most loadRest² bursts, even if the last burst took an hour because the machine
// slept.
func TestLoadPauseIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1<<20, 1)
		w.p.burstStart = time.Now().Add(-time.Hour)
		start := time.Now()
		if w.p.interruptLoad() {
			t.Error("loading stops although nothing is resident")
		}
		if d := time.Since(start); d != loadRest*loadRest*loadBurst {
			t.Errorf("paused for %v", d)
		}
		if since := time.Since(w.p.burstStart); since != 0 {
			t.Errorf("the next burst began %v ago", since)
		}
	})
}

// The policy pauses after feedLimit keys, even if the adviser knows all of them, and drops the hits that do not fit
// into the queue.
func TestPolicyPausesAfterFeedLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1 << 20)
		s := newStore(b, 1000)
		for key := range uint64(800) {
			s.set(&s.own, key, 1000)
		}
		b.Settle(&s.own)
		p := New(b, s, Options{})
		defer p.Close()
		p.Kick()
		synctest.Wait()
		if !p.active.Load() {
			t.Fatal("the adviser does not run")
		}
		start := time.Now()
		var h Hits
		for n := range uint64(50 * 2 * queueLen * HitsLen) { // each pause, twice what the queue holds
			if h.Add(n % 800) {
				p.Take(&h)
			}
			if n%(2*queueLen*HitsLen) == 0 {
				time.Sleep(pause)
			}
		}
		st := p.Stats()
		pauses := int64(time.Since(start)/pause) + 2
		if st.Taken > pauses*(feedLimit+HitsLen) || st.Dropped < st.Taken || st.Hits == 0 {
			t.Errorf("%d keys in %d pauses: %+v", st.Taken, pauses, st)
		}
	})
}

func TestResizeWhileWriting(t *testing.T) {
	b := NewBudget(1 << 22)
	s := newStore(b, 10000)
	p := New(b, s, Options{})
	defer p.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	quit := make(chan struct{})
	defer close(quit)
	for seed := range uint64(4) {
		wg.Go(func() { newWriter(s, p, seed, 500).run(quit) })
	}
	for _, capacity := range []int64{1 << 20, 1 << 22, 1 << 17, 1 << 19} {
		p.Resize(capacity)
		eventually(t, "used", func() bool { return s.moved.Load() > capacity*3/4 })
		eventually(t, "shrunk", func() bool { return s.moved.Load() <= capacity+capacity/20 })
		if b.Capacity() != capacity {
			t.Errorf("capacity %d", b.Capacity())
		}
	}
}

// Close stops the policy's goroutine and ristretto's while writers keep the policy busy. It may be called more than
// once, and calls of other methods after it are harmless.
func TestCloseWhileWriting(t *testing.T) {
	before := runtime.NumGoroutine()
	b := NewBudget(1 << 18)
	s := newStore(b, 100000)
	p := New(b, s, Options{})
	var wg sync.WaitGroup
	quit := make(chan struct{})
	for seed := range uint64(8) {
		wg.Go(func() { newWriter(s, p, seed, 300).run(quit) })
	}
	stopWriters := sync.OnceFunc(func() { close(quit); wg.Wait() })
	defer stopWriters()
	eventually(t, "active", p.active.Load)
	eventually(t, "fed", func() bool { return p.Stats().Taken > 0 })
	var closed atomic.Int32
	for range 3 {
		go func() { p.Close(); closed.Add(1) }()
	}
	eventually(t, "closed", func() bool { return closed.Load() == 3 })
	p.Close()
	if p.Stats().Active {
		t.Error("active after Close")
	}
	stopWriters()
	eventually(t, "goroutines", func() bool { return runtime.NumGoroutine() <= before })
}

// Once there is nothing to do, the policy calls nothing for an hour. Proves U6.
func TestIdlePolicySleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1 << 18)
		s := newStore(b, 1000)
		var calls atomic.Int64
		s.visited = func(string, uint64) { calls.Add(1) }
		p := New(b, s, Options{})
		defer p.Close()
		w := newWriter(s, p, 1, 300)
		for range 20 {
			for range 1000 {
				w.step()
			}
			time.Sleep(pause)
		}
		b.Settle(&w.a)
		time.Sleep(time.Second)
		busy := calls.Load()
		time.Sleep(time.Hour)
		if n := calls.Load(); busy == 0 || n != busy {
			t.Errorf("%d calls while busy, %d while idle", busy, n-busy)
		}
		p.Close()
		if p.exhausted || p.retries.waiting() {
			t.Error("a pause was pending")
		}
	})
}

// Nothing recovers a panic in the store: it ends the process.
func TestPanicEndsTheProcess(t *testing.T) {
	const child = "PAGECACHE_LRU_PANIC"
	if os.Getenv(child) == "" {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestPanicEndsTheProcess$")
		cmd.Env = append(os.Environ(), child+"=1")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "panic: hostile") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	b := NewBudget(1000)
	s := newStore(b, 10)
	s.visited = func(string, uint64) { panic("hostile") }
	p := New(b, s, Options{})
	s.set(&s.own, 1, 2000)
	p.Kick()
	time.Sleep(10 * time.Second)
}
