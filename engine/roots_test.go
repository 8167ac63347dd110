package engine_test

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"sync"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/invariants"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// rootName returns the name of root i, of 24 bytes.
func rootName(i int) string { return fmt.Sprintf("collection/%013d", i) }

// addRoots adds the roots from first up to, but not including, end. Root i is page 10+i.
func addRoots(t testing.TB, pc *engine.PageCache[[]byte], first, end int) {
	t.Helper()
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	for i := first; i < end; i++ {
		if now, won, err := pc.CASRoot(tx, rootName(i), 0, engine.PageID(10+i)); err != nil || !won {
			t.Fatalf("add root %d: now %d, won %v, error %v", i, now, won, err)
		}
	}
}

// setRoot changes a root.
func setRoot(t testing.TB, pc *engine.PageCache[[]byte], name string, old, to engine.PageID) {
	t.Helper()
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	if now, won, err := pc.CASRoot(tx, name, old, to); err != nil || !won || now != to {
		t.Fatalf("root %q from %d to %d: now %d, won %v, error %v", name, old, to, now, won, err)
	}
}

// wantRoots fails the test unless the store has exactly these roots, and its accounts are exact.
func wantRoots(t testing.TB, pc *engine.PageCache[[]byte], want engine.Meta) {
	t.Helper()
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	got, err := pc.Meta(tx)
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%d roots, want %d, or others; error %v", len(got), len(want), err)
	}
	for name, pid := range want {
		if got, err := pc.Root(tx, name); err != nil || got != pid {
			t.Errorf("root %q is %d, want %d, error %v", name, got, pid, err)
		}
	}
	if n := pc.Stats().Pages.Roots; n != int64(len(want)) {
		t.Errorf("Stats count %d roots, want %d", n, len(want))
	}
	if err := engine.ExactAccounts(pc); err != nil {
		t.Error(err)
	}
}

// expected returns n roots as addRoots adds them.
func expected(n int) engine.Meta {
	m := engine.Meta{}
	for i := range n {
		m[rootName(i)] = engine.PageID(10 + i)
	}
	return m
}

// A CASRoot writes one message, as long as its own name, whatever the number of roots, and BytesGiven counts it: so do
// the device's bytes, after 20 000 roots as after one. A removed root leaves no more than a page that was freed.
// Trap 49.
func TestRootCostsItsOwnName(t *testing.T) {
	t.Parallel()
	o := &engine.Options{SegmentSize: 1 << 20, IOBuffers: 2, FlushEvery: -1}
	// No segment is short, so the log has no gaps.
	enginetest.WithSeam(o, seam.Options{FS: simdisk.New(1, simdisk.Options{}), FirstStep: 1 << 20})
	pc := enginetest.Open(t, "/store", o)
	defer enginetest.Close(t, pc)
	const n = 20_000
	message := int64(format.AlignUp(format.HeaderSize + len(format.AppendRoot(nil, format.Root{
		Name: rootName(0), Target: 10 + n}))))
	for _, step := range []struct {
		what  string
		calls int
		most  int64 // bytes of the log for each call
		do    func()
	}{
		{"add the first roots", 10, message, func() { addRoots(t, pc, 0, 10) }},
		{"add many roots", n - 20, message, func() { addRoots(t, pc, 10, n-10) }},
		{"add more roots", 10, message, func() { addRoots(t, pc, n-10, n) }},
		{"change a root", 100, message, func() {
			for i := range engine.PageID(100) {
				setRoot(t, pc, rootName(7), 17+i, 18+i)
			}
		}},
		{"change no root", 100, 0, func() { setRoot(t, pc, "none", 0, 0) }},
		{"remove roots", n, format.HeaderSize, func() {
			setRoot(t, pc, rootName(7), 117, 17)
			for i := range n {
				setRoot(t, pc, rootName(i), engine.PageID(10+i), 0)
			}
		}},
	} {
		enginetest.Flush(t, pc)
		before, tail := pc.Stats(), engine.StoreOf(pc).Log.Tail()
		step.do()
		given := pc.Stats().Log.BytesGiven - before.Log.BytesGiven
		wrote := int64(engine.StoreOf(pc).Log.Tail() - tail)
		most := int64(step.calls)*step.most + message + 2*4096 // segments begin with 4096 bytes
		t.Logf("%s: %d bytes of log, %d given, for %d calls", step.what, wrote, given, step.calls)
		if wrote > most || given > wrote || given < wrote*2/3-2*4096 {
			t.Errorf("%s: %d bytes of log and %d given for %d calls, want at most %d", step.what, wrote, given,
				step.calls, most)
		}
	}
	if s := pc.Stats(); s.Space.LiveBytes > n*format.HeaderSize+100 || s.Pages.Roots != 0 || s.Pages.InUse != 0 {
		t.Errorf("without roots: %+v, %+v", s.Space, s.Pages)
	}
	wantRoots(t, pc, engine.Meta{})
	pids := enginetest.AllocateMany(t, pc, 100, 10) // they take the ids of removed roots
	if s := pc.Stats(); s.Pages.Free != n-100 || s.Pages.InUse != 100 || pids[0] >= engine.FirstUserPage+n {
		t.Errorf("pages %v after %d roots were removed: %+v", pids[0], n, s.Pages)
	}
}

