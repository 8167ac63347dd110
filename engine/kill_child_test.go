package engine_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

// killEnv holds the killSpec of a child.
const killEnv = "PAGECACHE_KILL_CHILD"

// killWorkers is the number of goroutines of a child that work. Each has its own pages, so that its changes have one
// order.
const killWorkers = 4

// killSpec is the order that a child gets.
type killSpec struct {
	Dir     string
	Options engine.Options
	Seed    uint64
	Life    uint64        // of the store, from 1
	Close   time.Duration // the child closes the store after this time; 0: never
	Calm    bool          // the child closes the store after the goroutines have ended
	Lie     bool          // a planted fault: the child acknowledges changes without MakeStable
}

// killOp is a change that a child begins.
type killOp struct {
	seq  uint64 // rises over all lives of the store; the value contains it
	kind killKind
	pid  engine.PageID // 0: an Allocate that has not reported the id
	size int
	// The LSN of the change is above lo, and at or below hi.
	lo, hi engine.LSN
}

type killKind uint8

const (
	killAllocate killKind = iota
	killLink
	killReplace
	killFree
	killRoot
)

// killHead is the length of a record's header in bytes: checksum, length, sequence number, owner, page.
const killHead = 32

var killTable = crc32.MakeTable(crc32.Castagnoli)

// killRecord returns the fragment that an operation writes. pid is 0 for Allocate, because the caller does not know the
// id yet.
func killRecord(pid engine.PageID, owner int, seq uint64, size int) []byte {
	b := make([]byte, killHead+size)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
	binary.LittleEndian.PutUint64(b[8:], seq)
	binary.LittleEndian.PutUint64(b[16:], uint64(owner))
	binary.LittleEndian.PutUint64(b[24:], uint64(pid))
	if seq%4 != 0 { // the others are zeros, which recovery must not take for a torn write
		for i := range size {
			b[killHead+i] = byte(seq * uint64(i+1) >> 2)
		}
	}
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:], killTable))
	return b
}

// killParse checks a page's value. It returns the goroutine that owns the page and the sequence number of the last
// record.
func killParse(pid engine.PageID, v []byte) (owner int, seq uint64, err error) {
	for at := 0; at < len(v) || at == 0; {
		b := v[at:]
		if len(b) < killHead {
			return 0, 0, enginetest.Violated("page %d ends in %d bytes of a record, at byte %d", pid, len(b), at)
		}
		n, o := int(binary.LittleEndian.Uint32(b[4:])), int(binary.LittleEndian.Uint64(b[16:]))
		p := binary.LittleEndian.Uint64(b[24:])
		if n < killHead || n > len(b) || crc32.Checksum(b[4:n], killTable) != binary.LittleEndian.Uint32(b) {
			return 0, 0, enginetest.Violated("page %d is torn at byte %d of %d", pid, at, len(v))
		}
		s := binary.LittleEndian.Uint64(b[8:])
		if p != uint64(pid) && (p != 0 || at != 0) || at > 0 && (o != owner || s <= seq) || o < 0 || o >= killWorkers {
			return 0, 0, enginetest.Violated("page %d has record %d of goroutine %d for page %d after record %d of %d",
				pid, s, o, p, seq, owner)
		}
		owner, seq, at = o, s, at+n
	}
	return owner, seq, nil
}

// killChild is the process that is killed.
type killChild struct {
	spec    killSpec
	pc      *engine.PageCache[[]byte]
	out     *os.File
	stop    atomic.Bool // the goroutines must end
	closing atomic.Bool // calls may return ErrClosed
}

// say writes a line to the parent, in one write, so that a killed child never leaves part of a line. A child without a
// parent exits.
func (c *killChild) say(format string, args ...any) {
	if _, err := c.out.Write(fmt.Appendf(make([]byte, 0, 80), format+"\n", args...)); err != nil {
		os.Exit(1)
	}
}

// This is the child process of TestKill and TestPowerCut.
func TestKillChild(t *testing.T) {
	env := os.Getenv(killEnv)
	if env == "" {
		t.Skip("only TestKill starts it")
	}
	c := &killChild{out: os.NewFile(3, "parent")}
	if err := json.Unmarshal([]byte(env), &c.spec); err != nil {
		t.Fatal(err)
	}
	if err := c.live(); err != nil {
		c.say("x %q", c.withRoom(err))
		t.Fatal(err)
	}
}

// withRoom adds the use of the disk to an ErrNoSpace.
func (c *killChild) withRoom(err error) error {
	if !errors.Is(err, engine.ErrNoSpace) {
		return err
	}
	return fmt.Errorf("%w\n%s", err, diskUse(filepath.Dir(c.spec.Dir)))
}

