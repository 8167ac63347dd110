// Package osfs implements internal/vfs, the seam below the store, on the operating system: files and directories by
// system calls, the device and the reader by iouring, maps by mmapread. It works on Linux only; on other platforms
// every call fails.
package osfs