// Roots are there after a clean close and after a kill: those that only the snapshot has, those that only the log has,
// and those that both have, changed, removed, or under a name that was used before; also without snapshots, through
// cleaning that moves their messages, and in a store that is opened ReadOnly. Check finds nothing. Rule 4, trap 49.
func TestRootsThroughOpenings(t *testing.T) {
	t.Parallel()
	d := simdisk.New(2, simdisk.Options{})
	o := enginetest.SimOptions(d)
	o.SegmentSize = 16 << 10
	pc := enginetest.Open(t, "/store", o)
	const n = 2000
	want := expected(n)
	addRoots(t, pc, 0, n)
	enginetest.Close(t, pc) // writes a snapshot
	change := func(round int) {
		for i := 0; i < n; i += 50 {
			name := rootName(i + round)
			setRoot(t, pc, name, want[name], 5)
			want[name] = 5
			name = rootName(i + 10 + round)
			setRoot(t, pc, name, want[name], 0)
			delete(want, name)
			name = rootName(i + 20 + round)
			setRoot(t, pc, name, want[name], 0)
			setRoot(t, pc, name, 0, 6)
			want[name] = 6
			name = rootName(n + i + round)
			setRoot(t, pc, name, 0, 7)
			want[name] = 7
		}
		enginetest.Flush(t, pc)
	}
	for round, end := range []string{"close", "kill", "kill", "move", "read only", "close", "log alone"} {
		if end == "log alone" {
			for _, name := range enginetest.SnapshotFiles(t, d, "/store") {
				if err := d.Remove("/store/" + name); err != nil {
					t.Fatal(err)
				}
			}
		}
		o := enginetest.SimOptions(d)
		pc = enginetest.Open(t, "/store", o)
		wantRoots(t, pc, want)
		change(round)
		switch end {
		case "kill":
			d = d.Crash(uint64(round))
			_ = pc.Close()
			continue
		case "move":
			for i := range 5 {
				enginetest.Churn(t, pc, enginetest.AllocateMany(t, pc, 3, 100), 3)
				setRoot(t, pc, "churn", engine.PageID(i), engine.PageID(i+1))
			}
			want["churn"] = 5
			if enginetest.CleanAll(t, pc) == 0 {
				t.Error("nothing was recycled")
			}
		}
		wantRoots(t, pc, want)
		enginetest.Close(t, pc)
		if end == "read only" {
			o := enginetest.SimOptions(d)
			o.ReadOnly = true
			pc := enginetest.Open(t, "/store", o)
			wantRoots(t, pc, want)
			enginetest.Close(t, pc)
		}
	}
}

