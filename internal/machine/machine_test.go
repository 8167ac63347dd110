package machine

import (
	"runtime"
	"strings"
	"testing"
)

// The mount of a directory is the last one of the longest mount points above it.
func TestFindMount(t *testing.T) {
	const info = `22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /tmp rw,nosuid shared:2 - tmpfs tmpfs rw,size=4g
24 22 8:1 / /mnt/a\040disk rw,noatime - xfs /dev/sda1 rw
25 22 8:2 / /tmp rw - btrfs /dev/sda2 rw
broken line
`
	for dir, want := range map[string]string{"/": "ext4", "/tmpfile": "ext4", "/tmp": "btrfs", "/tmp/x": "btrfs",
		"/mnt/a disk/x": "xfs", "/mnt": "ext4"} {
		if m := findMount(info, dir); m == nil || m.kind != want {
			t.Errorf("%s: %+v, want %s", dir, m, want)
		}
	}
	if m := findMount(info, "/mnt/a disk"); m.device != "8:1" || m.options != "rw,noatime" || m.point != "/mnt/a disk" {
		t.Errorf("mount: %+v", m)
	}
	if m := findMount("", "/"); m != nil {
		t.Errorf("without mounts: %+v", m)
	}
}

func TestSelected(t *testing.T) {
	for text, want := range map[string]string{
		"none [mq-deadline] bfq": "mq-deadline", "[none]": "none", "none": "none",
	} {
		if got := selected(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// The description has what every Linux system says.
func TestDescribe(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has /proc")
	}
	m := Describe(t.TempDir())
	if !strings.HasPrefix(m.Kernel, "Linux ") || m.Processor == "" || m.Memory == "" || m.FileSystem == "" {
		t.Errorf("%+v", m)
	}
	if n := len(m.Pairs()); n < 5 {
		t.Errorf("%d pairs of %+v", n, m)
	}
	if free, err := Free(t.TempDir()); err != nil || free <= 0 {
		t.Errorf("%d bytes free: %v", free, err)
	}
	if _, err := Free("/does/not/exist"); err == nil {
		t.Error("the free space of a directory that does not exist")
	}
}
