// Package seam gives the tests of this module, and the engine's own Check and Salvage, options that embedders do not
// have.
package seam

import "pagecache/internal/vfs"

// Options are the extra options of a store. The zero value changes nothing.
type Options struct {
	FS         vfs.FS // a simulated disk; nil: the operating system's
	FirstStep  int    // bytes of the first segment that get disk space; 0: the default
	Foreground bool   // work on the disk only in calls that wait for it, and in the flusher; implied by FS
	Impatient  bool   // close without waiting for batches; implied by Foreground
	Eager      bool   // clean every segment that can be cleaned
	LogAlone   bool   // open without a snapshot
	Unchecked  bool   // verify no snapshot as a whole
	Verbatim   bool   // never merge fragments
	Slabs      bool   // keep values in slabs, however small the cache is
}

// Set sets the extra options of an *engine.Options. Package engine defines it.
var Set func(options any, s Options)
