//go:build !abtest

package bench

// Peer is another store that pages are compared with, in the best configuration that we know for the work.
type Peer struct {
	Name   string
	Module string                                         // of its code
	Config string                                         // in words
	Open   func(dir string, o PeerOptions) (Store, error) // for some, the Store is an Updater
	// OpenNodes opens the store for the nodes of a B-tree. It is nil if the store is not compared by these; then it is
	// no Updater either.
	OpenNodes func(dir string, o PeerOptions) (NodeStore, error)
}

// Peers returns the stores that can be compared.
func Peers() []Peer {
	return []Peer{
		{Name: "Pebble", Module: "github.com/cockroachdb/pebble/v2",
			Config: "write-ahead log on; memtables of 64 MiB, at most 4; block cache of 512 MiB; Bloom filters of 10 " +
				"bits a key in all levels; no compression; one or two compactions at a time; newest format; appends " +
				"by its default merger, of nodes by one that puts items into their places; commits by its group commit",
			Open:      func(dir string, o PeerOptions) (Store, error) { return OpenPebble(dir, o) },
			OpenNodes: OpenPebbleNodes},
		{Name: "Badger", Module: "github.com/dgraph-io/badger/v4",
			Config: "values in the LSM tree, no compression; memtables of 64 MiB, at most 5; block cache of 512 MiB; " +
				"two compactions at a time; appends read and write in a transaction; SyncWrites for commits only",
			Open:      func(dir string, o PeerOptions) (Store, error) { return OpenBadger(dir, o) },
			OpenNodes: OpenBadgerNodes},
		{Name: "bbolt", Module: "go.etcd.io/bbolt",
			Config: "one write a transaction; freelist in a map and not written; NoSync but for commits, which share " +
				"transactions by Batch, as many as there are goroutines; reads from its memory map",
			Open:      func(dir string, o PeerOptions) (Store, error) { return OpenBolt(dir, o) },
			OpenNodes: OpenBoltNodes},
		{Name: "SQLite", Module: "modernc.org/sqlite",
			Config: "translated to Go; WAL; synchronous NORMAL, and FULL for commits; writes that wait become one " +
				"transaction; prepared statements; cache of 512 MiB for each connection, memory map of 4 GiB; a " +
				"table with an integer key",
			Open: func(dir string, o PeerOptions) (Store, error) { return OpenSQLite(dir, o) }},
	}
}
