package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/osfs"
	"pagecache/internal/vfs"
)

// ballastName is the file that fills the disk of a child.
const ballastName = "ballast"

// copyChild writes pages and makes copies, each of them of the store, and then one of that copy, until it is killed, or
// fails.
func copyChild(ctx context.Context, spec *backupSpec, say func(backupLine)) error {
	pc, acked, err := backupWork(ctx, spec, say)
	if err != nil {
		return err
	}
	var older []string
	for ; ; spec.Next++ {
		line := backupLine{Backup: fmt.Sprint("copy", spec.Next), Least: loaded(acked)}
		c, err := pc.Checkpoint(ctx)
		if err != nil {
			return err
		}
		empty, err := spec.fill()
		if err != nil {
			return err
		}
		first := filepath.Join(spec.Dir, line.Backup)
		err = copied(first, line, say, func() error {
			_, err := c.CopyTo(ctx, first, nil)
			return err
		})
		if c.Close(); err == nil {
			older = append(older, line.Backup)
			line.Backup += "b"
			second := filepath.Join(spec.Dir, line.Backup)
			err = copied(second, line, say, func() error {
				_, err := engine.BackupTo(ctx, first, nil, second)
				return err
			})
		}
		if err == nil {
			older = append(older, line.Backup)
		}
		if err := errors.Join(empty(), ignore(err, engine.ErrNoSpace)); err != nil {
			return err
		}
		for ; len(older) > 4; older = older[1:] {
			if err := spec.remove(older[0], say); err != nil {
				return err
			}
		}
	}
}

// ignore returns err unless it wraps other.
func ignore(err, other error) error {
	if errors.Is(err, other) {
		return nil
	}
	return err
}

// copied calls f, which makes a copy in the directory to. One that does not fit leaves nothing.
func copied(to string, line backupLine, say func(backupLine), f func() error) error {
	err := f()
	if err == nil {
		say(line)
		return nil
	}
	if !errors.Is(err, engine.ErrNoSpace) {
		return err
	}
	say(backupLine{Full: true})
	for _, name := range []string{to, to + ".installing"} {
		if _, e := os.Lstat(name); !errors.Is(e, fs.ErrNotExist) {
			return enginetest.Violated("%s is left after %v: %v", name, err, e)
		}
	}
	return err
}

