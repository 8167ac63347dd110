package vfs

import "syscall"

// mediaErrors are the errors by which the kernel reports that a device did not return the bytes. File systems turn most
// of them into EIO, except for direct I/O. EBADMSG and EUCLEAN report checksums of the file system itself.
var mediaErrors = []syscall.Errno{syscall.EIO, syscall.ENODATA, syscall.EILSEQ, syscall.EREMOTEIO, syscall.EBADMSG,
	syscall.EUCLEAN, syscall.ETIMEDOUT, syscall.ENOLINK}