// Of goroutines that add, change and remove the same few roots, one wins each time, and the page of a removed root is
// used again only when no Tx can see it: the roots that are left are those of the last winners, here and after a crash.
// Proves roots, I2 and I3, and trap 2.
func TestRootsConcurrently(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	const goroutines, names = 4, 3
	rounds := 3000
	if testing.Short() {
		rounds = 600
	}
	var mu sync.Mutex
	sums := map[string]int{} // of each name: how often it was added, less how often it was removed
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range rounds {
				name := rootName((i + g) % names)
				tx, err := pc.Begin()
				if err != nil {
					t.Error(err)
					return
				}
				old, err := pc.Root(tx, name)
				if errors.Is(err, engine.ErrRootNotFound) {
					old, err = 0, nil
				}
				to := engine.PageID(1 + g*rounds + i)
				if i%3 == 0 {
					to = 0
				}
				if i%7 == 0 {
					runtime.Gosched()
				}
				now, won, casErr := pc.CASRoot(tx, name, old, to)
				if err = errors.Join(err, casErr); err != nil || won && now != to || !won && now == old {
					t.Errorf("root %s from %d to %d: now %d, won %v, error %v", name, old, to, now, won, err)
				}
				if i%5 == 0 {
					if _, ptr, err := pc.Allocate(tx, []byte("a page")); err != nil || ptr.IsZero() {
						t.Error(err)
					}
				}
				tx.End()
				mu.Lock()
				switch {
				case won && old == 0 && to != 0:
					sums[name]++
				case won && old != 0 && to == 0:
					sums[name]--
				}
				mu.Unlock()
			}
		})
	}
	enginetest.Soon(t, "changing roots", wg.Wait)
	tx := enginetest.Begin(t, pc)
	roots, err := pc.Meta(tx)
	tx.End()
	if err != nil {
		t.Fatal(err)
	}
	for i := range names {
		name := rootName(i)
		if _, found := roots[name]; sums[name] < 0 || sums[name] > 1 || found != (sums[name] == 1) {
			t.Errorf("root %s was added %d times more than it was removed; found %v", name, sums[name], found)
		}
	}
	wantRoots(t, pc, roots)
	enginetest.Flush(t, pc)
	d = d.Crash(1)
	_ = pc.Close()
	pc = enginetest.OpenSim(t, d)
	defer enginetest.Close(t, pc)
	wantRoots(t, pc, roots)
}

// For calls other than Get and Pages, a page that holds a root is no page: a state that was seen before it held one
// does not match, and its id is not handed out.
func TestPageOfRootIsNoPage(t *testing.T) {
	pc := enginetest.OpenSim(t, simdisk.New(4, simdisk.Options{}))
	defer enginetest.Close(t, pc)
	pids := enginetest.AllocateMany(t, pc, 3, 10)
	tx := enginetest.Begin(t, pc)
	p, err := pc.Get(tx, pids[1])
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Must(t)(pc.Free(tx, pids[1], p.Ptr))
	tx.End()
	setRoot(t, pc, "root", 0, pids[0])
	if got := engine.RootPage(pc, "root"); got != pids[1] {
		t.Fatalf("the root is on page %d, want %d, the one that was freed", got, pids[1])
	}
	tx = enginetest.Begin(t, pc)
	defer tx.End()
	now, err := pc.Get(tx, pids[1])
	if err != nil || now.Kind != engine.KindRoot || now.Value != nil || now.Ptr.IsZero() {
		t.Errorf("Get: %+v, error %v, want KindRoot", now, err)
	}
	x := []byte("x")
	for _, old := range []engine.PagePtr[[]byte]{p.Ptr, now.Ptr, {}} {
		for what, f := range map[string]func() (engine.PagePtr[[]byte], bool, error){
			"Link":    func() (engine.PagePtr[[]byte], bool, error) { return pc.Link(tx, pids[1], old, x) },
			"Replace": func() (engine.PagePtr[[]byte], bool, error) { return pc.Replace(tx, pids[1], old, x) },
			"Free":    func() (engine.PagePtr[[]byte], bool, error) { return pc.Free(tx, pids[1], old) },
		} {
			if ptr, won, err := f(); err != nil || won || !ptr.IsZero() {
				t.Errorf("%s: %v, won %v, error %v, want the zero state", what, ptr, won, err)
			}
		}
	}
	if ptr, frags, err := pc.Fragments(tx, pids[1]); err != nil || !ptr.IsZero() || len(frags) > 0 {
		t.Errorf("Fragments: %v, %q, error %v, want nothing", ptr, frags, err)
	}
	if err := pc.Prefetch(tx, pids[1]); err != nil {
		t.Error(err)
	}
	if pid, err := pc.Root(tx, "root"); err != nil || pid != pids[0] {
		t.Errorf("the root is page %d, error %v, want %d", pid, err, pids[0])
	}
}

