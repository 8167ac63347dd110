//go:build linux

package ring

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// ProbeID is the id of a probe. No other request has it.
	ProbeID = ^uint64(0)
	// ProbeTries is the limit on the tries of one probe whose answers are transient errors.
	ProbeTries = 10_000
	// probePatience is the limit on each step of a probe.
	probePatience = 5 * time.Second
)

// ErrNoAnswer reports that a probe was not answered.
var ErrNoAnswer = errors.New("probe: no answer")

// ProbeWrite tries the ring by a durable write of buf to the start of file fd. The ring's own file must not be
// registered yet.
func (r *Ring) ProbeWrite(fd int, buf []byte) error {
	old := r.target
	defer func() { r.target = old }()
	r.target = fd
	for range ProbeTries {
		r.Push(ProbeID, 0, buf)
		if err := r.answer(len(buf)); !Transient(err) {
			return err
		}
	}
	return ErrNoAnswer
}

// ProbeNop tries the ring by an operation that does nothing.
func (r *Ring) ProbeNop() error {
	r.nop(ProbeID)
	return r.answer(0)
}

// answer waits for the answer to a probe. It does not wait in io_uring_enter, which has no time limit of its own.
func (r *Ring) answer(want int) error {
	old := r.patience
	r.patience = probePatience
	defer func() { r.patience = old }()
	if err := r.Enter(0); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if err := r.Await(probePatience); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	id, res, ok := r.Pop()
	if !ok || id != ProbeID {
		return ErrNoAnswer
	}
	return ProbeResult(res, want)
}

// ProbeResult returns nil if the result of a probe of want bytes shows that this way of writing works. A full disk is
// no fault of the way.
func ProbeResult(res int32, want int) error {
	switch {
	case res == int32(want):
		return nil
	case res >= 0:
		return fmt.Errorf("probe: wrote %d bytes of %d", res, want)
	case Judge(res, max(want, 1)) == VerdictDiskFull:
		return nil
	}
	return fmt.Errorf("probe: %w", unix.Errno(-res))
}

// Transient reports whether another try of a probe may end differently.
func Transient(err error) bool {
	var errno unix.Errno
	return errors.As(err, &errno) && Judge(-int32(errno), 1) == VerdictAgain
}

// explain adds the usual cause to an error of the setup.
func explain(err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.ENOSYS):
		hint = "the kernel has no io_uring, or a seccomp filter hides it"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		hint = "forbidden by a seccomp filter or by sysctl kernel.io_uring_disabled"
		if b, rerr := os.ReadFile("/proc/sys/kernel/io_uring_disabled"); rerr == nil {
			hint += " (which is " + strings.TrimSpace(string(b)) + ")"
		}
	case errors.Is(err, unix.ENOMEM):
		hint = "RLIMIT_MEMLOCK is too low, or memory is short"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		hint = "no descriptors are left"
	default:
		return err
	}
	return fmt.Errorf("%w: %s", err, hint)
}
