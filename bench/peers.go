//go:build !abtest

package bench

// Peer is another store that pages are compared with, in the best configuration that we know for the work.
type Peer struct {
	Name   string
	Module string // of its code
	Config string // in words
	Open   func(dir string, o PeerOptions) (Store, error)
}

// Peers returns the stores that can be compared.
func Peers() []Peer {
	return []Peer{
		{Name: "Pebble", Module: "github.com/cockroachdb/pebble/v2",
			Config: "write-ahead log on; memtables of 64 MiB, at most 4; block cache of 512 MiB; one or two " +
				"compactions at a time; newest format; appends by its default merger; commits by its group commit",
			Open: func(dir string, o PeerOptions) (Store, error) { return OpenPebble(dir, o) }},
		{Name: "Badger", Module: "github.com/dgraph-io/badger/v4",
			Config: "values in the LSM tree, no compression; memtables of 64 MiB, at most 5; block cache of 512 MiB; " +
				"two compactions at a time; appends read and write in a transaction; SyncWrites for commits only",
			Open: func(dir string, o PeerOptions) (Store, error) { return OpenBadger(dir, o) }},
		{Name: "bbolt", Module: "go.etcd.io/bbolt",
			Config: "one write a transaction; freelist in a map and not written; NoSync but for commits, which share " +
				"transactions by Batch, as many as there are goroutines; reads from its memory map",
			Open: func(dir string, o PeerOptions) (Store, error) { return OpenBolt(dir, o) }},
		{Name: "SQLite", Module: "modernc.org/sqlite",
			Config: "translated to Go; WAL; synchronous NORMAL, and FULL for commits; writes that wait become one " +
				"transaction; prepared statements; cache of 512 MiB for each connection, memory map of 4 GiB; a " +
				"table with an integer key",
			Open: func(dir string, o PeerOptions) (Store, error) { return OpenSQLite(dir, o) }},
	}
}
