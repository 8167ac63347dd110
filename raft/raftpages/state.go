package raftpages

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"pagecache/engine"
)

// Reserved is what the names of the FSM's own roots begin with. Apply must not set them.
const Reserved = "raftpages/"

// The state of raft is in roots, since they do not depend on the type of the pages: numbers are what the roots name,
// and bytes are in their names. Format 1:
//
//	raftpages/1/index, index.high   index of the last entry: its low 32 bits plus 1, and its high 32 bits plus 1
//	raftpages/1/term, term.high     its term, in the same way
//	raftpages/1/conf/K B            part number K, a byte, of the configuration, and its bytes B; it names the number
//	                                of parts
//
// A root that is not there stands for 0. The parts of the configuration together are the index of its entry, a uvarint,
// and what raft.EncodeConfiguration returns.
const (
	indexRoot = Reserved + "1/index"
	termRoot  = Reserved + "1/term"
	confRoot  = Reserved + "1/conf/"
	highRoot  = ".high"
	// confPart is the greatest length of a part of a configuration in bytes, and maxConfParts that of their number.
	confPart     = 1 << 10
	maxConfParts = 255
)

// state is what a store knows of raft: the last entry that was applied, and the newest configuration up to it.
type state struct {
	index, term uint64
	confIndex   uint64
	conf        []byte // of raft.EncodeConfiguration; nil: none
}

// setConf makes c the configuration.
func (s *state) setConf(index uint64, c raft.Configuration) {
	s.confIndex, s.conf = index, raft.EncodeConfiguration(c)
}

// configuration decodes the configuration.
func (s *state) configuration() raft.Configuration { return raft.DecodeConfiguration(s.conf) }

// equal reports whether two states are the same.
func (s *state) equal(o *state) bool {
	return s.index == o.index && s.term == o.term && s.confIndex == o.confIndex && bytes.Equal(s.conf, o.conf)
}

// confNames returns the names of the roots that hold the configuration.
func (s *state) confNames() (names []string) {
	if s.conf == nil {
		return nil
	}
	b := append(binary.AppendUvarint(nil, s.confIndex), s.conf...)
	for part := range slices.Chunk(b, confPart) {
		names = append(names, confRoot+string([]byte{byte(len(names))})+string(part))
	}
	return names
}

// roots is where the state is written: a Tx.
type roots interface {
	SetRoot(name string, pid engine.PageID) error
}

// write writes what is different in next.
func (s *state) write(tx roots, next *state) error {
	if err := writeNumber(tx, indexRoot, s.index, next.index); err != nil {
		return err
	}
	if err := writeNumber(tx, termRoot, s.term, next.term); err != nil {
		return err
	}
	if s.confIndex == next.confIndex && bytes.Equal(s.conf, next.conf) {
		return nil
	}
	names := next.confNames()
	if len(names) > maxConfParts {
		return fmt.Errorf("raft's configuration of %d bytes: %w", len(next.conf), engine.ErrTooLarge)
	}
	for _, name := range s.confNames() {
		if !slices.Contains(names, name) {
			if err := tx.SetRoot(name, 0); err != nil {
				return err
			}
		}
	}
	for _, name := range names {
		if err := tx.SetRoot(name, engine.PageID(len(names))); err != nil {
			return err
		}
	}
	return nil
}

// writeNumber writes the halves of a number that have changed.
func writeNumber(tx roots, name string, old, now uint64) error {
	first := old == 0 && now != 0 // a View looks for both, and finds them faster than nothing
	if low := uint32(now); low != uint32(old) || first {
		if err := tx.SetRoot(name, engine.PageID(low)+1); err != nil {
			return err
		}
	}
	if high := uint32(now >> 32); high != uint32(old>>32) || first {
		return tx.SetRoot(name+highRoot, engine.PageID(high)+1)
	}
	return nil
}

// readNumber reads a number. root returns ErrRootNotFound for a name that has none.
func readNumber(root func(name string) (engine.PageID, error), name string) (n uint64, err error) {
	for shift, name := range []string{name, name + highRoot} {
		pid, err := root(name)
		if errors.Is(err, engine.ErrRootNotFound) {
			continue
		}
		if err != nil {
			return 0, err
		}
		n |= (uint64(pid) - 1) << (32 * shift)
	}
	return n, nil
}

// errState reports roots that this package has not written.
var errState = errors.New("the roots " + Reserved + "… are not those of an FSM")

// readState reads the state from all roots of a store.
func readState(meta engine.Meta) (s state, err error) {
	root := func(name string) (engine.PageID, error) {
		if pid := meta[name]; pid != 0 {
			return pid, nil
		}
		return 0, engine.ErrRootNotFound
	}
	s.index, _ = readNumber(root, indexRoot)
	s.term, _ = readNumber(root, termRoot)
	parts := map[byte]string{}
	for name, count := range meta {
		part, ok := strings.CutPrefix(name, confRoot)
		if !ok {
			continue
		}
		if len(part) < 2 || count == 0 || count > maxConfParts {
			return s, errState
		}
		parts[part[0]] = part[1:]
	}
	var b []byte
	for i := range len(parts) {
		part, ok := parts[byte(i)]
		if !ok {
			return s, errState
		}
		b = append(b, part...)
	}
	for name, count := range meta {
		if strings.HasPrefix(name, confRoot) && int(count) != len(parts) {
			return s, errState
		}
	}
	if len(b) == 0 {
		return s, nil
	}
	index, n := binary.Uvarint(b)
	if n <= 0 || len(b) == n {
		return s, errState
	}
	s.confIndex, s.conf = index, b[n:]
	return s, nil
}