// diskUse describes the free space of the file system of dir, and the blocks that large files below dir occupy.
func diskUse(dir string) string {
	var b strings.Builder
	var fs unix.Statfs_t
	err := unix.Statfs(dir, &fs)
	fmt.Fprintf(&b, "%d of %d KiB free", fs.Bfree*uint64(fs.Bsize)>>10, fs.Blocks*uint64(fs.Bsize)>>10)
	err = errors.Join(err, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if st.Blocks > 256 {
			fmt.Fprintf(&b, "\n%s: %d KiB, %d KiB on the disk", path, st.Size>>10, st.Blocks>>1)
		}
		return err
	}))
	if err != nil {
		fmt.Fprintf(&b, "\n%v", err)
	}
	return b.String()
}

// live opens the store, changes it, and closes it if the order says so.
func (c *killChild) live() (err error) {
	c.say("s")
	start := time.Now()
	if c.pc, err = engine.Open(c.spec.Dir, engine.Bytes{}, &c.spec.Options); err != nil {
		return err
	}
	took := time.Since(start).Microseconds()
	c.say("o %d %d %d", map[bool]int{true: 1}[c.pc.WasRecovered()], c.pc.Stats().Generation, took)
	ws, err := c.workers()
	if err != nil {
		return err
	}
	errs := make([]error, len(ws))
	var wg sync.WaitGroup
	for g, w := range ws {
		wg.Go(func() {
			for !c.stop.Load() && errs[g] == nil {
				errs[g] = w.step()
			}
			if errs[g] == nil && w.batch != nil {
				errs[g] = w.seal()
			}
			if errs[g] != nil && (!c.closing.Load() || !errors.Is(errs[g], engine.ErrClosed)) {
				c.say("x %q", c.withRoom(errs[g]))
			}
		})
	}
	if c.spec.Close > 0 {
		time.Sleep(c.spec.Close)
		if c.spec.Calm {
			c.stop.Store(true)
			wg.Wait()
		}
		c.closing.Store(true)
		if err := c.pc.Close(); err != nil {
			return err
		}
		c.say("c %d", map[bool]int{true: 1}[c.spec.Calm])
	}
	wg.Wait()
	if c.closing.Load() {
		return nil
	}
	return errors.Join(errs...)
}

// workers makes the goroutines and gives each its pages of earlier lives.
func (c *killChild) workers() ([]*killWorker, error) {
	ws := make([]*killWorker, killWorkers)
	for g := range ws {
		ws[g] = &killWorker{killChild: c, g: g, seq: c.spec.Life << 20,
			rng: rand.New(rand.NewPCG(c.spec.Seed, c.spec.Life<<8|uint64(g)))}
	}
	tx, err := c.pc.Begin()
	if err != nil {
		return nil, err
	}
	defer tx.End()
	for pid := engine.FirstUserPage; pid < enginetest.NextPage(c.pc); pid++ {
		p, err := c.pc.Get(tx, pid)
		if err != nil {
			return nil, err
		}
		if p.Kind != engine.KindMaterialized {
			continue
		}
		g, seq, err := killParse(pid, p.Value)
		if err != nil {
			return nil, err
		}
		ws[g].pages = append(ws[g].pages, &killPage{pid, p.Ptr, seq, len(p.Value)})
	}
	roots, err := c.pc.Meta(tx)
	for g, w := range ws {
		w.root = roots[killName(g)]
	}
	return ws, err
}

// killName returns the name of the root that a goroutine owns.
func killName(g int) string { return fmt.Sprintf("root of %d", g) }

// killWorker is one goroutine of a child.
type killWorker struct {
	*killChild
	g     int
	rng   *rand.Rand
	seq   uint64
	pages []*killPage
	root  engine.PageID
	last  engine.LSN // at or above that of its last change
	batch *engine.Batch
	left  int // changes until the batch ends
}

type killPage struct {
	pid  engine.PageID
	ptr  engine.PagePtr[[]byte]
	seq  uint64
	size int
}

