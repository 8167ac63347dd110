package raftlog

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/engine"
)

var sampleEntries = []struct {
	log raft.Log
	hex string
}{
	{raft.Log{}, "1000 00"},
	{raft.Log{Index: 7, Term: 3, Type: raft.LogNoop, Data: []byte{}}, "1401 03"},
	{raft.Log{Index: 7, Term: 300, Type: raft.LogConfiguration, Data: []byte("ab")}, "1405 ac02 6162"},
	{
		raft.Log{Index: 1, Term: 1, Extensions: []byte("x"), Data: []byte("d"), AppendedAt: time.Unix(1, 2)},
		"1700 01 0100000000000000 02000000 01 78 64",
	},
	{raft.Log{Index: 1, Term: 1, Extensions: []byte{}}, "1200 01 00"},
	{
		raft.Log{Index: math.MaxUint64 - 1, Term: math.MaxUint64, Type: 255, AppendedAt: time.Unix(-1, 999_999_999)},
		"11ff ffffffffffffffffff01 ffffffffffffffff ffc99a3b",
	},
}

// Entries keep all their fields; a field that is added to raft.Log needs a place. The bytes on disk do not change.
func TestEntryEncoding(t *testing.T) {
	if n := reflect.TypeFor[raft.Log]().NumField(); n != 6 {
		t.Errorf("raft.Log has %d fields, 6 are encoded", n)
	}
	for _, x := range sampleEntries {
		got := appendEntry([]byte("before"), &x.log)
		want, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(x.hex), []byte(" "), nil)))
		if err != nil {
			t.Fatal(err)
		}
		if got = bytes.TrimPrefix(got, []byte("before")); !bytes.Equal(got, want) {
			t.Errorf("%+v: bytes %x, want %x", x.log, got, want)
		}
		l := raft.Log{Index: 99, Term: 99, Data: []byte("of another"), AppendedAt: time.Now()}
		if err := decodeEntry(got, x.log.Index, &l); err != nil {
			t.Errorf("%+v: %v", x.log, err)
		}
		if w := x.log; !l.AppendedAt.Equal(w.AppendedAt) || l.AppendedAt.Location() != time.UTC {
			t.Errorf("appended at %v, want %v in UTC", l.AppendedAt, w.AppendedAt)
		}
		if l.AppendedAt = x.log.AppendedAt; !reflect.DeepEqual(l, x.log) {
			t.Errorf("got %+v, want %+v", l, x.log)
		}
	}
}

// Bytes that are no entry are refused, and leave the caller's entry as it was.
func TestEntryHostile(t *testing.T) {
	for text, want := range map[string]error{
		"": errEntry, "10": errEntry, "1000": errEntry, "2000 00": engine.ErrFormat, "0000 00": engine.ErrFormat,
		"1800 00": errEntry, "1000 00 61": errEntry, "1000 ffffffffffffffffffff01": errEntry,
		"1100 00 0100000000000000 020000": errEntry, "1100 00 0100000000000000 00ca9a3b": errEntry,
		"1200 00": errEntry, "1200 00 02 61": errEntry, "1200 00 ffffffffffffffffff01 61": errEntry,
	} {
		b, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(text), []byte(" "), nil)))
		if err != nil {
			t.Fatal(err)
		}
		l := raft.Log{Index: 5, Data: []byte("mine")}
		if err := decodeEntry(b, 1, &l); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", text, err, want)
		}
		if l.Index != 5 || string(l.Data) != "mine" {
			t.Errorf("%q: the entry was changed to %+v", text, l)
		}
	}
}

func FuzzEntry(f *testing.F) {
	for _, x := range sampleEntries {
		f.Add(appendEntry(nil, &x.log))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var l, again raft.Log
		if decodeEntry(b, 1, &l) != nil {
			return
		}
		if err := decodeEntry(appendEntry(nil, &l), 1, &again); err != nil || !reflect.DeepEqual(l, again) {
			t.Errorf("%x: %+v, again %+v, %v", b, l, again, err)
		}
	})
}

// A batch's memory is used again, and its records are those that were encoded.
func TestBatch(t *testing.T) {
	var b batch
	for n := range 20 {
		var logs []*raft.Log
		for i := range n {
			logs = append(logs, &raft.Log{Index: uint64(i + 1), Term: uint64(n), Data: make([]byte, 100*i%700)})
		}
		b.encode(logs)
		if len(b.records) != n {
			t.Fatalf("%d records of %d entries", len(b.records), n)
		}
		for i, r := range b.records {
			var l raft.Log
			if err := decodeEntry(r, uint64(i+1), &l); err != nil || !reflect.DeepEqual(l, *logs[i]) {
				t.Fatalf("entry %d of %d: %+v, %v", i, n, l, err)
			}
		}
	}
}
