package engine_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log"

	"pagecache/engine"
)

// This is the example of README.md.
func Example() {
	pc, err := engine.Open("", engine.Bytes{}, &engine.Options{Temporary: true}) // a directory, to keep it
	if err != nil {
		log.Fatal(err)
	}
	defer pc.Close()
	tx, err := pc.Begin()
	if err != nil {
		log.Fatal(err)
	}
	defer tx.End()
	pid, ptr, err := pc.Allocate(tx, []byte("a page,")) // one write to the log
	if err != nil {
		log.Fatal(err)
	}
	ptr, won, err := pc.Link(tx, pid, ptr, []byte(" and a delta")) // another, of 12 bytes
	if err != nil || !won {
		log.Fatal("somebody else changed the page: ", err)
	}
	if _, err := pc.MakeStable(ptr.LastLSN()); err != nil { // both are durable now
		log.Fatal(err)
	}
	page, err := pc.Get(tx, pid)
	fmt.Printf("page %d: %s %v\n", pid, page.Value, err)
	// Output: page 2: a page, and a delta <nil>
}

// account is the page of a typed store: a balance and a counter of bookings. Its fragments are accounts too: the first is the whole
// page, the others are patches, which say by their mask which fields they change and how.
type account struct {
	Mask    uint8 // what a patch touches; 0: a whole page
	Owner   string
	Balance int64
	Booked  uint32
}

const (
	setOwner uint8 = 1 << iota // Owner replaces the old one
	book                       // Balance is added, and Booked counts it
)

// accounts is the Materializer of account.
type accounts struct{}

// Merge applies the patches, oldest first. It makes a new page and changes none of the fragments.
func (accounts) Merge(frags []account) account {
	page := frags[0]
	for _, f := range frags[1:] {
		if f.Mask&setOwner != 0 {
			page.Owner = f.Owner
		}
		if f.Mask&book != 0 {
			page.Balance += f.Balance
			page.Booked++
		}
	}
	return page
}

// Size is what a fragment takes in memory.
func (accounts) Size(f account) int { return 40 + len(f.Owner) }

// Append writes the fields that the mask names; all of them for a whole page.
func (accounts) Append(dst []byte, f account) []byte {
	dst = append(dst, f.Mask)
	if f.Mask != setOwner {
		dst = binary.AppendVarint(dst, f.Balance)
	}
	if f.Mask == 0 {
		dst = binary.AppendUvarint(dst, uint64(f.Booked))
	}
	return append(dst, f.Owner...)
}

var errAccount = errors.New("not an account")

// Decode copies the owner's name, so that nothing of the result aliases src.
func (accounts) Decode(src []byte) (f account, err error) {
	if len(src) == 0 {
		return f, errAccount
	}
	f.Mask, src = src[0], src[1:]
	if f.Mask != setOwner {
		v, n := binary.Varint(src)
		if n <= 0 {
			return f, errAccount
		}
		f.Balance, src = v, src[n:]
	}
	if f.Mask == 0 {
		v, n := binary.Uvarint(src)
		if n <= 0 {
			return f, errAccount
		}
		f.Booked, src = uint32(v), src[n:]
	}
	f.Owner = string(src)
	return f, nil
}

// A Materializer says what a store's pages are. Here a page is a struct, and a delta patches single fields of it: a booking costs
// a message of a few bytes, however large the page.
func ExampleMaterializer() {
	pc, err := engine.Open("", accounts{}, &engine.Options{Temporary: true})
	if err != nil {
		log.Fatal(err)
	}
	defer pc.Close()
	tx, err := pc.Begin()
	if err != nil {
		log.Fatal(err)
	}
	defer tx.End()

	pid, ptr, err := pc.Allocate(tx, account{Owner: "Ada", Balance: 100})
	if err != nil {
		log.Fatal(err)
	}
	for _, patch := range []account{
		{Mask: book, Balance: -30},
		{Mask: setOwner, Owner: "Ada and Charles"},
		{Mask: book, Balance: 5},
	} {
		won := false
		if ptr, won, err = pc.Link(tx, pid, ptr, patch); err != nil || !won {
			log.Fatal(won, err)
		}
	}
	_, frags, err := pc.Fragments(tx, pid)
	fmt.Println(len(frags), "fragments", err)
	page, err := pc.Get(tx, pid)
	fmt.Printf("%s: %d after %d bookings %v\n", page.Value.Owner, page.Value.Balance, page.Value.Booked, err)
	// Output:
	// 4 fragments <nil>
	// Ada and Charles: 75 after 2 bookings <nil>
}

// Where another writer got there first, Link hands back the current state, so that the caller can look again and retry.
func ExamplePageCache_Link_retry() {
	pc, err := engine.Open("", engine.Bytes{}, &engine.Options{Temporary: true})
	if err != nil {
		log.Fatal(err)
	}
	defer pc.Close()
	tx, err := pc.Begin()
	if err != nil {
		log.Fatal(err)
	}
	defer tx.End()

	pid, old, err := pc.Allocate(tx, []byte("1"))
	if err != nil {
		log.Fatal(err)
	}
	if _, _, err := pc.Link(tx, pid, old, []byte("2")); err != nil { // the other writer
		log.Fatal(err)
	}
	for try := 1; ; try++ {
		ptr, won, err := pc.Link(tx, pid, old, []byte("3"))
		if err != nil {
			log.Fatal(err)
		}
		if won {
			page, err := pc.Get(tx, pid)
			fmt.Printf("try %d: %s %v\n", try, page.Value, err)
			break
		}
		if ptr.IsZero() {
			log.Fatal("the page is gone")
		}
		old = ptr
	}
	// Output: try 2: 123 <nil>
}

// A standalone log keeps records in order, without pages.
func ExampleOpenLog() {
	l, err := engine.OpenLog("", &engine.Options{Temporary: true})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	if _, _, err := l.Write([]byte("one")); err != nil {
		log.Fatal(err)
	}
	if _, err := l.WriteBatch([][]byte{[]byte("two"), []byte("three")}); err != nil { // both or none
		log.Fatal(err)
	}
	if _, err := l.Flush(); err != nil { // all of it is durable now
		log.Fatal(err)
	}
	for r, err := range l.Records(0) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", r.Bytes)
	}
	// Output:
	// one
	// two
	// three
}
