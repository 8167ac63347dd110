package logstore

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// Destroy removes the files of the store in dir, and its directory of blobs. Everything else in dir stays, and dir
// itself too. It needs neither an intact superblock nor an intact log, but one of them must show that this is a store.
// dir may be a symbolic link, and the files may not. It waits up to two seconds for the lock. Errors: ErrLocked,
// ErrFormat, fs.ErrNotExist if there is no directory, or no store in it, and those of the operating system. After any
// other error than these three some files may be gone; Destroy can then be called again.
func Destroy(fsys vfs.FS, dir string) error {
	if dir == "" {
		return errors.New("destroy: no directory given")
	}
	held, err := fsys.OpenDir(dir)
	if err == nil {
		err = errors.Join(destroy(held, lockPatience), held.Close())
	}
	if err != nil {
		return fmt.Errorf("destroy %s: %w", dir, err)
	}
	return nil
}

// destroy is Destroy in an open directory. It waits for the lock for the given time.
func destroy(held vfs.Dir, patience time.Duration) error {
	d := destroyer{held: held}
	err := d.lock(patience)
	if err == nil {
		err = d.identify()
	}
	if err == nil {
		err = d.remove()
	}
	if d.log != nil { // which holds the lock until all is done
		err = errors.Join(err, d.log.Close())
	}
	return err
}

// destroyer removes the store in a directory.
type destroyer struct {
	held  vfs.Dir
	log   vfs.File // nil: there is no log file
	store format.StoreID
}

// lock opens the log file, if there is one, and locks it.
func (d *destroyer) lock(patience time.Duration) (err error) {
	d.log, err = d.held.Open(LogName, vfs.FlagWrite)
	if errors.Is(err, fs.ErrNotExist) {
		d.log = nil
		return nil
	}
	if err != nil {
		return err
	}
	if err := lockFile(d.log, vfs.LockExclusive, time.Now().Add(patience)); err != nil {
		return err
	}
	open, err := d.log.Identity()
	if err != nil {
		return err
	}
	// A temporary store may have removed it meanwhile.
	if named, err := d.held.Identify(LogName); err != nil || named != open {
		return errors.Join(fmt.Errorf("the log file was removed or replaced just now: %w", fs.ErrNotExist), err)
	}
	return nil
}

// identify finds out which store it is: by the superblock, or else by a header of the log. Without either, the files
// are not known to be a store's.
func (d *destroyer) identify() error {
	sb, err := ReadSuper(d.held)
	if err == nil {
		d.store = sb.Store
		return nil
	}
	if errors.Is(err, ErrFormat) {
		return err // a store of another version may have other files
	}
	id, found, errLog := d.findHeader()
	if errLog != nil {
		return errLog
	}
	if found {
		d.store = id
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no store in this directory: %w", fs.ErrNotExist)
	}
	return fmt.Errorf("nothing shows that this is a store: no segment header in the log, and: %w", err)
}

// findHeader looks for an intact segment header in the log, which shows the store's id. It reads around blocks that
// cannot be read.
func (d *destroyer) findHeader() (id format.StoreID, found bool, err error) {
	if d.log == nil {
		return id, false, nil
	}
	size, err := d.log.Size()
	if err != nil {
		return id, false, err
	}
	buf := make([]byte, readBlock)
	for off := int64(0); off < size; off += readBlock {
		n, err := d.log.ReadAt(buf, off)
		if n < len(buf) && err != nil {
			continue
		}
		if h, ok := format.FindSegmentHeader(buf, format.Offset(off)); ok {
			return h.Store, true, nil
		}
	}
	return id, false, nil
}

// remove removes the files, each kind durably before the next, so that Destroy can be called again after a crash: the
// superblock, which shows that this is a store, is the last with contents. The name of the log goes after it, so that
// an opening that waits for the lock makes a new store. An empty log without a superblock is harmless.
func (d *destroyer) remove() error {
	if err := d.removeBlobs(); err != nil {
		return err
	}
	names, err := d.held.ReadDir()
	if err != nil {
		return err
	}
	for _, name := range names {
		id, ok := format.ParseSnapshotName(name)
		if !ok {
			id, ok = format.ParseSnapshotTmpName(name)
		}
		if ok && id.Store == d.store {
			if err := removeFile(d.held, name); err != nil {
				return err
			}
		}
	}
	if err := d.held.Sync(); err != nil {
		return err
	}
	if d.log != nil {
		if err := errors.Join(d.log.Truncate(0), d.log.Sync()); err != nil {
			return err
		}
	}
	for _, name := range []string{superTmpName, SuperName, LogName} {
		if err := removeFile(d.held, name); err != nil {
			return err
		}
	}
	return d.held.Sync()
}

// removeBlobs removes the files of blobs, and their directory if nothing else is in it.
func (d *destroyer) removeBlobs() error {
	dir, err := d.held.OpenDir(BlobDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.ReadDir()
	if err != nil {
		return err
	}
	others := 0
	for _, name := range names {
		if _, ok := format.ParseBlobID(name); !ok {
			others++
		} else if err := removeFile(dir, name); err != nil {
			return err
		}
	}
	if err := dir.Sync(); err != nil || others > 0 {
		return err
	}
	return dir.Unlink()
}

// removeFile removes a file, if it exists.
func removeFile(dir vfs.Dir, name string) error {
	if err := dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
