//go:build linux

package mmapread_test

import (
	"fmt"
	"log"
	"os"

	"pagecache/iouring"
	"pagecache/mmapread"
)

// A program views a record without copying it, waits for the disk without blocking a thread, and survives a file that
// is truncated under it.
func ExampleMap() {
	f, err := os.CreateTemp("", "data")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.WriteAt([]byte("record"), 1<<20); err != nil {
		log.Fatal(err)
	}

	reader, err := iouring.OpenReader(iouring.ReaderOptions{})
	if err != nil {
		log.Fatal(err)
	}
	m, err := mmapread.Open(f, reader)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := m.Warm([]mmapread.Range{{Off: 1 << 20, Len: 6}}); err != nil {
		log.Fatal(err)
	}
	view, err := m.View(1<<20, 6)
	if err != nil {
		log.Fatal(err)
	}
	err = mmapread.Guard(func() error { // a fault while reading the view is an error
		fmt.Printf("%s\n", view)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := m.Close(); err != nil { // from now on view is invalid
		log.Fatal(err)
	}
	if err := reader.Close(); err != nil {
		log.Fatal(err)
	}
	// Output: record
}
