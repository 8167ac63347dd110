//go:build !abtest

package bench

import (
	"bytes"
	"encoding/binary"
	"maps"
	"testing"

	"github.com/google/pprof/profile"

	"pagecache/engine"
)

// updaters opens all stores that are Updaters, with room for a few pages.
func updaters(t *testing.T) map[string]Updater {
	t.Helper()
	all := map[string]Updater{}
	for _, p := range Peers() {
		if p.OpenNodes == nil {
			continue
		}
		s, err := p.Open(t.TempDir(), PeerOptions{Cache: 8 << 20, Buffer: 8 << 20})
		if err != nil {
			t.Fatal(err)
		}
		all[p.Name] = s.(Updater)
	}
	ours, err := OpenPagecache(t.TempDir(), 8, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	floor, err := NewFloor(8, 1000)
	if err != nil {
		t.Fatal(err)
	}
	all["pagecache"], all["floor"] = ours, floor
	return all
}

// Each store does what an Updater promises: appended deltas make pages longer, whole values replace them.
func TestUpdatersChangePages(t *testing.T) {
	for name, s := range updaters(t) {
		if err := Load(s, 4, 100); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		values := NewValues(1, 10)
		for step, f := range []func(int, []byte) error{s.GetLink, s.BlindLink, s.FragmentsLink, s.Link} {
			if err := f(2, values.Next()); err != nil {
				t.Fatalf("%s, step %d: %v", name, step, err)
			}
			if n, err := s.Get(2); err != nil || n != 100+10*(step+1) {
				t.Errorf("%s, step %d: %d bytes, %v", name, step, n, err)
			}
		}
		if err := s.GetReplace(2, values.Next()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n, err := s.Get(2); err != nil || n != 10 {
			t.Errorf("%s: %d bytes after GetReplace, %v", name, n, err)
		}
		if n, err := s.Get(3); err != nil || n != 100 {
			t.Errorf("%s: another page has %d bytes, %v", name, n, err)
		}
		if err := s.GetMany([]int{0, 3, 2}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// newItem returns an item with a value of equal bytes.
func newItem(key uint64, value byte) []byte {
	item := bytes.Repeat([]byte{value}, NodeItem)
	binary.BigEndian.PutUint64(item, key)
	return item
}

// Each store of nodes finds the items of all nodes, before and after updates, and after it was opened again.
func TestNodeStoresFindItems(t *testing.T) {
	const nodes = 5
	open := map[string]func(dir string) (NodeStore, error){
		"pagecache": func(dir string) (NodeStore, error) { return OpenPagecacheNodes(dir, engine.Options{}) },
		"floor":     func(dir string) (NodeStore, error) { return OpenFloorNodes(dir, nodes, []int{1, 3}) },
	}
	for _, p := range Peers() {
		if p.OpenNodes != nil {
			open[p.Name] = func(dir string) (NodeStore, error) {
				return p.OpenNodes(dir, PeerOptions{Cache: 8 << 20, Buffer: 8 << 20})
			}
		}
	}
	for name, f := range open {
		dir := t.TempDir()
		s, err := f(dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := s.Load(nodes); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for turn := range 2 {
			for key := uint64(0); key < nodes*NodeItems; key += 13 {
				if err := s.Read(key); err != nil {
					t.Errorf("%s, turn %d: key %d: %v", name, turn, key, err)
				}
				if err := s.Update(newItem(key, 7)); err != nil {
					t.Errorf("%s, turn %d: key %d: %v", name, turn, key, err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if s, err = f(dir); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if err := s.Read(NodeItems*nodes - 1); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Merging puts each item into its place, whatever the order in which Pebble hands over the parts, and changes no part.
func TestNodesMerge(t *testing.T) {
	node := NewNode(3, NewValues(1, NodeSize))
	was := bytes.Clone(node)
	one, two := newItem(3*NodeItems+7, 1), append(newItem(3*NodeItems+7, 2), newItem(4*NodeItems-1, 2)...)
	want := bytes.Clone(node)
	copy(want[7*NodeItem:], two[:NodeItem])
	copy(want[NodeSize-NodeItem:], two[NodeItem:])
	if got := (Nodes{}).Merge([]Node{{node}, {one}, {two}}); !bytes.Equal(got.items, want) || !bytes.Equal(node, was) {
		t.Error("Nodes.Merge")
	}
	for name, order := range map[string]func(m *nodeMerger) error{
		"older": func(m *nodeMerger) error { return m.MergeOlder(node) },
		"newer": func(m *nodeMerger) error {
			m.items = bytes.Clone(node)
			return m.MergeNewer(append(one[:NodeItem:NodeItem], two...))
		},
	} {
		m, err := newNodeMerger(nil, append(one[:NodeItem:NodeItem], two...))
		if err != nil {
			t.Fatal(err)
		}
		if err := order(m.(*nodeMerger)); err != nil {
			t.Fatal(err)
		}
		if got, _, err := m.Finish(true); err != nil || !bytes.Equal(got, want) {
			t.Errorf("Pebble, %s: %v", name, err)
		}
	}
	m, _ := newNodeMerger(nil, two)
	if err := m.MergeOlder(one); err != nil {
		t.Fatal(err)
	}
	if got, _, err := m.Finish(false); err != nil || !bytes.Equal(got, append(one[:NodeItem:NodeItem], two...)) {
		t.Errorf("Pebble, without a node: %v", err)
	}
	if _, err := (Nodes{}).Decode(node[1:]); err == nil {
		t.Error("half an item was decoded")
	}
}

// Samples in the collector are its own, even on a goroutine with a label; the others belong to their label.
func TestSharesOfAProfile(t *testing.T) {
	at := func(names ...string) (all []*profile.Location) {
		for _, name := range names {
			all = append(all, &profile.Location{Line: []profile.Line{{Function: &profile.Function{Name: name}}}})
		}
		return all
	}
	sample := func(ns int64, label string, names ...string) *profile.Sample {
		s := &profile.Sample{Value: []int64{1, ns}, Location: at(names...)}
		if label != "" {
			s.Label = map[string][]string{"pagecache": {label}}
		}
		return s
	}
	got := sharesOf(&profile.Profile{Sample: []*profile.Sample{
		sample(30, "", "main.f"), sample(20, "cleaner", "engine.clean"), sample(10, "flusher", "iobuf.flush"),
		sample(30, "", "runtime.scanobject", "runtime.gcBgMarkWorker.func2"),
		sample(10, "cleaner", "runtime.gcAssistAlloc", "runtime.mallocgc", "engine.clean"),
	}})
	if want := (Shares{"cleaner": 20, "collector": 40, "flusher": 10}); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if want := "cleaner 20.0 %, collector 40.0 %, flusher 10.0 %"; got.String() != want {
		t.Errorf("%q, want %q", got, want)
	}
	if sharesOf(&profile.Profile{}) != nil || (*Sampler)(nil).Stop() != nil {
		t.Error("shares of nothing")
	}
}
