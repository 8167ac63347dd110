package engine_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/osfs"
)

var (
	checkpointKills = flag.Int("checkpointkill.lives", 12,
		"the number of lives of TestCheckpointKill; with -short at most 5")
	checkpointCuts = flag.Int("checkpointkill.cuts", 4,
		"the number of lives of TestCheckpointPowerCut on each file system")
	checkpointLife = flag.Uint64("checkpointkill.seed", 1, "the seed of the times of both")
)

// checkpointKillEnv holds the backupSpec of a child.
const checkpointKillEnv = "PAGECACHE_CHECKPOINT_CHILD"

// A child has backupWriters goroutines. Each replaces backupPages pages in each transaction, the last of which is a
// blob.
const backupWriters, backupPages = 2, 3

// backupSpec is the order that a child gets.
type backupSpec struct {
	Dir   string // has the store, the backups and the copies
	Pages [backupWriters][backupPages]engine.PageID
	Chain []string // the files of the backups that the next one continues
	Since engine.LSN
	Next  int // the number of the next backup or copy
	// Copies says that the child makes copies of the store, and no backups. Fill says that it fills the disk at times.
	Copies, Fill bool
}

// backupLine is what a child says after each step.
type backupLine struct {
	Open   bool
	Writer int
	Acked  int64                // the writer's value Acked is stable
	Backup string               // a backup, or a copy, that is whole and durable
	Since  engine.LSN           // that the backup continues
	LSN    engine.LSN           // its end
	Least  [backupWriters]int64 // what it must have
	Gone   string               // a copy that is removed from now on
	Full   bool                 // there was no room for a copy
	Err    string
	// Unsure says that the line came after a power cut. Then xfs may say that a directory is durable that is not.
	Unsure bool `json:"-"`
}

func backupOptions() *engine.Options {
	return &engine.Options{SegmentSize: 64 << 10, FlushEvery: 5 * time.Millisecond, SnapshotEvery: 300,
		CleanupThreshold: 0.8}
}

// backupValue is the value with number n of a page.
func backupValue(page int, n int64) []byte {
	if page == backupPages-1 {
		return fmt.Appendf(nil, "%020000d", n)
	}
	return record(n)
}

// backupWrite replaces all pages of a writer.
func backupWrite(pc *engine.PageCache[[]byte], pages [backupPages]engine.PageID, n int64) error {
	lsn, err := pc.Update(context.Background(), func(tx *engine.Tx[[]byte]) error {
		for i, pid := range pages {
			if err := tx.Replace(pid, backupValue(i, n)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		_, err = pc.MakeStable(lsn)
	}
	return err
}

// This is the child process of TestCheckpointKill and TestCheckpointPowerCut.
func TestCheckpointKillChild(t *testing.T) {
	env := os.Getenv(checkpointKillEnv)
	if env == "" {
		t.Skip("only TestCheckpointKill starts it")
	}
	out := os.NewFile(3, "parent")
	var mu sync.Mutex
	say := func(l backupLine) {
		mu.Lock()
		defer mu.Unlock()
		b, _ := json.Marshal(l)
		if _, err := out.Write(append(b, '\n')); err != nil { // in one write, so that no part of a line is left
			os.Exit(1) // the parent is gone
		}
	}
	var spec backupSpec
	if err := json.Unmarshal([]byte(env), &spec); err != nil {
		t.Fatal(err)
	}
	work := backupChild
	if spec.Copies {
		work = copyChild
	}
	err := work(t.Context(), &spec, say)
	say(backupLine{Err: fmt.Sprint(err)})
}

// backupWork opens the store and begins to write its pages. acked are the numbers of the values that are stable.
func backupWork(ctx context.Context, spec *backupSpec, say func(backupLine)) (
	pc *engine.PageCache[[]byte], acked *[backupWriters]atomic.Int64, err error) {
	if pc, err = engine.Open(filepath.Join(spec.Dir, "store"), engine.Bytes{}, backupOptions()); err != nil {
		return nil, nil, err
	}
	say(backupLine{Open: true})
	acked = new([backupWriters]atomic.Int64)
	for w, pages := range spec.Pages {
		n, err := backupNumber(pc, pages)
		if err != nil {
			return nil, nil, err
		}
		acked[w].Store(n)
		go func() {
			for ctx.Err() == nil {
				err := backupWrite(pc, pages, n+1)
				switch {
				case err == nil:
					n++
					acked[w].Store(n)
					say(backupLine{Writer: w, Acked: n})
				case spec.Fill && errors.Is(err, engine.ErrNoSpace):
					time.Sleep(time.Millisecond)
				default:
					say(backupLine{Err: err.Error()})
					return
				}
			}
		}()
	}
	return pc, acked, nil
}

// backupChild writes pages, backups and copies until it is killed, or fails.
func backupChild(ctx context.Context, spec *backupSpec, say func(backupLine)) error {
	pc, acked, err := backupWork(ctx, spec, say)
	if err != nil {
		return err
	}
	for ; ; spec.Next++ {
		line := backupLine{Backup: fmt.Sprint("backup", spec.Next), Since: spec.Since}
		line.Least = loaded(acked)
		c, err := pc.Checkpoint(ctx)
		if err != nil {
			return err
		}
		line.LSN = c.LSN()
		file := filepath.Join(spec.Dir, line.Backup)
		err = writeFile(file, func(w io.Writer) error {
			_, err := c.Write(ctx, w, spec.Since)
			return err
		})
		c.Close()
		if err != nil {
			return err
		}
		say(line)
		spec.Chain, spec.Since = append(spec.Chain, file), c.LSN()
		if _, err := installFiles(ctx, filepath.Join(spec.Dir, "copy"+fmt.Sprint(spec.Next)), spec.Chain); err != nil {
			return fmt.Errorf("%v: %w", spec.Chain, err)
		}
		if len(spec.Chain) == 4 {
			spec.Chain, spec.Since = nil, 0
		}
	}
}

// loaded returns the numbers.
func loaded(acked *[backupWriters]atomic.Int64) (n [backupWriters]int64) {
	for w := range acked {
		n[w] = acked[w].Load()
	}
	return n
}

// writeFile writes a file that gets its name once it is whole and durable.
func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name + ".tmp")
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return errors.Join(os.Rename(f.Name(), name), enginetest.SyncDir(osfs.OS, filepath.Dir(name)))
}

// installFiles makes a store of the streams in files.
func installFiles(ctx context.Context, dir string, files []string) (engine.CheckpointInfo, error) {
	var streams []io.Reader
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return engine.CheckpointInfo{}, err
		}
		defer f.Close()
		streams = append(streams, bufio.NewReader(f))
	}
	return engine.Install(ctx, dir, nil, streams...)
}

