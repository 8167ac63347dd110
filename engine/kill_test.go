package engine_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/logstore"
	"pagecache/internal/osfs"
	"pagecache/internal/vfs"
)

var (
	killRounds = flag.Int("kill.rounds", 8, "the number of rounds of TestKill; with -short at most 3")
	killSeed   = flag.Uint64("kill.seed", 1, "the seed of the options, the load and the times of killing of TestKill")
	killDir    = flag.String("kill.dir", "", "the directory of the stores of TestKill [a temporary directory]")
)

// killStore is a store on a real file system, and the contents that it must have. Its children run one after another.
type killStore struct {
	dir    string
	size   int // of its segments, in bytes; 0: the default
	owners [killWorkers]killOwner
	ids    int64      // the highest id that was handed out
	end    engine.LSN // of the log, when the parent last opened the store
	gen    int64      // the generation of the last opening
	life   uint64
	exists bool
	opened time.Duration // how long the last opening took
	// cut cuts the power just before a child is killed, and restore turns it on again. If nil, only the child is
	// killed.
	cut, restore func() error
}

// killOwner is the contents that result from the changes of one goroutine.
type killOwner struct {
	pages map[engine.PageID][]byte // key 0: a page whose id is not known
	root  engine.PageID
}

func (o *killOwner) apply(g int, op killOp) {
	frag := killRecord(op.pid, g, op.seq, op.size)
	switch op.kind {
	case killAllocate:
		o.pages[op.pid] = killRecord(0, g, op.seq, op.size)
	case killLink:
		o.pages[op.pid] = slices.Concat(o.pages[op.pid], frag)
	case killReplace:
		o.pages[op.pid] = frag
	case killFree:
		delete(o.pages, op.pid)
	case killRoot:
		o.root = engine.PageID(op.seq)
	}
}

// compare compares o with the contents that were found, and returns a Violation if they differ. A page whose id was not
// known gets its id.
func (o *killOwner) compare(found killOwner) error {
	if o.root != found.root {
		return enginetest.Violated("the root is %v, want %v", found.root, o.root)
	}
	if v, ok := o.pages[0]; ok {
		for pid, f := range found.pages {
			if _, known := o.pages[pid]; !known && bytes.Equal(v, f) {
				o.pages[pid] = v
				delete(o.pages, 0)
				break
			}
		}
	}
	for pid, v := range o.pages {
		if f, ok := found.pages[pid]; !ok || !bytes.Equal(v, f) {
			return enginetest.Violated("page %d (found: %v) is %s, want %s", pid, ok, killBrief(f), killBrief(v))
		}
	}
	for pid, f := range found.pages {
		if _, ok := o.pages[pid]; !ok {
			return enginetest.Violated("page %d is %s, want none", pid, killBrief(f))
		}
	}
	return nil
}

// killBrief describes the value of a page.
func killBrief(v []byte) string {
	if len(v) == 0 {
		return "nothing"
	}
	_, seq, err := killParse(0, v)
	return fmt.Sprintf("%s (last record %d, %v)", enginetest.Brief(v), seq, err)
}

// cut checks that the log may end at end (O1, O2). It returns bounds of the number of each goroutine's changes that
// such a log contains: at least from, at most to.
func (l *killLife) cut(end engine.LSN) (from, to [killWorkers]int, err error) {
	if end <= l.stable {
		return from, to, enginetest.Violated("the log ends at LSN %d, and everything up to %d was stable",
			end, l.stable)
	}
	for g, ops := range l.ops {
		for from[g] < len(ops) && ops[from[g]].hi < end {
			from[g]++
		}
		for to[g] = from[g]; to[g] < len(ops) && ops[to[g]].lo < end; to[g]++ {
		}
		if to[g] < l.acked[g] {
			return from, to, enginetest.Violated(
				"the log ends at LSN %d, after %d changes of goroutine %d; %d were acknowledged",
				end, to[g], g, l.acked[g])
		}
		from[g] = max(from[g], l.acked[g])
		for _, b := range l.batches[g] {
			if b.begin < end && (!b.sealing || b.end >= end) {
				return from, to, enginetest.Violated("the log ends at LSN %d, in the batch %+v", end, b)
			}
		}
	}
	return from, to, nil
}

// cuts reports whether a log with n changes of goroutine g would contain a part of one of its batches.
func (l *killLife) cuts(g, n int) bool {
	for _, b := range l.batches[g] {
		if last := b.last; n > b.first && (!b.sealing || n < last) {
			return true
		}
	}
	return false
}

