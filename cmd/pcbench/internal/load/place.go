package load

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/segments/format"
)

// place is the directory NAME.pcbench, which pcbench makes for a store and removes with it. It holds the store and a
// marker. The marker shows that pcbench made the directory, and is locked while the directory is in use. pcbench
// removes only files and directories that it has made itself.
type place struct {
	dir    string
	marker *os.File
	made   []string // the parents of dir that pcbench has made, outermost first
}

const (
	markerName = "made-by-pcbench"
	storeName  = "store"
)

// storeFiles are the files of a store, besides snapshots and blobs. pcbench removes no other files of the directory.
var storeFiles = []string{"log", "superblock", "superblock.tmp"}

// blobsName is the directory of the store's blobs, relative to the place.
var blobsName = filepath.Join(storeName, "blobs")

func isStoreFile(name string) bool {
	return slices.Contains(storeFiles, name) || format.IsSnapshotName(name)
}

func isBlob(name string) bool {
	_, ok := format.ParseBlobID(name)
	return ok
}

// reopen opens a directory that an earlier pcbench has left with unlink=0. It returns nil if there is none.
func reopen(parent, name string) (*place, error) {
	p := &place{dir: filepath.Join(parent, name+job.PlaceSuffix)}
	if _, err := os.Lstat(filepath.Join(p.store(), "superblock")); err != nil {
		return nil, nil
	}
	if err := p.mark(0); err != nil {
		return nil, fmt.Errorf("--unlink=0: %w", err)
	}
	return p, nil
}

// newPlace makes the directory. If a killed pcbench has left one, newPlace removes it first. A directory that is in
// use or that pcbench has not made is an error.
func newPlace(parent, name string) (*place, error) {
	p := &place{dir: filepath.Join(parent, name+job.PlaceSuffix)}
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
		if err = p.mark(os.O_CREATE | os.O_EXCL); err != nil {
			_ = os.Remove(p.dir) // fails if the marker exists, as it should
		}
	}
	if err != nil {
		p.removeParents()
		return nil, fmt.Errorf("make the directory of the store: %w", err)
	}
	return p, nil
}

// clear removes a directory that an earlier pcbench has left. It removes nothing if the directory holds anything that
// pcbench has not made.
func (p *place) clear() error {
	if info, err := os.Lstat(p.dir); err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("%s is not a directory; use another --name or --directory, or remove it", p.dir)
	}
	err := p.mark(0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists and was not made by pcbench; use another --name or --directory, or remove it",
			p.dir)
	}
	if err != nil {
		return err
	}
	defer p.marker.Close()
	foreign, err := p.foreign()
	if err != nil {
		return err
	}
	if len(foreign) > 0 {
		return fmt.Errorf("%s was left by an earlier pcbench and holds files that pcbench has not made: %s; "+
			"use another --name or move them away", p.dir, strings.Join(foreign, ", "))
	}
	return p.removeOwn()
}

// foreign returns the names in the directory that pcbench has not made.
func (p *place) foreign() ([]string, error) {
	var found []string
	look := func(sub string, own func(fs.DirEntry) bool) error {
		entries, err := os.ReadDir(filepath.Join(p.dir, sub))
		for _, e := range entries {
			if !own(e) {
				found = append(found, filepath.Join(sub, e.Name()))
			}
		}
		return err
	}
	hasStore := false
	err := look("", func(e fs.DirEntry) bool {
		isStore := e.Name() == storeName && e.IsDir()
		hasStore = hasStore || isStore
		return isStore || e.Name() == markerName && e.Type().IsRegular()
	})
	if err == nil && hasStore {
		hasBlobs := false
		err = look(storeName, func(e fs.DirEntry) bool {
			areBlobs := e.Name() == filepath.Base(blobsName) && e.IsDir()
			hasBlobs = hasBlobs || areBlobs
			return areBlobs || isStoreFile(e.Name()) && e.Type().IsRegular()
		})
		if err == nil && hasBlobs {
			err = look(blobsName, func(e fs.DirEntry) bool { return isBlob(e.Name()) && e.Type().IsRegular() })
		}
	}
	return found, err
}

