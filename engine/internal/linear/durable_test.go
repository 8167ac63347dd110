package linear

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

// killed is the history of a life that ended in a kill, and the contents that were found afterwards.
type killed struct {
	history
	found map[place]*version
	lasts map[engine.PageID][2]uint64 // of the pages found: the first and the last token
	id    uint64                      // an id that the opening handed out
	kill  int64                       // after all calls
}

// join gives each call that the kill cut off its page, if that can be told, and appends what was found as a read of
// each page and root. An Allocate that was cut off has made the page whose value begins with its token. If no value
// does, nobody has seen that value, and the call is left out. A change of that page that came too late may have seen
// its state.
func (k *killed) join() {
	first := map[uint64]engine.PageID{}
	for _, o := range k.ops {
		if o.First != 0 {
			first[o.First] = o.Page
		}
		k.kill = max(k.kill, o.From+1, o.To+1)
	}
	for pid, t := range k.lasts {
		if t[0] != 0 {
			first[t[0]] = pid
		}
	}
	unseen := int64(math.MaxInt64) // when the first Allocate began that is left out
	k.ops = slices.DeleteFunc(k.ops, func(o *op) bool {
		if o.Call != callAllocate || o.Done {
			return false
		}
		if o.Page = first[o.Token]; o.Page == 0 {
			unseen = min(unseen, o.From)
		}
		return o.Page == 0
	})
	for _, o := range k.ops {
		o.unseen = o.Done && !o.Won && !o.None && o.To > unseen
	}
	places := map[place]bool{}
	for _, o := range k.ops {
		if o.Page != 0 || o.Name != "" {
			places[o.place()] = true
		}
	}
	for p := range k.found {
		places[p] = true
	}
	for p := range places {
		v := k.found[p]
		if v == nil {
			v = absent(p)
		}
		k.ops = append(k.ops, &op{Call: callFound, Done: true, From: k.kill, To: k.kill + 1, found: v,
			Page: p.page, Name: p.root})
	}
	k.ops = append(k.ops, &op{Call: callID, Done: true, From: k.kill, To: k.kill + 1, Now: k.id})
}

// fate tells what the kill did to a change.
type fate uint8

const (
	unknown fate = iota
	survived
	lost
)

// fates returns the changes of pages whose fate can be told. The last token of a page's value is that of the newest
// change that survived there.
func (k *killed) fates() map[*op]fate {
	newest := map[engine.PageID]uint64{} // the version
	byToken := map[uint64]*op{}
	changes := func(yield func(*op) bool) {
		for _, o := range k.ops {
			if o.Call <= callFree && (o.Won || !o.Done) && !yield(o) {
				return
			}
		}
	}
	for o := range changes {
		byToken[o.Token] = o
	}
	for pid, t := range k.lasts {
		o := byToken[t[1]]
		switch {
		case t[1] == 0: // freed
		case o == nil: // from before this life
			if b := k.begin[place{page: pid}]; b != nil && b.sum == k.found[place{page: pid}].sum {
				newest[pid] = 0
			}
		case o.Done:
			newest[pid] = o.Now
		case o.Call != callAllocate:
			newest[pid] = o.Old + 1
		}
	}
	f := map[*op]fate{}
	for o := range changes {
		switch n, ok := newest[o.Page]; {
		case o.Token == k.lasts[o.Page][1]:
			f[o] = survived
		case ok && o.Done && o.Now <= n:
			f[o] = survived
		case ok && o.Done:
			f[o] = lost
		}
	}
	return f
}

// checkOrder returns an error if a change survived that came after one that was lost: in the order of the log, or
// because it began after the other had ended (O1).
func (k *killed) checkOrder(f map[*op]fate) error {
	var first *op // of the changes that were lost, the one that ended first
	low := engine.LSN(math.MaxInt64)
	var lowest *op
	for o, fate := range f {
		if fate != lost {
			continue
		}
		if first == nil || o.To < first.To {
			first = o
		}
		if o.LSN < low {
			low, lowest = o.LSN, o
		}
	}
	for o, fate := range f {
		if fate == survived && (first != nil && first.To < o.From || o.Done && o.LSN > low) {
			return fmt.Errorf("a change survived the kill, and an earlier one did not:\n%v\n%v\n%v", first, lowest, o)
		}
	}
	return nil
}