func (w *killWorker) step() error {
	if w.batch != nil {
		if w.left--; w.left < 0 {
			return w.seal()
		}
	}
	switch k := w.rng.IntN(100); {
	case k < 10 || len(w.pages) == 0:
		return w.change(killAllocate)
	case k < 55:
		return w.change(killLink)
	case k < 68:
		return w.change(killReplace)
	case k < 76:
		return w.change(killFree)
	case k < 80:
		return w.change(killRoot)
	case k < 84:
		id, err := w.pc.GenerateID()
		if err == nil {
			w.say("d %d", id)
		}
		return err
	case k < 88:
		return w.get()
	case w.batch != nil:
		return nil // a wait for its own batch would never end
	case k < 91:
		var err error
		if w.batch, err = w.pc.PinLog(); err != nil {
			return err
		}
		w.left = 1 + w.rng.IntN(12)
		w.say("p %d %d", w.g, w.batch.LSN())
		return nil
	case w.spec.Seed%3 == 0 && k < 99:
		return nil // this child acknowledges few changes
	}
	return w.sync()
}

func (w *killWorker) seal() error {
	w.say("l %d", w.g)
	lsn, err := engine.EndBatch(w.batch)
	if err != nil {
		return err
	}
	w.say("e %d %d", w.g, lsn)
	w.batch = nil
	return nil
}

// sync makes the changes of this goroutine stable and acknowledges them.
func (w *killWorker) sync() error {
	seq, last := w.seq, w.last
	if last == 0 {
		return nil
	}
	var err error
	switch {
	case w.spec.Lie:
		w.say("a %d %d %d", w.g, seq, 0)
		return nil
	case w.rng.IntN(4) == 0:
		_, err = w.pc.Flush()
	default:
		_, err = w.pc.MakeStable(last)
	}
	if err != nil {
		return err
	}
	stable := w.pc.StableLSN()
	if stable < last {
		return enginetest.Violated("stable only up to LSN %d, after MakeStable of %d", stable, last)
	}
	w.say("a %d %d %d", w.g, seq, stable)
	return nil
}

// get reads a page, which must be as this goroutine left it.
func (w *killWorker) get() error {
	tx, err := w.pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	w.say("d %d", tx.TS())
	p := w.pages[w.rng.IntN(len(w.pages))]
	got, err := w.pc.Get(tx, p.pid)
	if err != nil {
		return err
	}
	if got.Kind != engine.KindMaterialized {
		return enginetest.Violated("page %d is %v", p.pid, got.Kind)
	}
	g, seq, err := killParse(p.pid, got.Value)
	if err == nil && (g != w.g || seq != p.seq || len(got.Value) != p.size) {
		err = enginetest.Violated("page %d: %d bytes, last record %d of goroutine %d; want %d bytes, record %d of %d",
			p.pid, len(got.Value), seq, g, p.size, p.seq, w.g)
	}
	return err
}

// change makes one change. It reports the change to the parent before it is made, and its LSN afterwards.
func (w *killWorker) change(kind killKind) error {
	tx, err := w.pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	size := w.rng.IntN(150)
	if w.rng.IntN(40) == 0 {
		size = w.rng.IntN(engine.StoreOf(w.pc).SegmentSize() / 4)
	}
	size = min(size, 20000)
	i, p := 0, new(killPage)
	if kind != killAllocate {
		i = w.rng.IntN(len(w.pages))
		p = w.pages[i]
	}
	if kind == killLink && p.size+size > min(engine.StoreOf(w.pc).SegmentSize()/2, 4000) {
		kind = killReplace
	}
	w.seq++
	w.say("b %d %d %d %d %d %d", w.g, w.seq, kind, p.pid, size, tx.TS())
	frag, won, before := killRecord(p.pid, w.g, w.seq, size), true, p.ptr
	switch kind {
	case killAllocate:
		if p.pid, p.ptr, err = w.pc.Allocate(tx, frag); err == nil {
			w.pages = append(w.pages, p)
		}
		p.size = len(frag)
	case killLink:
		p.ptr, won, err = w.pc.Link(tx, p.pid, p.ptr, frag)
		p.size += len(frag)
	case killReplace:
		p.ptr, won, err = w.pc.Replace(tx, p.pid, p.ptr, frag)
		p.size = len(frag)
	case killFree:
		w.pages = slices.Delete(w.pages, i, i+1)
		p.ptr, won, err = w.pc.Free(tx, p.pid, p.ptr)
	case killRoot:
		return w.changeRoot(tx)
	}
	if err != nil {
		return err
	}
	if p.seq = w.seq; !won {
		return enginetest.Violated(
			"change %d of page %d lost, and no other goroutine changes the page: LSN %d after %d",
			w.seq, p.pid, p.ptr.LastLSN(), before.LastLSN())
	}
	w.last = p.ptr.LastLSN()
	w.say("w %d %d %d %d %d", w.g, w.seq, p.pid, w.last, w.last)
	return nil
}

