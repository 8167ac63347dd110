package engine

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

	"pagecache/internal/simdisk"
)

var (
	stressTime = flag.Duration("stress.time", 300*time.Millisecond,
		"how long TestStress works with each set of options [-short: 100ms]")
	stressSeed = flag.Uint64("stress.seed", 1, "what decides what the goroutines of TestStress do")
)

// stressSets are the sets of options with which goroutines share pages.
var stressSets = []struct {
	name string
	o    Options
	sim  bool // on the simulated disk, where a segment costs next to nothing
}{
	{"one", Options{SegmentSize: 16 << 10, IOBuffers: 2, ConsolidateAfter: 1, FlushEvery: time.Millisecond}, true},
	{"three", Options{SegmentSize: 16 << 10, IOBuffers: 2, ConsolidateAfter: 3, IDPersistInterval: 100}, true},
	{"tiny", Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: time.Microsecond}, false},
	{"default", Options{}, false},
	{"nothing resident", Options{SegmentSize: 16 << 10, IOBuffers: 2, CacheCapacity: 1}, false},
	{"small cache", Options{SegmentSize: 16 << 10, IOBuffers: 2, CacheCapacity: 8 << 10,
		FlushEvery: time.Millisecond}, false},
}

// A page's value is a list of tokens, each written once ever: a new page and a replaced one have one, a delta adds one.
const (
	stressToken   = 8 // bytes
	stressWorkers = 8
	stressPages   = 4  // that are shared at a time
	stressTokens  = 40 // in a page, about, at most
	stressOwners  = 1 << 16
	stressMost    = 1 << 18 // changes, or sights, of one goroutine in one life of a store
)

// stressSum is a page's contents in one number: that of what was before, and a token.
func stressSum(before, token uint64) uint64 {
	x := (before ^ token) * 0x9e3779b97f4a7c15
	return x ^ x>>29
}

func stressSumOf(v []byte) (sum uint64) {
	for ; len(v) >= stressToken; v = v[stressToken:] {
		sum = stressSum(sum, binary.LittleEndian.Uint64(v))
	}
	return sum + uint64(len(v))
}

// stressWrite is a change that was won. The state it makes is ts, and it was made from the one before.
type stressWrite struct {
	pid   PageID
	ts    uint64
	kind  effectKind
	token uint64
	alloc bool
	from  uint64 // the timestamp of the state it was made from, not for Allocate
}

// stressSight is what was seen of a page.
type stressSight struct {
	pid   PageID
	first uint64 // the first state in which the Tx saw the page in use
	ts    uint64 // the state that was seen
	kind  PageKind
	sum   uint64
}

// stressState is a page's state in the model.
type stressState struct {
	kind PageKind
	sum  uint64
}

// stress is one life of a store that goroutines share.
type stress struct {
	pc    *PageCache[[]byte]
	until time.Time
	// shared are the ids of the pages that all work on. One that finds a page freed puts a new one in its place.
	shared [stressPages]atomic.Uint64
	// owners says for each page id whose it is: 0, or one above the goroutine that allocated it. Written by that
	// goroutine and by the one that frees the page.
	owners [stressOwners]atomic.Uint32
	failed atomic.Bool
	tokens atomic.Uint64
}

// stressWorker is one goroutine.
type stressWorker struct {
	*stress
	g      int
	rng    *rand.Rand
	tx     *Tx
	writes []stressWrite
	sights []stressSight
	seen   map[PageID]stressSeen // in this Tx
	held   []stressHeld          // in this Tx
	old    []oldState            // of earlier Txs
	batch  *Batch
	lost   int // swaps
}

type stressSeen struct {
	ts    uint64
	used  bool
	first uint64 // the first state in which the page was in use
}

// stressHeld is a value and what it was when it was got.
type stressHeld struct {
	pid         PageID
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

// txWork is what is done in one Tx. What it got stays as it was to the end.
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
			return violated("a value of page %d was %s and is %s", h.pid, brief(h.copy), brief(h.value)) // trap 9
		}
	}
	return nil
}

// step does something to a shared page, or to the log.
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
		// A state that may be any number of changes, and of lives of its page, ago.
		o := w.old[w.rng.IntN(len(w.old))]
		return w.change(o.pid, o.ptr)
	}
	pid := PageID(w.shared[i].Load())
	ptr, kind, n, err := w.get(pid)
	if err != nil {
		return err
	}
	if kind != KindMaterialized { // or there was none yet
		return w.allocate(i, pid)
	}
	if len(w.old) < 8 {
		w.old = append(w.old, oldState{pid, ptr})
	} else if w.rng.IntN(8) == 0 {
		w.old[w.rng.IntN(len(w.old))] = oldState{pid, ptr}
	}
	switch k := w.rng.IntN(100); {
	case k < 35:
		return nil
	case k < 37:
		return w.fragments(pid)
	case n > stressTokens:
		_, _, err = w.swap(effSet, pid, ptr)
		return err
	}
	return w.change(pid, ptr)
}

