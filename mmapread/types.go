package mmapread

// Range is bytes [Off, Off+Len) of a file. It is an alias of an unnamed type, so that a Fetcher need not import this
// package.
type Range = struct {
	Off int64
	Len int
}

// Fetcher reads ranges of files into the page cache other than by touching a map: it parks the caller and blocks
// neither a thread nor a P. Safe for concurrent use.
type Fetcher interface {
	// Fetch returns once every block of the ranges has been in the page cache. Its error says that some block was not
	// read, or may not have been; touching the map shows the cause.
	Fetch(fd int, ranges []Range) error
	// ReadAhead starts to read ranges and does not wait. It returns the number of ranges that it took. fd may be closed
	// afterwards.
	ReadAhead(fd int, ranges []Range) int
}

// Counts is what a Map has done about cold blocks. Ranges that were known to be warm are not counted. It is an alias
// like Range.
type Counts = struct {
	Warm     int64 // ranges that were found in the page cache by asking the kernel
	Cold     int64 // ranges of which at least one block was fetched, or assumed to be missing
	Fetched  int64 // bytes of the blocks fetched
	Ahead    int64 // ranges whose read ahead was started
	Mincores int64 // questions to the kernel
	Doubts   int64 // times that blocks known to be warm were found evicted
}
