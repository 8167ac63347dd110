//go:build !linux

package osfs

import (
	"time"

	"pagecache/internal/vfs"
	"pagecache/iouring"
)

// OS fails at everything: this system is not Linux.
var OS vfs.FS = noFS{}

type noFS struct{}

func (noFS) MkdirAll(string) error                   { return iouring.ErrLinuxOnly }
func (noFS) Open(string, vfs.Flag) (vfs.File, error) { return nil, iouring.ErrLinuxOnly }
func (noFS) Rename(string, string) error             { return iouring.ErrLinuxOnly }
func (noFS) Remove(string) error                     { return iouring.ErrLinuxOnly }
func (noFS) ReadDir(string) ([]string, error)        { return nil, iouring.ErrLinuxOnly }
func (noFS) SyncDir(string) error                    { return iouring.ErrLinuxOnly }

func (noFS) OpenReader(vfs.Mode) vfs.Reader { return noReader{} }

type noReader struct{}

func (noReader) Report() (r vfs.ReaderReport, c vfs.ReaderCounts) { return }
func (noReader) Settle(time.Duration) error                       { return nil }

func (noReader) Close() error { return nil }
