package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Requests of ioctl that make a file system hang, and go on: linux/fs.h.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// frozen is a file system of its own that can be made to hang.
type frozen struct {
	t   testing.TB
	dir string
}

// mount makes a file system at dir. It skips the test where that is not possible.
func mount(t testing.TB, dir string) frozen {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs.ext4")
	if os.Geteuid() != 0 || err != nil {
		t.Skip("needs root and mkfs.ext4")
	}
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 256<<20))
	must(t, os.MkdirAll(dir, 0o700))
	if out, err := exec.Command(mkfs, "-q", "-F", image).CombinedOutput(); err != nil {
		t.Skipf("mkfs.ext4: %v: %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s", err, out)
	}
	f := frozen{t, dir}
	t.Cleanup(func() {
		f.thaw()
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil { // a killed process may end late
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return f
}

// ioctl asks the file system for something.
func (f frozen) ioctl(request uintptr) error {
	d, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, d.Fd(), request, 0); e != 0 {
		return e
	}
	return nil
}

// freeze makes all writes and syncs hang until thaw.
func (f frozen) freeze() {
	f.t.Helper()
	must(f.t, f.ioctl(fiFreeze))
}

// thaw ends freeze.
func (f frozen) thaw() { _ = f.ioctl(fiThaw) } // which fails if it does not hang

// A leader whose disk hangs is replaced, says that it is not ready, and takes part again once the disk answers. Then
// nodes have equal pages, with all that was acknowledged.
func TestHangingDisk(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, "-timeout=3s")
	old := c.nodes[0]
	disk := mount(t, old.dir)
	t.Cleanup(func() { // before the file system is unmounted
		disk.thaw()
		c.close()
	})
	c.begin()
	if l := c.leader(); l != old {
		succeed(t, "client", "-to", c.addrs(), "-tls", c.certs("client"), "transfer", old.id)
		eventually(t, "the leadership was handed on", func() error {
			if l := c.leader(); l != old {
				return fmt.Errorf("%s leads", l.id)
			}
			return nil
		})
	}
	c.change(opPut, "key", "old")
	disk.freeze()
	began := time.Now()
	others := c.followers()
	_, _ = c.client(old).change(within(t, time.Second), command{opPut, "hangs", []byte("x")}) // of unknown outcome
	eventually(t, "another node leads", func() error {
		s, err := c.client(others...).status(within(t, limit), false)
		if err == nil && (s.Leader.ID == "" || s.Leader.ID == old.id) {
			err = fmt.Errorf("%q leads", s.Leader.ID)
		}
		return err
	})
	t.Logf("another node took over after %v", time.Since(began))
	if code, text := old.get("/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("the node whose disk hangs says %d %s", code, text)
	}
	for i := range 10 {
		_, err := c.client(others...).change(within(t, limit), command{opPut, "key", fmt.Append(nil, i)})
		must(t, err)
	}
	disk.thaw()
	c.settled(3)
	c.expect("key", "9")
	c.equal()
	for _, p := range c.nodes {
		p.stop()
	}
}
