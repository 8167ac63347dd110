package linear

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"pagecache/engine"
)

// call is the kind of a recorded call.
type call uint8

const (
	callAllocate call = iota
	callLink
	callReplace
	callFree
	callGet
	callState
	callFragments
	callCASRoot
	callRoot
	callID     // GenerateID, or the timestamp of a Begin
	callStable // MakeStable of the caller's own change of the page or root
	callFlush  // in the history of every page and root
	callPin    // PinLog; checked by batches
	callSeal
	callBegin // not a call: the contents with which a life of the store begins
	callFound // not a call: the contents that the opening after a kill found
)

var callNames = [...]string{"Allocate", "Link", "Replace", "Free", "Get", "State", "Fragments", "CASRoot", "Root", "id",
	"MakeStable", "Flush", "PinLog", "Seal", "begins with", "found after the kill"}

func (c call) String() string { return callNames[c] }

// op is a call: its arguments and, once Done, its results. Page is a result of Allocate only.
type op struct {
	Client int             `json:"c"`
	Seq    int             `json:"n"` // of the client
	Call   call            `json:"k"`
	Page   engine.PageID   `json:"p,omitempty"`
	Name   string          `json:"r,omitempty"` // of the root
	Old    uint64          `json:"o,omitempty"` // the version, or root page, that the caller saw
	New    uint64          `json:"w,omitempty"` // the root page to set
	Token  uint64          `json:"t,omitempty"` // makes up the fragment
	From   int64           `json:"f"`           // ns since the history began
	To     int64           `json:"e,omitempty"`
	Done   bool            `json:"d,omitempty"`
	Won    bool            `json:"g,omitempty"`
	None   bool            `json:"z,omitempty"` // the PagePtr returned is zero
	Now    uint64          `json:"v,omitempty"` // the version, root page or id that was returned
	Kind   engine.PageKind `json:"a,omitempty"`
	Sum    uint64          `json:"s,omitempty"` // of the value
	First  uint64          `json:"1,omitempty"` // token of the value
	Last   uint64          `json:"2,omitempty"`
	LSN    engine.LSN      `json:"l,omitempty"` // of the change
	found  *version        // for callBegin and callFound
	unseen bool            // the change was lost, perhaps on the page of an Allocate that was cut off
}

// fragment returns the fragment that a token makes up: the token several times. Some are too long for the log, so that
// they become blobs.
func fragment(token uint64) []byte {
	n := 1 + token*0x9e3779b97f4a7c15>>59
	if token%61 == 0 {
		n = 600
	}
	b := make([]byte, 0, 8*n)
	for range n {
		b = binary.LittleEndian.AppendUint64(b, token)
	}
	return b
}

// sumOf continues the checksum of a value with a fragment (FNV-1a over words).
func sumOf(sum uint64, frag []byte) uint64 {
	for ; len(frag) >= 8; frag = frag[8:] {
		sum = (sum ^ binary.LittleEndian.Uint64(frag)) * 0x100000001b3
		sum ^= sum >> 29
	}
	return sum + uint64(len(frag))
}

// ends returns the first and the last token of a value.
func ends(v []byte) (first, last uint64) {
	if len(v) < 8 {
		return 0, 0
	}
	return binary.LittleEndian.Uint64(v), binary.LittleEndian.Uint64(v[len(v)-8:])
}

// version is one version of a page or a root: its contents, and the versions before it. It never changes.
//
// A page that does not exist may become a root, and be freed again. Its history has no calls of that, only versions
// that are missing.
type version struct {
	n      uint64 // changes since the life began
	kind   engine.PageKind
	sum    uint64 // of the value; of a root: the page, 0 if there is none
	digest uint64 // of all versions
	before *version
}

func (v *version) next(kind engine.PageKind, sum uint64) *version { return v.to(v.n+1, kind, sum) }

// to returns version n. There are no versions between v and it in which the page is a caller's.
func (v *version) to(n uint64, kind engine.PageKind, sum uint64) *version {
	d := sumOf(v.digest, binary.LittleEndian.AppendUint64([]byte{byte(kind), 0, 0, 0, 0, 0, 0, 0}, sum))
	return &version{n: n, kind: kind, sum: sum, digest: d, before: v}
}

// mayBe reports whether v is what an opening found. A page that does not exist may have become a root, and be free
// again.
func (v *version) mayBe(found *version) bool {
	if found.kind == engine.KindUnallocated && v.kind != found.kind {
		return false
	}
	return v.live() == found.live() && v.sum == found.sum
}

func (v *version) live() bool { return v.kind == engine.KindMaterialized }

