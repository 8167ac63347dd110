// Package values writes and reads the encoded values of a store: as messages of the log, compressed or not, and in
// blobs. It knows no types of values.
package values

import (
	"sync/atomic"

	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/compress"
	"pagecache/engine/internal/idgen"
	"pagecache/engine/internal/logstore"
)

// IO writes and reads the encoded values of a store.
type IO struct {
	Store  *logstore.Store
	Blobs  *blob.Store
	IDs    *idgen.Generator     // numbers the blobs
	Zip    *compress.Compressor // nil: values are not compressed
	Unzip  *compress.Unpacker
	Inline int           // the longest encoded value, in bytes, that goes into the log and not into a blob
	Cold   *atomic.Int64 // counts the values that were read from disk
}
