package engine_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"os"

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

// account is a page: a balance and a number of bookings. Its fragments are accounts too. The first one is a whole page;
// the others are patches, whose mask says which fields they change and how.
type account struct {
	Mask    uint8 // the fields that a patch changes; 0: a whole page
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

// Merge applies the patches, oldest first. It returns a new page and changes no fragment.
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

// Size returns the bytes that a fragment takes in memory.
func (accounts) Size(f account) int { return 40 + len(f.Owner) }

// Append appends the fields that the mask names. A whole page has all of them.
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

// Decode copies the owner's name, so the result does not alias src.
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

// A Materializer defines the page type of a store. Here a page is a struct, and a delta patches single fields of it. A
// booking costs a message of a few bytes, however large the page is.
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

// If another goroutine has changed the page first, Link returns the page's current state. The caller can read the page
// again and retry.
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
	if _, _, err := pc.Link(tx, pid, old, []byte("2")); err != nil { // another goroutine's change
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
			log.Fatal("the page was freed")
		}
		old = ptr
	}
	// Output: try 2: 123 <nil>
}

// State returns what a compare-and-swap needs, and reads nothing. So a delta can be appended to a page that is not in
// memory without a read from disk, also when a loop tries again.
func ExamplePageCache_State() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	load(dir, "a page on disk")

	pc, err := engine.Open(dir, engine.Bytes{}, nil) // no page is in memory
	if err != nil {
		log.Fatal(err)
	}
	defer pc.Close()
	tx, err := pc.Begin()
	if err != nil {
		log.Fatal(err)
	}
	defer tx.End()

	const pid = engine.FirstUserPage
	for won := false; !won; {
		old, kind, err := pc.State(tx, pid)
		if err != nil || kind != engine.KindMaterialized {
			log.Fatal(kind, err)
		}
		if _, won, err = pc.Link(tx, pid, old, []byte(", and a delta")); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(pc.Stats().Pages.Fetches, "fragments read")
	page, err := pc.Get(tx, pid) // reads
	fmt.Printf("%s %v\n", page.Value, err)
	// Output:
	// 0 fragments read
	// a page on disk, and a delta <nil>
}

