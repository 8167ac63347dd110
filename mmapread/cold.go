package mmapread

// Range is bytes [Off, Off+Len) of a file. It is an alias so that a Fetcher need not know this package.
type Range = struct {
	Off int64
	Len int
}

// Fetcher brings ranges of files into the page cache, by other means than touching a map: the caller is parked meanwhile, and
// holds up neither a thread nor a P. Safe for concurrent use.
type Fetcher interface {
	// Fetch returns once every block of the ranges has been in the page cache. Its error says that this is not so, or not sure; why
	// is found out by whoever touches the map.
	Fetch(fd int, ranges []Range) error
	// ReadAhead begins to bring in ranges and does not wait. It returns how many of them it took. fd may be closed afterwards.
	ReadAhead(fd int, ranges []Range) int
}

// Counts is what a Map has done about cold blocks. Ranges that were known to be warm are not counted.
type Counts = struct {
	Warm     int64 // ranges that were found in the page cache by asking the kernel
	Cold     int64 // ranges of which something had to be fetched, or was taken to, as of those before
	Fetched  int64 // bytes of the blocks fetched
	Ahead    int64 // ranges whose fetching was begun without waiting
	Mincores int64 // questions to the kernel
	Doubts   int64 // times that blocks were found gone that had been warm
}
