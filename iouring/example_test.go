//go:build linux

package iouring_test

import (
	"fmt"
	"log"
	"os"

	"pagecache/iouring"
)

// A log writes two blocks at once and waits until both are on stable storage.
func ExampleWriter() {
	f, err := os.CreateTemp("", "log")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()

	w, report, err := iouring.OpenWriter(int(f.Fd()), iouring.WriterOptions{}) // the best that works here
	if err != nil {
		log.Fatal(err)
	}
	buf, err := iouring.AllocBuffer(2 * report.Block) // aligned for O_DIRECT
	if err != nil {
		log.Fatal(err)
	}
	defer iouring.FreeBuffer(buf)
	copy(buf, "first block")
	copy(buf[report.Block:], "second block")

	writes := []iouring.Write{
		{Off: 0, Buf: buf[:report.Block], Tag: 1},
		{Off: int64(report.Block), Buf: buf[report.Block:], Tag: 2},
	}
	comps, err := w.Do(writes, len(writes), nil)
	if err != nil {
		log.Fatal(err) // the Writer is unusable
	}
	durable := 0
	for _, c := range comps { // in any order
		if c.Err != nil {
			log.Fatalf("write %d: %v", c.Tag, c.Err)
		}
		durable++
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	got := make([]byte, 11)
	if _, err := f.ReadAt(got, 0); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d durable writes; the file begins with %q\n", durable, got)
	// Output: 2 durable writes; the file begins with "first block"
}

// A program fetches two ranges at once before it touches them, and starts to read a third one that it will need later.
func ExampleReader() {
	f, err := os.CreateTemp("", "data")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.WriteAt([]byte("record"), 1<<20); err != nil {
		log.Fatal(err)
	}

	r, err := iouring.OpenReader(iouring.ReaderOptions{}) // one for all files and goroutines
	if err != nil {
		log.Fatal(err)
	}
	fd := int(f.Fd())
	r.ReadAhead(fd, []iouring.Range{{Off: 1 << 19, Len: 4096}}) // does not wait
	if err := r.Fetch(fd, []iouring.Range{{Off: 0, Len: 100}, {Off: 1 << 20, Len: 6}}); err != nil {
		log.Fatal(err)
	}
	got := make([]byte, 6)
	if _, err := f.ReadAt(got, 1<<20); err != nil { // from the page cache
		log.Fatal(err)
	}
	if err := r.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", got)
	// Output: record
}
