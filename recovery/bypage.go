package recovery

import (
	"fmt"
	"sync"

	"pagecache/segments/format"
)

// Effect is the effect of a message on its page.
type Effect uint8

// The effects of messages.
const (
	EffectNone  Effect = iota // none: messages of this kind belong to no page of a user
	EffectDelta               // it changes the page
	EffectBase                // it is the whole page: older messages of the page are superseded
	EffectFree                // it frees the page: older messages of the page are superseded
	EffectRoot                // it makes the page a root: older messages of the page are superseded
)

// String returns the effect's name.
func (e Effect) String() string {
	if names := [...]string{"none", "delta", "base", "free", "root"}; int(e) < len(names) {
		return names[e]
	}
	return fmt.Sprintf("Effect(%d)", uint8(e))
}

// effectOf returns the effect of messages of kind k.
func effectOf(k format.Kind) Effect {
	switch k.Plain() {
	case format.KindAppend:
		return EffectDelta
	case format.KindCompact:
		return EffectBase
	case format.KindFree:
		return EffectFree
	case format.KindRoot:
		return EffectRoot
	}
	return EffectNone
}

// PageMessage is a message in a ByPage. The zero PageMessage is none.
type PageMessage struct {
	place uint64
	word  format.Word
	prev  format.Prev
}

// The place of a PageMessage:
//
//	bits 63…41  index of the segment in Result.Segments
//	bits 40…20  offset in the segment / format.Align
//	bits 19…0   the page id less the lowest of the group
const (
	posBits      = 21 // format.MaxSegmentSize / format.Align is 1<<posBits
	posShift     = groupBits
	segmentShift = posShift + posBits
	// MaxSegments is the largest number of segments in a log.
	MaxSegments = 1 << (64 - segmentShift)
)

func makePageMessage(segment int, e entry, page format.PageID) PageMessage {
	place := uint64(segment)<<segmentShift | uint64(e.pos()/format.Align)<<posShift | uint64(page)
	return PageMessage{place, e.word, e.prev}
}

func (m PageMessage) segment() int { return int(m.place >> segmentShift) }

// pos returns the offset in the segment.
func (m PageMessage) pos() int { return int(m.place>>posShift&(1<<posBits-1)) * format.Align }

// Effect returns the message's effect on its page.
func (m PageMessage) Effect() Effect { return effectOf(m.word.Kind()) }

// Page returns the id of the message's page, less the lowest of its group.
func (m PageMessage) Page() int { return int(m.place & (1<<groupBits - 1)) }

// Prev returns the name of the message that a delta was appended to.
func (m PageMessage) Prev() format.Prev { return m.prev }

// IsZero reports whether m is no message.
func (m PageMessage) IsZero() bool { return m.word == 0 }

const (
	// A group has leastGroup pages, so that the pages of a small store are divided too, or a larger power of two if
	// there were more than mostGroups groups: that is enough for many processors, and the place where each group goes
	// on stays in a processor's caches while messages are distributed.
	leastGroup = 1 << 6
	mostGroups = 1 << 10
	// groupBits limits the pages of a group, and so the memory for one, even if there are more groups then.
	groupBits = 20
)

// ByPage is the index of a recovered log by page. The pages are divided into groups of adjacent ids. The messages of a
// group are in the order of the log. It takes 16 bytes for each message. Safe for concurrent use.
type ByPage struct {
	// Last is the highest page id that has a message; 0 if no page has one.
	Last format.PageID
	// Beyond is the first message of a page with an id that is too high, nil if there is none.
	Beyond *Message

	r        *Result
	shift    uint // a group has 1<<shift pages
	starts   []int
	messages []PageMessage // group by group; those of group g begin at starts[g]
}

// ByPage makes an index, with the given number of goroutines, of the messages that Apply visits of the pages from first
// to last.
func (r *Result) ByPage(first, last format.PageID, workers int) *ByPage {
	p := &ByPage{r: r, starts: []int{0}}
	portions := r.divide(workers)
	for i := range portions {
		portions[i].p, portions[i].first, portions[i].last = p, first, last
	}
	each(portions, (*portion).survey)
	n := 0
	for i := len(portions) - 1; i >= 0; i-- { // from the end, so that Beyond is the first one
		n += portions[i].n
		p.Last = max(p.Last, portions[i].highest)
		if portions[i].beyond != nil {
			p.Beyond = portions[i].beyond
		}
	}
	if n == 0 {
		return p
	}
	for p.shift = 0; 1<<p.shift < leastGroup || p.Last>>p.shift >= mostGroups && p.shift < groupBits; {
		p.shift++
	}
	each(portions, (*portion).count)
	p.starts = make([]int, p.Last>>p.shift+2)
	at := 0
	for g := range p.starts[1:] {
		for i := range portions {
			at, portions[i].next[g] = at+portions[i].next[g], at
		}
		p.starts[g+1] = at
	}
	p.messages = make([]PageMessage, n)
	each(portions, (*portion).distribute)
	return p
}

