package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"time"
)

// pair is the outcome of one round of one comparison: a figure of each version. A file of pairs holds one JSON object
// a line.
type pair struct {
	Name      string    `json:"name"`
	Unit      string    `json:"unit"`
	Higher    bool      `json:"higher"` // a higher figure is better
	Round     int       `json:"round"`
	Old       float64   `json:"old"`
	New       float64   `json:"new"`
	Seconds   float64   `json:"seconds"` // of each timed measurement
	OldBinary string    `json:"old_binary"`
	NewBinary string    `json:"new_binary"`
	OldCommit string    `json:"old_commit"`
	NewCommit string    `json:"new_commit"`
	Time      time.Time `json:"time"`
}

// floors are figures below which a difference has no meaning, by unit: smaller figures count as the floor. Fewer
// allocations than one in a thousand operations belong to the runtime.
var floors = map[string]float64{"1/op": 0.001}

// ratio returns how fast the new version is, as a multiple of the old: above 1 the new version is better, whatever
// the unit.
func (p pair) ratio() float64 {
	floor := max(floors[p.Unit], math.SmallestNonzeroFloat64)
	before, after := max(p.Old, floor), max(p.New, floor)
	if p.Higher {
		return after / before
	}
	return before / after
}

// pairFile is the pairs measured so far, and the file that they are appended to.
type pairFile struct {
	all  []pair
	file *os.File // nil: the pairs are kept in memory only
}

// open reads the pairs of a file, which need not exist, and opens it for appending. Without a name nothing is kept on
// disk.
func open(name string) (*pairFile, error) {
	p := &pairFile{}
	if name == "" {
		return p, nil
	}
	var err error
	if p.all, err = read(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	p.file, err = os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	return p, err
}

// read returns the pairs of a file.
func read(name string) ([]pair, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	all, err := decodeLines[pair](text)
	if err != nil {
		return nil, fmt.Errorf("%s, after %d pairs: %w", name, len(all), err)
	}
	return all, nil
}

// check returns an error if a pair was measured with other binaries or for another time than want.
func (p *pairFile) check(want pair) error {
	for _, q := range p.all {
		if q.OldBinary != want.OldBinary || q.NewBinary != want.NewBinary || q.Seconds != want.Seconds {
			return fmt.Errorf("--out: %s holds rounds of %g s with binaries %s and %s, want %g s with %s and %s; "+
				"use another file", p.file.Name(), q.Seconds, q.OldBinary, q.NewBinary,
				want.Seconds, want.OldBinary, want.NewBinary)
		}
	}
	return nil
}

// rounds returns the number of rounds that were measured of a comparison.
func (p *pairFile) rounds(name string) (n int) {
	for _, q := range p.all {
		if q.Name == name {
			n++
		}
	}
	return n
}

// add appends a pair, also to the file.
func (p *pairFile) add(q pair) error {
	p.all = append(p.all, q)
	if p.file == nil {
		return nil
	}
	text, err := json.Marshal(q)
	if err != nil {
		return err
	}
	_, err = p.file.Write(append(text, '\n'))
	return err
}

func (p *pairFile) close() error {
	if p.file == nil {
		return nil
	}
	return p.file.Close()
}
