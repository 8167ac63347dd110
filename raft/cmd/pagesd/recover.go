package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// withDisk opens the directory of a node that does not run, and closes it after f.
func withDisk(c *config, f func(disk, hclog.Logger) error) error {
	logger := c.logger()
	failed := make(chan error, 1)
	d, err := openDisk(c, logger, func(err error) {
		select {
		case failed <- err:
		default:
		}
	})
	if err != nil {
		return err
	}
	err = errors.Join(f(d, logger), d.close(context.Background()))
	select {
	case why := <-failed:
		return errors.Join(err, why)
	default:
		return err
	}
}

// withNode is withDisk for a directory that has a node. It removes from the log what a start would remove, too.
func withNode(c *config, f func(disk, *raft.Config) error) error {
	if _, err := os.Stat(filepath.Join(c.dir, logDir)); err != nil { // which withDisk would make
		return fmt.Errorf("%s has no node: %w", c.dir, err)
	}
	return withDisk(c, func(d disk, logger hclog.Logger) error {
		if used, err := d.used(); err != nil || !used {
			return errors.Join(fmt.Errorf("%s has no node", c.dir), err)
		}
		conf := c.raft(logger)
		conf.NoSnapshotRestoreOnStart = true // as NewRaft does
		if err := d.pages.Prepare(conf, d.log); err != nil {
			return err
		}
		return f(d, conf)
	})
}

// initialize makes a new cluster with one member, whose directory must be empty.
func initialize(c *config) error {
	return withDisk(c, func(d disk, logger hclog.Logger) error {
		_, trans := raft.NewInmemTransport(raft.ServerAddress(c.advertise))
		defer trans.Close()
		return raft.BootstrapCluster(c.raft(logger), d.log, d.log, d.pages.Snapshots(), trans, c.alone())
	})
}

// alone is the configuration of a cluster with one member.
func (c *config) alone() raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{{
		ID: raft.ServerID(c.id), Address: raft.ServerAddress(c.advertise),
	}}}
}

// recoverNode makes a node that was left over the only member of its cluster, or one of those in a file in the form of
// peers.json. All entries of its log count as committed.
func recoverNode(c *config, peersFile string) error {
	conf := c.alone()
	if peersFile != "" {
		var err error
		if conf, err = raft.ReadConfigJSON(peersFile); err != nil {
			return fmt.Errorf("read %s: %w", peersFile, err)
		}
	}
	return withNode(c, func(d disk, node *raft.Config) error {
		_, trans := raft.NewInmemTransport(raft.ServerAddress(c.advertise))
		defer trans.Close()
		return raft.RecoverCluster(node, d.pages, d.log, d.log, d.pages.Snapshots(), trans, conf)
	})
}

// survivor is the JSON that says how much a node that does not run has: among those that are left over, the one with
// the highest last term, and among these with the highest last index, has the most.
type survivor struct {
	ID           string `json:"id"`
	Term         uint64 `json:"term"`
	FirstIndex   uint64 `json:"first_index"`
	LastTerm     uint64 `json:"last_term"`
	LastIndex    uint64 `json:"last_index"`
	AppliedIndex uint64 `json:"applied_index"`
}

// inspect returns what a node that does not run has.
func inspect(c *config) (s survivor, err error) {
	err = withNode(c, func(d disk, _ *raft.Config) (err error) {
		s.ID = c.id
		if s.Term, err = d.log.GetUint64([]byte("CurrentTerm")); err != nil {
			return err
		}
		if s.FirstIndex, err = d.log.FirstIndex(); err != nil {
			return err
		}
		s.AppliedIndex, s.LastTerm = d.pages.Applied()
		last, err := d.log.LastIndex()
		if s.LastIndex = max(last, s.AppliedIndex); err != nil || last < s.AppliedIndex {
			return err
		}
		var entry raft.Log
		err = d.log.GetLog(last, &entry)
		s.LastTerm = entry.Term
		return err
	})
	return s, err
}