// check asks the oracles about a store whose log was found to end at end before it was opened, and takes its contents
// as those that the next life begins with.
func (s *killStore) check(pc *engine.PageCache[[]byte], l *killLife, end engine.LSN) error {
	from, to, err := l.cut(end)
	if err != nil {
		return err
	}
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	ts := int64(tx.TS())
	if err := l.id(s, ts); err != nil {
		return err
	}
	if delete(l.ids, ts); pc.Stats().Dir == s.dir { // an id that a copy of the store hands out may come again
		l.ids[ts] = true
	}
	found, err := killFind(pc, tx)
	if err != nil {
		return err
	}
	for g := range s.owners {
		if err := s.advance(g, l, [2]int{from[g], to[g]}, found[g]); err != nil {
			return fmt.Errorf("goroutine %d: of %d changes %d were acknowledged, the log holds %d to %d: %w",
				g, len(l.ops[g]), l.acked[g], from[g], to[g], err)
		}
	}
	s.end = end
	for id := range l.ids {
		s.ids = max(s.ids, id)
	}
	return nil
}

// advance applies the changes of goroutine g up to the number within the bounds that gives the contents that were found
// and cuts no batch. If no number does, the error says what each would give.
func (s *killStore) advance(g int, l *killLife, within [2]int, found killOwner) error {
	o := killOwner{maps.Clone(s.owners[g].pages), s.owners[g].root}
	var errs []error
	for n := 0; n <= within[1]; n++ {
		if n > 0 {
			o.apply(g, l.ops[g][n-1])
		}
		if n < within[0] {
			continue
		}
		err := o.compare(found)
		if err == nil && l.cuts(g, n) {
			err = enginetest.Violated("a part of a batch is there")
		}
		if err == nil {
			s.owners[g] = o
			return nil
		}
		errs = append(errs, fmt.Errorf("after %d changes: %w", n, err))
	}
	return errors.Join(errs...)
}

// killFind reads all pages and roots of a store, by owner.
func killFind(pc *engine.PageCache[[]byte], tx *engine.Tx[[]byte]) (found [killWorkers]killOwner, err error) {
	roots, err := pc.Meta(tx)
	if err != nil {
		return found, err
	}
	for g := range found {
		found[g].pages = map[engine.PageID][]byte{}
		found[g].root = roots[killName(g)]
	}
	for pid := engine.FirstUserPage; pid < enginetest.NextPage(pc)+3; pid++ {
		p, err := pc.Get(tx, pid)
		if err != nil {
			return found, err
		}
		if p.Kind == engine.KindMaterialized {
			g, _, err := killParse(pid, p.Value)
			if err != nil {
				return found, err
			}
			found[g].pages[pid] = p.Value
		}
	}
	return found, nil
}

// child runs a child and kills it. after counts from the moment at which the child has opened the store, or from the
// moment at which it begins to open it if opening is set.
func (s *killStore) child(spec killSpec, opening bool, after time.Duration, procs int) (*killLife, error) {
	env, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	mark := byte('o')
	if opening {
		mark = 's'
	}
	c := enginetest.Child{
		Test: "TestKillChild", Env: []string{killEnv + "=" + string(env), fmt.Sprintf("GOMAXPROCS=%d", procs)},
		Ready: func(line string) bool { return line[0] == mark }, After: after, Cut: s.cut, Restore: s.restore,
	}
	l := &killLife{ids: map[int64]bool{}, stable: -1}
	l.lines, l.sure, err = c.Live()
	return l, err
}

// await waits until the kernel has released the lock that a killed process held (trap 19).
func (s *killStore) await() error {
	d, err := osfs.OS.OpenDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	f, err := d.Open(enginetest.LogName, vfs.FlagWrite)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for deadline := time.Now().Add(logstore.LockPatience); ; time.Sleep(time.Millisecond) {
		if err = f.Lock(vfs.LockExclusive); !errors.Is(err, vfs.ErrLocked) || time.Now().After(deadline) {
			return err
		}
	}
}

// killRun is a run of TestKill or TestPowerCut.
type killRun struct {
	rng    *rand.Rand
	base   string // the directory of the stores
	copies string // the directory of their copies
	s      *killStore
	stores int
	lie    bool
	last   engine.Options // of the last child
	full   int64          // bytes; if the log of a store is longer, the next round begins a new store
	// see killStore
	cut, restore func() error
	lines        []string // of the last child
	kept         string   // a copy of the store as that child left it
	// Counts.
	ops, acks, batches, ids, unopened, closed int
}

