package pagetest_test

import (
	"encoding/binary"
	"errors"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"

	"pagecache/engine"
	"pagecache/engine/pagetest"
)

// table is a page of keys with values. In a delta, an empty value removes the key.
type table map[string]string

// tables is a Materializer of table. Its methods can be replaced, to plant a fault. Encodings have no fixed order.
type tables struct {
	merge  func([]table) table
	size   func(table) int
	append func([]byte, table) []byte
	decode func([]byte) (table, error)
}

func (m tables) Merge(frags []table) table {
	if m.merge != nil {
		return m.merge(frags)
	}
	return mergeTables(frags)
}

func mergeTables(frags []table) table {
	merged := table{}
	for _, f := range frags {
		for k, v := range f {
			if merged[k] = v; v == "" {
				delete(merged, k)
			}
		}
	}
	return merged
}

func (m tables) Size(f table) int {
	if m.size != nil {
		return m.size(f)
	}
	return sizeOfTable(f)
}

func sizeOfTable(f table) int {
	n := 48
	for k, v := range f {
		n += 64 + len(k) + len(v)
	}
	return n
}

func (m tables) Append(dst []byte, f table) []byte {
	if m.append != nil {
		return m.append(dst, f)
	}
	return appendTable(dst, f)
}

func appendTable(dst []byte, f table) []byte {
	for k, v := range f {
		for _, s := range []string{k, v} {
			dst = append(binary.AppendUvarint(dst, uint64(len(s))), s...)
		}
	}
	return dst
}

func (m tables) Decode(src []byte) (table, error) {
	if m.decode != nil {
		return m.decode(src)
	}
	return decodeTable(src, func(b []byte) string { return string(b) })
}

var errTable = errors.New("not a table")

func decodeTable(src []byte, text func([]byte) string) (table, error) {
	f := table{}
	for len(src) > 0 {
		var kv [2]string
		for i := range kv {
			n, used := binary.Uvarint(src)
			if used <= 0 || n > uint64(len(src)-used) {
				return nil, errTable
			}
			kv[i], src = text(src[used:][:n]), src[used:][n:]
		}
		f[kv[0]] = kv[1]
	}
	return f, nil
}

func genTable(r *rand.Rand, delta bool) table {
	f := table{}
	for range 1 + r.IntN(6) {
		v := strings.Repeat("v", 1+r.IntN(40))
		if delta && r.IntN(3) == 0 {
			v = ""
		}
		f[string(rune('a'+r.IntN(12)))] = v
	}
	return f
}

// list is a page of byte strings, which Decode cuts from its argument.
type list [][]byte

type lists struct{ unclipped, aliasing bool }

func (m lists) Merge(frags []list) list {
	var merged list
	for _, f := range frags {
		for _, b := range f {
			if !m.aliasing {
				b = slices.Clone(b)
			}
			merged = append(merged, b)
		}
	}
	return merged
}

func (lists) Size(f list) int {
	n := 24
	for _, b := range f {
		n += 24 + len(b)
	}
	return n
}

func (lists) Append(dst []byte, f list) []byte {
	for _, b := range f {
		dst = append(append(dst, byte(len(b))), b...)
	}
	return dst
}

func (m lists) Decode(src []byte) (list, error) {
	var f list
	for len(src) > 0 {
		n := int(src[0]) + 1
		if n > len(src) {
			return nil, errTable
		}
		b := src[1:n:n]
		if m.unclipped {
			b = src[1:n]
		}
		f, src = append(f, b), src[n:]
	}
	return f, nil
}

func genList(r *rand.Rand, _ bool) list {
	f := make(list, r.IntN(4))
	for i := range f {
		f[i] = make([]byte, r.IntN(20))
		for j := range f[i] {
			f[i][j] = byte(r.Uint32())
		}
	}
	return f
}

// Materializers that keep the contract pass: byte strings, one whose encodings have no fixed order, and one that
// aliases.
func TestMaterializersPass(t *testing.T) {
	pagetest.Materializer(t, engine.Bytes{}, func(r *rand.Rand, _ bool) []byte {
		return []byte(strings.Repeat("x", r.IntN(100)))
	})
	pagetest.Materializer(t, tables{}, genTable)
	pagetest.Materializer(t, lists{}, genList)
}

