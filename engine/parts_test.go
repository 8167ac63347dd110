package engine_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

var (
	partsSeeds = flag.Int("parts.seeds", 100, "the number of disks that TestPartsSurviveCrashes uses [-short: 60]")
	partsFirst = flag.Uint64("parts.first", 1, "the first seed that TestPartsSurviveCrashes tries")
	partsStep  = flag.Int("parts.step", 2, "TestPartsAtEveryStep crashes the disk at every n-th operation [-short: 7]")
)

// partsRun is a store on a simulated disk that one goroutine changes, and what it has to contain. Many of its
// transactions are written in parts.
type partsRun struct {
	t      testing.TB
	rng    *rand.Rand
	disk   *simdisk.Disk
	opts   engine.Options
	seam   seam.Options
	limit  int    // SetGroupLimit; 0: as the store has it
	long   int    // the longest value that a change writes
	hook   func() // between two parts; nil: nothing
	pc     *engine.PageCache[[]byte]
	n      int          // of values
	states []partsState // after each change, in the order in which they took effect
	acked  int          // the index of a state that no crash may take back
	inside bool         // a batch is open
	looks  *rand.Rand   // for Views
	views  int          // that are open
}

// partsState is the contents of a store.
type partsState struct {
	pages map[engine.PageID]string
	roots map[string]engine.PageID
	lsn   engine.LSN // once it is stable, so is the state
}

func (s partsState) clone() partsState {
	return partsState{pages: maps.Clone(s.pages), roots: maps.Clone(s.roots)}
}

func (s partsState) equal(o partsState) bool {
	return maps.Equal(s.pages, o.pages) && maps.Equal(s.roots, o.roots)
}

var partsRoots = []string{"a", "b", "c"}

func newPartsRun(t testing.TB, seed uint64) *partsRun {
	r := &partsRun{t: t, rng: rand.New(rand.NewPCG(seed, 19)), looks: rand.New(rand.NewPCG(seed, 20)), long: 3900}
	r.disk = simdisk.New(seed, simdisk.Options{Block: 512, Depth: 1 + int(seed%3)})
	r.opts = engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 3 + int(seed%3)}
	if seed%5 == 0 {
		r.opts.CacheCapacity = 4 << 10
	}
	r.seam.Eager, r.seam.Unchecked = seed%2 == 0, seed%7 < 3
	if seed%4 >= 2 { // each message or two is a part
		r.limit, r.long = 64+r.rng.IntN(300), 200
	}
	empty := partsState{pages: map[engine.PageID]string{}, roots: map[string]engine.PageID{}}
	r.states = []partsState{empty}
	return r
}

// open opens the store. If alone is set, it ignores snapshots.
func (r *partsRun) open(alone bool) (err error) {
	r.seam.FS, r.seam.LogAlone = r.disk, alone
	o := r.opts
	if r.pc, err = engine.Open("/store", engine.Bytes{}, enginetest.WithSeam(&o, r.seam)); err != nil {
		return err
	}
	engine.SetInline(r.pc, 12000)
	if r.limit > 0 {
		engine.SetGroupLimit(r.pc, r.limit)
	}
	if r.hook != nil {
		engine.BetweenParts(r.pc, r.hook)
	}
	return nil
}

func (r *partsRun) last() partsState { return r.states[len(r.states)-1] }

// changed adds the state that follows from the last one by these changes.
func (r *partsRun) changed(lsn engine.LSN, changes ...func(partsState)) {
	s := r.last().clone()
	for _, c := range changes {
		c(s)
	}
	s.lsn = lsn
	r.states = append(r.states, s)
}

// value returns a value that there was never before.
func (r *partsRun) value() string {
	r.n++
	v := fmt.Sprintf("%d.", r.n)
	sizes := []int{len(v), 60, 200, 700, 2000, 3900}
	size := max(8, min(sizes[r.rng.IntN(len(sizes))], r.long))
	for len(v) < size {
		v += v
	}
	return v[:size]
}

func setPage(pid engine.PageID, v string) func(partsState) {
	return func(s partsState) { s.pages[pid] = v }
}

// pick returns a page of a state; 0 if it has none.
func (r *partsRun) pick(s partsState) engine.PageID {
	if len(s.pages) == 0 {
		return 0
	}
	return slices.Sorted(maps.Keys(s.pages))[r.rng.IntN(len(s.pages))]
}

