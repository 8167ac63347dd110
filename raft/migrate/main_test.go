package main

import (
	"context"
	"errors"
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

// fillWAL makes a raft-wal in a directory.
func fillWAL(t *testing.T, dir string) {
	t.Helper()
	meta := &metadb.BoltMetaDB{}
	w, err := wal.Open(dir, wal.WithMetaStore(meta))
	must(t, err)
	fill(t, source{w, w, func() error { return errors.Join(w.Close(), meta.Close()) }})
}

// fillBolt makes a raft-boltdb.
func fillBolt(t *testing.T, path string, newTime bool) {
	t.Helper()
	b, err := raftboltdb.New(raftboltdb.Options{Path: path, NoSync: true, MsgpackUseNewTimeFormat: newTime})
	must(t, err)
	fill(t, source{b, b, b.Close})
}

// Stores of both kinds are copied: entries, term and vote.
func TestMigrate(t *testing.T) {
	for _, x := range []struct{ name, kind string }{
		{"raft-boltdb", "raft-boltdb"}, {"raft-boltdb of old times", "raft-boltdb"}, {"raft-wal", "raft-wal"},
	} {
		t.Run(x.name, func(t *testing.T) {
			kind, path, dir := x.kind, t.TempDir(), t.TempDir()+"/raft"
			if kind == "raft-wal" {
				fillWAL(t, path)
			} else {
				path = filepath.Join(path, "raft.db")
				fillBolt(t, path, x.name == kind)
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
	running := filepath.Join(t.TempDir(), "raft.db")
	b, err := raftboltdb.NewBoltStore(running)
	must(t, err)
	defer func() { must(t, b.Close()) }()
	for _, args := range [][2]string{
		{"raft-boltdb", "/does/not/exist"}, {"other", t.TempDir()}, {"raft-boltdb", running},
	} {
		if _, err := migrate(context.Background(), args[0], args[1], t.TempDir()+"/raft"); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