// get looks at a page. In one Tx a page's states never go back, and one that was freed does not come to life.
func (w *stressWorker) get(pid PageID) (PagePtr[[]byte], PageKind, int, error) {
	p, err := w.pc.Get(w.tx, pid)
	if err != nil || p.Kind == KindUnallocated {
		return p.Ptr, p.Kind, 0, err
	}
	w.held = append(w.held, stressHeld{pid, p.Value, bytes.Clone(p.Value)})
	return p.Ptr, p.Kind, len(p.Value) / stressToken, w.saw(pid, p.Ptr.ts, p.Kind, stressSumOf(p.Value))
}

// saw notes what a page was in a state.
func (w *stressWorker) saw(pid PageID, ts uint64, kind PageKind, sum uint64) error {
	first, err := w.order(pid, ts, kind == KindFree)
	if len(w.sights) < stressMost {
		w.sights = append(w.sights, stressSight{pid, first, ts, kind, sum})
	}
	return err
}

// order notes that a page is in a state, which is not before the states that this Tx has seen. It returns the first
// state in which this Tx saw the page in use.
func (w *stressWorker) order(pid PageID, ts uint64, free bool) (uint64, error) {
	s := w.seen[pid]
	if ts < s.ts {
		return 0, violated("page %d went back from state %d to %d", pid, s.ts, ts)
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

// fragments looks at a page's fragments, which make up its value.
func (w *stressWorker) fragments(pid PageID) error {
	ptr, frags, err := w.pc.Fragments(w.tx, pid)
	if err != nil || ptr.IsZero() {
		return err
	}
	slices.Reverse(frags)
	return w.saw(pid, ptr.ts, KindMaterialized, stressSumOf(slices.Concat(frags...)))
}

// change tries to change a page from a state, and once or twice more from the one that the call returns.
func (w *stressWorker) change(pid PageID, ptr PagePtr[[]byte]) error {
	for range 3 {
		kind := effLink
		switch k := w.rng.IntN(100); {
		case k < 15:
			kind = effSet
		case k < 18:
			kind = effFree
		}
		if w.rng.IntN(4) == 0 {
			runtime.Gosched() // others go ahead
		}
		now, won, err := w.swap(kind, pid, ptr)
		if err != nil || won || now.IsZero() {
			return err
		}
		ptr = now
	}
	return nil
}

// swap tries one change and notes it if it was won.
func (w *stressWorker) swap(kind effectKind, pid PageID, ptr PagePtr[[]byte]) (
	now PagePtr[[]byte], won bool, err error) {
	r := stressWrite{pid: pid, kind: kind, from: ptr.ts, token: w.tokens.Add(1)}
	frag := binary.LittleEndian.AppendUint64(nil, r.token)
	switch kind {
	case effLink:
		now, won, err = w.pc.Link(w.tx, pid, ptr, frag)
	case effSet:
		now, won, err = w.pc.Replace(w.tx, pid, ptr, frag)
	case effFree:
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
	if r.ts = now.ts; won {
		w.writes = append(w.writes, r)
	} else if r.ts <= r.from {
		return now, won, violated("page %d: a change from state %d was lost to state %d", pid, r.from, r.ts)
	}
	_, err = w.order(pid, r.ts, won && kind == effFree)
	return now, won, err
}

// disown takes a page that was freed from its owner. The id cannot get another owner before this Tx has ended (trap 2),
// but the owner may not have noted that it allocated the page yet.
func (w *stressWorker) disown(pid PageID) error {
	for start := time.Now(); w.owners[pid].Swap(0) == 0; runtime.Gosched() {
		if time.Since(start) > 10*time.Second {
			return violated("page %d was freed, and nobody had it", pid)
		}
	}
	return nil
}

// allocate makes a new page and puts it in the place of one that was freed. Where another was faster it frees it again.
func (w *stressWorker) allocate(i int, instead PageID) error {
	r := stressWrite{kind: effSet, alloc: true, token: w.tokens.Add(1)}
	pid, ptr, err := w.pc.Allocate(w.tx, binary.LittleEndian.AppendUint64(nil, r.token))
	if err != nil {
		return err
	}
	if pid >= stressOwners {
		return violated("page id %d: freed ids are not used again", pid)
	}
	if !w.owners[pid].CompareAndSwap(0, uint32(w.g+1)) {
		return violated("page %d was given to goroutine %d while %d has it", pid, w.g, w.owners[pid].Load()-1)
	}
	if w.seen[pid].used {
		return violated("page %d was given out while a Tx is open that saw it in use", pid)
	}
	r.pid, r.ts = pid, ptr.ts
	w.writes = append(w.writes, r)
	if _, err := w.order(pid, r.ts, false); err != nil {
		return err
	}
	if w.shared[i].CompareAndSwap(uint64(instead), uint64(pid)) {
		return nil
	}
	for won := false; !won && !ptr.IsZero(); {
		if ptr, won, err = w.swap(effFree, pid, ptr); err != nil {
			return err
		}
	}
	return nil
}

// verify asks whether the writes of all make one chain for each page, and whether each sight is of a state on it.
func (s *stress) verify(states map[PageID]stressState, ws []*stressWorker) error {
	pages, sights := map[PageID][]stressWrite{}, map[PageID][]stressSight{}
	for _, w := range ws {
		for _, r := range w.writes {
			pages[r.pid] = append(pages[r.pid], r)
		}
		for _, o := range w.sights {
			sights[o.pid] = append(sights[o.pid], o)
		}
	}
	for pid := range sights {
		pages[pid] = append(pages[pid], nil...) // where nothing was written too
	}
	for pid, writes := range pages {
		slices.SortFunc(writes, func(a, b stressWrite) int { return int(a.ts) - int(b.ts) })
		state := states[pid]
		chain := []stressState{state}         // by timestamp
		born := make([]int, 1, len(writes)+1) // by timestamp: how often the page was allocated till then
		for i, r := range writes {
			if ts := uint64(i + 1); r.ts != ts || !r.alloc && r.from != ts-1 {
				return violated("page %d: change %d was made from state %d and made state %d: %+v",
					pid, i+1, r.from, r.ts, r)
			}
			if alive := state.kind == KindMaterialized; alive == r.alloc {
				return violated("page %d: in state %d it is %v, and %+v was won", pid, i, state.kind, r)
			}
			switch r.kind {
			case effLink:
				state.sum = stressSum(state.sum, r.token)
			case effSet:
				state = stressState{KindMaterialized, stressSum(0, r.token)}
			case effFree:
				state = stressState{KindFree, 0}
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
				return violated("page %d: in state %d of %d it was seen as %v %x",
					pid, o.ts, len(chain)-1, o.kind, o.sum)
			}
			if born[o.first] != born[o.ts] {
				return violated("page %d: a Tx saw it in state %d and in %d, and between them it was allocated again",
					pid, o.first, o.ts)
			}
		}
	}
	return nil
}

// holds asks whether the store holds the last states.
func (s *stress) holds(states map[PageID]stressState) error {
	tx, err := s.pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	for pid := FirstUserPage; pid < s.pc.pages.IDs.Next()+3; pid++ {
		p, err := s.pc.Get(tx, pid)
		if err != nil {
			return err
		}
		if want := states[pid]; want != (stressState{p.Kind, stressSumOf(p.Value)}) {
			return violated("page %d is %v %x, want %v %x", pid, p.Kind, stressSumOf(p.Value), want.kind, want.sum)
		}
	}
	return nil
}

// open opens the store and takes over the pages that are there.
func (s *stress) open(dir string, o *Options, states map[PageID]stressState) (err error) {
	if s.pc, err = Open(dir, Bytes{}, o); err != nil {
		return err
	}
	n := 0
	for pid, state := range states {
		if state.kind == KindMaterialized {
			s.owners[pid].Store(1)
			s.shared[n%stressPages].Store(uint64(pid))
			n++
		}
	}
	return nil
}

// run has goroutines work until the time is up, and asks what they did and saw. It returns them for their counts.
func (s *stress) run(seed, life uint64, states map[PageID]stressState) ([]*stressWorker, error) {
	s.tokens.Store(life << 40)
	ws, errs := make([]*stressWorker, stressWorkers), make([]error, stressWorkers)
	var wg sync.WaitGroup
	for g := range ws {
		ws[g] = &stressWorker{stress: s, g: g, rng: rand.New(rand.NewPCG(seed, life<<8|uint64(g))),
			seen: map[PageID]stressSeen{}}
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

// stressRun has goroutines work on a store, and again after reopening it, and asks what the last opening finds.
func stressRun(dir string, o *Options, seed uint64, long time.Duration) (changes, lost, sights int, err error) {
	states := map[PageID]stressState{}
	for life := range uint64(3) {
		s := &stress{until: time.Now().Add(long / 2)}
		if err := s.open(dir, o, states); err != nil {
			return changes, lost, sights, err
		}
		if life == 2 {
			return changes, lost, sights, errors.Join(s.holds(states), s.pc.Close())
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

// Goroutines change the same few pages. Of all changes from one state one wins, each winner continues from the state of
// the last one, deltas are merged in order and none is missing, a Tx sees no page go back and no value change, and no
// page has two owners. The pages that they leave are those that the log holds. Proves rule 6; traps 2, 9 and 11.
func TestStress(t *testing.T) {
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
					o.seam.FS, dir = simdisk.New(*stressSeed, simdisk.Options{}), "/store"
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