// state is a page or a root in the model.
type state struct {
	*version
	floor uint64 // the number of the oldest version that a kill may leave
}

// step tells whether o may happen in s and what the state is afterwards. A call that was cut off by the kill, at its
// place in the order, does what it can.
func (s state) step(o *op) (bool, state) {
	switch o.Call {
	case callBegin:
		return true, state{version: o.found}
	case callFound:
		for v := s.version; v != nil && v.n >= s.floor; v = v.before {
			if v.mayBe(o.found) {
				return true, s
			}
		}
		return false, s
	case callAllocate:
		n := s.n + 1
		if o.Done {
			n = o.Now
		}
		s2 := state{s.to(n, engine.KindMaterialized, sumOf(0, fragment(o.Token))), s.floor}
		return !s.live() && n > s.n, s2
	case callLink, callReplace, callFree:
		return s.change(o)
	case callGet, callState:
		if o.Done && !s.live() && o.Now > s.n && (o.Kind == engine.KindFree || o.Kind == engine.KindRoot) {
			return true, state{s.to(o.Now, o.Kind, 0), s.floor} // it was used for a root meanwhile
		}
		same := o.Kind == s.kind && (o.Kind == engine.KindUnallocated || o.Now == s.n)
		return !o.Done || same && (o.Call == callState || o.Sum == s.sum), s
	case callFragments:
		return !o.Done || !s.live() && o.None || s.live() && o.Now == s.n && o.Sum == s.sum, s
	case callRoot:
		return !o.Done || o.Now == s.sum, s
	case callCASRoot:
		if s.sum == o.Old && (!o.Done || o.Won && o.Now == o.New) {
			return true, state{s.next(engine.KindMeta, o.New), s.floor}
		}
		return !o.Done || !o.Won && s.sum != o.Old && o.Now == s.sum, s
	case callStable:
		if o.Done {
			s.floor = max(s.floor, o.Now)
		}
		return s.floor <= s.n, s
	case callFlush:
		if o.Done {
			s.floor = s.n
		}
		return true, s
	}
	panic("no step for " + o.Call.String())
}

// change is the step of a compare-and-swap of a page.
func (s state) change(o *op) (bool, state) {
	if s.live() && s.n == o.Old && (!o.Done || o.Won && o.Now == s.n+1) {
		switch frag := fragment(o.Token); o.Call {
		case callLink:
			s.version = s.next(s.kind, sumOf(s.sum, frag))
		case callReplace:
			s.version = s.next(s.kind, sumOf(0, frag))
		default:
			s.version = s.next(engine.KindFree, 0)
		}
		return true, s
	}
	if o.unseen && !s.live() && o.Now > s.n { // no Get has returned its value
		return true, state{s.to(o.Now, engine.KindMaterialized, 0), s.floor}
	}
	lost := !o.Won && (s.live() && s.n != o.Old && o.Now == s.n && !o.None || !s.live() && o.None)
	return !o.Done || lost, s
}

// model is the model of one page or root for the checker.
var model = porcupine.Model{
	Init: func() any { return state{version: &version{}} },
	Step: func(s, in, _ any) (bool, any) {
		ok, next := s.(state).step(in.(*op))
		return ok, next
	},
	Equal: func(a, b any) bool {
		x, y := a.(state), b.(state)
		return x.n == y.n && x.digest == y.digest && x.kind == y.kind && x.sum == y.sum && x.floor == y.floor
	},
	Hash:              func(s any) uint64 { return s.(state).digest },
	DescribeOperation: func(in, _ any) string { return in.(*op).String() },
	DescribeState: func(s any) string {
		x := s.(state)
		return fmt.Sprintf("version %d: %v %x, stable from %d", x.n, x.kind, x.sum, x.floor)
	},
}

// String describes the call in a line.
func (o *op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%9d…%-9d %d: %v %v%s", o.From, o.To, o.Client, o.Call, o.Page, o.Name)
	if o.found != nil {
		fmt.Fprintf(&b, " %v %x", o.found.kind, o.found.sum)
		return b.String()
	}
	fmt.Fprintf(&b, " from %d new %d token %d", o.Old, o.New, o.Token)
	if !o.Done {
		return b.String() + ": cut off"
	}
	fmt.Fprintf(&b, ": won %v, now %d, none %v, %v %x, LSN %v", o.Won, o.Now, o.None, o.Kind, o.Sum, o.LSN)
	return b.String()
}

// place is what an op is about.
type place struct {
	page engine.PageID
	root string
}

func (o *op) place() place { return place{o.Page, o.Name} }

