package logstore

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"pagecache/internal/vfs"
	"pagecache/segments"
	"pagecache/segments/format"
)

// kindName names the two kinds of store in errors.
func kindName(log bool) string {
	if log {
		return "standalone log"
	}
	return "page store"
}

// readSuper reads the superblock, or draws the identity of a new store.
func (s *Store) readSuper() error {
	name := filepath.Join(s.Dir, SuperName)
	sb, err := ReadSuper(s.Held)
	if errors.Is(err, fs.ErrNotExist) {
		if s.c.ReadOnly {
			return err // the making of the store was cut off
		}
		return s.newSuper(name)
	}
	if err != nil {
		return err
	}
	s.Found = true
	if want := s.c.SegmentSize; want != 0 && want != sb.SegmentSize {
		return fmt.Errorf("store has segments of %d bytes, Options.SegmentSize is %d", sb.SegmentSize, want)
	}
	if sb.Log != s.c.Log {
		return fmt.Errorf("%w: this is a %s, not a %s", ErrKind, kindName(sb.Log), kindName(s.c.Log))
	}
	s.Super = sb
	return nil
}

// newSuper prepares the superblock of a new store. Nothing is written yet.
func (s *Store) newSuper(name string) error {
	size, err := s.file.Size()
	if err != nil {
		return err
	}
	if size != 0 {
		return CorruptFile(name, "the log has contents but the superblock is missing", nil)
	}
	s.Super = format.Superblock{SegmentSize: s.c.SegmentSize, Log: s.c.Log, IDInterval: s.c.IDInterval}
	if s.Super.SegmentSize == 0 {
		s.Super.SegmentSize = DefaultSegmentSize
	}
	s.ours = true
	_, err = rand.Read(s.Super.Store[:])
	return err
}

// ReadSuper reads the superblock of the store in d, which need not be open. Errors: fs.ErrNotExist, ErrFormat,
// recovery.ErrCorrupt.
func ReadSuper(d vfs.Dir) (format.Superblock, error) {
	name := filepath.Join(d.Name(), SuperName)
	b, err := readSmall(d, SuperName, format.SuperblockSize)
	if err != nil {
		return format.Superblock{}, err
	}
	sb, err := format.DecodeSuperblock(b)
	if errors.Is(err, format.ErrSuperVersion) {
		return sb, fmt.Errorf("%s: %w: %w", name, ErrFormat, err)
	} else if err != nil {
		return sb, CorruptFile(name, "", err)
	}
	return sb, nil
}

// readSmall reads a file of at most limit bytes. Of a longer file it returns limit+1 bytes.
func readSmall(d vfs.Dir, name string, limit int) ([]byte, error) {
	f, err := d.Open(name, vfs.FlagRead)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(size, int64(limit)+1))
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return b, nil
}

// writeSuper replaces the superblock, durably (trap 5).
func (s *Store) writeSuper(sb format.Superblock) error {
	f, err := s.Held.Open(superTmpName, vfs.FlagWrite|vfs.FlagCreate|vfs.FlagTrunc)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(sb.Append(nil), 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.Held.Rename(superTmpName, SuperName)
	}
	if err == nil {
		err = s.Held.Sync()
	}
	if err != nil {
		return markNoSpace(fmt.Errorf("write superblock: %w", err))
	}
	s.Super = sb
	return nil
}

// IsNoSpace reports whether err says that there is no room: on the disk, in a quota, or below a file-size limit.
func IsNoSpace(err error) bool {
	return errors.Is(err, segments.ErrNoRoom) || errors.Is(err, syscall.ENOSPC) ||
		errors.Is(err, syscall.EFBIG) || errors.Is(err, syscall.EDQUOT)
}

// markNoSpace wraps ErrNoSpace around an error that reports lack of room.
func markNoSpace(err error) error {
	if IsNoSpace(err) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}
