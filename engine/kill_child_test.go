package engine

import (
	"cmp"
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

	"pagecache/segments/format"
)

// killEnv holds the killSpec of a child.
const killEnv = "PAGECACHE_KILL_CHILD"

// killWorkers is how many goroutines of a child work. Each has its own pages, so that what it did is one line of changes.
const killWorkers = 4

// killSpec is what a child is told.
type killSpec struct {
	Dir     string
	Options Options
	Seed    uint64
	Life    uint64        // of the store, from 1
	Close   time.Duration // the store is closed after that; 0: never
	Calm    bool          // it is closed when the goroutines have ended
	Lie     bool          // planted: acknowledgments come without MakeStable
}

// killOp is a change that a child begins.
type killOp struct {
	seq  uint64 // of its goroutine, over all lives; in the value too
	kind killKind
	pid  PageID // 0: an Allocate that did not say
	size int
	// lo and hi bound its LSN.
	lo, hi LSN
}

type killKind uint8

const (
	killAllocate killKind = iota
	killLink
	killReplace
	killFree
	killRoot
)

// killHead is the length of what comes before a record's payload: checksum, length, sequence number, owner, page.
const killHead = 32

var killTable = crc32.MakeTable(crc32.Castagnoli)

// killRecord is the fragment that an operation writes. pid is 0 for Allocate, which does not know.
func killRecord(pid PageID, owner int, seq uint64, size int) []byte {
	b := make([]byte, killHead+size)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
	binary.LittleEndian.PutUint64(b[8:], seq)
	binary.LittleEndian.PutUint64(b[16:], uint64(owner))
	binary.LittleEndian.PutUint64(b[24:], uint64(pid))
	if seq%4 != 0 { // else zeros, which must not be taken for a torn write
		for i := range size {
			b[killHead+i] = byte(seq * uint64(i+1) >> 2)
		}
	}
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:], killTable))
	return b
}

// killParse checks a page's value and returns whose it is and the sequence number of its last record.
func killParse(pid PageID, v []byte) (owner int, seq uint64, err error) {
	for at := 0; at < len(v) || at == 0; {
		b := v[at:]
		if len(b) < killHead {
			return 0, 0, violated("page %d ends in %d bytes of a record, at byte %d", pid, len(b), at)
		}
		n, o, p := int(binary.LittleEndian.Uint32(b[4:])), int(binary.LittleEndian.Uint64(b[16:])), binary.LittleEndian.Uint64(b[24:])
		if n < killHead || n > len(b) || crc32.Checksum(b[4:n], killTable) != binary.LittleEndian.Uint32(b) {
			return 0, 0, violated("page %d is torn at byte %d of %d", pid, at, len(v))
		}
		s := binary.LittleEndian.Uint64(b[8:])
		if p != uint64(pid) && (p != 0 || at != 0) || at > 0 && (o != owner || s <= seq) || o < 0 || o >= killWorkers {
			return 0, 0, violated("page %d has record %d of goroutine %d and page %d after %d of %d", pid, s, o, p, seq, owner)
		}
		owner, seq, at = o, s, at+n
	}
	return owner, seq, nil
}

// killChild is the process that is killed.
type killChild struct {
	spec    killSpec
	pc      *PageCache[[]byte]
	out     *os.File
	stop    atomic.Bool // the goroutines end
	closing atomic.Bool // they may find the store closed
}

// say tells the parent something, in one write: it is there whole or not at all. A child without a parent ends.
func (c *killChild) say(format string, args ...any) {
	if _, err := c.out.Write(fmt.Appendf(make([]byte, 0, 80), format+"\n", args...)); err != nil {
		os.Exit(1)
	}
}