// change makes one change in a transaction that sees the state s.
func (r *partsRun) change(tx *engine.Tx[[]byte], s partsState) (func(partsState), error) {
	pid, v, name := r.pick(s), r.value(), partsRoots[r.rng.IntN(len(partsRoots))]
	switch k := r.rng.IntN(10); {
	case k < 3 || len(s.pages) < 4:
		pid, err := tx.Allocate([]byte(v))
		return setPage(pid, v), err
	case k < 4:
		return func(s partsState) { delete(s.pages, pid) }, tx.Free(pid)
	case k < 5:
		to := pid
		if s.roots[name] != 0 && r.rng.IntN(3) == 0 {
			to = 0
		}
		return func(s partsState) {
			if s.roots[name] = to; to == 0 {
				delete(s.roots, name)
			}
		}, tx.SetRoot(name, to)
	case k < 7 || len(s.pages[pid]) > 6000:
		return setPage(pid, v), tx.Replace(pid, []byte(v))
	}
	return setPage(pid, s.pages[pid]+v), tx.Link(pid, []byte(v))
}

// transact makes n random changes in one transaction.
func (r *partsRun) transact(n int) error {
	var changes []func(partsState)
	lsn, err := r.pc.Update(r.t.Context(), func(tx *engine.Tx[[]byte]) error {
		changes = changes[:0]
		seen := r.last().clone()
		for range n {
			c, err := r.change(tx, seen)
			if err != nil {
				return err
			}
			c(seen)
			changes = append(changes, c)
		}
		return nil
	})
	if err == nil && lsn > 0 {
		r.changed(lsn, changes...)
	}
	return err
}

// single changes one page by a call of its own.
func (r *partsRun) single() error {
	pid, v := r.pick(r.last()), r.value()
	if pid == 0 {
		return nil
	}
	tx, err := r.pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	p, err := r.pc.Get(tx, pid)
	if err != nil {
		return err
	}
	ptr, won, err := r.pc.Link(tx, pid, p.Ptr, []byte(v))
	if err == nil && won {
		r.changed(ptr.LastLSN(), setPage(pid, r.last().pages[pid]+v))
	}
	return err
}

// stable makes the last state durable.
func (r *partsRun) stable() error {
	_, err := r.pc.MakeStable(r.last().lsn)
	if err == nil {
		r.acked = len(r.states) - 1
	}
	return err
}

// clean lets the cleaner do a few steps.
func (r *partsRun) clean() (err error) {
	for i := 0; i < 6 && err == nil; i++ {
		_, err = r.pc.AttemptGC()
	}
	return err
}

// step does something.
func (r *partsRun) step() error {
	if r.views < 2 && r.looks.IntN(6) == 0 {
		return r.stepsInView()
	}
	switch r.rng.IntN(12) {
	case 0:
		return r.single()
	case 1, 2:
		return r.stable()
	case 3:
		return r.pc.Snapshot()
	case 4, 5:
		return r.clean()
	case 6:
		b, err := r.pc.PinLog()
		if err != nil {
			return err
		}
		r.inside = true
		err = errors.Join(r.transact(1+r.rng.IntN(8)), r.single())
		r.inside = false
		return errors.Join(err, b.Seal())
	}
	return r.transact(1 + r.rng.IntN(12))
}

// stepsInView does something while a View is open, which sees nothing of it.
func (r *partsRun) stepsInView() error {
	r.views++
	defer func() { r.views-- }()
	return r.pc.View(r.t.Context(), func(tx *engine.Tx[[]byte]) (err error) {
		then := r.last()
		for n := 1 + r.looks.IntN(4); n > 0 && err == nil; n-- {
			if err = r.step(); err == nil {
				err = r.sees(tx, then)
			}
		}
		return err
	})
}

// sees fails the test unless a View sees a state. It returns an error if it cannot read.
func (r *partsRun) sees(tx *engine.Tx[[]byte], want partsState) error {
	got, err := r.read(tx)
	if err == nil && !got.equal(want) {
		r.t.Errorf("a View sees what it should not:\n%s", describeStates(want, got))
	}
	return err
}

