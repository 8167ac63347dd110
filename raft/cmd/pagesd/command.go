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

	errTooManyKeys = fmt.Errorf("too many keys: %w", engine.ErrTooLarge)
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
	Get(pid engine.PageID) (engine.Page[[]byte], error)
	Link(pid engine.PageID, delta []byte) error
	Replace(pid engine.PageID, frag []byte) error
	Root(name string) (engine.PageID, error)
	SetRoot(name string, pid engine.PageID) error
}

// countKey counts keys that come, or go if n is negative, in a page of its own. It returns errTooManyKeys if there
// would be more than maxKeys.
func countKey(tx tx, n int64) error {
	page, err := tx.Root(countRoot)
	if errors.Is(err, engine.ErrRootNotFound) {
		if page, err = tx.Allocate(make([]byte, 8)); err == nil {
			err = tx.SetRoot(countRoot, page)
		}
	}
	if err != nil {
		return err
	}
	p, err := tx.Get(page)
	if err != nil {
		return err
	}
	if len(p.Value) != 8 {
		return fmt.Errorf("%w: a count of keys of %d bytes", errFormat, len(p.Value))
	}
	n += int64(binary.LittleEndian.Uint64(p.Value))
	if n > maxKeys {
		return errTooManyKeys
	}
	return tx.Replace(page, binary.LittleEndian.AppendUint64(nil, uint64(n)))
}

// countRoot is the name of the root of the page that has the number of keys, little endian.
const countRoot = "keys"

// maxKeys is the most keys: below the roots that a store can have, some of which are the FSM's. Tests change it.
var maxKeys int64 = 1_000_000

// apply makes the change. errNoKey and errTooManyKeys are its only errors that are results, the same on all nodes; then
// nothing is to be changed.
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
		return errors.Join(countKey(tx, -1), tx.SetRoot(rootOf(c.key), 0), tx.Free(page))
	case !exists:
		if err := countKey(tx, 1); err != nil {
			return err
		}
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