// Root, and CASRoot of a root that there is, allocate nothing but the new entry.
func TestRootAllocations(t *testing.T) {
	pc := enginetest.OpenSim(t, simdisk.New(5, simdisk.Options{}))
	defer enginetest.Close(t, pc)
	setRoot(t, pc, "root", 0, 1)
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	if n := testing.AllocsPerRun(100, func() { _, _ = pc.Root(tx, "root") }); n > 0 {
		t.Errorf("Root allocates %v times", n)
	}
	if invariants.Enabled { // its checks allocate
		return
	}
	pid := engine.PageID(1)
	if n := testing.AllocsPerRun(100, func() {
		_, _, _ = pc.CASRoot(tx, "root", pid, pid+1)
		pid++
	}); n > 2 {
		t.Errorf("CASRoot allocates %v times", n)
	}
}

// BenchmarkCASRoot changes one of many roots after another.
func BenchmarkCASRoot(b *testing.B) {
	for _, n := range []int{1, 100, 100_000} {
		b.Run(fmt.Sprintf("names=%d", n), func(b *testing.B) {
			pc := enginetest.Open(b, b.TempDir(), nil)
			defer enginetest.Close(b, pc)
			addRoots(b, pc, 0, n)
			enginetest.Flush(b, pc)
			names := make([]string, n)
			now := make([]engine.PageID, n)
			for i := range names {
				names[i], now[i] = rootName(i), engine.PageID(10+i)
			}
			tx := enginetest.Begin(b, pc)
			defer tx.End()
			tail := engine.StoreOf(pc).Log.Tail()
			b.ReportAllocs()
			i, runs := 0, 0
			for b.Loop() {
				if _, won, err := pc.CASRoot(tx, names[i], now[i], now[i]+1); err != nil || !won {
					b.Fatal(won, err)
				}
				now[i]++
				runs++
				if i++; i == n {
					i = 0
				}
			}
			b.ReportMetric(float64(engine.StoreOf(pc).Log.Tail()-tail)/float64(runs), "log-B/op")
		})
	}
}

