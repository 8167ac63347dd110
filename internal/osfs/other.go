//go:build !linux

package osfs

import (
	"time"

	"pagecache/internal/vfs"
)

// OS is the file system of the operating system. This system is not Linux, so every call fails with
// vfs.ErrUnsupported.
var OS vfs.FS = noFS{}

type noFS struct{}

func (noFS) Abs(name string) (string, error)         { return name, nil }
func (noFS) MkdirAll(string) error                   { return vfs.ErrUnsupported }
func (noFS) Open(string, vfs.Flag) (vfs.File, error) { return nil, vfs.ErrUnsupported }
func (noFS) Rename(string, string) error             { return vfs.ErrUnsupported }
func (noFS) Remove(string) error                     { return vfs.ErrUnsupported }
func (noFS) ReadDir(string) ([]string, error)        { return nil, vfs.ErrUnsupported }
func (noFS) SyncDir(string) error                    { return vfs.ErrUnsupported }

func (noFS) OpenReader(vfs.Mode) vfs.Reader { return noReader{} }

type noReader struct{}

func (noReader) Report() (r vfs.ReaderReport, c vfs.ReaderCounts) { return }
func (noReader) Settle(time.Duration) error                       { return nil }

func (noReader) Close() error { return nil }