// Each planted violation of the contract is found, and the report names the law.
func TestMaterializerFindsPlantedViolations(t *testing.T) {
	var scratch []byte
	var shared table
	var calls atomic.Int64
	for _, c := range []struct {
		name, law string
		m         tables
	}{
		{"merging again forgets removals", "Merge is associative", tables{merge: func(frags []table) table {
			all := mergeTables(frags)
			maps.Copy(all, frags[len(frags)-1]) // removals of the last delta stay in the page as empty values
			if len(frags) > 2 {
				delete(all, "a")
			}
			return all
		}}},
		{"a page loses what later deltas need", "Merge is associative after Append and Decode", tables{
			append: func(dst []byte, f table) []byte {
				g := maps.Clone(f)
				delete(g, "b")
				return appendTable(dst, g)
			}, merge: func(frags []table) table { return mergeTables(frags) }}},
		{"merging into the first fragment", "Merge changes no fragment", tables{merge: func(frags []table) table {
			maps.Copy(frags[0], mergeTables(frags))
			return frags[0]
		}}},
		{"the result of merging is shared", "what Merge returns is its own", tables{merge: func(frags []table) table {
			merged := mergeTables(frags)
			if shared == nil {
				shared = table{}
			}
			clear(shared)
			maps.Copy(shared, merged)
			return shared
		}}},
		{"the result aliases", "the result of Merge aliases no fragment", tables{
			decode: func(src []byte) (table, error) {
				return decodeTable(src, func(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) })
			}}},
		{"Append forgets dst", "Append extends dst", tables{append: func(_ []byte, f table) []byte {
			return appendTable(nil, f)
		}}},
		{"Append uses memory of its own", "Append keeps no memory", tables{append: func(dst []byte, f table) []byte {
			scratch = append(append(scratch[:0], dst...), appendTable(nil, f)...)
			return scratch
		}}},
		{"Append changes the fragment", "Append and Decode are inverse", tables{
			append: func(dst []byte, f table) []byte {
				f["x"] += "x"
				return appendTable(dst, f)
			}}},
		{"Decode changes src", "Decode does not change src", tables{decode: func(src []byte) (table, error) {
			f, err := decodeTable(src, func(b []byte) string { return string(b) })
			clear(src)
			return f, err
		}}},
		{"Decode refuses", "Decode accepts what Append has written", tables{decode: func(src []byte) (table, error) {
			if len(src) > 60 {
				return nil, errTable
			}
			return tables{}.Decode(src)
		}}},
		{"trusted lengths", "Decode does not panic for wrong bytes", tables{decode: func(src []byte) (table, error) {
			f := table{}
			for len(src) > 0 {
				k := string(src[1:][:src[0]])
				src = src[1+len(k):]
				v := string(src[1:][:src[0]])
				f[k], src = v, src[1+len(v):]
			}
			return f, nil
		}}},
		{"sizes change", "Size returns the same number each time", tables{size: func(f table) int {
			return sizeOfTable(f) + int(calls.Add(1)%2)
		}}},
		{"sizes leave out the values", "Size counts all memory", tables{size: func(f table) int { return len(f) }}},
		{"shared scratch", "methods can be called concurrently", tables{merge: func(frags []table) table {
			calls.Store(int64(len(frags[0])))
			runtime.Gosched()
			if calls.Load() != int64(len(frags[0])) {
				return table{"a": "other"}
			}
			return mergeTables(frags)
		}}},
		{"a panic", "no method panics", tables{merge: func(frags []table) table {
			if len(frags) > 3 {
				panic("too many")
			}
			return mergeTables(frags)
		}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			scratch, shared = nil, nil
			got := record(t, func(t testing.TB) { pagetest.Materializer(t, c.m, genTable) })
			if !strings.Contains(got, c.law+": ") {
				t.Errorf("not found: %s\nreported:\n%s", c.law, got)
			}
		})
	}
	for law, m := range map[string]lists{
		"what Decode returns of src is clipped":   {unclipped: true},
		"the result of Merge aliases no fragment": {aliasing: true},
	} {
		if got := record(t, func(t testing.TB) { pagetest.Materializer(t, m, genList) }); !strings.Contains(got, law) {
			t.Errorf("not found: %s\nreported:\n%s", law, got)
		}
	}
}

// A Materializer that keeps the slice of fragments is found.
func TestMaterializerFindsKeptSlice(t *testing.T) {
	got := record(t, func(t testing.TB) {
		pagetest.Materializer(t, lazies{}, func(r *rand.Rand, _ bool) *lazy { return &lazy{n: r.IntN(9)} })
	})
	if !strings.Contains(got, "Merge does not keep its argument") {
		t.Error(got)
	}
}

// lazy is a number, or a sum that is computed when it is asked for.
type lazy struct {
	n     int
	parts []*lazy
}

func (l *lazy) sum() int {
	if l == nil {
		return 0
	}
	n := l.n
	for _, p := range l.parts {
		n += p.sum()
	}
	return n
}

type lazies struct{}

func (lazies) Merge(frags []*lazy) *lazy { return &lazy{parts: frags} }

func (lazies) Size(*lazy) int { return 1 << 20 }

func (lazies) Append(dst []byte, f *lazy) []byte { return binary.AppendVarint(dst, int64(f.sum())) }

func (lazies) Decode(src []byte) (*lazy, error) {
	n, _ := binary.Varint(src)
	return &lazy{n: int(n)}, nil
}
