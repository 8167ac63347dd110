//go:build invariants

package engine

import (
	"fmt"
	"strings"
	"testing"
)

// A value that a reader has modified is found when its page is evicted, with or without deltas: the last moment, since
// the disk has it as it was. Proves rule 20.
func TestModifiedValueIsFoundByEviction(t *testing.T) {
	t.Parallel()
	for _, size := range []int{20, 1000} {
		for deltas := range 3 {
			pc := openTest(t, t.TempDir(), &Options{SegmentSize: 16 << 10, FlushEvery: -1})
			tx := begin(t, pc)
			pid, ptr, err := pc.Allocate(tx, make([]byte, size))
			if err != nil {
				t.Fatal(err)
			}
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			for range deltas {
				ptr = must(t)(pc.Link(tx, pid, ptr, []byte("delta")))
			}
			flushTest(t, pc)
			evict := func() (text string) {
				defer func() { text = fmt.Sprint(recover()) }()
				pc.mem.evict(tx.base(), pid, false)
				return ""
			}
			p.Value[3]++
			want := fmt.Sprintf("page %d at LSN %d was modified", pid, p.Ptr.LastLSN())
			if text := evict(); !strings.Contains(text, want) {
				t.Errorf("%d bytes, %d deltas: evicted after the value was modified: %s", size, deltas, text)
			}
			p.Value[3]--
			if text := evict(); text != "<nil>" {
				t.Errorf("%d bytes, %d deltas: the value is as it was: %s", size, deltas, text)
			}
			tx.End()
			closeTest(t, pc)
		}
	}
}
