package logstore

import "syscall"

// room returns the number of bytes that are free in the file system of a directory; 0 if that is not known, or it is
// read only.
func room(dir string) int64 {
	const readOnly = 1 // ST_RDONLY
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil || st.Flags&readOnly != 0 {
		return 0
	}
	return int64(st.Bavail) * int64(st.Bsize)
}