// fill leaves little room on the disk in half of the turns. The function that it returns makes room again.
func (s *backupSpec) fill() (empty func() error, err error) {
	if !s.Fill || rand.IntN(2) == 0 {
		return func() error { return nil }, nil
	}
	name := filepath.Join(s.Dir, ballastName)
	d, err := osfs.OS.OpenDir(s.Dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	f, err := d.Open(ballastName, vfs.FlagWrite|vfs.FlagCreate)
	if err != nil {
		return func() error { return ignore(os.Remove(name), fs.ErrNotExist) }, ignore(err, unix.ENOSPC)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Statfs(s.Dir, &st); err != nil {
		return nil, err
	}
	if n := int64(st.Bavail)*int64(st.Bsize) - rand.Int64N(2<<20>>rand.IntN(7)); n > 0 {
		err = ignore(f.Allocate(0, n), unix.ENOSPC) // then there is no room at all
	}
	return func() error { return os.Remove(name) }, err
}

// remove removes a copy. A part of it does not keep its name.
func (s *backupSpec) remove(name string, say func(backupLine)) error {
	say(backupLine{Gone: name})
	gone := filepath.Join(s.Dir, "gone"+name)
	return errors.Join(os.Rename(filepath.Join(s.Dir, name), gone), enginetest.SyncDir(osfs.OS, s.Dir),
		os.RemoveAll(gone))
}

// copyLives is a store whose processes are killed one after another while they make copies of it.
type copyLives struct {
	*backupLives
	whole map[string][backupWriters]int64 // the copies that must be there, and the least numbers in them
	full  int                             // counts copies that did not fit
}

func newCopyLives(t *testing.T, dir string) *copyLives {
	x := &copyLives{backupLives: newBackupLives(t, dir), whole: map[string][backupWriters]int64{}}
	x.spec.Copies, x.look = true, x.compare
	return x
}

// compare compares the store and its copies with what the child has said. Then it removes the copies.
func (x *copyLives) compare(lines []backupLine) error {
	for _, l := range lines {
		switch {
		case l.Err != "" && x.cut == nil: // else the child may have noticed
			return errors.New(l.Err)
		case l.Acked > 0:
			x.acked[l.Writer] = l.Acked
		case l.Full:
			x.full++
		case l.Backup != "" && !l.Unsure:
			x.whole[l.Backup] = l.Least
		case l.Gone != "":
			delete(x.whole, l.Gone)
		}
	}
	dir, store := x.spec.Dir, filepath.Join(x.spec.Dir, "store")
	if err := ignore(os.Remove(filepath.Join(dir, ballastName)), fs.ErrNotExist); err != nil {
		return err
	}
	if err := x.has(store, x.acked); err != nil {
		return fmt.Errorf("the store: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	found := map[string][backupWriters]int64{}
	for _, e := range entries {
		name, file := e.Name(), filepath.Join(dir, e.Name())
		if of, unfinished := strings.CutSuffix(file, ".installing"); unfinished { // the next copy is not in its way
			x.partial++
			if _, err := engine.BackupTo(context.Background(), store, nil, of); err != nil {
				return fmt.Errorf("copy again: %w", err)
			}
			if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s is left: %v", name, err)
			}
			if err := x.has(of, x.acked); err != nil {
				return fmt.Errorf("copied again: %w", err)
			}
			err = os.RemoveAll(of)
		} else if strings.HasPrefix(name, "copy") {
			x.copies++
			if found[name], err = x.numbers(file, x.whole[name]); err == nil {
				err = os.RemoveAll(file)
			}
		} else if strings.HasPrefix(name, "gone") {
			err = os.RemoveAll(file)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for name := range x.whole {
		if _, ok := found[name]; !ok {
			return enginetest.Violated("%s was finished, and is not there", name)
		}
	}
	for name, n := range found {
		if of, ok := found[strings.TrimSuffix(name, "b")]; ok && of != n {
			return enginetest.Violated("%s has %v, and the copy that it is of has %v", name, n, of)
		}
	}
	clear(x.whole)
	x.spec.Next += 100 // its names are new
	return enginetest.SyncDir(osfs.OS, dir)
}

// run runs children.
func (x *copyLives) run(t *testing.T, lives int) {
	t.Helper()
	runLives(t, lives, x.life)
	t.Logf("%d copies, %d cut short by a kill, %d without room", x.copies, x.partial, x.full)
	if x.copies == 0 {
		t.Error("no copy was made")
	}
}

// A process is killed while it writes to a store and copies it, and copies the copies, on file systems that share the
// bytes of files and on others, some of which are full at times. Then the store has everything that was acknowledged,
// and a copy is whole or has no name. Proves Z1 and Z3.
func TestCheckpointCopyKill(t *testing.T) {
	t.Parallel()
	lives := *checkpointKills
	if testing.Short() {
		lives = min(lives, 3)
	}
	t.Run("disk", func(t *testing.T) { newCopyLives(t, t.TempDir()).run(t, lives) })
	for kind, mib := range powercutMiB {
		t.Run(kind, func(t *testing.T) {
			if testing.Short() {
				t.Skip("takes seconds")
			}
			x := newCopyLives(t, newLoopMount(t, kind, mib).dir)
			x.spec.Fill = true
			x.run(t, lives)
		})
	}
}

// The power of a real file system, which is full at times, is cut while a process writes to a store and copies it.
// Proves Z1 and Z3.
func TestCheckpointCopyPowerCut(t *testing.T) {
	t.Parallel()
	for kind, mib := range powercutMiB {
		t.Run(kind, func(t *testing.T) {
			if testing.Short() {
				t.Skip("takes seconds")
			}
			m := newLoopMount(t, kind, mib)
			x := newCopyLives(t, m.dir)
			x.cut, x.restore, x.spec.Fill = m.cut, m.restore, true
			x.run(t, *checkpointCuts)
		})
	}
}
