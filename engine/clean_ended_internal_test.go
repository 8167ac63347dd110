package engine

import (
	"bytes"
	"runtime"
	"sync/atomic"
	"testing"
)

// exiting is Bytes that ends the cleaner's goroutine once end is set.
type exiting struct {
	Bytes
	end *atomic.Bool
}

func (m exiting) Append(dst, b []byte) []byte {
	if m.end.Load() {
		stack := make([]byte, 64<<10)
		if bytes.Contains(stack[:runtime.Stack(stack, false)], []byte("clean.(*Cleaner).run(")) {
			runtime.Goexit()
		}
	}
	return append(dst, b...)
}

// No writer waits for a cleaner whose goroutine code of the caller has ended.
func TestWritersDoNotWaitForEndedCleaner(t *testing.T) {
	var end atomic.Bool
	pc, err := Open(t.TempDir(), exiting{end: &end}, &Options{SegmentSize: 64 << 10, FlushEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	end.Store(true)
	tx, err := pc.Begin()
	if err != nil {
		t.Fatal(err)
	}
	var pids []PageID
	for range 600 {
		pid, _, err := pc.Allocate(tx, make([]byte, 3000))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	ended := 0 // rounds in which the cleaner had ended, and there was more garbage than there should be
	for range 40 {
		for j, pid := range pids {
			if j%3 == 0 {
				p, err := pc.Get(tx, pid)
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := pc.Replace(tx, pid, p.Ptr, make([]byte, 3000)); err != nil {
					t.Fatal(err)
				}
			}
		}
		late, gone := pc.cleaner.State()
		if gone {
			ended++
		}
		if late && gone {
			t.Fatal("writers wait for a cleaner that has ended")
		}
	}
	if ended < 10 {
		t.Errorf("the cleaner had ended in %d of 40 rounds", ended)
	}
	tx.End()
	_ = pc.Close() // which tells that cleaning has stopped
}
