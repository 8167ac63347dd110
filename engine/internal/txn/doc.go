// Package txn decides transactions: changes of several pages that take effect in one step. It knows versions of pages,
// and neither their values nor the log.
//
// Guarantees:
//
//	Q1  A transaction takes effect on all its pages at one moment, within its Decide, or on none. Before that moment
//	    every reader finds the old versions, from it on the new ones. Changes of single pages are transactions too: a
//	    compare-and-swap of the slot is their moment.
//	Q2  At that moment every page that the transaction has read still has the version that it read.
//	Q3  All versions that one Reads has returned were current at one moment, at every time (opacity). So a transaction
//	    that only reads needs no Decide.
//	Q4  Nobody waits for the goroutine of another transaction, wherever it stops, except by Q7. Readers pass a
//	    transaction that prepares, and decide one that is checking. Writers abort the former, and decide the latter.
//	Q5  Of two transactions that check each other's pages, the older one is never aborted by the younger one. The
//	    oldest of all is aborted only if a page that it has read was changed, or if its goroutine was stopped while it
//	    prepared.
//	Q6  A page's versions have rising LSNs: an owner reserves its places in the log after its last Install and before
//	    Decide, and writers of a single page reserve theirs after they have loaded the head. A transaction that has
//	    read a version has higher LSNs than the version: a version is found only after all LSNs of its transaction
//	    were reserved. So each part of the log from its beginning on contains, with a transaction, all those that it
//	    has read from or whose versions it replaced.
//	Q7  A transaction that has lost eight times takes the token of the Fallback. While it holds it, each other
//	    goroutine changes a page that it has read at most once more, and then waits, for TokenTime at most. So it wins
//	    if it is no slower than that. Readers do not wait.
//	Q8  A View sees every page as it was at one moment, its cut, which lies within BeginView. All transactions and
//	    reads that were over when it began come before that moment. It has no conflicts.
//	Q9  For each open View at most one entry of a page is kept that is not its head, and none that no open View needs.
//
// The protocol is that of multi-word compare-and-swap with a phase in which reads are checked (Harris, Fraser, Pratt,
// DISC 2002; Fraser, Practical Lock-Freedom, 2004). For each page that it changes, a transaction puts an intent into
// the page's slot, in place of the head. An intent refers to the entry below, to the new entry, and to the record of
// the transaction, whose one word says which of them is the page's head:
//
//	             Check                 decide: no read page has changed
//	preparing ───────────▶ checking ───────────────────────────────────▶ committed
//	    │                     │  decide: one has changed
//	    │ Abort, Claim        ├────────────────────────────────────────▶ aborted
//	    └─────────────────────┴── an older transaction checks the page ──▶
//
// The moment of a transaction that commits is its Check. The owner alone calls Check, after which the record does not
// change any more, except for its word and its stamp; every goroutine that finds the record then can decide it.
//
// The comment of the type Views says how Views see pages as of one moment.
//
// To validate all that it has read at each read would cost a transaction the square of its reads. A Clock shows that
// most pages have not changed lately. (Transactional Locking II: Dice, Shalev, Shavit, DISC 2006. Readers move the
// clock, and writers do not, as in Wei et al., PPoPP 2021.)
package txn
