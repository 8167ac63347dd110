// Package against compares a load on the page cache with the same work by fio and by other stores, in turns.
//
// against.go takes the turns; fio.go and peer.go are the other sides, and table.go makes the table.
package against

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
	"pagecache/internal/versus"
)

// OurName is the name of the page cache as a side.
const OurName = "pagecache"

// side does the work once in the fresh directory dir.
type side struct {
	name   string
	config string   // the command line or the configuration
	notes  []string // differences that cannot be removed
	work   func(ctx context.Context, dir string) (*versus.Outcome, error)
}

// Comparison takes turns. Its methods may be called by several goroutines, but Run by one.
type Comparison struct {
	spec   *job.Spec
	rounds int
	sides  []*side // the page cache first

	mu       sync.Mutex // guards the fields below
	outcomes [][]*versus.Outcome
	last     *load.Result
}

// New returns the comparison that a run asks for. ours does the work on the page cache once. New returns an error if
// fio is not installed, or if the program that knows other stores is missing or does not know one of them.
func New(ctx context.Context, p *job.Parsed, ours func(context.Context) (*load.Result, error)) (*Comparison, error) {
	c := &Comparison{spec: p.Jobs[0], rounds: p.Run.Rounds}
	c.sides = []*side{{name: OurName, config: "pcbench run " + c.spec.Command(), notes: ownNotes(c.spec),
		work: func(ctx context.Context, _ string) (*versus.Outcome, error) { return c.ours(ctx, ours) }}}
	var peers []string
	for _, name := range p.Run.Against {
		if name != job.AgainstFio {
			peers = append(peers, name)
		}
	}
	known, err := findPeers(ctx, p.Run.Peers, peers)
	if err != nil {
		return nil, err
	}
	for _, name := range p.Run.Against {
		var s *side
		if name == job.AgainstFio {
			s, err = newFio(ctx, c.spec)
		} else {
			s, err = known.side(c.spec, name)
		}
		if err != nil {
			return nil, err
		}
		c.sides = append(c.sides, s)
	}
	return c, nil
}

// Run does the work of all sides in all rounds. The side that begins changes from round to round. begin is called
// before each turn. When ctx is done, or a side fails, the rounds until then count.
func (c *Comparison) Run(ctx context.Context, begin func(round, rounds int, side string)) (err error) {
	made, err := makeDirs(c.spec.Directory)
	defer func() { removeDirs(made) }()
	if err != nil {
		return fmt.Errorf("--directory: %w", err)
	}
	dir, err := os.MkdirTemp(c.spec.Directory, c.spec.Name+".against.")
	if err != nil {
		return fmt.Errorf("--against: %w", err)
	}
	defer func() {
		if removed := os.RemoveAll(dir); removed != nil {
			err = errors.Join(err, fmt.Errorf("--against: %w", removed))
		}
	}()
	for round := range c.rounds {
		got := make([]*versus.Outcome, len(c.sides))
		for k := range c.sides {
			i := (k + round) % len(c.sides)
			if ctx.Err() != nil {
				return nil
			}
			begin(round+1, c.rounds, c.sides[i].name)
			if got[i], err = c.turn(ctx, dir, c.sides[i]); err != nil {
				if ctx.Err() != nil {
					return nil // the side was interrupted
				}
				return fmt.Errorf("%s: %w", c.sides[i].name, err)
			}
		}
		c.mu.Lock()
		c.outcomes = append(c.outcomes, got)
		c.mu.Unlock()
	}
	return nil
}

// turn does the work of one side once, with the garbage collected and dirty data written back before.
func (c *Comparison) turn(ctx context.Context, dir string, s *side) (o *versus.Outcome, err error) {
	sub := filepath.Join(dir, s.name)
	if err := os.Mkdir(sub, 0o755); err != nil {
		return nil, err
	}
	debug.FreeOSMemory()
	syncDisk(sub)
	o, err = s.work(ctx, sub)
	if err == nil {
		err = ctx.Err()
	}
	return o, errors.Join(err, os.RemoveAll(sub))
}

// syncDisk writes back the dirty data of the file system of dir.
func syncDisk(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return // this only makes the rounds more alike
	}
	defer f.Close()
	_ = unix.Syncfs(int(f.Fd()))
}

// ours does the work on the page cache.
func (c *Comparison) ours(ctx context.Context, run func(context.Context) (*load.Result, error)) (
	*versus.Outcome, error) {
	r, err := run(ctx)
	if r != nil {
		c.mu.Lock()
		c.last = r
		c.mu.Unlock()
		err = errors.Join(r.Err, err)
	}
	if err != nil || r == nil {
		return nil, err
	}
	j := r.Whole()
	work := func(l interface{ At([]float64) []int64 }, n, bytes int64) versus.Work {
		at := l.At([]float64{50, 99, 99.9})
		return versus.Work{Operations: n, Bytes: bytes, P50: float64(at[0]), P99: float64(at[1]), P999: float64(at[2])}
	}
	rd, wr := &j.Dirs[job.DirRead], &j.Dirs[job.DirWrite]
	return &versus.Outcome{Seconds: float64(j.Runtime) / 1e9, Read: work(&rd.Clat, rd.N(), rd.Bytes),
		Write: work(&wr.Clat, wr.N(), wr.Bytes), Commit: work(&j.Sync, j.Sync.N, 0),
		CPU: (j.Usage.User + j.Usage.System) / 100 * float64(j.Runtime) / 1e9, Written: r.Written, Space: r.Space}, nil
}

// Last returns the result of the page cache in the last round, or nil before the first one.
func (c *Comparison) Last() *load.Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// makeDirs makes a directory with its missing parents, and returns those that it has made, outermost first.
func makeDirs(dir string) (made []string, err error) {
	var missing []string
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); !errors.Is(err, fs.ErrNotExist) || d == filepath.Dir(d) {
			break
		}
		missing = append(missing, d)
	}
	for _, d := range slices.Backward(missing) {
		if err := os.Mkdir(d, 0o755); err != nil {
			return made, err
		}
		made = append(made, d)
	}
	return made, nil
}

// removeDirs removes directories that makeDirs has made, and that are empty.
func removeDirs(made []string) {
	for _, d := range slices.Backward(made) {
		_ = os.Remove(d) // fails if it is not empty
	}
}
