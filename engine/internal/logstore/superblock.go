package logstore

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"

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

// superName returns the path of the superblock.
func (s *Store) superName() string { return filepath.Join(s.Dir, SuperName) }

// readSuper opens and reads the superblock, or draws the identity of a new store.
func (s *Store) readSuper() error {
	flag := vfs.FlagWrite
	if s.c.ReadOnly {
		flag = vfs.FlagRead
	}
	f, err := s.Held.Open(SuperName, flag)
	if errors.Is(err, fs.ErrNotExist) {
		if s.c.ReadOnly {
			return err // the making of the store was cut off
		}
		return s.newSuper(s.superName())
	}
	if err != nil {
		return err
	}
	if !s.c.ReadOnly {
		if err := errors.Join(f.Sync(), s.Held.Sync()); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	s.super.replace = s.replaceSuper
	states, err := s.super.open(f)
	if err != nil {
		return err
	}
	sb := s.super.last
	s.Found = true
	if want := s.c.SegmentSize; want != 0 && want != sb.SegmentSize {
		return fmt.Errorf("store has segments of %d bytes, Options.SegmentSize is %d", sb.SegmentSize, want)
	}
	if sb.Log != s.c.Log {
		return fmt.Errorf("%w: this is a %s, not a %s", ErrKind, kindName(sb.Log), kindName(s.c.Log))
	}
	// A store without a name gets one from the first opening for writing that has one (nextSuper).
	if sb.Name != "" && sb.Name != s.c.Format {
		return fmt.Errorf("%w: its pages have the format %q, %s", ErrFormat, sb.Name, formatText(s.c.Format))
	}
	for i, state := range states {
		if state == format.SuperCopyTorn || state == format.SuperCopyLost {
			text := fmt.Sprintf("copy %d of the superblock is %v; the other one is used", i, state)
			s.c.Report.Corruption(text, nil)
		}
	}
	s.Super = sb
	return nil
}

// formatText says for errors which format of pages an opening has.
func formatText(name string) string {
	if name == "" {
		return "and the page type names none"
	}
	return fmt.Sprintf("and the page type names %q", name)
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
	s.ours, s.fresh = true, s.madeLog
	_, err = rand.Read(s.Super.Store[:])
	return err
}

// drawTimeline draws the timeline of this opening.
func (s *Store) drawTimeline() error {
	var b [8]byte
	for s.Timeline == 0 || s.Timeline == s.Super.Timeline {
		if _, err := rand.Read(b[:]); err != nil {
			return err
		}
		s.Timeline = format.Timeline(binary.LittleEndian.Uint64(b[:]))
	}
	return nil
}

// ReadSuper reads the superblock of the store in d, which need not be open. Errors: fs.ErrNotExist, ErrFormat,
// recovery.ErrCorrupt, and those of the operating system if no copy can be read.
func ReadSuper(d vfs.Dir) (format.Superblock, error) {
	f, err := d.Open(SuperName, vfs.FlagRead)
	if err != nil {
		return format.Superblock{}, err
	}
	defer f.Close()
	sb, _, err := decodeSuper(f)
	return sb, err
}

// decodeSuper reads the superblock from its file. A copy that cannot be read (EIO) is lost; it is an error only if the
// other one is not intact either (rule 16).
func decodeSuper(f vfs.File) (sb format.Superblock, states [2]format.SuperCopy, err error) {
	size, err := f.Size()
	if err != nil {
		return sb, states, err
	}
	b := make([]byte, min(size, format.SuperblockSize))
	var lost error // the first copy that cannot be read
	unreadable := 0
	for off := 0; off < len(b); off += format.SuperCopySize {
		part := b[off:min(off+format.SuperCopySize, len(b))]
		_, err := f.ReadAt(part, int64(off))
		if err != nil {
			err = fmt.Errorf("read %d bytes of %s at offset %d: %w", len(part), f.Name(), off, err)
		}
		if err != nil && vfs.IsUnreadable(err) {
			lost, unreadable = cmp.Or(lost, err), unreadable+1
			clear(part)
		} else if err != nil {
			return sb, states, err
		}
	}
	sb, states, err = format.DecodeSuperCopies(b)
	switch {
	case errors.Is(err, format.ErrSuperVersion):
		err = fmt.Errorf("%s: %w: %w", f.Name(), ErrFormat, err)
	case err != nil && unreadable == len(states):
		err = lost
	case err != nil && unreadable > 0:
		err = CorruptFile(f.Name(), "", fmt.Errorf("%w (%w)", err, lost))
	case err != nil:
		err = CorruptFile(f.Name(), "", err)
	}
	return sb, states, err
}

// superFile is the superblock of an open store. format.SuperblockSize describes how it changes.
type superFile struct {
	mu    sync.Mutex
	file  vfs.File
	last  format.Superblock // as written last
	first int               // the copy that is written first: one that does not count, if there is one

	// replace writes the superblock to a new file, which it returns, because a copy in the old one cannot be written.
	// If it is nil, nothing does.
	// After an error that wraps errUnnamed it is not known which file has the name.
	replace  func(sb format.Superblock, why error) (vfs.File, error)
	replaced int64 // how often that was done
	unnamed  error // wraps errUnnamed: nothing can be written any more
}

// errUnnamed reports that it is not known whether the name of the superblock belongs to the old file or the new one.
var errUnnamed = errors.New("the new file of the superblock may not be durable")

// open reads the superblock from its file, which f keeps. Cached pages are not trusted (rule 11): if an earlier sync
// has failed, they show a copy that the disk does not hold.
func (f *superFile) open(file vfs.File) (states [2]format.SuperCopy, err error) {
	f.file = file
	if err := file.DropCache(0, format.SuperblockSize); err != nil {
		return states, err
	}
	if f.last, states, err = decodeSuper(file); err != nil {
		return states, err
	}
	f.first = 0
	if states[1] != format.SuperCopyCurrent {
		f.first = 1
	}
	return states, nil
}

// current returns the superblock as written last.
func (f *superFile) current() format.Superblock {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// begin records that the log file has a slot, durably.
func (f *superFile) begin() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last.Begun {
		return nil
	}
	sb := f.last
	sb.Begun = true
	return f.write(sb)
}

// shrink records that the log file is about to be made shorter, durably.
func (f *superFile) shrink(e format.Extent) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	sb := f.last
	sb.Extent = e
	return f.write(sb)
}

