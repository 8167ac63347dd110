// Package pagetest helps to test programs that embed package engine. Only tests import it.
//
//   - A [Disk] is a simulated disk for stores. It can be crashed at any operation, and it tears, loses, misdirects,
//     delays and refuses writes as a test wants. All that it does follows from its seed and the order of the calls.
//   - [Materializer] checks a Materializer against its contract.
//   - [CheckLeaks] finds goroutines, files and mappings that a test leaves behind, and [Close] finds Txs, and closes
//     and checks a store.
//
// # Time
//
// A store on a Disk has no timers but those of package time. In a bubble of testing/synctest, its time is the bubble's:
// an hour passes at once when nothing else is left to do. So a test of FlushEvery, of SlowWrite, or of a disk that
// hangs takes no time, and goes the same way each time. The store is opened and closed in the bubble.
//
// docs/TESTING-YOUR-DATABASE.md has a complete example.
package pagetest
