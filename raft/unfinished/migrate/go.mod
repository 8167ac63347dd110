module pagecache/raft/migrate

go 1.26.0

require (
	github.com/hashicorp/raft v1.8.0
	github.com/hashicorp/raft-boltdb/v2 v2.3.1
	github.com/hashicorp/raft-wal v0.4.0
	go.etcd.io/bbolt v1.5.0
	pagecache v0.0.0
	pagecache/raft v0.0.0
)

replace (
	pagecache => ../../
	pagecache/raft => ../
)
