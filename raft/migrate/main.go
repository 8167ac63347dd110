// Migrate copies the log, the term and the vote of a node of hashicorp/raft from raft-boltdb or raft-wal to a new
// raftlog.Store. The node must be stopped. It is a module of its own, so that programs with raftlog inherit neither.
//
//	cd raft/migrate
//	go run . raft-boltdb FILE DIR
//	go run . raft-wal SOURCE DIR
//
// DIR is made. It can be opened as a store only if the copy is complete. A source of raft-boltdb is opened for reading,
// and raft-wal may finish a change of its source that was interrupted; else the source stays as it is.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"go.etcd.io/bbolt"

	"pagecache/raft/raftlog"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: migrate raft-boltdb FILE DIR\n       migrate raft-wal SOURCE DIR")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	last, err := migrate(ctx, os.Args[1], os.Args[2], os.Args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, "migrate:", err)
		os.Exit(1)
	}
	fmt.Printf("%s has the entries up to %d, the term and the vote\n", os.Args[3], last)
}

// readOnly are the options of bbolt for a source. A node that runs holds a lock on it.
var readOnly = &bbolt.Options{ReadOnly: true, Timeout: time.Second}

// source is a store to copy from.
type source struct {
	raft.LogStore
	raft.StableStore
	close func() error
}

// openSource opens the store at path.
func openSource(kind, path string) (s source, err error) {
	if _, err := os.Stat(path); err != nil { // they would make one
		return s, err
	}
	switch kind {
	case "raft-boltdb":
		b, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: readOnly})
		if err != nil {
			return s, err
		}
		return source{b, b, b.Close}, nil
	case "raft-wal":
		meta := &metadb.BoltMetaDB{} // which raft-wal does not close
		w, err := wal.Open(path, wal.WithMetaStore(meta))
		if err != nil {
			return s, errors.Join(err, meta.Close())
		}
		return source{w, w, func() error { return errors.Join(w.Close(), meta.Close()) }}, nil
	}
	return s, fmt.Errorf("%q is neither raft-boltdb nor raft-wal", kind)
}

// migrate copies a store to a new one in dir, and returns the index of the last entry.
func migrate(ctx context.Context, kind, path, dir string) (last uint64, err error) {
	from, err := openSource(kind, path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, from.close()) }()
	to, err := raftlog.Open(dir, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := to.CopyFrom(ctx, from, from); err != nil {
		return 0, err
	}
	return to.LastIndex()
}
