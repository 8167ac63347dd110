package engine_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/apart"
	"pagecache/internal/simdisk"
)

var (
	stressTime = flag.Duration("stress.time", 300*time.Millisecond,
		"how long TestStress works with each set of options [-short: 100ms]")
	stressSeed = flag.Uint64("stress.seed", 1, "the seed of the goroutines of TestStress")
)

// stressSets are the sets of options that TestStress tries.
var stressSets = []struct {
	name string
	o    engine.Options
	sim  bool // on the simulated disk, where a segment costs nearly nothing
}{
	{"one", engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, ConsolidateAfter: 1,
		FlushEvery: time.Millisecond}, true},
	{"three", engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, ConsolidateAfter: 3, IDPersistInterval: 100}, true},
	{"tiny", engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: time.Microsecond}, false},
	{"default", engine.Options{}, false},
	{"nothing resident", engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, CacheCapacity: 1}, false},
	{"small cache", engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, CacheCapacity: 8 << 10,
		FlushEvery: time.Millisecond}, false},
}

// A page's value is a list of tokens. No token is used twice. Allocate and Replace write one token, and Link appends
// one.
const (
	stressToken   = 8 // bytes
	stressWorkers = 8
	stressPages   = 4  // pages that are shared at a time
	stressTokens  = 40 // a page with more is replaced
	stressOwners  = 1 << 16
	stressMost    = 1 << 18 // changes, or sights, of one goroutine in one life of a store, at most
)

// stressSum returns the checksum of a page after a token was added to contents with the checksum before.
func stressSum(before, token uint64) uint64 {
	x := (before ^ token) * 0x9e3779b97f4a7c15
	return x ^ x>>29
}

// stressSumOf returns the checksum of a value.
func stressSumOf(v []byte) (sum uint64) {
	for ; len(v) >= stressToken; v = v[stressToken:] {
		sum = stressSum(sum, binary.LittleEndian.Uint64(v))
	}
	return sum + uint64(len(v))
}

// stressWrite is a change that won. It made version ts from the version before.
type stressWrite struct {
	pid   engine.PageID
	ts    uint64
	kind  enginetest.EffectKind
	token uint64
	alloc bool
	from  uint64 // the version that the caller had seen; not for Allocate
}

// stressSight is a page as a Tx saw it.
type stressSight struct {
	pid   engine.PageID
	first uint64 // the first version in which the Tx saw the page in use
	ts    uint64 // the version that was seen
	kind  engine.PageKind
	sum   uint64
}

// stressState is a version of a page in the model.
type stressState struct {
	kind engine.PageKind
	sum  uint64
}

// stress is one life of a store, whose pages many goroutines change.
type stress struct {
	pc    *engine.PageCache[[]byte]
	until time.Time
	// shared are the ids of the pages that all goroutines change. A goroutine that finds a page freed puts a new one in
	// its place.
	shared [stressPages]atomic.Uint64
	// owners holds for each page id one above the number of the goroutine that allocated the page, and 0 if the page is
	// free. The goroutine that allocates a page and the goroutine that frees it write the entry.
	owners [stressOwners]atomic.Uint32
	failed atomic.Bool
	tokens atomic.Uint64
}

// stressWorker is one goroutine.
type stressWorker struct {
	*stress
	g      int
	rng    *rand.Rand
	tx     *engine.Tx[[]byte]
	writes []stressWrite
	sights []stressSight
	seen   map[engine.PageID]stressSeen // in this Tx
	held   []stressHeld                 // in this Tx
	old    []enginetest.OldState        // of earlier Txs
	batch  *engine.Batch
	lost   int // swaps
}

type stressSeen struct {
	ts    uint64
	used  bool
	first uint64 // the first version in which the page was in use
}

// stressHeld is a value that was read, and a copy.
type stressHeld struct {
	pid         engine.PageID
	value, copy []byte
}

// work changes pages until time is up.
func (w *stressWorker) work() (err error) {
	for err == nil && time.Now().Before(w.until) && !w.failed.Load() && len(w.writes) < stressMost {
		if w.tx, err = w.pc.Begin(); err == nil {
			err = w.txWork()
			w.tx.End()
		}
	}
	if w.batch != nil {
		err = errors.Join(err, w.batch.Seal())
	}
	if err != nil {
		w.failed.Store(true)
	}
	return err
}

// txWork makes a few changes in one Tx. The values that it reads must not change before the Tx ends (trap 9).
func (w *stressWorker) txWork() error {
	clear(w.seen)
	w.held = w.held[:0]
	for range 1 + w.rng.IntN(8) {
		if w.rng.IntN(8) == 0 {
			runtime.Gosched()
		}
		if err := w.step(w.rng.IntN(stressPages)); err != nil {
			return err
		}
	}
	for _, h := range w.held {
		if !bytes.Equal(h.value, h.copy) {
			return enginetest.Violated("a value of page %d was %s and is %s",
				h.pid, enginetest.Brief(h.copy), enginetest.Brief(h.value))
		}
	}
	return nil
}