// backupNumber returns the number of the values of a writer's pages, all of which must have the same.
func backupNumber(pc *engine.PageCache[[]byte], pages [backupPages]engine.PageID) (n int64, err error) {
	tx, err := pc.Begin()
	if err != nil {
		return 0, err
	}
	defer tx.End()
	for i, pid := range pages {
		p, err := pc.Get(tx, pid)
		if err != nil {
			return 0, err
		}
		if i == 0 {
			n = number(p.Value)
		}
		if !bytes.Equal(p.Value, backupValue(i, n)) {
			return 0, enginetest.Violated("page %d has not number %d, as the first page has: %s", pid, n,
				enginetest.Brief(p.Value))
		}
	}
	return n, nil
}

// backupLives is a store whose processes are killed one after another while they write backups and copies.
type backupLives struct {
	spec  backupSpec
	rng   *rand.Rand
	acked [backupWriters]int64
	least [backupWriters]int64 // what the last backup of the chain must have
	// cut cuts the power just before a child is killed, and restore turns it on again. If nil, only the child is
	// killed.
	cut, restore func() error
	// look looks at what a child has left, which has said lines; nil: compare.
	look                     func(lines []backupLine) error
	backups, copies, partial int // counts
}

// newBackupLives makes a store in dir.
func newBackupLives(t *testing.T, dir string) *backupLives {
	t.Helper()
	x := &backupLives{spec: backupSpec{Dir: dir}, rng: rand.New(rand.NewPCG(*checkpointLife, 3))}
	pc, err := engine.Open(filepath.Join(dir, "store"), engine.Bytes{}, backupOptions())
	if err != nil {
		t.Fatal(err)
	}
	for w := range x.spec.Pages {
		for i := range x.spec.Pages[w] {
			x.spec.Pages[w][i], _ = enginetest.Allocate(t, pc, backupValue(i, 0))
		}
	}
	if err := errors.Join(pc.Close(), enginetest.SyncDir(osfs.OS, dir)); err != nil {
		t.Fatal(err)
	}
	return x
}

// life runs a child until it is killed, and looks at what it has left.
func (x *backupLives) life() error {
	env, err := json.Marshal(x.spec)
	if err != nil {
		return err
	}
	var lines []backupLine
	c := enginetest.Child{
		Test: "TestCheckpointKillChild", Env: []string{checkpointKillEnv + "=" + string(env)},
		Ready: func(line string) bool { return strings.Contains(line, `"Open":true`) },
		After: time.Duration(x.rng.IntN(300)) * time.Millisecond, Cut: x.cut, Restore: x.restore,
	}
	said, sure, err := c.Live()
	if err != nil {
		return err
	}
	for i, line := range said {
		l := backupLine{Unsure: i >= sure}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			return err
		}
		lines = append(lines, l)
	}
	if x.look != nil {
		return x.look(lines)
	}
	return x.compare(lines)
}

