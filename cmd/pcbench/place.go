package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// place is the directory that a store is made in, NAME.pcbench, and removed with. It holds a marker, which says that pcbench made
// it, and which is locked while it is in use; and the store.
type place struct {
	dir    string
	marker *os.File
	made   []string // directories above it that were missing, outermost first
}

const (
	placeSuffix = ".pcbench"
	markerName  = "made-by-pcbench"
	storeName   = "store"
)

// newPlace makes the directory. One that was left over by a killed pcbench is removed first; one that pcbench has not made, or
// that is in use, is an error.
func newPlace(parent, name string) (*place, error) {
	p := &place{dir: filepath.Join(parent, name+placeSuffix)}
	if err := p.makeParents(parent); err != nil {
		p.removeParents()
		return nil, fmt.Errorf("--directory: %w", err)
	}
	err := os.Mkdir(p.dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		if err = p.clear(); err == nil {
			err = os.Mkdir(p.dir, 0o755)
		}
	}
	if err == nil {
		err = p.mark(os.O_CREATE | os.O_EXCL)
	}
	if err != nil {
		p.removeParents()
		return nil, fmt.Errorf("make a directory for the store: %w", err)
	}
	return p, nil
}

// clear removes a directory that an earlier pcbench has left.
func (p *place) clear() error {
	err := p.mark(0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists and was not made by pcbench; use another --name or --directory, or remove it", p.dir)
	}
	if err != nil {
		return err
	}
	defer p.marker.Close()
	return os.RemoveAll(p.dir)
}

// mark opens and locks the marker.
func (p *place) mark(flag int) error {
	f, err := os.OpenFile(filepath.Join(p.dir, markerName), os.O_RDWR|flag, 0o644)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("%s is in use by another pcbench; use another --name", p.dir)
		}
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	p.marker = f
	return nil
}

// makeParents makes dir, and notes what it made.
func (p *place) makeParents(dir string) error {
	var missing []string
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil || d == filepath.Dir(d) {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		missing = append([]string{d}, missing...)
	}
	for _, d := range missing {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
		p.made = append(p.made, d)
	}
	return nil
}

// store is the store's own directory.
func (p *place) store() string { return filepath.Join(p.dir, storeName) }

// remove removes everything that newPlace made and what lies in it.
func (p *place) remove() error {
	err := os.RemoveAll(p.dir)
	p.marker.Close()
	p.removeParents()
	if err != nil {
		return fmt.Errorf("remove the store: %w", err)
	}
	return nil
}

// removeParents removes the directories that makeParents has made, unless somebody has put something else into them.
func (p *place) removeParents() {
	for i := len(p.made) - 1; i >= 0; i-- {
		if os.Remove(p.made[i]) != nil {
			return
		}
	}
}
