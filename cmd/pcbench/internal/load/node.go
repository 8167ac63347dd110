package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/pick"
	"pagecache/engine"
)

// node is a page of --node: a leaf of a B-tree as a slotted page, or as a delta one record to insert or to update.
//
//	a page:   0  magic 4 B | number of slots 4 B | start of the records 4 B | slots, 4 B each: offsets of records, in
//	             the order of their keys | free | records
//	a record: 0  length of the key 2 B | length of the value 2 B | key | value
//
// The pages of a store all have the same length, and so have its keys and its values.
type node struct {
	page       []byte // nil in a delta
	key, value []byte // of a delta
}

const (
	nodeMagic    = 0x65646f6e
	nodeHeader   = job.NodeHeader
	nodeSlot     = 4
	recordHeader = job.NodePerRecord - nodeSlot
)

// newNode returns an empty page.
func newNode(size int) []byte {
	p := make([]byte, size)
	binary.LittleEndian.PutUint32(p, nodeMagic)
	binary.LittleEndian.PutUint32(p[8:], uint32(size))
	return p
}

func nodeLen(p []byte) int { return int(binary.LittleEndian.Uint32(p[4:])) }

// nodeRecord returns the key and the value of the record in slot i.
func nodeRecord(p []byte, i int) (key, value []byte) {
	at := binary.LittleEndian.Uint32(p[nodeHeader+nodeSlot*i:])
	k, v := binary.LittleEndian.Uint16(p[at:]), binary.LittleEndian.Uint16(p[at+2:])
	at += recordHeader
	end := at + uint32(k)
	return p[at:end:end], p[end : end+uint32(v) : end+uint32(v)]
}

// nodeFind returns the slot of a key, or the slot before which it belongs.
func nodeFind(p, key []byte) (slot int, found bool) {
	low, high := 0, nodeLen(p)
	for low < high {
		mid := int(uint(low+high) >> 1)
		k, _ := nodeRecord(p, mid)
		switch c := bytes.Compare(k, key); {
		case c == 0:
			return mid, true
		case c < 0:
			low = mid + 1
		default:
			high = mid
		}
	}
	return low, false
}

// nodePut inserts a record into a page, or updates it. It reports whether the record fits.
func nodePut(p, key, value []byte) bool {
	slot, found := nodeFind(p, key)
	if found {
		_, old := nodeRecord(p, slot)
		return copy(old, value) == len(value) && len(old) == len(value)
	}
	n, start := nodeLen(p), int(binary.LittleEndian.Uint32(p[8:]))
	start -= recordHeader + len(key) + len(value)
	if start < nodeHeader+nodeSlot*(n+1) {
		return false
	}
	binary.LittleEndian.PutUint16(p[start:], uint16(len(key)))
	binary.LittleEndian.PutUint16(p[start+2:], uint16(len(value)))
	copy(p[start+recordHeader:], key)
	copy(p[start+recordHeader+len(key):], value)
	slots := p[nodeHeader : nodeHeader+nodeSlot*(n+1)]
	copy(slots[nodeSlot*(slot+1):], slots[nodeSlot*slot:nodeSlot*n])
	binary.LittleEndian.PutUint32(slots[nodeSlot*slot:], uint32(start))
	binary.LittleEndian.PutUint32(p[4:], uint32(n+1))
	binary.LittleEndian.PutUint32(p[8:], uint32(start))
	return true
}

// nodes is the Materializer of node. Its values alias what Decode gets.
type nodes struct{ page, record int64 }

// Format names the format of the pages with the lengths of pages and records, so that no store is opened with others.
func (n nodes) Format() string {
	return fmt.Sprintf("pcbench node v1, page %d, record %d", n.page, n.record)
}

// Merge copies the page and puts the records into the copy, the oldest first. All of them fit: the keys of a page are
// as many as its records (nodeKeys).
func (nodes) Merge(frags []node) node {
	page := bytes.Clone(frags[0].page)
	for _, d := range frags[1:] {
		nodePut(page, d.key, d.value)
	}
	return node{page: page}
}

// Size returns the bytes of the page or record, and those of the node itself.
func (nodes) Size(n node) int { return 72 + len(n.page) + len(n.key) + len(n.value) }

// Append writes a page as it is, and a record as in a page. A record is shorter than a page, whose first bytes are no
// lengths of a record.
func (nodes) Append(dst []byte, n node) []byte {
	if n.page != nil {
		return append(dst, n.page...)
	}
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(n.key)))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(n.value)))
	return append(append(dst, n.key...), n.value...)
}

var errNode = errors.New("not a node")

