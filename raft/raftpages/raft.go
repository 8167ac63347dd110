package raftpages

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/raft/raftguard"
)

// NewRaft is Prepare and raft.NewRaft, with the FSM, its Snapshots, and a raftguard.Guard, so that a leader whose disk
// hangs for longer than conf.HeartbeatTimeout loses the leadership. It sets NoSnapshotRestoreOnStart in a copy of conf.
// It refuses a stable store whose term is below that of an entry in the FSM's store: that node has lost its votes, and
// with them perhaps entries of its log that it had acknowledged. Errors are those of both, and ErrConfig.
func (f *FSM[P]) NewRaft(conf *raft.Config, logs raft.LogStore, stable raft.StableStore,
	transport raft.Transport) (*raft.Raft, error) {
	c := *conf
	c.NoSnapshotRestoreOnStart = true
	if err := errors.Join(f.Prepare(&c, logs), f.checkTerm(stable)); err != nil {
		return nil, err
	}
	guard := raftguard.New(c.HeartbeatTimeout)
	r, err := raft.NewRaft(&c, f, guard.Logs(logs), stable, f.Snapshots(), guard.Transport(transport))
	if err != nil {
		return nil, err
	}
	f.started.Store(&started{r, guard})
	return r, nil
}

// started is a raft that NewRaft has started, with its guard.
type started struct {
	raft  *raft.Raft
	guard *raftguard.Guard
}

// checkTerm returns ErrConfig if the stable store has lost raft's term.
func (f *FSM[P]) checkTerm(stable raft.StableStore) error {
	index, term := f.Applied()
	known, err := stable.GetUint64([]byte("CurrentTerm"))
	if err != nil && err.Error() != "not found" { // as raft compares it
		return err
	}
	if known < term {
		return fmt.Errorf("%w: the log is of term %d, but entry %d of term %d was applied; give the node a new "+
			"directory", ErrConfig, known, index, term)
	}
	return nil
}

// Waiting returns for how long the call that stores raft's entries, if there is one, has been waiting for the disk, if
// NewRaft has started raft.
func (f *FSM[P]) Waiting() time.Duration {
	s := f.started.Load()
	if s == nil {
		return 0
	}
	return s.guard.Waiting()
}

// Prepare gets the FSM and raft's log ready for raft.NewRaft, which the caller calls next.
//
// It verifies conf: NoSnapshotRestoreOnStart must be set, since the store is the newest state already;
// RestoreCommittedLogs must not, since raft 1.8.0 forgets the members that it replays from the log, and waits for ever
// after some 8000 entries; and ProtocolVersion must be 3, so that the configuration is in the log. Then it compares the
// log with the store. If a crash has ended the installation of a snapshot after the store was replaced, and before raft
// has removed the entries that the snapshot replaces, Prepare removes them: the log could not go on behind them. It
// refuses a log that begins above the entries of the store, which is older than it was: this node cannot get the
// entries in between. Errors: ErrConfig, and those of logs.
func (f *FSM[P]) Prepare(conf *raft.Config, logs raft.LogStore) error {
	if !conf.NoSnapshotRestoreOnStart {
		return fmt.Errorf("%w: NoSnapshotRestoreOnStart must be set", ErrConfig)
	}
	if conf.RestoreCommittedLogs {
		return fmt.Errorf("%w: RestoreCommittedLogs must not be set: raft passes over members that it replays",
			ErrConfig)
	}
	if conf.ProtocolVersion < raft.ProtocolVersionMax {
		return fmt.Errorf("%w: ProtocolVersion is %d, but must be %d", ErrConfig, conf.ProtocolVersion,
			raft.ProtocolVersionMax)
	}
	first, err := logs.FirstIndex()
	if err != nil {
		return err
	}
	last, err := logs.LastIndex()
	if err != nil {
		return err
	}
	index, term := f.Applied()
	switch {
	case last == 0:
		return nil
	case first > index+1:
		return fmt.Errorf("%w: the log begins with entry %d, but the store ends with entry %d; give the node a new "+
			"directory, and the leader sends a snapshot", ErrConfig, first, index)
	case last < index:
		return logs.DeleteRange(first, last)
	case index < first:
		return nil
	}
	var entry raft.Log
	if err := logs.GetLog(index, &entry); err != nil {
		return err
	}
	if entry.Term != term { // the entries are of a leader whose successor has sent the snapshot
		return logs.DeleteRange(first, last)
	}
	return nil
}
