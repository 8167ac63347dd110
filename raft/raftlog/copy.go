package raftlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"pagecache/engine"
)

// ErrCopying reports a store that CopyFrom has not filled completely. Remove its directory and copy again.
var ErrCopying = errors.New("store is an incomplete copy")

// copyNote is there from the first until the last change of CopyFrom. On disk, do not rename.
const copyNote = "m"

// copyBytes is the length in bytes of the Data that CopyFrom stores at once.
const copyBytes = 1 << 20

// The keys that raft itself sets. CopyFrom copies them.
var (
	numberKeys = []string{"CurrentTerm", "LastVoteTerm"}
	valueKeys  = []string{"LastVoteCand"}
)

// CopyFrom fills the store, which must be empty, with the entries of another log and with raft's term and vote, of a
// node that is stopped: such as a raft-boltdb or a raft-wal. If entries are missing in between, it copies only those
// behind the last gap: raft leaves a gap behind if it installs a snapshot, which has the entries before. Until CopyFrom
// has returned nil, the store cannot be opened again. It stops with the error of ctx, of the other stores, or those of
// StoreLogs, DeleteRange and Set.
func (s *Store) CopyFrom(ctx context.Context, logs raft.LogStore, stable raft.StableStore) error {
	if err := s.copyFrom(ctx, logs, stable); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	return nil
}

func (s *Store) copyFrom(ctx context.Context, logs raft.LogStore, stable raft.StableStore) error {
	if _, last := s.stream.Bounds(); last != 0 || len(s.stream.Notes()) > 0 {
		return errors.New("the store is not empty")
	}
	if err := s.stream.SetNote(ctx, copyNote, []byte{}); err != nil {
		return err
	}
	for _, key := range numberKeys {
		val, err := stable.GetUint64([]byte(key))
		if err == nil && val != 0 {
			err = s.SetUint64([]byte(key), val)
		}
		if err != nil && err.Error() != ErrKeyNotFound.Error() {
			return err
		}
	}
	for _, key := range valueKeys {
		val, err := stable.Get([]byte(key))
		if err == nil && val != nil {
			err = s.Set([]byte(key), val)
		}
		if err != nil && err.Error() != ErrKeyNotFound.Error() {
			return err
		}
	}
	if err := s.copyEntries(ctx, logs); err != nil {
		return err
	}
	return s.stream.SetNote(ctx, copyNote, nil)
}

// copyEntries stores the entries of another log, those behind the last gap.
func (s *Store) copyEntries(ctx context.Context, logs raft.LogStore) error {
	first, err := logs.FirstIndex()
	if err != nil {
		return err
	}
	last, err := logs.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	var some []*raft.Log
	size := 0
	for i := first; i <= last; i++ {
		var l raft.Log
		err := ctx.Err()
		if err == nil {
			err = logs.GetLog(i, &l)
		}
		if errors.Is(err, raft.ErrLogNotFound) && i < last {
			some, size = nil, 0
			if err := s.DeleteRange(0, i); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		some = append(some, &l)
		if size += len(l.Data); size >= copyBytes || i == last {
			if err := s.StoreLogs(some); err != nil {
				return err
			}
			some, size = nil, 0
		}
	}
	return nil
}

// copied returns ErrCopying if CopyFrom has not filled the store completely.
func copied(s *engine.Stream) error {
	if _, found := s.Note(copyNote); found {
		return ErrCopying
	}
	return nil
}
