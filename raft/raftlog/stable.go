package raftlog

import (
	"context"
	"encoding/binary"
	"fmt"

	"pagecache/engine"
)

// Keys and the commit index are notes of the stream. On disk, do not rename.
const (
	keyPrefix  = "k" // and the key
	commitNote = "c" // the commit index, 8 bytes, little endian
)

// The limits of Set. All keys and values of a log, with some 40 bytes for each, take a quarter of a segment at most.
const (
	MaxKey   = 254  // bytes of a key
	MaxValue = 1024 // bytes of a value
)

// Set gives a key a value, durably. Set and SetUint64 share their keys. On a full disk it works some hundred times with
// the default segments. If it fails with engine.ErrFailed, the key has the new value in this opening, and may have the
// old one in the next. Other errors: engine.ErrTooLarge beyond the limits, and those of engine.Stream.SetNote.
func (s *Store) Set(key, val []byte) error {
	if err := s.usable("set"); err != nil {
		return err
	}
	if val == nil {
		val = []byte{} // a note without a value is none
	}
	if err := s.stream.SetNote(context.Background(), keyPrefix+string(key), val); err != nil {
		return fmt.Errorf("set %q: %w", key, err)
	}
	s.count(stableSets, 1)
	return nil
}

// Get returns the value of a key, which belongs to the caller. Errors: ErrKeyNotFound, engine.ErrClosed.
func (s *Store) Get(key []byte) ([]byte, error) {
	if err := s.usable("get"); err != nil {
		return nil, err
	}
	s.count(stableGets, 1)
	val, found := s.stream.Note(keyPrefix + string(key))
	if !found {
		return nil, ErrKeyNotFound // unwrapped, as raft compares its text
	}
	return val, nil
}

// SetUint64 gives a key a number, durably; see Set.
func (s *Store) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.LittleEndian.AppendUint64(nil, val))
}

// GetUint64 returns the number of a key, 0 if there is no such key. It fails if the value was not set by SetUint64, as
// far as its length shows, and with engine.ErrClosed.
func (s *Store) GetUint64(key []byte) (uint64, error) {
	if err := s.usable("get"); err != nil {
		return 0, err
	}
	s.count(stableGets, 1)
	return s.uint64Of(keyPrefix + string(key))
}

// uint64Of returns the number in a note, 0 if there is no such note.
func (s *Store) uint64Of(note string) (uint64, error) {
	val, found := s.stream.Note(note)
	if !found {
		return 0, nil
	}
	if len(val) != 8 {
		return 0, fmt.Errorf("get %q: a value of %d bytes is no number", note[1:], len(val))
	}
	return binary.LittleEndian.Uint64(val), nil
}

// StageCommitIndex implements raft.CommitTrackingLogStore: the index is persisted together with the entries of the next
// StoreLogs, and is lost in a crash before.
func (s *Store) StageCommitIndex(index uint64) error {
	s.staged.Store(index)
	return s.usable("stage commit index")
}

// GetCommitIndex returns the commit index that was persisted last, 0 if there is none. It is never above the last
// entry.
func (s *Store) GetCommitIndex() (uint64, error) {
	if err := s.usable("get commit index"); err != nil {
		return 0, err
	}
	index, err := s.uint64Of(commitNote)
	_, last := s.stream.Bounds()
	return min(index, uint64(last)), err
}

// commitWith returns the commit index to persist with n entries from first on: the staged one, or the one there is, as
// far as these entries do not replace committed ones. The caller holds mu.
func (s *Store) commitWith(staged, first, n uint64) uint64 {
	if staged == 0 {
		return min(s.persisted, first-1)
	}
	return min(staged, first+n-1)
}

// notes returns the note that persists a commit index, none if it is persisted already. The caller holds mu.
func (s *Store) notes(commit uint64) []engine.Note {
	if commit == s.persisted {
		return nil
	}
	return []engine.Note{{Name: commitNote, Value: binary.LittleEndian.AppendUint64(nil, commit)}}
}
