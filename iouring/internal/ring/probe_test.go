//go:build linux

package ring

import (
	"errors"
	"math"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Judge follows every row of its decision table.
func TestJudgeCompletions(t *testing.T) {
	want := func(v Verdict, results ...int32) {
		for _, res := range results {
			if got := Judge(res, 8192); got != v {
				t.Errorf("result %d: %v, want %v", res, got, v)
			}
		}
	}
	want(VerdictDone, 8192)
	want(VerdictMore, 1, 512, 4096, 8191)
	want(VerdictAgain, -int32(unix.EINTR), -int32(unix.EAGAIN), -int32(unix.ECANCELED))
	want(VerdictDiskFull, -int32(unix.ENOSPC), -int32(unix.EFBIG), -int32(unix.EDQUOT))
	want(VerdictFailed, 0, 8193, math.MaxInt32, math.MinInt32)
	for e := unix.Errno(1); e < 134; e++ {
		switch e {
		case unix.EINTR, unix.EAGAIN, unix.ECANCELED, unix.ENOSPC, unix.EFBIG, unix.EDQUOT:
		default:
			want(VerdictFailed, -int32(e))
		}
	}
}

// Every verdict has a name, and an unknown one does not panic.
func TestVerdictString(t *testing.T) {
	seen := map[string]bool{}
	for v := VerdictDone - 1; v <= VerdictFailed+1; v++ {
		seen[v.String()] = true
	}
	if len(seen) != 6 {
		t.Errorf("%v", seen)
	}
}

// The errors of the setup name the usual cause.
func TestExplain(t *testing.T) {
	for e, word := range map[unix.Errno]string{unix.ENOSYS: "seccomp", unix.EPERM: "io_uring_disabled",
		unix.EACCES: "sysctl", unix.ENOMEM: "MEMLOCK", unix.EMFILE: "descriptors", unix.ENFILE: "descriptors"} {
		if err := explain(e); !errors.Is(err, e) || !strings.Contains(err.Error(), word) {
			t.Errorf("%v: %v", e, err)
		}
	}
}

// Proves trap 20: a ring that takes the probe and gives no answer, or a wrong one, fails the probe in bounded time.
func TestProbeWrongAnswer(t *testing.T) {
	for name, enter := range map[string]func(r *Ring) unix.Errno{
		"silence": func(r *Ring) unix.Errno { r.sqHead.Store(r.sqTail.Load()); return 0 },
		"error":   func(r *Ring) unix.Errno { return fakeAnswer(r, ProbeID, -int32(unix.EIO)) },
		"short":   func(r *Ring) unix.Errno { return fakeAnswer(r, ProbeID, 512) },
		"other":   func(r *Ring) unix.Errno { return fakeAnswer(r, 1, 4096) },
	} {
		var r *Ring
		k := Linux
		k.Enter = func(int, uint32, uint32, uint32) unix.Errno { return enter(r) }
		r = testRing(t, k, -1, 4)
		r.nop(ProbeID)
		start := time.Now()
		if name == "silence" {
			if err := r.Enter(0); err != nil {
				t.Error(err)
			}
			if err := r.Await(30 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("silence: %v", err)
			}
		} else if err := r.answer(4096); err == nil {
			t.Errorf("%s: accepted as a good answer", name)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("%s: took %v", name, d)
		}
		r.Close()
	}
	if err := ProbeResult(-int32(unix.ENOSPC), 4096); err != nil {
		t.Errorf("a full disk counts as a broken ring: %v", err)
	}
}

// fakeAnswer takes all entries and puts one completion into the queue, as the kernel would.
func fakeAnswer(r *Ring, id uint64, res int32) unix.Errno {
	r.sqHead.Store(r.sqTail.Load())
	tail := r.cqTail.Load()
	e := (*struct {
		id         uint64
		res, flags int32
	})(unsafe.Pointer(&r.cqes[tail&r.cqMask]))
	e.id, e.res = id, res
	r.cqTail.Store(tail + 1)
	return 0
}
