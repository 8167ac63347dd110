//go:build linux

package ring

import "golang.org/x/sys/unix"

// Verdict says what to do about a completed request.
type Verdict int

// The verdicts on a request.
const (
	VerdictDone     Verdict = iota // all of it was transferred
	VerdictMore                    // a part was transferred; the rest must be requested again
	VerdictAgain                   // nothing was transferred, and the kernel asks to try again
	VerdictDiskFull                // disk full, or a quota or size limit; reported, and no fault of the device
	VerdictFailed                  // any other error; reported
)

// String returns the name of the verdict.
func (v Verdict) String() string {
	if v < VerdictDone || v > VerdictFailed {
		return "invalid verdict"
	}
	return [...]string{"done", "more", "again", "disk full", "failed"}[v]
}

// Judge is the decision table for completions: res is the kernel's result for a request of want bytes, want > 0.
func Judge(res int32, want int) Verdict {
	switch {
	case res > 0 && int(res) == want:
		return VerdictDone
	case res > 0 && int(res) < want:
		return VerdictMore
	case res >= 0:
		return VerdictFailed // no progress at all, or more than was requested
	}
	switch unix.Errno(-res) {
	case unix.EINTR, unix.EAGAIN, unix.ECANCELED:
		// ECANCELED: the kernel needed a worker thread for the request, and signals to the process kept it from
		// creating one.
		return VerdictAgain
	case unix.ENOSPC, unix.EFBIG, unix.EDQUOT:
		return VerdictDiskFull
	}
	return VerdictFailed
}