// errManyBad reports that too many slots are left out of use.
var errManyBad = errors.New("too many slots cannot be used")

// leaveOut changes the list of slots that are left out of use, durably.
func (f *superFile) leaveOut(add, remove []format.SegmentID) error {
	return f.edit(func(sb *format.Superblock) *format.SlotList { return &sb.OutOfUse }, add, remove)
}

// suspect changes the list of slots that the disk may not take writes to, durably.
func (f *superFile) suspect(add, remove []format.SegmentID) error {
	return f.edit(func(sb *format.Superblock) *format.SlotList { return &sb.Suspects }, add, remove)
}

// edit changes a list of slots, durably.
func (f *superFile) edit(list func(*format.Superblock) *format.SlotList, add, remove []format.SegmentID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	sb := f.last
	l := list(&sb)
	ids := slices.DeleteFunc(l.Slots(), func(id format.SegmentID) bool { return slices.Contains(remove, id) })
	changed, ok := format.MakeSlotList(append(ids, add...))
	if !ok {
		return errManyBad
	}
	if *l == changed {
		return nil
	}
	*l = changed
	return f.write(sb)
}

// change replaces the superblock, durably.
func (f *superFile) change(sb format.Superblock) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.write(sb)
}

// write writes both copies, the second once the first is durable. If that fails, the next change begins with the copy
// about which nothing is known. If the disk does not take a copy, both are written to a new file: a change in place
// would overwrite the only good copy, and a crash could tear it. mu is held.
func (f *superFile) write(sb format.Superblock) error {
	if f.unnamed != nil {
		return fmt.Errorf("write superblock: %w", f.unnamed)
	}
	f.last.Sequence++ // also if the write fails: no two contents have the same number
	sb.Sequence = f.last.Sequence
	b := sb.Append(nil)
	for _, i := range [...]int{f.first, 1 - f.first} {
		f.first = i
		off := i * format.SuperCopySize
		_, err := f.file.WriteAt(b[off:off+format.SuperCopySize], int64(off))
		if err == nil {
			err = f.file.Sync()
		}
		if isBadSector(err) && f.replace != nil {
			if err = f.moveTo(sb, err); err == nil {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("write superblock: %w", err)
		}
	}
	f.first, f.last = 0, sb
	return nil
}

// moveTo writes the superblock to a new file, because the old one cannot be written: why says why. mu is held.
func (f *superFile) moveTo(sb format.Superblock, why error) error {
	file, err := f.replace(sb, why)
	if errors.Is(err, errUnnamed) {
		f.unnamed = err
	}
	if err != nil {
		return errors.Join(why, err)
	}
	_ = f.file.Close() // it has lost its name
	f.file = file
	f.replaced++
	return nil
}

// moves returns how often the superblock was written to a new file.
func (f *superFile) moves() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.replaced
}