// beside is what happens between two parts. A View that begins then sees nothing of them.
func (r *partsRun) beside() {
	if r.looks.IntN(6) == 0 {
		_ = r.pc.View(r.t.Context(), func(tx *engine.Tx[[]byte]) error { return r.sees(tx, r.last()) })
	}
	switch k := r.rng.IntN(12); {
	case k < 2:
		_ = r.single()
	case k < 4 && r.inside: // they would wait for the batch
	case k == 2:
		_, _ = r.pc.Flush()
	case k == 3:
		_ = r.pc.Snapshot()
	case k == 4:
		_ = r.clean()
	}
}

// contents reads the whole store.
func (r *partsRun) contents() (s partsState, err error) {
	err = r.pc.View(r.t.Context(), func(tx *engine.Tx[[]byte]) (err error) {
		s, err = r.read(tx)
		return err
	})
	return s, err
}

// read reads the whole store as a transaction sees it.
func (r *partsRun) read(tx *engine.Tx[[]byte]) (partsState, error) {
	s := partsState{pages: map[engine.PageID]string{}, roots: map[string]engine.PageID{}}
	for top, pid := enginetest.NextPage(r.pc)+3, engine.FirstUserPage; pid < top; pid++ {
		p, err := tx.Get(pid)
		if err != nil {
			return s, err
		}
		if p.Kind == engine.KindMaterialized {
			s.pages[pid] = string(p.Value)
		}
	}
	for _, name := range partsRoots {
		pid, err := tx.Root(name)
		if err != nil && !errors.Is(err, engine.ErrRootNotFound) {
			return s, err
		}
		if err == nil && pid != 0 {
			s.roots[name] = pid
		}
	}
	return s, nil
}

// check finds out which of the states the store has, which no crash may take back from now on.
func (r *partsRun) check() error {
	// Reading may consolidate pages, whose old blobs wait to be deleted then.
	if _, err := engine.ExactBlobs(r.pc); err != nil {
		return err
	}
	got, err := r.contents()
	if err == nil {
		err = engine.ExactAccounts(r.pc)
	}
	if err != nil {
		return err
	}
	for i := len(r.states) - 1; i >= r.acked; i-- {
		if r.states[i].equal(got) {
			r.states, r.acked = r.states[:i+1], i
			return nil
		}
	}
	for i, s := range r.states {
		if s.equal(got) {
			return fmt.Errorf("the store is in state %d, and %d was acknowledged", i, r.acked)
		}
	}
	return fmt.Errorf("the store is in none of %d states:\n%s", len(r.states), describeStates(r.last(), got))
}

// describeStates says how two states differ.
func describeStates(want, got partsState) (text string) {
	for pid := range engine.PageID(200) {
		if w, g := want.pages[pid], got.pages[pid]; w != g {
			text += fmt.Sprintf("page %d: %d bytes %.30q, the last state has %d %.30q\n", pid, len(g), g, len(w), w)
		}
	}
	return text + fmt.Sprintf("roots: %v, the last state has %v", got.roots, want.roots)
}

// crash cuts the power.
func (r *partsRun) crash() {
	d := r.disk.Crash(r.rng.Uint64())
	if r.pc != nil {
		_ = r.pc.Close()
	}
	r.disk, r.pc = d, nil
	if r.seam.Unchecked && r.rng.IntN(2) == 0 {
		corruptSnapshots(r.t, d)
	}
}

// corruptSnapshots corrupts the second block of records in all snapshots of the store, or the only one. The store skips
// a snapshot if it needs the block when it opens, as it always needs the first, and else rebuilds the block when it is
// used.
func corruptSnapshots(t testing.TB, d *simdisk.Disk) {
	t.Helper()
	if _, found, err := enginetest.LogEnd(d, "/store"); err != nil || !found {
		return
	}
	for _, name := range enginetest.SnapshotFiles(t, d, "/store") {
		if strings.Contains(name, "tmp") {
			continue
		}
		name = "/store/" + name
		b := d.ReadDurable(name)
		h, err := format.DecodeSnapshotHeader(b, int64(len(b)))
		if err != nil {
			continue // a crash has cut it short
		}
		d.FlipBit(name, min(2, h.RecordBlocks())*format.SnapshotBlock+40, 3)
	}
}

