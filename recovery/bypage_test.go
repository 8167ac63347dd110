package recovery

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"pagecache/segments/format"
)

// ByPage has the messages that Apply visits, of the pages asked for, and each page's in the order of the log, however
// many goroutines make it. It leaves out the messages of a batch that was cut off.
func TestByPage(t *testing.T) {
	kinds := []format.Kind{format.KindAppend, format.KindCompact, format.KindFree, format.KindData,
		format.KindCompactBlob, format.KindAppendZstd, format.KindRoot}
	for _, pages := range []uint64{1, 100, 1 << 20} {
		rng := rand.New(rand.NewPCG(pages, 1))
		b := newBuilder()
		const segs = 7
		for i := range segs {
			b.open(i, format.LSN(i*testSize), format.SegmentStateInUse)
			for b.left() > 400 && (i < segs-1 || b.left() > testSize/2) {
				pid := format.PageID(rng.Uint64N(pages + 2))
				if rng.IntN(100) == 0 {
					pid += 1 << 30
				}
				body := make([]byte, format.PrevSize+rng.IntN(60))
				format.PutPrev(body, format.LSN(rng.Uint64N(1<<40)))
				body[0] = body[0]&0x7f | 1 // of a root: the page that it names
				b.put(kinds[rng.IntN(len(kinds))], pid, body)
			}
			if i < segs-1 {
				b.fill()
			}
		}
		cut := b.begin()
		b.pages(10, 20)
		r := b.scanned(t, b.options(), cut)
		const first, last = format.FirstUserPage, 1<<21 - 1
		want := map[format.PageID][]Message{}
		var beyond *Message
		highest, n := format.PageID(0), 0
		for _, m := range collect(t, r) {
			m.Body = nil
			switch {
			case m.Page < first:
			case m.Page <= last:
				want[m.Page] = append(want[m.Page], m)
				highest = max(highest, m.Page)
				n++
			case beyond == nil:
				beyond = &m
			}
		}
		for _, workers := range []int{1, 2, 3, 20} {
			t.Run(fmt.Sprintf("pages=%d/workers=%d", pages, workers), func(t *testing.T) {
				p := r.ByPage(first, last, workers)
				if p.Len() != n || p.Last != highest || !reflect.DeepEqual(p.Beyond, beyond) {
					t.Errorf("%d messages up to page %d, beyond: %v, want %d, %d, %v", p.Len(), p.Last, p.Beyond, n,
						highest, beyond)
				}
				got := map[format.PageID][]Message{}
				groups, size := p.Groups()
				for g := range groups {
					lowest, msgs := p.Group(g)
					before := format.LSN(0)
					for _, x := range msgs {
						m := p.Message(lowest, x)
						got[m.Page] = append(got[m.Page], m)
						slot := format.SegmentID(int64(m.Ptr.Off) / testSize)
						if m.LSN != p.LSN(x) || m.Ptr != p.Ptr(x) || slot != p.Slot(x) ||
							x.Effect() != effectOf(m.Kind) || x.Prev() != m.Prev ||
							m.Page != lowest+format.PageID(x.Page()) || x.Page() >= size || m.LSN <= before {
							t.Fatalf("group %d from page %d: page %d, slot %v, effect %d, LSN %d after %d, is %+v", g,
								lowest, x.Page(), p.Slot(x), x.Effect(), p.LSN(x), before, m)
						}
						before = m.LSN
					}
				}
				if !reflect.DeepEqual(got, want) {
					t.Error("the messages differ from those that Apply visits")
				}
			})
		}
	}
}