// BenchmarkRoot looks up one of many roots after another.
func BenchmarkRoot(b *testing.B) {
	for _, n := range []int{1, 100, 100_000} {
		b.Run(fmt.Sprintf("names=%d", n), func(b *testing.B) {
			pc := enginetest.OpenSim(b, simdisk.New(1, simdisk.Options{}))
			defer enginetest.Close(b, pc)
			addRoots(b, pc, 0, n)
			names := make([]string, n)
			for i := range names {
				names[i] = rootName(i)
			}
			tx := enginetest.Begin(b, pc)
			defer tx.End()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := pc.Root(tx, names[i%n]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpenRoots opens a store with many roots that was closed.
func BenchmarkOpenRoots(b *testing.B) {
	for _, n := range []int{1, 100_000} {
		b.Run(fmt.Sprintf("names=%d", n), func(b *testing.B) {
			dir := b.TempDir()
			pc := enginetest.Open(b, dir, nil)
			addRoots(b, pc, 0, n)
			enginetest.Close(b, pc)
			for b.Loop() {
				pc, err := engine.Open(dir, engine.Bytes{}, nil)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := pc.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// Salvage saves roots on their old pages. If the message that freed a page is lost, which was the same root as another
// one, the newer root is saved; if the newest message of a root is lost, the root is saved as it was before. Both are
// reported as a LossRoot. A root that the snapshot has needs no message. Trap 30.
func TestSalvageOfRoots(t *testing.T) {
	for _, clean := range []bool{false, true} {
		d := simdisk.New(6, simdisk.Options{})
		pc := enginetest.OpenSim(t, d)
		pids := enginetest.AllocateMany(t, pc, 4, 10)
		set := func(name string, old, to int) {
			t.Helper()
			var pages [2]engine.PageID
			for i, n := range []int{old, to} {
				if n > 0 {
					pages[i] = pids[n-1]
				}
			}
			setRoot(t, pc, name, pages[0], pages[1])
		}
		set("whole", 0, 1)
		set("twice", 0, 1)
		set("older", 0, 2)
		first := engine.RootPage(pc, "twice")
		tx := enginetest.Begin(t, pc) // so that the id is not used again
		set("twice", 1, 0)
		set("twice", 0, 3)
		tx.End()
		set("older", 2, 4)
		var hurt []int64 // a free and a root
		for _, pid := range []engine.PageID{first, engine.RootPage(pc, "older")} {
			places, err := engine.Places(pc, pid)
			if err != nil {
				t.Fatal(err)
			}
			hurt = append(hurt, int64(places[0].Off))
		}
		at := map[string]engine.PageID{}
		for _, name := range []string{"whole", "twice", "older"} {
			at[name] = engine.RootPage(pc, name)
		}
		enginetest.Flush(t, pc)
		broken := d.Copy()
		enginetest.Close(t, pc)
		if clean {
			broken = d
		}
		for _, off := range hurt {
			broken.FlipBit("/store/log", off+4, 0) // in the checksum
		}
		o := enginetest.SimOptions(broken)
		report, err := engine.Salvage("/store", "/saved", o, nil)
		losses := 0
		for _, l := range report.Losses {
			if l.Kind == engine.LossRoot {
				losses++
			}
		}
		if err != nil || !clean && losses != 2+1 || clean && losses != 0 { // "twice" is reported for both messages
			t.Errorf("clean %v: %d losses of roots, error %v: %v", clean, losses, err, report.Losses)
		}
		want := engine.Meta{"whole": pids[0], "twice": pids[2], "older": pids[1]}
		if clean {
			want["older"] = pids[3]
		}
		saved, err := engine.Open("/saved", engine.Bytes{}, o)
		if err != nil {
			t.Fatal(err)
		}
		wantRoots(t, saved, want)
		for name, pid := range at {
			if got := engine.RootPage(saved, name); got != pid {
				t.Errorf("clean %v: root %s is on page %d, want %d", clean, name, got, pid)
			}
		}
		if err := saved.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A root that cannot be added, since the disk is full, counts nowhere, and the id that its page would have had is
// handed out again.
func TestRootThatFindsNoSpace(t *testing.T) {
	d := simdisk.New(8, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	addRoots(t, pc, 0, 3)
	d.SetCapacity(1)
	tx := enginetest.Begin(t, pc)
	var last engine.PageID
	for _, size := range []int{4000, 100, 1, 0} { // until not even an empty page fits
		for {
			pid, _, err := pc.Allocate(tx, make([]byte, size))
			if errors.Is(err, engine.ErrNoSpace) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			last = max(last, pid)
		}
	}
	for range 3 {
		now, won, err := pc.CASRoot(tx, "a name of some length", 0, 1)
		if !errors.Is(err, engine.ErrNoSpace) || won || now != 0 {
			t.Fatalf("now %d, won %t, error %v; want ErrNoSpace", now, won, err)
		}
	}
	if n := pc.Stats().Pages.Roots; n != 3 {
		t.Errorf("%d roots, want 3", n)
	}
	d.SetCapacity(0)
	if pid, _, err := pc.Allocate(tx, nil); err != nil || pid != last+1 {
		t.Errorf("the next page is %d, want %d; error %v", pid, last+1, err)
	}
	if _, won, err := pc.CASRoot(tx, "a name of some length", 0, 1); !won || err != nil {
		t.Errorf("with room again: won %t, error %v", won, err)
	}
	tx.End()
	enginetest.Close(t, pc)
}