// options returns random options for one life. All lives of a store have the same segment size.
func (r *killRun) options() engine.Options {
	rng := r.rng
	o := engine.Options{
		SegmentSize: r.s.size, IOBuffers: 2 + rng.IntN(3), ConsolidateAfter: []int{1, 3, 10, 100}[rng.IntN(4)],
		FlushEvery: []time.Duration{-1, time.Microsecond, time.Millisecond, 20 * time.Millisecond,
			0}[rng.IntN(5)],
		IDPersistInterval: []uint64{1, 10, 1000, 0}[rng.IntN(4)],
		IO:                []engine.IO{engine.IOAuto, engine.IOSyscall}[rng.IntN(2)],
		Direct:            []engine.Direct{engine.DirectAuto, engine.DirectOff}[rng.IntN(2)],
		CacheCapacity:     []int64{1, 8 << 10, 64 << 10, 0}[rng.IntN(4)], CopyOnRead: rng.IntN(4) == 0,
	}
	if r.lie {
		// No buffer gets full and no id is noted, so that changes become durable only if a call makes them so.
		o.SegmentSize, o.FlushEvery, o.IDPersistInterval = 0, -1, 0
	}
	return o
}

// fresh removes the store and begins a new one. The removal is made durable. Otherwise a power cut would bring the
// store back for good, and after some rounds the disk would be full.
func (r *killRun) fresh() error {
	left, err := filepath.Glob(filepath.Join(r.base, "store*"))
	if err == nil && r.s != nil {
		left = slices.DeleteFunc(left, func(dir string) bool { return dir == r.s.dir })
		err = errors.Join(os.RemoveAll(r.s.dir), enginetest.SyncDir(osfs.OS, r.base))
	}
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("stores that were removed are back: %v", left)
	}
	dir := filepath.Join(r.base, fmt.Sprintf("store%d", r.stores))
	r.s = &killStore{dir: dir, ids: -1, cut: r.cut, restore: r.restore}
	r.s.size = []int{64 << 10, 16 << 10, 0, 64 << 10}[r.stores%4]
	for g := range r.s.owners {
		r.s.owners[g].pages = map[engine.PageID][]byte{}
	}
	r.stores++
	return nil
}

// round runs a child, kills it, and checks the store. In every third round, the child is killed while it opens the
// store, and the round has up to three children.
func (r *killRun) round(i int) error {
	newest := filepath.Join(r.base, fmt.Sprintf("store%d", r.stores-1), enginetest.LogName)
	if st, err := os.Stat(newest); r.s == nil || err == nil && st.Size() > r.full || r.rng.IntN(6) == 0 {
		if err := r.fresh(); err != nil {
			return err
		}
	}
	opening, n := i%3 == 2, 1
	if opening {
		n += r.rng.IntN(3)
	}
	for ; n > 0; n-- {
		l, err := r.kill(opening)
		if err != nil {
			return err
		}
		// Either the store or the copy is opened and checked. If it is the copy, the next child opens the store as this
		// one left it. That is so in half of the rounds, and before an opening is killed.
		look, other := r.s.dir, r.kept
		if i%3 == 1 || n > 1 || r.rng.IntN(2) == 0 {
			look, other = other, look
		}
		r.kept = other
		if err := r.look(look, l); err != nil {
			return err
		}
		if err := os.RemoveAll(filepath.Join(r.copies, "kept")); err != nil {
			return err
		}
	}
	return nil
}

// kill runs a child, kills it, copies the store, and reads the report of the child.
func (r *killRun) kill(opening bool) (*killLife, error) {
	r.s.life++
	spec := killSpec{Dir: r.s.dir, Options: r.options(), Seed: r.rng.Uint64(), Life: r.s.life, Lie: r.lie}
	r.last = spec.Options
	after := time.Duration(3000+r.rng.IntN(147_000)) * time.Microsecond
	switch {
	case opening:
		after = time.Duration(r.rng.Int64N(int64(r.s.opened+r.s.opened/4) + int64(time.Millisecond)))
	case r.rng.IntN(4) == 0:
		// The child closes the store at about the time at which it is killed.
		spec.Close, spec.Calm = max(after-time.Duration(r.rng.IntN(10))*time.Millisecond, 1), r.rng.IntN(2) == 0
	}
	r.kept = r.s.dir
	l, err := r.s.child(spec, opening, after, 1+r.rng.IntN(4))
	if l == nil {
		return nil, err
	}
	if r.lines = l.lines; err == nil {
		err = r.s.await()
	}
	if r.kept = filepath.Join(r.copies, "kept"); err == nil {
		if err = os.CopyFS(r.kept, os.DirFS(r.s.dir)); errors.Is(err, fs.ErrNotExist) {
			err = nil // the child was killed before it made the directory
		}
	}
	for i, line := range l.lines {
		if err != nil {
			break
		}
		l.unsure = i >= l.sure
		if r.cut != nil && line[0] == 'x' && noticed(line) {
			continue
		}
		if err = l.read(r.s, line); err != nil && l.unsure {
			err = fmt.Errorf("%w\nas the power was cut", err)
		}
	}
	r.count(l)
	return l, err
}

