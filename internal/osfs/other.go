//go:build !linux

package osfs

import (
	"time"

	"pagecache/internal/vfs"
)

// OS is the file system of the operating system. This system is not Linux, so every call fails with
// vfs.ErrUnsupported.
var OS vfs.FS = noFS{}

// MemoryLimit returns the number of bytes of memory that this process may use; 0: it is not known.
func MemoryLimit() int64 { return 0 }

type noFS struct{}

func (noFS) Abs(name string) (string, error) { return name, nil }
func (noFS) MkdirAll(string) error           { return vfs.ErrUnsupported }
func (noFS) OpenDir(string) (vfs.Dir, error) { return nil, vfs.ErrUnsupported }

func (noFS) OpenReader(vfs.Mode) vfs.Reader { return noReader{} }

type noReader struct{}

func (noReader) Report() (r vfs.ReaderReport, c vfs.ReaderCounts) { return }
func (noReader) Settle(time.Duration) error                       { return nil }

func (noReader) Close() error { return nil }