// The other half of TestKill.
func TestKillChild(t *testing.T) {
	env := os.Getenv(killEnv)
	if env == "" {
		t.Skip("is started by TestKill")
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

// withRoom adds to a complaint about lack of room who has it.
func (c *killChild) withRoom(err error) error {
	if !errors.Is(err, ErrNoSpace) {
		return err
	}
	return fmt.Errorf("%w\n%s", err, room(filepath.Dir(c.spec.Dir)))
}

// room tells what is free on the file system below dir, and what the files there hold of it.
func room(dir string) string {
	var b strings.Builder
	var fs unix.Statfs_t
	err := unix.Statfs(dir, &fs)
	fmt.Fprintf(&b, "%d of %d KiB are free", fs.Bfree*uint64(fs.Bsize)>>10, fs.Blocks*uint64(fs.Bsize)>>10)
	err = errors.Join(err, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if st.Blocks > 256 {
			fmt.Fprintf(&b, "\n%s: %d KiB, holds %d", path, st.Size>>10, st.Blocks>>1)
		}
		return err
	}))
	if err != nil {
		fmt.Fprintf(&b, "\n%v", err)
	}
	return b.String()
}

func (c *killChild) live() (err error) {
	c.say("s")
	start := time.Now()
	if c.pc, err = Open(c.spec.Dir, Bytes{}, &c.spec.Options); err != nil {
		return err
	}
	c.say("o %d %d %d", map[bool]int{true: 1}[c.pc.WasRecovered()], c.pc.Stats().Generation, time.Since(start).Microseconds())
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
			if errs[g] != nil && (!c.closing.Load() || !errors.Is(errs[g], ErrClosed)) {
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

// workers deals out the pages that are there.
func (c *killChild) workers() ([]*killWorker, error) {
	ws := make([]*killWorker, killWorkers)
	for g := range ws {
		ws[g] = &killWorker{killChild: c, g: g, seq: c.spec.Life << 20, rng: rand.New(rand.NewPCG(c.spec.Seed, c.spec.Life<<8|uint64(g)))}
	}
	tx, err := c.pc.Begin()
	if err != nil {
		return nil, err
	}
	defer tx.End()
	for pid := FirstUserPage; pid < c.pc.pages.IDs.Next(); pid++ {
		p, err := c.pc.Get(tx, pid)
		if err != nil {
			return nil, err
		}
		if p.Kind != KindMaterialized {
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

func killName(g int) string { return fmt.Sprintf("root of %d", g) }

// killWorker is one goroutine of a child.
type killWorker struct {
	*killChild
	g     int
	rng   *rand.Rand
	seq   uint64
	pages []*killPage
	root  PageID
	last  LSN // of its last change, or above
	batch *Batch
	left  int // changes until the batch ends
}

type killPage struct {
	pid  PageID
	ptr  PagePtr[[]byte]
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
		return nil // nobody else could end it
	case k < 91:
		var err error
		if w.batch, err = w.pc.PinLog(); err != nil {
			return err
		}
		w.left = 1 + w.rng.IntN(12)
		w.say("p %d %d", w.g, w.batch.LSN())
		return nil
	case w.spec.Seed%3 == 0 && k < 99:
		return nil // this child acknowledges little
	}
	return w.sync()
}

func (w *killWorker) seal() error {
	w.say("l %d", w.g)
	lsn, err := w.batch.b.End() // what Seal calls
	if err != nil {
		return describe("seal", err)
	}
	w.say("e %d %d", w.g, lsn)
	w.batch = nil
	return nil
}

// sync acknowledges what this goroutine has done.
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
		return violated("stable to LSN %d only, after %d was made stable", stable, last)
	}
	w.say("a %d %d %d", w.g, seq, stable)
	return nil
}

// get asks whether a page is as this goroutine left it.
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
	if got.Kind != KindMaterialized {
		return violated("page %d is %v", p.pid, got.Kind)
	}
	if g, seq, err := killParse(p.pid, got.Value); err != nil || g != w.g || seq != p.seq || len(got.Value) != p.size {
		return cmp.Or(err, violated("page %d of goroutine %d ends at record %d, want %d of %d", p.pid, g, seq, p.seq, w.g))
	}
	return nil
}

// change makes one change. It says so before, and afterwards where in the log it lies.
func (w *killWorker) change(kind killKind) error {
	tx, err := w.pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	size := w.rng.IntN(150)
	if w.rng.IntN(40) == 0 {
		size = w.rng.IntN(w.pc.core.store.Super.SegmentSize / 4)
	}
	size = min(size, 20000)
	i, p := 0, new(killPage)
	if kind != killAllocate {
		i = w.rng.IntN(len(w.pages))
		p = w.pages[i]
	}
	if kind == killLink && p.size+size > min(w.pc.core.store.Super.SegmentSize/2, 4000) {
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
		return violated("change %d of page %d was lost to nobody, at LSN %d after %d", w.seq, p.pid, p.ptr.LastLSN(), before.LastLSN())
	}
	w.last = p.ptr.LastLSN()
	w.say("w %d %d %d %d %d", w.g, w.seq, p.pid, w.last, w.last)
	return nil
}

// changeRoot has the goroutine's root name its sequence number. The change lies above the LSN that the roots had before, and not
// above that which they have afterwards.
func (w *killWorker) changeRoot(tx *Tx) error {
	to := PageID(w.seq)
	roots := w.pc.pages.Table.Make(format.MetaPage)
	lo := w.last
	if head := roots.Load(); head != nil {
		lo = max(lo, head.LSN)
	}
	now, won, err := w.pc.CASRoot(tx, killName(w.g), w.root, to)
	if err != nil {
		return err
	}
	if !won || now != to {
		return violated("root of %d from %v to %v: won %v, now %v", w.g, w.root, to, won, now)
	}
	w.root, w.last = to, roots.Load().LSN
	w.say("w %d %d %d %d %d", w.g, w.seq, 0, lo, w.last)
	return nil
}

// killLife is what a child said.
type killLife struct {
	lines   []string
	heard   atomic.Int64 // len(lines), for others than who reads
	sure    int          // lines that came before the power was cut: while a file system is shut down it may call durable what is not
	unsure  bool         // the lines that are read now came later
	ops     [killWorkers][]killOp
	acked   [killWorkers]int // so many of ops are stable
	batches [killWorkers][]killBatch
	stable  LSN
	ids     map[int64]bool // and timestamps
	opened  bool
	closed  bool
}

// killBatch holds the changes of its goroutine from first to before last.
type killBatch struct {
	first, last int
	begin       LSN
	end         LSN // 0: not said
	sealing     bool
}

// read takes in a line. What a child says of itself must be in order too.
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
			return violated("opened, recovered %d, generation %d after %d", n[0], n[1], s.gen)
		}
		s.exists, s.gen, s.opened = true, n[1], time.Duration(n[2])*time.Microsecond
	case 'b':
		lo := s.end - 1
		if len(ops) > 0 {
			lo = ops[len(ops)-1].lo
		}
		op := killOp{seq: uint64(n[1]), kind: killKind(n[2]), pid: PageID(n[3]), size: int(n[4]), lo: lo, hi: math.MaxInt64}
		l.ops[g] = append(ops, op)
		return l.id(s, n[5])
	case 'w':
		op := &ops[len(ops)-1]
		if LSN(n[4]) <= op.lo {
			return violated("LSN %d of change %d is not above %d, where the log ended or the change before lies", n[4], op.seq, op.lo)
		}
		op.pid, op.lo, op.hi = PageID(n[2]), max(op.lo, LSN(n[3])), LSN(n[4])
	case 'a':
		if l.unsure {
			break
		}
		for l.acked[g] < len(ops) && ops[l.acked[g]].seq <= uint64(n[1]) {
			l.acked[g]++
		}
		l.stable = max(l.stable, LSN(n[2]))
	case 'p':
		l.batches[g] = append(batches, killBatch{first: len(ops), begin: LSN(n[1])})
	case 'l':
		batches[len(batches)-1].last, batches[len(batches)-1].sealing = len(ops), true
	case 'e':
		batches[len(batches)-1].end = LSN(n[1])
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

// id takes in an id or timestamp: none comes twice, and none at or below one of an earlier life (O3).
func (l *killLife) id(s *killStore, id int64) error {
	if l.unsure {
		return nil
	}
	if id <= s.ids || l.ids[id] {
		return violated("id %d was handed out again; those of earlier lives go to %d", id, s.ids)
	}
	l.ids[id] = true
	return nil
}
