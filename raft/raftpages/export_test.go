package raftpages

import (
	"time"

	"pagecache/internal/vfs"
)

// OnFS makes an FSM use a file system.
func OnFS(o *Options, fs vfs.FS) { o.fs = fs }

// WaitForRoom changes how much time a full disk has to have room again.
func WaitForRoom(o *Options, most time.Duration) { o.room = most }

// Split is split.
var Split = split

// DescribeAbove takes a checkpoint, and describes it as a snapshot that must have the entries up to least.
func DescribeAbove[P any](f *FSM[P], least uint64) error {
	h, done, err := f.use()
	if err != nil {
		return err
	}
	defer done()
	c, err := h.pc.Checkpoint(h.ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = f.describe(c, least)
	return err
}
