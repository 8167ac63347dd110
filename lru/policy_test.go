package lru

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// A store that needs less than half of its capacity has no adviser and records nothing. Proves L3.
func TestIdle(t *testing.T) {
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

// What cannot be paged out is passed over, and goes once it can, unless it is wanted again. Proves L4.
func TestBusy(t *testing.T) {
	w := newWorld(t, 100*1000, 1000)
	w.allBusy(true)
	for key := range uint64(150) {
		w.put(key, 1000)
	}
	w.settleAll()
	s := w.p.Stats()
	if w.moved.Load() != 150*1000 || s.Busy == 0 || !w.p.stuck || !w.p.retries.waiting() {
		t.Fatalf("all busy: %d bytes resident, %+v", w.moved.Load(), s)
	}
	var given uint64 // a page that the adviser gave up
	for given = range w.p.retries.keys {
		break
	}
	for range HitsLen { // wanted: hit again, and more often than others
		w.put(given, 1000)
	}
	w.put(given, 1000)
	w.settleAll()
	if _, there := w.p.retries.keys[given]; there {
		t.Errorf("page %d was hit and is still to go", given)
	}
	w.allBusy(false)
	for range 3 {
		w.p.step()
	}
	if w.cost(given) == 0 {
		t.Errorf("page %d was wanted and went", given)
	}
	if w.p.retries.waiting() || w.p.stuck {
		t.Errorf("%d keys are left", len(w.p.retries.keys))
	}
	w.check(t)
}

// An adviser that takes another's place is told of what was to go, too: none of it is paged out unless this one says so. Proves L4.
func TestRestartForgetsRetries(t *testing.T) {
	w := newWorld(t, 100*1000, 1000)
	w.allBusy(true)
	for key := range uint64(150) {
		w.put(key, 1000)
	}
	w.settleAll()
	if !w.p.retries.waiting() {
		t.Fatal("nothing is to be tried again")
	}
	w.p.Resize(1 << 20) // room for all of them
	w.p.start(1 << 20)
	if w.p.retries.waiting() || w.p.adviser.known != 150 {
		t.Errorf("%d keys are to go of %d that may stay", len(w.p.retries.keys), w.p.adviser.known)
	}
}

// The pauses while an adviser is loaded are short, whatever kept the load from going on: a machine that was asleep is no reason to sleep.
func TestLoadPauseIsBounded(t *testing.T) {
	w := newWorld(t, 1<<20, 1)
	w.p.since = time.Now().Add(-time.Hour)
	start := time.Now()
	if w.p.pressed() {
		t.Error("an empty cache is pressed")
	}
	if d := time.Since(start); d < loadRest*loadBurst || d > time.Minute {
		t.Errorf("it took %v", d)
	}
	if since := time.Since(w.p.since); since > time.Minute {
		t.Errorf("the next burst began %v ago", since)
	}
}

// The list of retries is bounded, takes turns, and forgets what is wanted.
func TestRetries(t *testing.T) {
	var r retries
	for key := range uint64(maxRetries + 10) {
		r.add(key)
		r.add(key)
	}
	if len(r.queue) != maxRetries {
		t.Fatalf("%d keys", len(r.queue))
	}
	r.drop(maxBusy)
	var tried []uint64
	busy := func(key uint64) Outcome { tried = append(tried, key); r.add(key); return Busy }
	open := func() bool { return false }
	r.try(busy, func() bool { return true })
	if len(tried) != 0 {
		t.Errorf("tried %d after it was to stop", tried)
	}
	r.try(busy, open)
	r.try(busy, open)
	if len(tried) != 2*maxBusy || tried[maxBusy] != maxBusy+1 {
		t.Errorf("tried %d", tried)
	}
	n := 0
	r.try(func(uint64) Outcome { n++; return Out }, open)
	if n != maxRetries-1 || r.waiting() || r.queue != nil {
		t.Errorf("%d paged out, %d left", n, len(r.keys))
	}
}

// The policy rests after so many keys that changed nothing, however many there are, and drops what is too much.
func TestRest(t *testing.T) {
	b := NewBudget(1 << 20)
	s := newStore(b, 1000)
	for key := range uint64(800) {
		s.set(&s.own, key, 1000)
	}
	b.Settle(&s.own)
	p := New(b, s, Options{})
	defer p.Close()
	p.Kick()
	eventually(t, "active", p.active.Load)
	start := time.Now()
	var h Hits
	offer := func(d time.Duration) {
		for n, until := uint64(0), time.Now().Add(d); time.Now().Before(until); n++ {
			if h.Add(n % 800) {
				p.Take(&h)
			}
		}
	}
	offer(200 * time.Millisecond)
	eventually(t, "fed", func() bool { offer(pause); return p.Stats().Hits > 0 }) // on a busy machine not yet
	st := p.Stats()
	pauses := int64(time.Since(start)/pause) + 2
	if st.Taken > pauses*(restAfter+HitsLen) || st.Dropped < st.Taken || st.Hits == 0 {
		t.Errorf("%d keys in %d pauses: %+v", st.Taken, pauses, st)
	}
}

// While it runs, a policy is made smaller and larger.
func TestResize(t *testing.T) {
	b := NewBudget(1 << 22)
	s := newStore(b, 10000)
	p := New(b, s, Options{})
	defer p.Close()
	var wg sync.WaitGroup
	quit := make(chan struct{})
	for seed := range uint64(4) {
		wg.Go(func() { write(s, p, seed, 500, quit, nil) })
	}
	for _, capacity := range []int64{1 << 20, 1 << 22, 1 << 17, 1 << 19} {
		p.Resize(capacity)
		eventually(t, "used", func() bool { return s.moved.Load() > capacity*3/4 })
		eventually(t, "shrunk", func() bool { return s.moved.Load() <= capacity+capacity/20 })
		if b.Capacity() != capacity {
			t.Errorf("capacity %d", b.Capacity())
		}
	}
	close(quit)
	wg.Wait()
}

// Close ends it and ristretto's goroutines, however busy it is, and more than once. What comes afterwards is harmless.
func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	b := NewBudget(1 << 18)
	s := newStore(b, 100000)
	p := New(b, s, Options{})
	var wg sync.WaitGroup
	quit := make(chan struct{})
	for seed := range uint64(8) {
		wg.Go(func() { write(s, p, seed, 300, quit, nil) })
	}
	eventually(t, "active", p.active.Load)
	time.Sleep(20 * time.Millisecond)
	start := time.Now()
	var closers sync.WaitGroup
	for range 3 {
		closers.Go(p.Close)
	}
	closers.Wait()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("closing took %v", took)
	}
	p.Close()
	if p.Stats().Active {
		t.Error("active after Close")
	}
	close(quit)
	wg.Wait()
	eventually(t, "goroutines", func() bool { return runtime.NumGoroutine() <= before })
}

// Once nothing is to be done, nothing is done. Proves L6.
func TestQuiet(t *testing.T) {
	b := NewBudget(1 << 18)
	s := newStore(b, 1000)
	calls := make(chan string, 1)
	s.visited = func(call string, _ uint64) {
		select {
		case calls <- call:
		default:
		}
	}
	p := New(b, s, Options{})
	defer p.Close()
	quit := make(chan struct{})
	time.AfterFunc(30*time.Millisecond, func() { close(quit) })
	write(s, p, 1, 300, quit, nil)
	eventually(t, "quiet", func() bool {
		select {
		case <-calls:
			return false
		case <-time.After(50 * time.Millisecond):
			return true
		}
	})
	p.Close()
	if p.stuck || p.retries.waiting() {
		t.Error("it would have woken by itself")
	}
}

// A panic in the store is not swallowed: it ends the process.
func TestPanicEndsTheProcess(t *testing.T) {
	const child = "PAGECACHE_LRU_PANIC"
	if os.Getenv(child) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPanicEndsTheProcess$")
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
