package raftpages

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"pagecache/engine"
	"pagecache/internal/vfs"
)

// The directory of an FSM has its store in a subdirectory, which the file CURRENT names:
//
//	CURRENT                   one line: the name of the store's directory
//	CURRENT.tmp               the next CURRENT, while it is written
//	store-000001              a store; the number grows with each snapshot that is installed
//	store-000002.installing   a store that engine.Install makes
//
// A store takes the place of another by a rename of CURRENT, since a rename cannot replace a directory that has
// contents. Whatever CURRENT does not name is removed by the next opening.
const (
	currentName = "CURRENT"
	currentTemp = "CURRENT.tmp"
	storePrefix = "store-"
)

// storeName returns the name of a store's directory.
func storeName(number int) string { return fmt.Sprintf("%s%06d", storePrefix, number) }

// storeNumber returns the number in the name of a store's directory.
func storeNumber(name string) (number int, err error) {
	if _, err = fmt.Sscanf(name, storePrefix+"%d", &number); err == nil && (number < 1 || storeName(number) != name) {
		err = errors.New("not the name of a store")
	}
	return number, err
}

// readCurrent returns what CURRENT says, or 0 if there is no such file.
func readCurrent(d vfs.Dir) (number int, err error) {
	f, err := d.Open(currentName, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	const most = 64
	size, err := f.Size()
	if err != nil {
		return 0, err
	}
	b := make([]byte, min(size, most))
	if _, err := f.ReadAt(b, 0); err != nil && len(b) > 0 {
		return 0, err
	}
	name, ok := bytes.CutSuffix(b, []byte("\n"))
	if number, err = storeNumber(string(name)); err != nil || !ok {
		return 0, fmt.Errorf("%s says %q: %w", f.Name(), b, engine.ErrCorrupt)
	}
	return number, nil
}

// writeCurrent makes CURRENT name a store, durably. begun says whether CURRENT may have changed if there is an error.
func writeCurrent(d vfs.Dir, number int) (begun bool, err error) {
	if err := writeFile(d, currentTemp, []byte(storeName(number)+"\n")); err != nil {
		return false, err
	}
	if err := d.Rename(currentTemp, currentName); err != nil {
		return true, err
	}
	return true, d.Sync()
}

// writeFile writes a file, durably but for its name.
func writeFile(d vfs.Dir, name string, b []byte) (err error) {
	f, err := d.Open(name, vfs.FlagWrite|vfs.FlagCreate)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	return f.Sync()
}

// removeOthers removes all stores, and parts of stores, but the one with this number.
func removeOthers(d vfs.Dir, number int) error {
	names, err := d.ReadDir()
	if err != nil {
		return err
	}
	for _, name := range names {
		switch {
		case name == currentTemp:
			err = d.Remove(name)
		case strings.HasPrefix(name, storePrefix) && name != storeName(number):
			err = removeTree(d, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// removeTree removes a directory of d with everything in it.
func removeTree(d vfs.Dir, name string) (err error) {
	sub, err := d.OpenDir(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sub.Close()) }()
	names, err := sub.ReadDir()
	if err != nil {
		return err
	}
	for _, name := range names {
		if inner, err := sub.OpenDir(name); err == nil {
			if err := errors.Join(inner.Close(), removeTree(sub, name)); err != nil {
				return err
			}
		} else if err := sub.Remove(name); err != nil {
			return err
		}
	}
	return sub.Unlink()
}