// Decode returns a node that aliases b. It verifies that all records lie in the page.
func (nodes) Decode(b []byte) (node, error) {
	if len(b) < recordHeader {
		return node{}, errNode
	}
	if binary.LittleEndian.Uint32(b) != nodeMagic {
		k, v := int(binary.LittleEndian.Uint16(b)), int(binary.LittleEndian.Uint16(b[2:]))
		if recordHeader+k+v != len(b) {
			return node{}, errNode
		}
		end := recordHeader + k
		return node{key: b[recordHeader:end:end], value: b[end:len(b):len(b)]}, nil
	}
	if len(b) < nodeHeader || nodeHeader+nodeSlot*nodeLen(b) > len(b) {
		return node{}, errNode
	}
	for i := range nodeLen(b) {
		at := int(binary.LittleEndian.Uint32(b[nodeHeader+nodeSlot*i:]))
		if at+recordHeader > len(b) || at+recordHeader+int(binary.LittleEndian.Uint16(b[at:]))+
			int(binary.LittleEndian.Uint16(b[at+2:])) > len(b) {
			return node{}, errNode
		}
	}
	return node{page: b}, nil
}

// nodeKeys makes the keys of nodes. A page has as many different keys as it has room for, and a new page has every
// second one, so that half of the first changes insert a record and a node never has to be split.
type nodeKeys struct {
	all uint64 // of a page
	key [job.NodeKey]byte
}

func newNodeKeys(s *job.Spec) *nodeKeys {
	n := &nodeKeys{all: uint64(s.NodeRecords())}
	copy(n.key[:], "pcbench ")
	return n
}

// of returns key k of a page. It is valid until the next call.
func (n *nodeKeys) of(k uint64) []byte {
	binary.BigEndian.PutUint64(n.key[8:], k)
	return n.key[:]
}

// fresh returns a new page with values of v.
func (n *nodeKeys) fresh(size int64, v *values) (node, error) {
	p := newNode(int(size))
	for k := uint64(0); k < n.all; k += 2 {
		value, err := v.take(0)
		if err != nil {
			return node{}, err
		}
		nodePut(p, n.of(k), value)
	}
	return node{page: p}, nil
}

// allocateNode allocates a page, and returns its id, LSN and size.
func (st *store) allocateNode(tx *engine.Tx[node], v *values) (pid engine.PageID, lsn engine.LSN, n int64,
	err error) {
	keys := newNodeKeys(st.first)
	fresh, err := keys.fresh(st.first.PageSize(), v)
	if err != nil {
		return 0, 0, 0, err
	}
	pid, ptr, err := st.nodes.Allocate(tx, fresh)
	return pid, ptr.LastLSN(), int64(len(fresh.page)), err
}

// nodeValues returns the values of records.
func nodeValues(s *job.Spec, seed uint64, stream int) *values {
	return newValues(pick.OneSize(s.Own.Delta-job.NodeKey), &s.Buffers, nil, pick.New(seed, stream))
}

// lookUp reads page i and looks one of its keys up, which need not exist. It touches the value.
func (w *worker) lookUp(i int64) (int64, error) {
	st := w.g.st
	tx, err := st.begin()
	if err != nil {
		return 0, err
	}
	defer tx.End()
	if n := w.g.spec.Own.Prefetch; n > 0 && i%int64(n) == 0 {
		if err := w.prefetch(tx, i); err != nil {
			return 0, err
		}
	}
	pid := st.table[i].Load()
	if pid <= claimed {
		return 0, nil
	}
	page, err := st.nodes.Get(tx.nodes, engine.PageID(pid))
	if err != nil {
		if st.table[i].Load() != pid {
			return 0, nil // another goroutine has freed it
		}
		return 0, err
	}
	if p := page.Value.page; p != nil {
		if slot, found := nodeFind(p, w.keys.of(pick.Uniform(w.rng, w.keys.all))); found {
			_, value := nodeRecord(p, slot)
			w.touch(value)
		}
	}
	return int64(len(page.Value.page)), nil
}

// putRecord inserts or updates a record of page i.
func (w *worker) putRecord(tx *engine.Tx[node], i int64, pid engine.PageID) (n int64, lsn engine.LSN, freed bool,
	err error) {
	v, err := w.vals.take(i)
	if err != nil {
		return 0, 0, false, err
	}
	d := node{key: w.keys.of(pick.Uniform(w.rng, w.keys.all)), value: v}
	lsn, freed, err = changed(w.g.st.nodes, tx, pid, d, true)
	return int64(len(d.key) + len(d.value)), lsn, freed, err
}