// Groups returns the number of groups, and the number of pages in a group.
func (p *ByPage) Groups() (groups, pages int) { return len(p.starts) - 1, 1 << p.shift }

// Len returns the number of messages.
func (p *ByPage) Len() int { return len(p.messages) }

// Group returns the lowest page id of group g and the group's messages, in the order of the log.
func (p *ByPage) Group(g int) (format.PageID, []PageMessage) {
	return format.PageID(g) << p.shift, p.messages[p.starts[g]:p.starts[g+1]]
}

// LSN returns the LSN of a message.
func (p *ByPage) LSN(m PageMessage) format.LSN {
	return p.r.Segments[m.segment()].Base + format.LSN(m.pos())
}

// Slot returns the slot in which a message lies.
func (p *ByPage) Slot(m PageMessage) format.SegmentID { return p.r.Segments[m.segment()].Slot }

// Ptr returns the place of a message.
func (p *ByPage) Ptr(m PageMessage) format.DiskPtr {
	return p.r.pointer(m.segment(), m.pos(), m.word)
}

// Message returns a message of the group with the lowest page id first, without a body.
func (p *ByPage) Message(first format.PageID, m PageMessage) Message {
	return p.r.message(m.segment(), makeEntry(first+format.PageID(m.Page()), m.pos(), m.word, m.prev))
}

// portion is a run of segments, whose messages one goroutine adds to a ByPage.
type portion struct {
	begin, end  int // indexes in Result.Segments
	p           *ByPage
	first, last format.PageID

	n       int           // messages of the pages from first to last
	highest format.PageID // of these pages
	beyond  *Message      // the first message of a page above last
	next    []int         // by group: the number of messages, then where the next one goes
}

// divide divides the segments into n runs, or fewer, with about the same number of messages.
func (r *Result) divide(n int) []portion {
	portions := make([]portion, 0, n)
	total, begin, sum := r.Len(), 0, 0
	for i, w := range r.index {
		sum += len(w.entries)
		if done := len(portions) + 1; done < n && sum*n >= total*done || i == len(r.index)-1 {
			portions = append(portions, portion{begin: begin, end: i + 1})
			begin = i + 1
		}
	}
	return portions
}

// each calls do for every portion, in parallel, and returns when all calls have.
func each(portions []portion, do func(*portion)) {
	var wg sync.WaitGroup
	for i := 1; i < len(portions); i++ {
		wg.Go(func() { do(&portions[i]) })
	}
	if len(portions) > 0 {
		do(&portions[0])
	}
	wg.Wait()
}

// survey counts the messages and finds the highest page id.
func (a *portion) survey() {
	for i := a.begin; i < a.end; i++ {
		for _, e := range a.p.r.entries(i) {
			switch page := e.page(); {
			case page < a.first:
			case page <= a.last:
				a.n++
				a.highest = max(a.highest, page)
			case a.beyond == nil:
				m := a.p.r.message(i, e)
				a.beyond = &m
			}
		}
	}
}

// count counts the messages of each group.
func (a *portion) count() {
	a.next = make([]int, a.p.Last>>a.p.shift+1)
	for i := a.begin; i < a.end; i++ {
		for _, e := range a.p.r.entries(i) {
			if page := e.page(); page >= a.first && page <= a.last {
				a.next[page>>a.p.shift]++
			}
		}
	}
}

// distribute puts each message in its place.
func (a *portion) distribute() {
	inGroup := format.PageID(1)<<a.p.shift - 1
	for i := a.begin; i < a.end; i++ {
		for _, e := range a.p.r.entries(i) {
			if page := e.page(); page >= a.first && page <= a.last {
				at := &a.next[page>>a.p.shift]
				a.p.messages[*at] = makePageMessage(i, e, page&inGroup)
				*at++
			}
		}
	}
}
