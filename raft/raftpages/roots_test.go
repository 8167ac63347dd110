package raftpages_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/raft/raftpages"
)

// A command that makes one root too many is rejected, alone, and the FSM goes on.
func TestTooManyRoots(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a million roots")
	}
	const most, batch = 1 << 20, 1 << 12 // engine.MaxRoots; the FSM has some of its own
	name := func(tx *engine.Tx[[]byte], e *raft.Log) (any, error) {
		return nil, tx.SetRoot(fmt.Sprint(binary.LittleEndian.Uint64(e.Data)), engine.FirstUserPage)
	}
	f, err := raftpages.Open(t.TempDir(), engine.Bytes{}, name, &raftpages.Options{
		OnFail: func(err error) { t.Error(err) },
	})
	must(t, err)
	defer func() { must(t, f.Close()) }()
	next, refused := uint64(1), 0
	for n := 0; n < most+batch; n += batch {
		var entries []*raft.Log
		for range batch {
			entries = append(entries, &raft.Log{
				Index: next, Term: 1, Type: raft.LogCommand, Data: binary.LittleEndian.AppendUint64(nil, next),
			})
			next++
		}
		if n >= most { // few are enough, since each is tried alone
			next -= batch - 20
			entries = entries[:20]
		}
		for _, r := range f.ApplyBatch(entries) {
			var rejected *raftpages.RejectedError
			switch err, _ := r.(error); {
			case errors.As(err, &rejected) && errors.Is(err, engine.ErrTooLarge):
				refused++
			case err != nil:
				t.Fatal(err)
			}
		}
	}
	if index, _ := f.Applied(); index != next-1 || f.Err() != nil || refused < 20 || refused > 100 {
		t.Errorf("applied %d of %d, %d refused, %v", index, next-1, refused, f.Err())
	}
}