// compare compares the store, the backups and the copies with what the child has said.
func (x *backupLives) compare(lines []backupLine) error {
	for _, l := range lines {
		switch {
		case l.Err != "" && x.cut == nil: // else the child may have noticed
			return errors.New(l.Err)
		case l.Acked > 0:
			x.acked[l.Writer] = l.Acked
		case l.Backup != "" && !l.Unsure:
			if l.Since == 0 {
				if err := x.forget(); err != nil {
					return err
				}
			}
			x.spec.Chain = append(x.spec.Chain, filepath.Join(x.spec.Dir, l.Backup))
			x.spec.Since, x.least = l.LSN, l.Least
			x.backups++
		}
	}
	if err := x.has(filepath.Join(x.spec.Dir, "store"), x.acked); err != nil {
		return fmt.Errorf("the store: %w", err)
	}
	entries, err := os.ReadDir(x.spec.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, file := e.Name(), filepath.Join(x.spec.Dir, e.Name())
		of, copied := strings.CutPrefix(name, "copy")
		of, unfinished := strings.CutSuffix(of, ".installing")
		switch {
		case unfinished: // another Install is not in its way
			if x.partial++; len(x.spec.Chain) > 0 {
				to := filepath.Join(x.spec.Dir, "copy"+of)
				if _, err := installFiles(context.Background(), to, x.spec.Chain); err != nil {
					return fmt.Errorf("install again: %w", err)
				}
				if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%s is left: %v", name, err)
				}
				err = errors.Join(x.has(to, x.least), os.RemoveAll(to))
			} else {
				err = os.RemoveAll(file)
			}
		case copied: // a store that has its name is whole
			x.copies++
			err = errors.Join(x.has(file, [backupWriters]int64{}), os.RemoveAll(file))
		case strings.HasSuffix(name, ".tmp"):
			err = os.Remove(file)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return x.chain()
}

// chain makes a store of the backups that the child has finished.
func (x *backupLives) chain() error {
	x.spec.Next += 100 // its names are new
	if len(x.spec.Chain) == 0 {
		return nil
	}
	to := filepath.Join(x.spec.Dir, "restored")
	if _, err := installFiles(context.Background(), to, x.spec.Chain); err != nil {
		return fmt.Errorf("install %v: %w", x.spec.Chain, err)
	}
	if err := errors.Join(x.has(to, x.least), os.RemoveAll(to)); err != nil {
		return fmt.Errorf("restored: %w", err)
	}
	if len(x.spec.Chain) > 4 {
		if err := x.forget(); err != nil {
			return err
		}
	}
	return enginetest.SyncDir(osfs.OS, x.spec.Dir)
}

// forget removes the backups. The next one is complete.
func (x *backupLives) forget() (err error) {
	for _, name := range x.spec.Chain {
		err = errors.Join(err, os.Remove(name))
	}
	x.spec.Chain, x.spec.Since = nil, 0
	return err
}

// has opens a store, which must have at least the given numbers, and checks it.
func (x *backupLives) has(dir string, least [backupWriters]int64) error {
	_, err := x.numbers(dir, least)
	return err
}

// numbers is has, and returns the numbers.
func (x *backupLives) numbers(dir string, least [backupWriters]int64) (got [backupWriters]int64, err error) {
	pc, err := engine.Open(dir, engine.Bytes{}, backupOptions())
	if err != nil {
		return got, err
	}
	for w, pages := range x.spec.Pages {
		n, e := backupNumber(pc, pages)
		if e == nil && n < least[w] {
			e = enginetest.Violated("writer %d is at %d, want %d", w, n, least[w])
		}
		got[w], err = n, errors.Join(err, e)
	}
	return got, errors.Join(err, pc.Close(), enginetest.Problems(dir, backupOptions()))
}

// runLives runs children, one after another.
func runLives(t *testing.T, lives int, life func() error) {
	t.Helper()
	for i := range lives {
		if err := life(); err != nil {
			t.Fatalf("seed %d, life %d: %v", *checkpointLife, i, err)
		}
	}
}

// run runs children.
func (x *backupLives) run(t *testing.T, lives int) {
	t.Helper()
	runLives(t, lives, x.life)
	t.Logf("%d backups, %d copies, %d of which a kill has left part", x.backups, x.copies, x.partial)
	if x.backups == 0 {
		t.Error("no backup was written")
	}
}

// A process is killed while it writes to a store, writes backups and installs copies. Then the store has everything
// that was acknowledged, each finished backup has what was acknowledged before it began, and a copy is whole or has no
// name. Proves Z1 and Z3.
func TestCheckpointKill(t *testing.T) {
	t.Parallel()
	lives := *checkpointKills
	if testing.Short() {
		lives = min(lives, 3)
	}
	newBackupLives(t, t.TempDir()).run(t, lives)
}

// The power of a real file system is cut while a process writes to a store, writes backups and installs copies. Proves
// Z1 and Z3.
func TestCheckpointPowerCut(t *testing.T) {
	t.Parallel()
	for kind, mib := range powercutMiB {
		t.Run(kind, func(t *testing.T) {
			if testing.Short() {
				t.Skip("takes seconds")
			}
			m := newLoopMount(t, kind, mib)
			x := newBackupLives(t, m.dir)
			x.cut, x.restore = m.cut, m.restore
			x.run(t, *checkpointCuts)
		})
	}
}
