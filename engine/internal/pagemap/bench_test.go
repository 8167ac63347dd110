package pagemap

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// BenchmarkRebuild measures Rebuild for a log of small messages, of which one in five is a whole page, with and
// without a snapshot of all pages below them. Each page has at least one message in the log.
func BenchmarkRebuild(b *testing.B) {
	for _, c := range []struct {
		messages, pages int
		snapshot        bool
	}{
		{600_000, 100_000, false}, {600_000, 100_000, true}, {600_000, 600_000, false}, {1000, 100, false},
	} {
		b.Run(fmt.Sprintf("messages=%d/pages=%d/snapshot=%v", c.messages, c.pages, c.snapshot), func(b *testing.B) {
			f := &forge{t: b, rng: rand.New(rand.NewPCG(1, 5)), pages: map[format.PageID][]forged{}}
			f.disk = simdisk.New(1, simdisk.Options{})
			f.next = format.FirstUserPage
			f.o = openUnbuilt(b, f.disk, 8<<20)
			body := make([]byte, 100)
			for i := range c.pages {
				f.write(format.KindCompact, format.FirstUserPage+format.PageID(i), body)
			}
			if c.snapshot {
				f.exact = true
				f.snapshot()
			}
			for i := range c.messages {
				pid := format.FirstUserPage + format.PageID(f.rng.IntN(c.pages))
				k := format.KindAppend
				if i%5 == 0 {
					k = format.KindCompact
				}
				f.write(k, pid, body)
			}
			f.flush()
			f.o.store.Abandon()
			f.o = openUnbuilt(b, f.disk, 0)
			defer f.o.store.Abandon()
			b.ReportAllocs()
			for b.Loop() {
				m := new(Map)
				m.Init(f.o.store, f.o.blobs, f.o.snaps, &f.o.domain)
				if err := m.Rebuild(f.o.found); err != nil {
					b.Fatal(err)
				}
			}
			messages := c.messages
			if !c.snapshot {
				messages += c.pages
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*messages), "ns/message")
		})
	}
}
