package main

import (
	"encoding/binary"
	"errors"
	"fmt"

	"pagecache/engine"
)

// A command is what raft replicates: a change of the page of a key. Format 1, little endian:
//
//	1       format in the high 4 bits, op in the low 4
//	1 … 10  length of the key, a uvarint
//	n       key
//	rest    value
type command struct {
	op    op
	key   string
	value []byte
}

// op is the kind of a command. The numbers are in the logs of nodes.
type op uint8

const (
	opPut    op = iota + 1 // the page becomes the value; it is made if the key has none
	opLink                 // the value is appended to the page; it is made if the key has none
	opDelete               // the key and its page are removed
)

func (o op) String() string {
	switch o {
	case opPut:
		return "put"
	case opLink:
		return "link"
	case opDelete:
		return "delete"
	}
	return fmt.Sprintf("op %d", uint8(o))
}

// commandFormat is the format that this program writes. It reads no other.
const commandFormat = 1

// maxKey is the length of the longest key.
const maxKey = 1 << 10

var (
	errFormat = errors.New("command of another format")
	errNoKey  = errors.New("no such key")
)

// rootOf returns the name of the root of a key's page. The prefix keeps it apart from the roots of the FSM itself.
func rootOf(key string) string { return rootPrefix + key }

const rootPrefix = "key/"

// encode returns the bytes of a command.
func (c command) encode() []byte {
	b := make([]byte, 0, 1+binary.MaxVarintLen64+len(c.key)+len(c.value))
	b = append(b, commandFormat<<4|byte(c.op))
	b = binary.AppendUvarint(b, uint64(len(c.key)))
	b = append(b, c.key...)
	return append(b, c.value...)
}

// decodeCommand is the opposite of encode. The value aliases b. A command that a newer program has written is an
// errFormat.
func decodeCommand(b []byte) (c command, err error) {
	if len(b) < 2 || b[0]>>4 != commandFormat {
		return c, errFormat
	}
	c.op = op(b[0] & 15)
	if c.op < opPut || c.op > opDelete {
		return c, fmt.Errorf("%w: %v", errFormat, c.op)
	}
	n, size := binary.Uvarint(b[1:])
	if size <= 0 || n > maxKey || uint64(len(b)-1-size) < n {
		return c, fmt.Errorf("%w: key of %d bytes", errFormat, n)
	}
	rest := b[1+size:]
	c.key, c.value = string(rest[:n]), rest[n:]
	return c, nil
}

// tx are the calls of a transaction that a command needs.
type tx interface {
	Allocate(frag []byte) (engine.PageID, error)
	Free(pid engine.PageID) error
	Link(pid engine.PageID, delta []byte) error
	Replace(pid engine.PageID, frag []byte) error
	Root(name string) (engine.PageID, error)
	SetRoot(name string, pid engine.PageID) error
}

// apply makes the change. errNoKey is its only error that is a result, the same on all nodes; then nothing was changed.
func (c command) apply(tx tx) error {
	page, err := tx.Root(rootOf(c.key))
	exists := err == nil
	if err != nil && !errors.Is(err, engine.ErrRootNotFound) {
		return err
	}
	switch {
	case c.op == opDelete && !exists:
		return errNoKey
	case c.op == opDelete:
		if err := tx.SetRoot(rootOf(c.key), 0); err != nil {
			return err
		}
		return tx.Free(page)
	case !exists:
		page, err := tx.Allocate(c.value)
		if err != nil {
			return err
		}
		return tx.SetRoot(rootOf(c.key), page)
	case c.op == opPut:
		return tx.Replace(page, c.value)
	}
	return tx.Link(page, c.value)
}
