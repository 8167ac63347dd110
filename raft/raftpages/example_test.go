package raftpages_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/raft/raftlog"
	"pagecache/raft/raftpages"
)

// errTooLong rejects an entry that the list has no room for.
var errTooLong = errors.New("the list is too long")

// appendTo is an Apply. It appends the command to the page that the root "list" names, which may have 20 bytes.
func appendTo(tx *engine.Tx[[]byte], entry *raft.Log) (any, error) {
	list, err := tx.Root("list")
	if errors.Is(err, engine.ErrRootNotFound) {
		if list, err = tx.Allocate(nil); err == nil {
			err = tx.SetRoot("list", list)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := tx.Link(list, entry.Data); err != nil {
		return nil, err
	}
	page, err := tx.Get(list)
	if err != nil {
		return nil, err
	}
	if len(page.Value) > 20 {
		return nil, raftpages.Reject(errTooLong) // undoes the Link
	}
	return len(page.Value), nil
}

// A member of a raft group whose state is a page store.
func Example() {
	dir, err := os.MkdirTemp("", "raftpages")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	_, transport := raft.NewInmemTransport("")

	failed := make(chan error, 1)
	fsm, err := raftpages.Open(filepath.Join(dir, "pages"), engine.Bytes{}, appendTo, &raftpages.Options{
		OnFail: func(err error) { failed <- err }, // then shut raft down, and close
	})
	if err != nil {
		log.Fatal(err)
	}
	logs, err := raftlog.Open(filepath.Join(dir, "log"), nil)
	if err != nil {
		log.Fatal(err)
	}
	conf := raft.DefaultConfig()
	conf.LocalID, conf.LogLevel = "node 1", "ERROR"
	conf.BatchApplyCh = true // more commands for each flush
	r, err := fsm.NewRaft(conf, logs, logs, transport)
	if err != nil {
		log.Fatal(err)
	}

	members := raft.Configuration{Servers: []raft.Server{{ID: conf.LocalID, Address: transport.LocalAddr()}}}
	if err := r.BootstrapCluster(members).Error(); err != nil {
		log.Fatal(err)
	}
	for r.State() != raft.Leader {
		time.Sleep(10 * time.Millisecond)
	}

	for _, command := range []string{"one ", "two ", "three, four, and five "} {
		future := r.Apply([]byte(command), time.Second)
		if err := future.Error(); err != nil {
			log.Fatal(err)
		}
		fmt.Println(future.Response()) // the length, or an error
	}
	_, err = fsm.Read(context.Background(), r, func(tx *engine.Tx[[]byte]) error {
		list, err := tx.Root("list")
		if err != nil {
			return err
		}
		page, err := tx.Get(list)
		fmt.Printf("%q\n", page.Value)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	fmt.Println(r.Shutdown().Error(), fsm.Close(), logs.Close()) // in this order
	// Output:
	// 4
	// 8
	// rejected: the list is too long
	// "one two "
	// <nil> <nil> <nil>
}
