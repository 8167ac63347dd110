package load

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/engine"
)

// nodeSpec returns a job with nodes.
func nodeSpec(t *testing.T, line string) *job.Spec {
	t.Helper()
	p, err := job.Parse(strings.Fields("--node --rw=randrw " + line))
	if err != nil {
		t.Fatal(err)
	}
	return p.Jobs[0]
}

// All keys of a page fit it, in any order and with every size of records, and stay sorted; one more does not.
func TestNodeHoldsItsKeys(t *testing.T) {
	for _, line := range []string{
		"", "--bs=4k", "--bs=4k --delta=17", "--bs=64k --delta=1000", "--bs=8200 --delta=333",
	} {
		s := nodeSpec(t, line)
		keys, p := newNodeKeys(s), newNode(int(s.PageSize()))
		value := make([]byte, s.Own.Delta-job.NodeKey)
		for _, k := range rand.New(rand.NewPCG(1, 1)).Perm(int(keys.all)) {
			value[0] = byte(k)
			if !nodePut(p, keys.of(uint64(k)), value) {
				t.Fatalf("%q: key %d of %d does not fit", line, k, keys.all)
			}
		}
		if nodeLen(p) != int(keys.all) || nodePut(p, keys.of(keys.all), value) {
			t.Errorf("%q: %d of %d keys, and one more fits", line, nodeLen(p), keys.all)
		}
		for k := range keys.all {
			key, v := nodeRecord(p, int(k))
			if slot, found := nodeFind(p, keys.of(k)); !found || slot != int(k) || !bytes.Equal(key, keys.of(k)) ||
				v[0] != byte(k) {
				t.Fatalf("%q: key %d is in slot %d, found %t, value %d", line, k, slot, found, v[0])
			}
		}
		if !nodePut(p, keys.of(0), bytes.Repeat([]byte{7}, len(value))) || nodeLen(p) != int(keys.all) {
			t.Errorf("%q: an update does not fit", line)
		}
	}
}

// Merging a merged page with later records gives the same as merging all at once, also after encoding.
func TestNodesKeepTheLawsOfMerging(t *testing.T) {
	s := nodeSpec(t, "--bs=4k")
	m, keys := nodes{s.PageSize(), s.Own.Delta}, newNodeKeys(s)
	base, err := keys.fresh(s.PageSize(), nodeValues(s, 1, 0))
	if err != nil {
		t.Fatal(err)
	}
	record := func(k uint64, b byte) node {
		return node{key: bytes.Clone(keys.of(k)), value: bytes.Repeat([]byte{b}, int(s.Own.Delta)-job.NodeKey)}
	}
	before := bytes.Clone(base.page)
	for _, d := range []node{record(1, 1), record(2, 2), record(keys.all-1, 3)} {
		for _, e := range []node{record(1, 4), record(3, 5)} {
			whole := m.Merge([]node{base, d, e})
			stored, err := m.Decode(m.Append(nil, m.Merge([]node{base, d})))
			if err != nil {
				t.Fatal(err)
			}
			again, err := m.Decode(m.Append(nil, e))
			if err != nil || !reflect.DeepEqual(again, e) {
				t.Fatalf("%v, %v", again, err)
			}
			if got := m.Merge([]node{stored, again}); !reflect.DeepEqual(got, whole) {
				t.Error("the pages of one and of two merges differ")
			}
		}
	}
	if !bytes.Equal(before, base.page) {
		t.Error("Merge has changed its first fragment")
	}
}

// Decode refuses bytes that are no node, and accepts no record that does not lie in its page.
func TestDecodeOfHostileNodes(t *testing.T) {
	s := nodeSpec(t, "--bs=4k")
	m := nodes{s.PageSize(), s.Own.Delta}
	good, err := newNodeKeys(s).fresh(s.PageSize(), nodeValues(s, 1, 0))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 20_000 {
		b := bytes.Clone(good.page[:rng.IntN(len(good.page)+1)])
		for range rng.IntN(4) {
			if len(b) > 0 {
				b[rng.IntN(min(len(b), 200))] = byte(rng.Uint32())
			}
		}
		n, err := m.Decode(b)
		if err != nil && !errors.Is(err, errNode) {
			t.Fatal(err)
		}
		for i := 0; err == nil && n.page != nil && i < nodeLen(n.page); i++ {
			nodeRecord(n.page, i) // must not panic
		}
	}
}

// A store of nodes is found again, and not opened with records of another length.
func TestNodesAreReopened(t *testing.T) {
	dir := t.TempDir()
	const line = "--node --size=256k --unlink=0 "
	if _, err := runIn(t, dir, line+"--rw=randwrite --number_ios=1000 --io_size=1m"); err != nil {
		t.Fatal(err)
	}
	r, err := runIn(t, dir, line+"--rw=randrw --number_ios=1000 --io_size=100m")
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := ops(r, job.DirRead); n < 400 || r.Jobs[0].Store.Given == 0 {
		t.Errorf("%d reads, %+v", n, r.Jobs[0].Store)
	}
	if _, err := runIn(t, dir, line+"--rw=randread --delta=64"); !errors.Is(err, engine.ErrFormat) {
		t.Errorf("records of another length: %v", err)
	}
}

// A read of a node, with its binary search, allocates nothing.
func TestNodesAllocateNothing(t *testing.T) {
	w := laidOutAs(t, "--node --rw=randread --size=4m --segment=256k")
	w.step(t)
	if n := testing.AllocsPerRun(10_000, func() { w.step(t) }); n != 0 {
		t.Errorf("%v allocations for each read", n)
	}
}