// step reads or changes a shared page, or uses the log.
func (w *stressWorker) step(i int) error {
	switch k := w.rng.IntN(100); {
	case k < 2 && w.batch == nil:
		var err error
		w.batch, err = w.pc.PinLog()
		return err
	case k < 12 && w.batch != nil:
		err := w.batch.Seal()
		w.batch = nil
		return err
	case k == 12 && w.batch == nil:
		_, err := w.pc.Flush()
		return err
	case k >= 13 && k < 16 && len(w.old) > 0:
		// The version may be superseded, and its page may have been freed and allocated again.
		o := w.old[w.rng.IntN(len(w.old))]
		return w.change(o.Page, o.Ptr)
	}
	pid := engine.PageID(w.shared[i].Load())
	ptr, kind, n, err := w.get(pid)
	if err != nil {
		return err
	}
	if kind != engine.KindMaterialized { // freed, or not yet allocated
		return w.allocate(i, pid)
	}
	if len(w.old) < 8 {
		w.old = append(w.old, enginetest.OldState{Page: pid, Ptr: ptr})
	} else if w.rng.IntN(8) == 0 {
		w.old[w.rng.IntN(len(w.old))] = enginetest.OldState{Page: pid, Ptr: ptr}
	}
	switch k := w.rng.IntN(100); {
	case k < 35:
		return nil
	case k < 37:
		return w.fragments(pid)
	case n > stressTokens:
		_, _, err = w.swap(enginetest.EffectSet, pid, ptr)
		return err
	}
	return w.change(pid, ptr)
}

// get reads a page. In one Tx, the versions of a page only rise, and a freed page is not allocated again.
func (w *stressWorker) get(pid engine.PageID) (engine.PagePtr[[]byte], engine.PageKind, int, error) {
	p, err := w.pc.Get(w.tx, pid)
	if err != nil || p.Kind == engine.KindUnallocated {
		return p.Ptr, p.Kind, 0, err
	}
	w.held = append(w.held, stressHeld{pid, p.Value, bytes.Clone(p.Value)})
	err = w.saw(pid, enginetest.Version(p.Ptr), p.Kind, stressSumOf(p.Value))
	return p.Ptr, p.Kind, len(p.Value) / stressToken, err
}

// saw records a page as this Tx saw it in a version.
func (w *stressWorker) saw(pid engine.PageID, ts uint64, kind engine.PageKind, sum uint64) error {
	first, err := w.order(pid, ts, kind == engine.KindFree)
	if len(w.sights) < stressMost {
		w.sights = append(w.sights, stressSight{pid, first, ts, kind, sum})
	}
	return err
}

// order records that a page has a version, which must not be older than the versions that this Tx has seen. It returns
// the first version in which this Tx saw the page in use.
func (w *stressWorker) order(pid engine.PageID, ts uint64, free bool) (uint64, error) {
	s := w.seen[pid]
	if ts < s.ts {
		return 0, enginetest.Violated("page %d went back from version %d to %d", pid, s.ts, ts)
	}
	if s.ts = ts; !free && !s.used {
		s.used, s.first = true, ts
	}
	w.seen[pid] = s
	if !s.used {
		return ts, nil
	}
	return s.first, nil
}

// fragments reads a page's fragments, which must make up its value.
func (w *stressWorker) fragments(pid engine.PageID) error {
	ptr, frags, err := w.pc.Fragments(w.tx, pid)
	if err != nil || ptr.IsZero() {
		return err
	}
	slices.Reverse(frags)
	return w.saw(pid, enginetest.Version(ptr), engine.KindMaterialized, stressSumOf(slices.Concat(frags...)))
}

// change tries to change a page from a version. If it loses, it tries up to twice more, from the version that the call
// returns.
func (w *stressWorker) change(pid engine.PageID, ptr engine.PagePtr[[]byte]) error {
	for range 3 {
		kind := enginetest.EffectLink
		switch k := w.rng.IntN(100); {
		case k < 15:
			kind = enginetest.EffectSet
		case k < 18:
			kind = enginetest.EffectFree
		}
		if w.rng.IntN(4) == 0 {
			runtime.Gosched() // another goroutine may change the page first
		}
		now, won, err := w.swap(kind, pid, ptr)
		if err != nil || won || now.IsZero() {
			return err
		}
		ptr = now
	}
	return nil
}

