package engine

import (
	"bytes"
	"testing"
	"time"

	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/seam"
	"pagecache/segments/format"
)

// If the newest message of a page is in the table and not committed yet, a Get, a snapshot, and a Replace that deletes
// the message's blob wait until it is. Proves rule 7.
func TestReadersWaitForCommit(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 16 << 10, seam: seam.Options{Foreground: true}})
	defer closeTest(t, pc)
	long := bytes.Repeat([]byte("long "), 2000)
	for name, read := range map[string]func(tx *Tx[[]byte], pid PageID, ptr PagePtr[[]byte]) error{
		"get":      func(tx *Tx[[]byte], pid PageID, _ PagePtr[[]byte]) error { _, err := pc.Get(tx, pid); return err },
		"snapshot": func(*Tx[[]byte], PageID, PagePtr[[]byte]) error { return pc.Snapshot() },
		"replace": func(tx *Tx[[]byte], pid PageID, ptr PagePtr[[]byte]) error {
			_, _, err := pc.Replace(tx, pid, ptr, []byte("short"))
			return err
		},
	} {
		tx, other := begin(t, pc), begin(t, pc)
		pid, _, err := pc.Allocate(tx, []byte("first"))
		if err != nil {
			t.Fatal(err)
		}
		s, head, err := pc.pages.Find(pid)
		if err != nil {
			t.Fatal(err)
		}
		p, err := pc.encode(tx.base(), pid, long)
		if err != nil {
			t.Fatal(err)
		}
		r, err := pc.reserve(pid, nil, &change[[]byte]{kind: format.KindCompact, payload: p})
		if err != nil {
			t.Fatal(err)
		}
		// These are the steps of install. The message is committed below, once the reader was seen to wait.
		e := pagestack.NewOnDisk(head.TS()+1, []pagestack.Ref{{LSN: r.LSN(), Ptr: r.Ptr()}})
		if !s.CompareAndSwap(head, e) {
			t.Fatal("the page's head has changed")
		}
		pc.core.store.Space.Live(e.Ptr())
		pc.core.store.Space.Dead(head.Ptr())
		done := make(chan error, 1)
		go func() { done <- read(other, pid, ptrTo[[]byte](pid, e)) }()
		select {
		case err := <-done:
			t.Errorf("%s: returned before the message was committed: %v", name, err)
		case <-time.After(20 * time.Millisecond):
			r.Complete()
			soon(t, name+" after the commit", func() { err = <-done })
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		tx.End()
		other.End()
	}
	if n := pc.blobs.Retired(); n != 1 {
		t.Errorf("%d blobs scheduled for deletion, want the replaced one", n)
	}
}