// saveSuper makes sb the superblock, durably. That of a new store is written to a temporary file, which gets its name
// once it is complete (trap 5); later changes are made in place and take no space (trap 36).
func (s *Store) saveSuper(sb format.Superblock) error {
	var err error
	if s.super.file == nil {
		err = s.createSuper(sb)
	} else {
		err = s.super.change(sb)
	}
	return markNoSpace(err)
}

// createSuper makes the file of a new store's superblock. From its success on there is a store.
func (s *Store) createSuper(sb format.Superblock) (err error) {
	s.syncParent()
	sb.Sequence = 1
	s.super.file, err = s.nameSuper(sb, func() { s.fresh = false })
	if err != nil {
		return fmt.Errorf("make superblock: %w", err)
	}
	s.super.last, s.super.replace = sb, s.replaceSuper
	return nil
}

// replaceSuper implements superFile.replace. The file system gives the new file other blocks of the disk. Until it
// has the name, the old file counts.
func (s *Store) replaceSuper(sb format.Superblock, why error) (vfs.File, error) {
	named := false
	f, err := s.nameSuper(sb, func() { named = true })
	if err != nil && named {
		return nil, fmt.Errorf("%w: %w", errUnnamed, err)
	}
	if err == nil {
		s.c.Report.Corruption("the superblock was written to a new file, since a copy of it could not be written", why)
	}
	return f, err
}

// nameSuper writes a superblock to a temporary file, durably, gives it the name, and opens it. It calls named once the
// file has the name, which is durable if nameSuper succeeds.
func (s *Store) nameSuper(sb format.Superblock, named func()) (vfs.File, error) {
	f, err := s.Held.Open(superTmpName, vfs.FlagWrite|vfs.FlagCreate|vfs.FlagTrunc)
	if err != nil {
		return nil, err
	}
	if err = f.Allocate(0, format.SuperblockSize); err == nil {
		_, err = f.WriteAt(sb.Append(nil), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.Held.Rename(superTmpName, SuperName)
	}
	if err != nil {
		_ = s.Held.Remove(superTmpName)
		return nil, err
	}
	named()
	if err = s.Held.Sync(); err != nil {
		return nil, err
	}
	return s.Held.Open(SuperName, vfs.FlagWrite)
}

// SuperMoves returns how often this opening has written the superblock to a new file.
func (s *Store) SuperMoves() int64 { return s.super.moves() }

// IsNoSpace reports whether err says that there is no room: on the disk, in a quota, or below a file-size limit.
func IsNoSpace(err error) bool {
	return errors.Is(err, segments.ErrNoRoom) || vfs.IsNoSpace(err)
}

// markNoSpace wraps ErrNoSpace around an error that reports lack of room.
func markNoSpace(err error) error {
	if IsNoSpace(err) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}