// look opens the store in dir, which a child has left, asks the oracles, and closes and checks the store.
func (r *killRun) look(dir string, l *killLife) error {
	end, found, err := enginetest.LogEnd(osfs.OS, dir)
	if err != nil {
		return err
	}
	if !found && r.s.exists {
		return enginetest.Violated("the store is gone")
	}
	o := r.options()
	pc, err := engine.Open(dir, engine.Bytes{}, &o)
	if err != nil {
		return err
	}
	if err := r.s.check(pc, l, end); err != nil {
		return errors.Join(err, pc.Close())
	}
	r.s.exists = r.s.exists || dir == r.s.dir
	if err := pc.Close(); err != nil {
		return err
	}
	return enginetest.Problems(dir, &o)
}

// noticed reports whether a line of a child reports the power cut. After ext4 has shut down its journal, writes may
// fail because the file system is read-only.
func noticed(line string) bool {
	for _, err := range []error{syscall.EIO, syscall.EROFS, vfs.ErrFault} {
		if strings.Contains(line, err.Error()) {
			return true
		}
	}
	return false
}

// count adds the report of a child to the counts.
func (r *killRun) count(l *killLife) {
	r.ids += len(l.ids)
	for g := range l.ops {
		r.ops, r.acks, r.batches = r.ops+len(l.ops[g]), r.acks+l.acked[g], r.batches+len(l.batches[g])
	}
	if !l.opened {
		r.unopened++
	}
	if l.closed {
		r.closed++
	}
}

// save copies the store and the report of the last child to a new directory and returns its path.
func (r *killRun) save() string {
	dir, err := os.MkdirTemp("", "pagecache-kill.")
	if err == nil {
		_ = os.CopyFS(filepath.Join(dir, "store"), os.DirFS(r.kept)) // if it exists
		err = os.WriteFile(filepath.Join(dir, "lines"), []byte(strings.Join(r.lines, "\n")), 0o666)
	}
	if err != nil {
		return err.Error()
	}
	return dir
}

func newKillRun(t *testing.T, seed uint64) *killRun {
	base := t.TempDir()
	if *killDir != "" {
		var err error
		if base, err = os.MkdirTemp(*killDir, "kill."); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(base) })
	}
	return &killRun{rng: rand.New(rand.NewPCG(seed, 13)), base: base, copies: base, full: 48 << 20}
}

// A process is killed many times: while it changes a store, closes it or recovers it. Nothing that it acknowledged is
// lost. Of each goroutine's changes, the store holds those up to one of them and none after it. Batches are whole or
// absent, and no id repeats. Proves rule 5; traps 1, 7 and 11.
func TestKill(t *testing.T) {
	t.Parallel()
	rounds := *killRounds
	if testing.Short() {
		rounds = min(rounds, 3)
	}
	r := newKillRun(t, *killSeed)
	for i := range rounds {
		if err := r.round(i); err != nil {
			t.Logf("replay: go test ./engine -run 'TestKill$' -args -kill.seed=%d -kill.rounds=%d", *killSeed, i+1)
			t.Fatalf("seed %d, round %d, store %d, life %d: %v\nkept in %s",
				*killSeed, i, r.stores, r.s.life, err, r.save())
		}
	}
	t.Logf("%d rounds on %d stores: %d changes, %d acknowledged, %d batches, %d ids",
		rounds, r.stores, r.ops, r.acks, r.batches, r.ids)
	t.Logf("killed %d times before the store was open; closed %d times", r.unopened, r.closed)
}

// The harness finds a child that acknowledges changes that it has not made stable.
func TestKillFindsLies(t *testing.T) {
	t.Parallel()
	r := newKillRun(t, 1)
	r.lie = true
	for i := range 2 {
		err := r.round(i)
		if v := enginetest.Violation(""); errors.As(err, &v) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("no false acknowledgment was found")
}
