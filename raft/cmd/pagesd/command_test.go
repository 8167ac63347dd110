package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/raft/raftpages"
)

// Commands come back as they were, and bytes of no command of this format are errors.
func FuzzCommand(f *testing.F) {
	for _, c := range []command{{opPut, "key", []byte("value")}, {opLink, strings.Repeat("k", maxKey), nil},
		{opDelete, "", []byte{}}} {
		f.Add(c.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeCommand(b)
		if err != nil {
			if !errors.Is(err, errFormat) {
				t.Errorf("%q: %v, want errFormat", b, err)
			}
			return
		}
		again, err := decodeCommand(c.encode())
		if err != nil || again.op != c.op || again.key != c.key || !bytes.Equal(again.value, c.value) {
			t.Errorf("%+v came back as %+v, %v", c, again, err)
		}
	})
}

// Commands of other formats and ops are refused: a node must not pass over what it does not know.
func TestUnknownCommand(t *testing.T) {
	for _, b := range [][]byte{nil, {0x11}, {0x21, 0}, {0x10, 0}, {0x14, 0}, {0x11, 5, 'k'}, {0x11, 0xff, 0xff, 0xff}} {
		if _, err := decodeCommand(b); !errors.Is(err, errFormat) {
			t.Errorf("%x: %v, want errFormat", b, err)
		}
		var rejected *raftpages.RejectedError // which would pass over the entry
		if _, err := applyEntry(nil, &raft.Log{Data: b}); !errors.Is(err, errFormat) || errors.As(err, &rejected) {
			t.Errorf("apply %x: %v, want errFormat", b, err)
		}
	}
}

// Commands change the page of their key, also several in one transaction.
func TestApply(t *testing.T) {
	pc, err := engine.Open("", engine.Bytes{}, &engine.Options{Temporary: true})
	must(t, err)
	defer pc.Close()
	before := maxKeys
	maxKeys = 3
	defer func() { maxKeys = before }()
	for _, x := range []struct {
		commands []command
		err      error
		value    string // "-": no page
	}{
		{[]command{{opDelete, "k", nil}}, errNoKey, "-"},
		{[]command{{opLink, "k", []byte("a")}}, nil, "a"},
		{[]command{{opLink, "k", []byte("b")}, {opLink, "k", []byte("c")}}, nil, "abc"},
		{[]command{{opPut, "k", []byte("d")}, {opLink, "k", []byte("e")}}, nil, "de"},
		{[]command{{opDelete, "k", nil}, {opLink, "k", []byte("f")}, {opDelete, "k", nil}}, nil, "-"},
		{[]command{{opPut, "k", nil}}, nil, ""},
		{[]command{{opPut, "l", nil}, {opPut, "m", nil}}, nil, ""},
		{[]command{{opPut, "n", nil}}, errTooManyKeys, ""},
		{[]command{{opDelete, "l", nil}, {opPut, "n", nil}, {opPut, "n", nil}}, nil, ""},
		{[]command{{opLink, "l", nil}}, engine.ErrTooLarge, ""},
	} {
		_, err := pc.Update(t.Context(), func(tx *engine.Tx[[]byte]) error {
			for _, c := range x.commands {
				if err := c.apply(tx); err != nil {
					return err
				}
			}
			return nil
		})
		if !errors.Is(err, x.err) {
			t.Errorf("%+v: %v, want %v", x.commands, err, x.err)
		}
		var value []byte
		err = pc.View(t.Context(), func(tx *engine.Tx[[]byte]) error { return get(tx, "k", &value) })
		none := errors.Is(err, errNoKey)
		if none != (x.value == "-") || !none && (err != nil || string(value) != x.value) {
			t.Errorf("page after %+v: %q, %v, want %q", x.commands, value, err, x.value)
		}
	}
}
