// Package btree is an ordered index on package engine, written to be read and copied: a B+tree whose nodes are pages of
// a store. Keys and values are byte strings. One store holds any number of trees, each under the name of a root.
//
//	store, err := engine.Open(dir, btree.Pages{}, nil)
//	towns, err := btree.Open(ctx, store, "towns")
//	lsn, err := store.Update(ctx, func(tx *btree.Tx) error { // all of it, or nothing
//		return errors.Join(towns.Put(tx, ulm, people), towns.Delete(tx, bonn))
//	})
//	_, err = store.MakeStable(lsn)                           // a crash cannot take it back any more
//
// # Reading the code
//
// Each file has one concept:
//
//	node.go     the bytes of a node, and the search in it
//	build.go    laying out a node; merging and splitting nodes
//	pages.go    Pages: how the store merges, encodes and decodes nodes
//	tree.go     Open, Get, and the way from the root to a leaf
//	write.go    Put, and the split of nodes that become too large
//	delete.go   Delete, and the removal of nodes that become empty
//	scan.go     Ascend and Descend
//	check.go    Check, which verifies a tree
//
// # A node is a page, a change is a delta
//
// Put and Delete Link a delta to one leaf: a node of a single item. So a change of 50 bytes costs 96 bytes of log, not
// the 4 KiB of its leaf. The store merges the deltas when the leaf is read, keeps the result in memory, and from time
// to time writes it as one message (Options.ConsolidateAfter). Nodes are replaced as a whole only when they are split.
//
// A node's memory is its encoding. Decoding copies nothing, the garbage collector finds one pointer in a node, and
// merging copies runs of items.
//
// # A split is one transaction
//
// A tree that writes its pages one by one must take care of the states in between: a crash, or a reader, after the
// right half was made and before the parent has it. B-link trees have links to right neighbours for this. Here the two
// halves and the parent's new item take effect in one step, for readers and on disk. So there is no state in between
// and nothing to repair, nodes have neither links nor bounds of their own, and Put and Delete are short. The same holds
// for the removal of empty nodes, and for all that a function given to Update changes, in several trees too.
//
// # Conflicts
//
// A transaction depends on the pages that it has read: those from the root to the leaf. If another transaction has
// changed one of them before it commits, Update calls its function again. Puts of different leaves conflict only if a
// node above both was changed, and that happens only at splits and removals. Puts in the same leaf do conflict,
// whatever their keys: one of them is done again, at once. The function must have no other effects than those on its
// Tx, and must return the errors that it gets.
//
// # Reading
//
// All that a function given to View reads was current at one moment, so a scan sees either the state before a split or
// the state after it, and the same holds for two trees that are always changed together. A View never conflicts, and
// its function is called once, however long it takes. But a long View keeps old versions of pages, and segments. So a
// long scan that needs no single moment should be cut: each View reads some hundred items, and the next one begins
// after the last key.
//
// Keys and values that the tree returns lie in the memory of the store. They do not change, and are valid until the Tx
// ends: copy those that are to outlive the function. The tree copies what it is given.
//
// # Durability
//
// When Update has returned, all other goroutines see the change, and a crash may lose it. After MakeStable of the LSN
// that Update returned it survives any crash, together with all that was committed before it. Waiting goroutines share
// the writes to the disk. A crash always leaves the state after some commit, so a program that can afford to lose the
// last half second (Options.FlushEvery) need not call MakeStable at all. An Update that has changed nothing, such as a
// Delete of a key that is not there, returns 0, and MakeStable then waits for nothing, not even for what was read.
//
// # Limits
//
// A key has at most MaxKey bytes, a value MaxValue. The changes of one transaction must fit in memory, in which a split
// counts with its whole nodes; a large load is better cut into transactions. Nodes are removed once they are empty, and
// not merged before: a tree whose keys are deleted here and there keeps its number of pages.
package btree