// checkBatches returns an error if a part of a batch survived (O2). The changes that began after PinLog had returned
// and ended before Seal was called are in the batch, those of all goroutines.
func (k *killed) checkBatches(f map[*op]fate) error {
	open := map[int]*op{}
	check := func(pin *op, until int64, sealed bool) error {
		var there, gone *op
		for o, fate := range f {
			if o.From <= pin.To || !o.Done || o.To >= until {
				continue
			}
			switch fate {
			case survived:
				there = o
			case lost:
				gone = o
			}
		}
		if there != nil && (gone != nil || !sealed) {
			return fmt.Errorf("a part of the batch of goroutine %d, sealed %v, survived:\n%v\n%v\n%v",
				pin.Client, sealed, pin, there, gone)
		}
		return nil
	}
	for _, o := range k.ops { // those of a goroutine are in order
		switch {
		case o.Call == callPin && o.Done:
			open[o.Client] = o
		case o.Call == callSeal:
			if err := check(open[o.Client], o.From, true); err != nil {
				return err
			}
			delete(open, o.Client)
		}
	}
	for _, pin := range open {
		if err := check(pin, math.MaxInt64, false); err != nil {
			return err
		}
	}
	return nil
}

// look opens the store that a child has left and reads it.
func (k *killed) look(spec childSpec) error {
	o := setOf(spec.Seed + 5).options() // other options than those of the child, but for the size of segments
	o.SegmentSize = 0
	pc, err := engine.Open(spec.store(), engine.Bytes{}, o)
	if err != nil {
		return err
	}
	if k.id, err = pc.GenerateID(); err == nil {
		k.found, err = read(pc)
	}
	k.lasts = map[engine.PageID][2]uint64{}
	tx, err2 := pc.Begin()
	if err = errors.Join(err, err2); err == nil {
		for p := range k.found {
			if p.root == "" {
				pg, e := pc.Get(tx, p.page)
				first, last := ends(pg.Value)
				k.lasts[p.page], err = [2]uint64{first, last}, errors.Join(err, e)
			}
		}
		tx.End()
	}
	if err = errors.Join(err, pc.Close()); err != nil {
		return err
	}
	return enginetest.Problems(spec.store(), o)
}

// keepCopy copies the store as the kill has left it, for a look at it after a failure.
func keepCopy(spec childSpec) error {
	left := filepath.Join(spec.Dir, "left")
	return errors.Join(os.RemoveAll(left), os.CopyFS(left, os.DirFS(spec.store())))
}

// save moves the directory of a round that failed to one that stays, and returns its path.
func save(dir string) string {
	to, err := os.MkdirTemp("", "pagecache-linear.")
	if err == nil {
		err = os.CopyFS(to, os.DirFS(dir))
	}
	if err != nil {
		return err.Error()
	}
	return to
}

// durableRound kills children that work on one store. It returns the number of their calls.
func durableRound(spec childSpec) (calls int, err error) {
	rng := rand.New(rand.NewPCG(spec.Seed, 16))
	begin := map[place]*version{}
	for spec.Life = 1; spec.Life <= 3; spec.Life++ {
		k := &killed{history: history{begin: begin}}
		if k.ops, err = kill(spec, rng); err != nil {
			return calls, err
		}
		calls += len(k.ops)
		if err := keepCopy(spec); err != nil {
			return calls, err
		}
		if err := k.look(spec); err != nil {
			return calls, fmt.Errorf("life %d: after the kill: %w", spec.Life, err)
		}
		k.join()
		if err := k.check(); err != nil {
			return calls, fmt.Errorf("life %d: %w", spec.Life, err)
		}
		f := k.fates()
		if err := errors.Join(k.checkOrder(f), k.checkBatches(f)); err != nil {
			return calls, fmt.Errorf("life %d: %w", spec.Life, err)
		}
		begin = k.found
	}
	return calls, nil
}

// The calls of a process that is killed are durably linearizable: the contents that the next opening finds continue
// them. They include all acknowledged changes, and with each change all that came before it. Batches are whole or
// absent.
// Proves rules 5 and 11; traps 1 and 7.
func TestDurablyLinearizable(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	calls, seed := 0, *linearSeed
	for start := time.Now(); time.Since(start) < limit(); seed++ {
		dir := filepath.Join(t.TempDir(), "round")
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		n, err := durableRound(childSpec{Dir: dir, Seed: seed})
		if calls += n; err != nil {
			t.Fatalf("seed %d, %s, GOMAXPROCS %d: %v\n%s\nkept in %s",
				seed, setOf(seed).name, procsOf(seed), err, replay(t, seed), save(dir))
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d calls in %d rounds of three kills", calls, seed-*linearSeed)
}

// The oracle finds a store that acknowledges changes before they are durable.
func TestEarlyAcknowledgmentIsFound(t *testing.T) {
	for seed := range uint64(200) { // on a busy machine, children are killed before they do anything
		if _, err := durableRound(childSpec{Dir: t.TempDir(), Seed: seed, Early: true}); err != nil {
			t.Logf("seed %d: %.400v", seed, err)
			return
		}
	}
	t.Error("no early acknowledgment was found")
}