// changeRoot sets the goroutine's root to its sequence number. The LSN of the change is above that of the root before
// it, and at or below that of the root after it.
func (w *killWorker) changeRoot(tx *engine.Tx[[]byte]) error {
	to := engine.PageID(w.seq)
	lo := max(w.last, engine.NewestLSN(w.pc, engine.RootPage(w.pc, killName(w.g))))
	now, won, err := w.pc.CASRoot(tx, killName(w.g), w.root, to)
	if err != nil {
		return err
	}
	if !won || now != to {
		return enginetest.Violated("root of %d from %v to %v: won %v, now %v", w.g, w.root, to, won, now)
	}
	w.root, w.last = to, engine.NewestLSN(w.pc, engine.RootPage(w.pc, killName(w.g)))
	w.say("w %d %d %d %d %d", w.g, w.seq, 0, lo, w.last)
	return nil
}

// killLife is the report of a child.
type killLife struct {
	lines []string
	// sure is the number of lines that came before the power was cut. A file system that is being shut down may report
	// writes as durable that are not.
	sure    int
	unsure  bool // the present line came after the power cut
	ops     [killWorkers][]killOp
	acked   [killWorkers]int // the number of ops that are stable
	batches [killWorkers][]killBatch
	stable  engine.LSN
	ids     map[int64]bool // and timestamps
	opened  bool
	closed  bool
}

// killBatch holds the changes of its goroutine from first to before last.
type killBatch struct {
	first, last int
	begin       engine.LSN
	end         engine.LSN // 0: not reported
	sealing     bool
}

// read records a line of the report. It returns a Violation if the line contradicts the lines before it.
func (l *killLife) read(s *killStore, line string) error {
	if line[0] == 'x' {
		return errors.New(line)
	}
	var n [6]int64
	for i, f := range strings.Fields(line)[1:] {
		var err error
		if n[i], err = strconv.ParseInt(f, 10, 64); err != nil {
			return err
		}
	}
	g := 0
	if strings.IndexByte("bwaple", line[0]) >= 0 {
		g = int(n[0])
	}
	switch ops, batches := l.ops[g], l.batches[g]; line[0] {
	case 'o':
		if l.opened = true; l.unsure {
			break
		}
		if n[0] == 0 && s.exists || n[1] <= s.gen {
			return enginetest.Violated("opened, recovered %d, generation %d after %d", n[0], n[1], s.gen)
		}
		s.exists, s.gen, s.opened = true, n[1], time.Duration(n[2])*time.Microsecond
	case 'b':
		lo := s.end - 1
		if len(ops) > 0 {
			lo = ops[len(ops)-1].lo
		}
		l.ops[g] = append(ops, killOp{seq: uint64(n[1]), kind: killKind(n[2]), pid: engine.PageID(n[3]),
			size: int(n[4]), lo: lo, hi: math.MaxInt64})
		return l.id(s, n[5])
	case 'w':
		op := &ops[len(ops)-1]
		if engine.LSN(n[4]) <= op.lo {
			return enginetest.Violated(
				"LSN %d of change %d is not above that of the change before it, %d, or the log's end",
				n[4], op.seq, op.lo)
		}
		op.pid, op.lo, op.hi = engine.PageID(n[2]), max(op.lo, engine.LSN(n[3])), engine.LSN(n[4])
	case 'a':
		if l.unsure {
			break
		}
		for l.acked[g] < len(ops) && ops[l.acked[g]].seq <= uint64(n[1]) {
			l.acked[g]++
		}
		l.stable = max(l.stable, engine.LSN(n[2]))
	case 'p':
		l.batches[g] = append(batches, killBatch{first: len(ops), begin: engine.LSN(n[1])})
	case 'l':
		batches[len(batches)-1].last, batches[len(batches)-1].sealing = len(ops), true
	case 'e':
		batches[len(batches)-1].end = engine.LSN(n[1])
	case 'd':
		return l.id(s, n[0])
	case 'c':
		l.closed = true
		for g := range l.ops {
			if n[0] == 1 && !l.unsure {
				l.acked[g] = len(l.ops[g])
			}
		}
	}
	return nil
}

// id records an id or timestamp. It must be new, and above those of earlier lives (O3).
func (l *killLife) id(s *killStore, id int64) error {
	if l.unsure {
		return nil
	}
	if id <= s.ids || l.ids[id] {
		return enginetest.Violated("id %d was handed out again; the highest of earlier lives is %d", id, s.ids)
	}
	l.ids[id] = true
	return nil
}