// mark opens and locks the marker.
func (p *place) mark(flag int) error {
	f, err := os.OpenFile(filepath.Join(p.dir, markerName), os.O_RDWR|unix.O_NOFOLLOW|flag, 0o644)
	if err != nil {
		return err
	}
	if err := lock(f); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("%s is in use by another pcbench; use another --name", p.dir)
		}
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	p.marker = f
	return nil
}

// kind returns what an earlier pcbench has noted with setKind, or "".
func (p *place) kind() (string, error) {
	b, err := os.ReadFile(p.marker.Name())
	return strings.TrimSpace(string(b)), err
}

// setKind notes in the marker what the store holds.
func (p *place) setKind(kind string) error {
	return errors.Join(p.marker.Truncate(0), func() error {
		_, err := p.marker.WriteAt([]byte(kind+"\n"), 0)
		return err
	}())
}

// lock locks an open file and does not wait. A file that was removed or replaced after it was opened counts as
// locked: another pcbench is using its directory.
func lock(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err
	}
	opened, err := f.Stat()
	if err != nil {
		return err
	}
	if named, err := os.Lstat(f.Name()); err != nil || !os.SameFile(opened, named) {
		return unix.EWOULDBLOCK
	}
	return nil
}

// makeParents makes dir and its missing parents, and records them in p.made.
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

// store returns the directory of the store.
func (p *place) store() string { return filepath.Join(p.dir, storeName) }

// remove removes the files and directories that newPlace and the store have made. Other files stay, with the
// directories that hold them, and are an error.
func (p *place) remove() error {
	foreign, _ := p.foreign() // removeOwn fails if the directory is unreadable
	err := p.removeOwn()
	p.marker.Close()
	if err == nil {
		p.removeParents()
		return nil
	}
	if len(foreign) > 0 {
		return fmt.Errorf("remove the store: %s stays, since it holds files that pcbench has not made: %s",
			p.dir, strings.Join(foreign, ", "))
	}
	return fmt.Errorf("remove the store: %w", err)
}

// leave unlocks the directory and leaves it as it is.
func (p *place) leave() error { return p.marker.Close() }

// each calls do with each name in the directory sub for which own returns true.
func (p *place) each(sub string, own func(string) bool, do func(name string)) {
	entries, _ := os.ReadDir(filepath.Join(p.dir, sub)) // removing the directory fails if files are left
	for _, e := range entries {
		if own(e.Name()) {
			do(filepath.Join(sub, e.Name()))
		}
	}
}

// removeOwn removes the files of the store, the marker, and the directories of both if they are empty then.
func (p *place) removeOwn() error {
	var errs []error
	unlink := func(name string, remove func(string) error) {
		if err := remove(filepath.Join(p.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, &fs.PathError{Op: "remove", Path: filepath.Join(p.dir, name), Err: err})
		}
	}
	// The kernel may keep a file that io_uring has registered for a while after the last close. Truncating releases its
	// space at once.
	if info, err := os.Lstat(filepath.Join(p.store(), "log")); err == nil && info.Mode().IsRegular() {
		_ = os.Truncate(filepath.Join(p.store(), "log"), 0) // only saves time; removing it follows
	}
	// Each call removes only a file or only an empty directory, even if another program has replaced it meanwhile. A
	// symbolic link in the place of the store is not pcbench's and stays.
	if info, err := os.Lstat(p.store()); err == nil && info.IsDir() {
		if info, err := os.Lstat(filepath.Join(p.dir, blobsName)); err == nil && info.IsDir() {
			p.each(blobsName, isBlob, func(name string) { unlink(name, unix.Unlink) })
			unlink(blobsName, unix.Rmdir)
		}
		p.each(storeName, isStoreFile, func(name string) { unlink(name, unix.Unlink) })
		unlink(storeName, unix.Rmdir)
	}
	unlink(markerName, unix.Unlink)
	unlink("", unix.Rmdir)
	return errors.Join(errs...)
}

// removeParents removes the directories that makeParents has made and that are empty.
func (p *place) removeParents() {
	for i := len(p.made) - 1; i >= 0; i-- {
		if os.Remove(p.made[i]) != nil {
			return
		}
	}
}