// A transaction changes several pages in one step, for other goroutines and for a crash.
func ExamplePageCache_Update() {
	pc, err := engine.Open("", engine.Bytes{}, &engine.Options{Temporary: true})
	if err != nil {
		log.Fatal(err)
	}
	defer pc.Close()
	ctx := context.Background()
	var from, to engine.PageID
	if _, err := pc.Update(ctx, func(tx *engine.Tx[[]byte]) (err error) {
		if from, err = tx.Allocate(bytes.Repeat([]byte("x"), 100)); err == nil {
			to, err = tx.Allocate(nil)
		}
		return err
	}); err != nil {
		log.Fatal(err)
	}

	lsn, err := pc.Update(ctx, func(tx *engine.Tx[[]byte]) error { // again after a conflict
		p, err := tx.Get(from)
		if err != nil {
			return err
		}
		return errors.Join(tx.Replace(from, p.Value[30:]), tx.Link(to, p.Value[:30]))
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := pc.MakeStable(lsn); err != nil { // a crash before this loses both changes
		log.Fatal(err)
	}
	err = pc.View(ctx, func(tx *engine.Tx[[]byte]) error { // both pages as they were at one moment
		for _, pid := range []engine.PageID{from, to} {
			p, err := tx.Get(pid)
			if err != nil {
				return err
			}
			fmt.Printf("page %d: %d\n", pid, len(p.Value))
		}
		return nil
	})
	fmt.Println(err)
	// Output:
	// page 2: 70
	// page 3: 30
	// <nil>
}

// All writes between PinLog and Seal are recovered together or not at all.
func ExampleBatch() {
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
	from, fromPtr, err1 := pc.Allocate(tx, []byte("100"))
	to, toPtr, err2 := pc.Allocate(tx, []byte("0"))
	if err := errors.Join(err1, err2); err != nil {
		log.Fatal(err)
	}

	b, err := pc.PinLog()
	if err != nil {
		log.Fatal(err)
	}
	_, won1, err1 := pc.Replace(tx, from, fromPtr, []byte("70"))
	_, won2, err2 := pc.Replace(tx, to, toPtr, []byte("30"))
	if err := errors.Join(err1, err2); err != nil || !won1 || !won2 {
		_ = b.Abort() // ends the batch; the write that succeeded stays
		log.Fatal(won1, won2, err)
	}
	if err := b.Seal(); err != nil {
		log.Fatal(err)
	}
	if _, err := pc.Flush(); err != nil { // a crash before this loses both writes
		log.Fatal(err)
	}
	for _, pid := range []engine.PageID{from, to} {
		page, err := pc.Get(tx, pid)
		fmt.Printf("page %d: %s %v\n", pid, page.Value, err)
	}
	// Output:
	// page 2: 70 <nil>
	// page 3: 30 <nil>
}

// A root gives a page a name, so that it can be found after Open. If two goroutines make the root at the same time, the
// one that loses uses the page of the other.
func ExamplePageCache_CASRoot() {
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

	root, err := pc.Root(tx, "index")
	if errors.Is(err, engine.ErrRootNotFound) { // the first Open
		pid, ptr, err := pc.Allocate(tx, []byte("an empty tree"))
		if err != nil {
			log.Fatal(err)
		}
		var won bool
		if root, won, err = pc.CASRoot(tx, "index", 0, pid); err != nil {
			log.Fatal(err)
		}
		if !won { // root is the page of the goroutine that won
			if _, _, err := pc.Free(tx, pid, ptr); err != nil {
				log.Fatal(err)
			}
		}
	} else if err != nil {
		log.Fatal(err)
	}
	page, err := pc.Get(tx, root)
	fmt.Printf("page %d: %s %v\n", root, page.Value, err)
	// Output: page 2: an empty tree <nil>
}

// Get returns a page's merged value. Fragments returns the deltas that were not merged yet, newest first, and then the
// rest of the page.
func ExamplePageCache_Fragments() {
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

	pid, ptr, err := pc.Allocate(tx, []byte("a page"))
	for _, delta := range []string{", a delta", ", another"} {
		if err != nil {
			log.Fatal(err)
		}
		ptr, _, err = pc.Link(tx, pid, ptr, []byte(delta)) // no other goroutine changes the page
	}
	if err != nil {
		log.Fatal(err)
	}
	_, frags, err := pc.Fragments(tx, pid)
	fmt.Printf("%q %v\n", frags, err)
	page, err := pc.Get(tx, pid)
	fmt.Printf("%q %v\n", page.Value, err)
	// Output:
	// [", another" ", a delta" "a page"] <nil>
	// "a page, a delta, another" <nil>
}

// Prefetch starts reading pages that will be needed soon. A Get that follows does not wait for the disk, or not as
// long.
func ExamplePageCache_Prefetch() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	load(dir, "one ", "two ", "three ", "four")

	pc, err := engine.Open(dir, engine.Bytes{}, nil) // no page is in memory
	if err != nil {
		log.Fatal(err)
	}
	defer pc.Close()
	tx, err := pc.Begin()
	if err != nil {
		log.Fatal(err)
	}
	defer tx.End()
	pids := []engine.PageID{2, 3, 4, 5}
	if err := pc.Prefetch(tx, pids...); err != nil { // returns at once
		log.Fatal(err)
	}
	for _, pid := range pids { // each Get waits for its own page only
		page, err := pc.Get(tx, pid)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s", page.Value)
	}
	// Output: one two three four
}

// A standalone log keeps records in order, without pages.
// A log as a consensus group needs it: its entries have numbers, old ones are dropped, and those that another leader
// has overruled are replaced.
func ExampleStream() {
	l, err := engine.OpenLog("", &engine.Options{Temporary: true})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	s, err := l.Stream(0)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	for _, err := range []error{
		s.AppendStable(ctx, 1, []byte("a"), []byte("b"), []byte("c"), []byte("d")),
		s.TruncateAfter(ctx, 2),               // c and d were not agreed on
		s.AppendStable(ctx, 3, []byte("new")), // their numbers can be used again
		s.DropBelow(ctx, 2),
	} {
		if err != nil {
			log.Fatal(err)
		}
	}
	for r, err := range s.Records(0) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d: %s\n", r.Seq, r.Bytes)
	}
	// Output:
	// 2: b
	// 3: new
}

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
