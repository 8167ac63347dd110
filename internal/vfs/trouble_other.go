//go:build !linux

package vfs

import "syscall"

var mediaErrors = []syscall.Errno{syscall.EIO}