func (p place) String() string {
	if p.root != "" {
		return "root " + p.root
	}
	return fmt.Sprintf("page %d", p.page)
}

// history is one life of a store.
type history struct {
	ops   []*op
	begin map[place]*version // contents at the beginning; a place that is not there does not exist
}

// places splits the history by what the calls are about, and gives each place its beginning and all Flushes.
func (h *history) places() map[place][]*op {
	by := map[place][]*op{}
	for _, o := range h.ops {
		switch o.Call {
		case callID, callPin, callSeal, callFlush:
		default:
			by[o.place()] = append(by[o.place()], o)
		}
	}
	for p := range by {
		v := h.begin[p]
		if v == nil {
			v = absent(p)
		}
		by[p] = append(by[p], &op{Call: callBegin, Done: true, From: math.MinInt64, To: math.MinInt64 + 1, found: v,
			Page: p.page, Name: p.root})
		for _, o := range h.ops {
			if o.Call == callFlush && o.Done {
				by[p] = append(by[p], o)
			}
		}
	}
	return by
}

// absent returns the contents of a place that was never used.
func absent(p place) *version {
	if p.root != "" {
		return &version{kind: engine.KindMeta}
	}
	return &version{}
}

// checkTime is the longest that the check of one page or root may take.
const checkTime = 30 * time.Second

// check returns an error unless the calls are linearizable and the ids rise.
func (h *history) check() error {
	for p, ops := range h.places() {
		list := make([]porcupine.Operation, 0, len(ops))
		for _, o := range ops {
			to := o.To
			switch {
			case !o.Done:
				to = math.MaxInt64
			case o.Call == callFlush || o.Call == callStable:
				to = o.From // what is durable after the call includes all that was there when it began
			}
			list = append(list, porcupine.Operation{ClientId: o.Client, Input: o, Call: o.From, Return: to})
		}
		switch res, info := porcupine.CheckOperationsVerbose(model, list, checkTime); res {
		case porcupine.Illegal:
			return fmt.Errorf("%v: no order of its %d calls explains their results\n%s",
				p, len(ops), explain(list, info))
		case porcupine.Unknown:
			return fmt.Errorf("%v: the check of %d calls took longer than %v", p, len(ops), checkTime)
		}
	}
	return h.checkIDs()
}

// explain describes where the checker got stuck: the calls in the longest order that it found, from some before its
// end, and the first of the others.
func explain(list []porcupine.Operation, info porcupine.LinearizationInfo) string {
	var longest []int
	for _, part := range info.PartialLinearizations()[0] {
		if len(part) > len(longest) {
			longest = part
		}
	}
	var b strings.Builder
	in := map[int]bool{}
	s := state{version: &version{}}
	for i, at := range longest {
		in[at] = true
		_, s = s.step(list[at].Input.(*op))
		if i >= len(longest)-12 {
			fmt.Fprintf(&b, "%v\n\t→ %s\n", list[at].Input, model.DescribeState(s))
		}
	}
	var rest []porcupine.Operation
	for i, o := range list {
		if !in[i] {
			rest = append(rest, o)
		}
	}
	slices.SortFunc(rest, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	b.WriteString("and then none of these fits:\n")
	for _, o := range rest[:min(12, len(rest))] {
		fmt.Fprintln(&b, o.Input)
	}
	if f, err := os.CreateTemp("", "linear-*.html"); err == nil {
		if err := porcupine.Visualize(model, info, f); err == nil {
			fmt.Fprintf(&b, "drawn in %s\n", f.Name())
		}
		f.Close()
	}
	return b.String()
}

// checkIDs returns an error unless each id is above all ids whose calls had ended before.
func (h *history) checkIDs() error {
	var byEnd, byStart []*op
	for _, o := range h.ops {
		if o.Call == callID && o.Done {
			byEnd, byStart = append(byEnd, o), append(byStart, o)
		}
	}
	slices.SortFunc(byEnd, func(a, b *op) int { return cmp.Compare(a.To, b.To) })
	slices.SortFunc(byStart, func(a, b *op) int { return cmp.Compare(a.From, b.From) })
	var highest *op
	for _, o := range byStart {
		for ; len(byEnd) > 0 && byEnd[0].To < o.From; byEnd = byEnd[1:] {
			if highest == nil || byEnd[0].Now > highest.Now {
				highest = byEnd[0]
			}
		}
		if highest != nil && o.Now <= highest.Now {
			return fmt.Errorf("an id that is not above an earlier one:\n%v\n%v", highest, o)
		}
	}
	return nil
}
