package engine_test

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"pagecache/engine"
)

// load makes a store in dir with one page for each value. The first page is page 2.
func load(dir string, values ...string) {
	pc, err := engine.Open(dir, engine.Bytes{}, nil)
	if err != nil {
		log.Fatal(err)
	}
	tx, err := pc.Begin()
	if err != nil {
		log.Fatal(err)
	}
	for _, v := range values {
		if _, _, err := pc.Allocate(tx, []byte(v)); err != nil {
			log.Fatal(err)
		}
	}
	tx.End()
	if err := pc.Close(); err != nil {
		log.Fatal(err)
	}
}

// Check verifies a store that is not open for writing, and changes nothing. It reports each problem with its place.
func ExampleCheck() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	load(dir, "one", "two", "three")

	report, err := engine.Check(dir, nil, func(problem error) { fmt.Println(problem) })
	if err != nil { // the check could not be done
		log.Fatal(err)
	}
	fmt.Println(report.Pages, "pages,", report.Problems, "problems")
	// Output: 3 pages, 0 problems
}

// Salvage copies the readable pages of a corrupt store to a new store, under the same ids, and reports every loss.
func ExampleSalvage() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	corrupt, saved := filepath.Join(dir, "corrupt"), filepath.Join(dir, "saved")
	load(corrupt, "one", "two", "three")
	name := filepath.Join(corrupt, "log")
	b, err := os.ReadFile(name)
	if err != nil {
		log.Fatal(err)
	}
	b[bytes.Index(b, []byte("two"))] ^= 1 // a bit flips on the disk
	if err := os.WriteFile(name, b, 0o600); err != nil {
		log.Fatal(err)
	}

	losses := 0
	report, err := engine.Salvage(corrupt, saved, nil, func(what string) { losses++ }) // what is a line of text
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Pages, "pages saved, losses reported:", losses > 0)
	pc, err := engine.Open(saved, engine.Bytes{}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer pc.Close()
	tx, err := pc.Begin()
	if err != nil {
		log.Fatal(err)
	}
	defer tx.End()
	page, err := pc.Get(tx, 4)
	fmt.Printf("page 4: %s %v\n", page.Value, err)
	// Output:
	// 2 pages saved, losses reported: true
	// page 4: three <nil>
}

// A store writes snapshots in the background. A call of Snapshot, after a bulk load for example, makes sure that the
// next Open is fast even after a crash: it reads the snapshot and only the log after it.
func ExamplePageCache_Snapshot() {
	pc, err := engine.Open("", engine.Bytes{}, &engine.Options{Temporary: true})
	if err != nil {
		log.Fatal(err)
	}
	defer pc.Close()
	tx, err := pc.Begin()
	if err != nil {
		log.Fatal(err)
	}
	for i := range 1000 {
		if _, _, err := pc.Allocate(tx, fmt.Append(nil, "value ", i)); err != nil {
			log.Fatal(err)
		}
	}
	tx.End()
	if err := pc.Snapshot(); err != nil { // fails while a batch stays open
		log.Fatal(err)
	}
	fmt.Println(pc.Stats().Snapshots, "snapshot")
	// Output: 1 snapshot
}
