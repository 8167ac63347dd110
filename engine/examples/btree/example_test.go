package btree_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"pagecache/engine"
	"pagecache/engine/examples/btree"
)

// This is the second example of README.md.
func Example() {
	ctx := context.Background()
	store, err := engine.Open("", btree.Pages{}, &engine.Options{Temporary: true})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	towns, err := btree.Open(ctx, store, "towns")
	if err != nil {
		log.Fatal(err)
	}
	lsn, err := store.Update(ctx, func(tx *btree.Tx) error { // again after a conflict
		return errors.Join(
			towns.Put(tx, []byte("Ulm"), []byte("129 942")),
			towns.Put(tx, []byte("Bonn"), []byte("335 789")),
			towns.Delete(tx, []byte("Bern")))
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := store.MakeStable(lsn); err != nil { // a crash before this loses all three changes
		log.Fatal(err)
	}
	err = store.View(ctx, func(tx *btree.Tx) error { // the state of one moment
		for town, err := range towns.Ascend(tx, []byte("A"), nil) {
			if err != nil {
				return err
			}
			fmt.Printf("%s has %s inhabitants\n", town.Key, town.Value)
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// Bonn has 335 789 inhabitants
	// Ulm has 129 942 inhabitants
}