// swap tries one change, and records it if it wins.
func (w *stressWorker) swap(kind enginetest.EffectKind, pid engine.PageID, ptr engine.PagePtr[[]byte]) (
	now engine.PagePtr[[]byte], won bool, err error) {
	r := stressWrite{pid: pid, kind: kind, from: enginetest.Version(ptr), token: w.tokens.Add(1)}
	frag := binary.LittleEndian.AppendUint64(nil, r.token)
	switch kind {
	case enginetest.EffectLink:
		now, won, err = w.pc.Link(w.tx, pid, ptr, frag)
	case enginetest.EffectSet:
		now, won, err = w.pc.Replace(w.tx, pid, ptr, frag)
	case enginetest.EffectFree:
		now, won, err = w.pc.Free(w.tx, pid, ptr)
		if won {
			err = w.disown(pid)
		}
	}
	if !won {
		w.lost++
	}
	if err != nil || now.IsZero() {
		return now, won, err
	}
	if r.ts = enginetest.Version(now); won {
		w.writes = append(w.writes, r)
	} else if r.ts <= r.from {
		return now, won, enginetest.Violated("page %d: a change from version %d lost to version %d", pid, r.from, r.ts)
	}
	_, err = w.order(pid, r.ts, won && kind == enginetest.EffectFree)
	return now, won, err
}

// disown clears the owner of a page that was freed. The id cannot get another owner before this Tx ends (trap 2), but
// the goroutine that allocated the page may not have recorded itself yet.
func (w *stressWorker) disown(pid engine.PageID) error {
	for start := time.Now(); w.owners[pid].Swap(0) == 0; runtime.Gosched() {
		if time.Since(start) > 10*time.Second {
			return enginetest.Violated("page %d was freed and has no owner", pid)
		}
	}
	return nil
}

// allocate allocates a page and puts it in the place of a freed page. If another goroutine did that first, it frees the
// page.
func (w *stressWorker) allocate(i int, instead engine.PageID) error {
	r := stressWrite{kind: enginetest.EffectSet, alloc: true, token: w.tokens.Add(1)}
	pid, ptr, err := w.pc.Allocate(w.tx, binary.LittleEndian.AppendUint64(nil, r.token))
	if err != nil {
		return err
	}
	if pid >= stressOwners {
		return enginetest.Violated("page id %d, although freed ids can be used again", pid)
	}
	if !w.owners[pid].CompareAndSwap(0, uint32(w.g+1)) {
		return enginetest.Violated("page %d was allocated by goroutine %d while %d has it",
			pid, w.g, w.owners[pid].Load()-1)
	}
	if w.seen[pid].used {
		return enginetest.Violated("page %d was allocated while a Tx is open that saw it in use", pid)
	}
	r.pid, r.ts = pid, enginetest.Version(ptr)
	w.writes = append(w.writes, r)
	if _, err := w.order(pid, r.ts, false); err != nil {
		return err
	}
	if w.shared[i].CompareAndSwap(uint64(instead), uint64(pid)) {
		return nil
	}
	for won := false; !won && !ptr.IsZero(); {
		if ptr, won, err = w.swap(enginetest.EffectFree, pid, ptr); err != nil {
			return err
		}
	}
	return nil
}

// verify checks that the changes of all goroutines make one chain of versions for each page, and that each sight is of
// a version of that chain.
func (s *stress) verify(states map[engine.PageID]stressState, ws []*stressWorker) error {
	pages, sights := map[engine.PageID][]stressWrite{}, map[engine.PageID][]stressSight{}
	for _, w := range ws {
		for _, r := range w.writes {
			pages[r.pid] = append(pages[r.pid], r)
		}
		for _, o := range w.sights {
			sights[o.pid] = append(sights[o.pid], o)
		}
	}
	for pid := range sights {
		pages[pid] = append(pages[pid], nil...) // pages that were only read
	}
	for pid, writes := range pages {
		slices.SortFunc(writes, func(a, b stressWrite) int { return int(a.ts) - int(b.ts) })
		state := states[pid]
		chain := []stressState{state}         // by version
		born := make([]int, 1, len(writes)+1) // by version: the number of Allocates up to it
		for i, r := range writes {
			if ts := uint64(i + 1); r.ts != ts || !r.alloc && r.from != ts-1 {
				return enginetest.Violated("page %d: change %d was made from version %d and made version %d: %+v",
					pid, i+1, r.from, r.ts, r)
			}
			if alive := state.kind == engine.KindMaterialized; alive == r.alloc {
				return enginetest.Violated("page %d: in version %d it is %v, and %+v won", pid, i, state.kind, r)
			}
			switch r.kind {
			case enginetest.EffectLink:
				state.sum = stressSum(state.sum, r.token)
			case enginetest.EffectSet:
				state = stressState{engine.KindMaterialized, stressSum(0, r.token)}
			case enginetest.EffectFree:
				state = stressState{engine.KindFree, 0}
			}
			n := born[i]
			if r.alloc {
				n++
			}
			chain, born = append(chain, state), append(born, n)
		}
		states[pid] = state
		for _, o := range sights[pid] {
			if o.ts >= uint64(len(chain)) || chain[o.ts] != (stressState{o.kind, o.sum}) {
				return enginetest.Violated("page %d: in version %d of %d it was seen as %v %x",
					pid, o.ts, len(chain)-1, o.kind, o.sum)
			}
			if born[o.first] != born[o.ts] {
				return enginetest.Violated(
					"page %d: a Tx saw versions %d and %d, and between them the page was allocated again",
					pid, o.first, o.ts)
			}
		}
	}
	return nil
}

