package recovery

// LossKind is a kind of loss.
type LossKind int

// The kinds of loss.
const (
	// LossFile is a superblock, a snapshot, or the header or index of a segment, that is corrupt or cannot be read. By
	// itself it costs no page and no record.
	LossFile LossKind = iota + 1
	// LossRange is a part of the log that is corrupt, missing or cannot be read. The records that were written there
	// are lost. Pages and roots that were changed there are as they were before, or are lost; those of which that is
	// certain are also reported one by one.
	LossRange
	// LossPage is a page that is lost, or was saved as it was before its newest changes.
	LossPage
	// LossBatch is a batch of which a part may be missing.
	LossBatch
	// LossRoot is a root that names a page without a value, or roots that were saved as they were before.
	LossRoot
	// LossIDs is an id counter that cannot be continued.
	LossIDs
)

// String returns the name of the kind.
func (k LossKind) String() string {
	if k < LossFile {
		return nameOf(0, "none")
	}
	return nameOf(uint8(k), "none", "file", "range", "page", "batch", "root", "ids")
}

// A Loss is something that Salvage could not copy.
type Loss struct {
	Kind  LossKind
	Place Place // of a page, its id; else the position of the first byte that is lost, as far as it is known
	// Bytes is the length of a LossRange. 0 if the length is not known.
	Bytes int64
	Text  string // a line that says what is lost and why, with the place
	Err   error  // the error that showed it; may be nil. It wraps syscall.EIO if the disk did not return the bytes
}

// String returns Text.
func (l Loss) String() string { return l.Text }
