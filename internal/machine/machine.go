// Package machine describes the machine that a measurement ran on: processors, memory, kernel, disk and file system. It
// reads what Linux says below /proc and /sys, and leaves out what it does not say.
package machine

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
)

// Machine is a description of the machine, its kernel, and the disk below a directory. Unknown fields are empty.
type Machine struct {
	Processor  string `json:"processor"` // model and number
	Memory     string `json:"memory"`
	Kernel     string `json:"kernel"`
	Disk       string `json:"disk"`        // name, model, size, scheduler
	FileSystem string `json:"file_system"` // type, mount point, options
	Go         string `json:"go"`
}

// Describe describes this machine and the disk below dir.
func Describe(dir string) Machine {
	m := Machine{Processor: processor(), Memory: memory(), Kernel: kernel(), Go: runtime.Version()}
	if mount := mountOf(dir); mount != nil {
		m.FileSystem = fmt.Sprintf("%s on %s, %s", mount.kind, mount.point, mount.options)
		m.Disk = disk(mount.device)
	}
	return m
}

// Pairs returns the name and the value of each field that is known, in order.
func (m Machine) Pairs() (pairs [][2]string) {
	for _, p := range [][2]string{{"processors", m.Processor}, {"memory", m.Memory}, {"kernel", m.Kernel},
		{"disk", m.Disk}, {"file system", m.FileSystem}, {"Go", m.Go}} {
		if p[1] != "" {
			pairs = append(pairs, p)
		}
	}
	return pairs
}

// field returns the value of the first line "name: value" of a file, or "".
func field(file, name string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// word returns the contents of a small file without the spaces around it, or "".
func word(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// processor returns the model and the number of the processors that this process may use.
func processor() string {
	text := fmt.Sprintf("%d", runtime.NumCPU())
	if model := field("/proc/cpuinfo", "model name"); model != "" {
		text += " × " + model
	}
	return text
}

// memory returns the size of the memory.
func memory() string {
	var kib float64
	if _, err := fmt.Sscanf(field("/proc/meminfo", "MemTotal"), "%f kB", &kib); err != nil {
		return ""
	}
	return size(kib * 1024)
}

// size formats a number of bytes.
func size(bytes float64) string {
	const gib = 1 << 30
	return fmt.Sprintf("%.1f GiB", bytes/gib)
}

// kernel returns the kernel's name and release.
func kernel() string {
	name, release := word("/proc/sys/kernel/ostype"), word("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(name + " " + release)
}

// mount is a line of /proc/self/mountinfo.
type mount struct{ device, point, kind, options string }

// mountOf returns the mount that a directory lies in, or nil.
func mountOf(dir string) *mount {
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return nil
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	return findMount(string(b), dir)
}

// findMount returns the last of the longest mount points that contain dir. The fields of a line are described in
// proc_pid_mountinfo(5).
func findMount(info, dir string) (best *mount) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(info) {
		left, right, ok := strings.Cut(line, " - ")
		before, after := strings.Fields(left), strings.Fields(right)
		if !ok || len(before) < 6 || len(after) < 1 {
			continue
		}
		m := &mount{device: before[2], point: unescape.Replace(before[4]), kind: after[0], options: before[5]}
		inside := m.point == "/" || dir == m.point || strings.HasPrefix(dir, m.point+"/")
		if inside && (best == nil || len(m.point) >= len(best.point)) {
			best = m
		}
	}
	return best
}

// disk describes the block device with the number major:minor. It returns "" if there is none, as for a tmpfs.
func disk(device string) string {
	dir, err := filepath.EvalSymlinks("/sys/dev/block/" + device)
	if err != nil {
		return ""
	}
	parts := []string{filepath.Base(dir)}
	if word(filepath.Join(dir, "partition")) != "" {
		dir = filepath.Dir(dir)
	}
	if model := word(filepath.Join(dir, "device", "model")); model != "" {
		parts = append(parts, model)
	}
	var sectors float64
	if _, err := fmt.Sscan(word(filepath.Join(dir, "size")), &sectors); err == nil {
		parts = append(parts, size(sectors*512))
	}
	switch word(filepath.Join(dir, "queue", "rotational")) {
	case "0":
		parts = append(parts, "not rotational")
	case "1":
		parts = append(parts, "rotational")
	}
	if s := word(filepath.Join(dir, "queue", "scheduler")); s != "" {
		parts = append(parts, "scheduler "+selected(s))
	}
	return strings.Join(parts, ", ")
}

// selected returns the word in brackets, or the whole text without brackets.
func selected(s string) string {
	if _, after, ok := strings.Cut(s, "["); ok {
		s, _, _ = strings.Cut(after, "]")
	}
	return s
}

// Free returns the bytes of disk space that dir's file system has for this process.
func Free(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

// Commit returns the commit that this program was built from, with "-dirty" if files were changed, or "" if the build
// did not record it.
func Commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	commit, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if commit == "" {
		return ""
	}
	return commit[:min(12, len(commit))] + dirty
}

// Versions returns the version of each module that this program was built with, by its path.
func Versions() map[string]string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	versions := map[string]string{}
	for _, m := range info.Deps {
		versions[m.Path] = m.Version
	}
	return versions
}