// holds compares the store with the last versions of the model.
func (s *stress) holds(states map[engine.PageID]stressState) error {
	tx, err := s.pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	for pid := engine.FirstUserPage; pid < enginetest.NextPage(s.pc)+3; pid++ {
		p, err := s.pc.Get(tx, pid)
		if err != nil {
			return err
		}
		if want := states[pid]; want != (stressState{p.Kind, stressSumOf(p.Value)}) {
			return enginetest.Violated("page %d is %v %x, want %v %x",
				pid, p.Kind, stressSumOf(p.Value), want.kind, want.sum)
		}
	}
	return nil
}

// open opens the store and gives the goroutines the pages that are in use.
func (s *stress) open(dir string, o *engine.Options, states map[engine.PageID]stressState) (err error) {
	if s.pc, err = engine.Open(dir, engine.Bytes{}, o); err != nil {
		return err
	}
	n := 0
	for pid, state := range states {
		if state.kind == engine.KindMaterialized {
			s.owners[pid].Store(1)
			s.shared[n%stressPages].Store(uint64(pid))
			n++
		}
	}
	return nil
}

// run lets goroutines work until the time is up and verifies their changes and sights. It returns the goroutines for
// their counts.
func (s *stress) run(seed, life uint64, states map[engine.PageID]stressState) ([]*stressWorker, error) {
	s.tokens.Store(life << 40)
	ws, errs := make([]*stressWorker, stressWorkers), make([]error, stressWorkers)
	var wg sync.WaitGroup
	for g := range ws {
		ws[g] = &stressWorker{stress: s, g: g, rng: rand.New(rand.NewPCG(seed, life<<8|uint64(g))),
			seen: map[engine.PageID]stressSeen{}}
		wg.Go(func() { errs[g] = ws[g].work() })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return ws, err
	}
	if err := s.verify(states, ws); err != nil {
		return ws, err
	}
	return ws, s.holds(states)
}

// stressRun lets goroutines work on a new store, and again after reopening it, and compares the contents that the last
// opening finds with the model.
func stressRun(dir string, o *engine.Options, seed uint64, long time.Duration) (changes, lost, sights int, err error) {
	states := map[engine.PageID]stressState{}
	for life := range uint64(3) {
		s := &stress{until: time.Now().Add(long / 2)}
		if err := s.open(dir, o, states); err != nil {
			return changes, lost, sights, err
		}
		if life == 2 {
			return changes, lost, sights, errors.Join(s.holds(states), s.pc.Close(), enginetest.Problems(dir, o))
		}
		ws, err := s.run(seed, life, states)
		for _, w := range ws {
			changes, lost, sights = changes+len(w.writes), lost+w.lost, sights+len(w.sights)
		}
		if err := errors.Join(err, s.pc.Close()); err != nil {
			return changes, lost, sights, err
		}
	}
	return changes, lost, sights, nil
}

// Goroutines change the same few pages. Of all changes from one version one wins, each winner continues from the
// version of the winner before it, deltas are merged in order and none is missing, a Tx sees no page go back and no
// value change, and no page has two owners. The log holds the pages as the goroutines leave them. Proves rule 6; traps
// 2, 9 and 11.
func TestStress(t *testing.T) {
	if apart.Run(t) {
		return
	}
	long := *stressTime
	if testing.Short() {
		long = min(long, 100*time.Millisecond)
	}
	for _, set := range stressSets {
		for _, procs := range []int{1, 2, 8} {
			t.Run(fmt.Sprintf("%s/procs=%d", set.name, procs), func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				hang := time.AfterFunc(30*time.Second+10*long, func() {
					debug.SetTraceback("all")
					panic("TestStress hangs")
				})
				defer hang.Stop()
				o, dir := set.o, t.TempDir()
				if set.sim {
					enginetest.WithSeam(&o, seam.Options{FS: simdisk.New(*stressSeed, simdisk.Options{})})
					dir = "/store"
				}
				changes, lost, sights, err := stressRun(dir, &o, *stressSeed, long)
				if err != nil {
					t.Errorf("%v\nreplay: go test ./engine -run '%s' -args -stress.seed=%d -stress.time=%v",
						err, t.Name(), *stressSeed, 10*long)
				}
				t.Logf("%d changes, %d lost, %d sights", changes, lost, sights)
			})
		}
	}
}
