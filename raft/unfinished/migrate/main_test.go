package main

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"

	"pagecache/raft/raftlog"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fill gives a store entries, a term and a vote.
func fill(t *testing.T, s source) {
	t.Helper()
	var logs []*raft.Log
	for i := uint64(7); i < 3000; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: i / 100, Type: raft.LogNoop, Data: make([]byte, i),
			AppendedAt: time.Unix(int64(i), 0)})
	}
	must(t, s.StoreLogs(logs))
	must(t, s.SetUint64([]byte("CurrentTerm"), 31))
	must(t, s.SetUint64([]byte("LastVoteTerm"), 30))
	must(t, s.Set([]byte("LastVoteCand"), []byte("node 3")))
	must(t, s.close())
}

// Stores of both kinds are copied: entries, term and vote.
func TestMigrate(t *testing.T) {
	for _, kind := range []string{"raft-boltdb", "raft-wal"} {
		t.Run(kind, func(t *testing.T) {
			path, dir := t.TempDir(), t.TempDir()+"/raft"
			if kind == "raft-wal" {
				meta := &metadb.BoltMetaDB{}
				w, err := wal.Open(path, wal.WithMetaStore(meta))
				must(t, err)
				fill(t, source{w, w, func() error { must(t, w.Close()); return meta.Close() }})
			} else {
				path = filepath.Join(path, "raft.db")
				b, err := raftboltdb.New(raftboltdb.Options{Path: path, NoSync: true})
				must(t, err)
				fill(t, source{b, b, b.Close})
			}
			last, err := migrate(context.Background(), kind, path, dir)
			if err != nil || last != 2999 {
				t.Fatalf("last entry %d, %v, want 2999", last, err)
			}
			s, err := raftlog.Open(dir, nil)
			must(t, err)
			if first, err := s.FirstIndex(); err != nil || first != 7 {
				t.Errorf("first entry %d, %v, want 7", first, err)
			}
			for i := uint64(7); i < 3000; i++ {
				var l raft.Log
				must(t, s.GetLog(i, &l))
				if l.Index != i || l.Term != i/100 || l.Type != raft.LogNoop || len(l.Data) != int(i) ||
					!l.AppendedAt.Equal(time.Unix(int64(i), 0)) {
					t.Fatalf("entry %d is %+v", i, l)
				}
			}
			term, err := s.GetUint64([]byte("CurrentTerm"))
			if err != nil || term != 31 {
				t.Errorf("term %d, %v, want 31", term, err)
			}
			if term, err = s.GetUint64([]byte("LastVoteTerm")); err != nil || term != 30 {
				t.Errorf("term of the vote %d, %v, want 30", term, err)
			}
			if vote, err := s.Get([]byte("LastVoteCand")); err != nil || string(vote) != "node 3" {
				t.Errorf("vote %q, %v, want node 3", vote, err)
			}
			must(t, s.Close())
			if _, err := migrate(context.Background(), kind, path, dir); err == nil {
				t.Error("a store that is not empty was copied to")
			}
		})
	}
	for _, args := range [][2]string{{"raft-boltdb", "/does/not/exist"}, {"other", t.TempDir()}} {
		if _, err := migrate(context.Background(), args[0], args[1], t.TempDir()+"/raft"); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