// reopen opens the store again and checks it. The disk crashes in up to three openings before.
func (r *partsRun) reopen() error {
	for depth := 0; ; depth++ {
		if depth < 3 && r.rng.IntN(2) == 0 {
			r.disk.CrashAfter(1 + r.rng.IntN(30))
		}
		err := r.open(r.rng.IntN(3) == 0)
		if err == nil {
			err = r.check()
		}
		if err == nil && !r.disk.Crashed() {
			r.disk.CrashAfter(0)
			return nil
		}
		if !r.disk.Crashed() {
			return err
		}
		r.crash()
	}
}

// life opens the store, changes it, and closes or crashes it.
func (r *partsRun) life() error {
	if err := r.reopen(); err != nil {
		return fmt.Errorf("reopened: %w", err)
	}
	if r.rng.IntN(6) > 0 {
		r.disk.CrashAfter(1 + r.rng.IntN(150))
	}
	var err error
	for i := 0; i < 40 && err == nil; i++ {
		err = r.step()
	}
	switch {
	case err != nil && !r.disk.Crashed():
		return err
	case err == nil && r.rng.IntN(2) == 0:
		if err := r.pc.Close(); err == nil {
			r.acked = len(r.states) - 1
		} else if !r.disk.Crashed() {
			return err
		}
		r.pc = nil
	}
	if r.pc != nil {
		r.crash()
	} else if r.disk.Crashed() {
		r.disk = r.disk.Crash(r.rng.Uint64())
	}
	r.disk.CrashAfter(0)
	return nil
}

// Transactions that are written in parts are there whole or not at all after a crash at any time, three crashes deep:
// also beside batches, snapshots, cleaning and single changes, also between the parts, with and without snapshots. All
// that was acknowledged is there, and all accounts are exact. Views that are open meanwhile, or begin between two
// parts, see nothing of what is written. Proves D1 to D4, Q1, Q8 and rule 7.
func TestPartsSurviveCrashes(t *testing.T) {
	t.Parallel()
	seeds := uint64(*partsSeeds)
	if testing.Short() {
		seeds = min(seeds, 60)
	}
	states := 0
	for seed := *partsFirst; seed < *partsFirst+seeds; seed++ {
		r := newPartsRun(t, seed)
		if seed%3 > 0 {
			r.hook = r.beside
		}
		for depth := range 3 {
			if err := r.life(); err != nil {
				t.Fatalf("seed %d, life %d: %v", seed, depth, err)
			}
		}
		if err := r.reopen(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		states += len(r.states)
		if err := r.pc.Close(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	t.Logf("%d changes survived", states)
}

// scenario makes two transactions in parts, a single change, and a snapshot beside them.
func (r *partsRun) scenario() error {
	if err := r.open(false); err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return r.transact(9) }, r.stable, func() error { return r.transact(10) }, r.single,
		r.pc.Snapshot, func() error { return r.transact(12) }, r.clean, r.stable, func() error { return r.transact(5) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// The disk crashes at each of its operations while two transactions are written in parts, and then at each operation of
// the next opening, and at some of the one after that. Proves D1, D2 and D4.
func TestPartsAtEveryStep(t *testing.T) {
	t.Parallel()
	step := *partsStep
	if testing.Short() {
		step = max(step, 7)
	}
	runs := 0
	for seed := range uint64(4) {
		for at := 1; ; at += step {
			hit := false
			for inside := 1; ; inside += step {
				r := newPartsRun(t, seed)
				r.hook = r.beside
				r.disk.CrashAfter(at)
				err := r.scenario()
				if hit = r.disk.Crashed(); err != nil && !hit {
					t.Fatal(err)
				}
				r.crash()
				r.disk.CrashAfter(inside)
				if err = r.open(inside%2 == 0); err == nil {
					err = r.check()
				}
				again := r.disk.Crashed()
				if err != nil && !again {
					t.Fatalf("seed %d, crash at %d and %d: %v", seed, at, inside, err)
				}
				r.crash()
				if err := r.reopen(); err != nil {
					t.Fatalf("seed %d, crash at %d and %d: %v", seed, at, inside, err)
				}
				_ = r.pc.Close()
				if runs++; !again {
					break
				}
			}
			if !hit {
				break
			}
		}
	}
	t.Logf("%d runs", runs)
}
