package raftlog_test

import (
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/raft/raftguard"
	"pagecache/raft/raftlog"
)

// A member of a raft group.
func Example() {
	dir, err := os.MkdirTemp("", "raftlog")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	fsm := &listFSM{} // yours
	_, transport := raft.NewInmemTransport("")

	store, err := raftlog.Open(filepath.Join(dir, "log"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close() // after raft has stopped
	snapshots, err := raft.NewFileSnapshotStore(dir, 1, io.Discard)
	if err != nil {
		log.Fatal(err)
	}
	conf := raft.DefaultConfig()
	conf.LocalID, conf.LogLevel = "node 1", "ERROR"
	guard := raftguard.New(conf.HeartbeatTimeout)
	r, err := raft.NewRaft(conf, fsm, guard.Logs(store), store, snapshots, guard.Transport(transport))
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
	err = r.Apply([]byte("x = 1"), time.Second).Error()
	fmt.Printf("%q %v\n", fsm.commands(), err)
	fmt.Println(r.Shutdown().Error())
	// Output:
	// ["x = 1"] <nil>
	// <nil>
}

// Two members of two groups in one log.
func ExampleMulti() {
	dir, err := os.MkdirTemp("", "raftlog")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	multi, err := raftlog.OpenMulti(filepath.Join(dir, "log"), &raftlog.Options{Log: &engine.Options{IOBuffers: 4}})
	if err != nil {
		log.Fatal(err)
	}
	defer multi.Close()
	orders, err := multi.Group(1) // a *raftlog.Store
	if err != nil {
		log.Fatal(err)
	}
	users, err := multi.Group(2)
	if err != nil {
		log.Fatal(err)
	}

	if err := orders.StoreLog(&raft.Log{Index: 1, Term: 1}); err != nil {
		log.Fatal(err)
	}
	if err := users.SetUint64([]byte("CurrentTerm"), 3); err != nil {
		log.Fatal(err)
	}
	fmt.Println(multi.Groups())
	// Output: [1 2]
}
