package osfs

import (
	"io/fs"
	"testing"
)

// The memory limit is the lowest of the cgroups of version 1 and 2 that the process is in, wherever they are mounted.
func TestCgroupLimit(t *testing.T) {
	const (
		v1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
		v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
	)
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"no cgroups": {nil, 0},
		"no mounts":  {map[string]string{"/proc/self/cgroup": "0::/\n"}, 0},
		"version 2": {map[string]string{
			"/proc/self/cgroup": "0::/user/app\n", "/proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda rw\n" + v2,
			"/sys/fs/cgroup/user/app/memory.max": "max\n", "/sys/fs/cgroup/user/memory.max": "2000\n",
		}, 2000},
		"version 2, limits on two levels": {map[string]string{
			"/proc/self/cgroup": "0::/user/app\n", "/proc/self/mountinfo": v2,
			"/sys/fs/cgroup/user/app/memory.max": "1000\n", "/sys/fs/cgroup/user/memory.max": "2000\n",
		}, 1000},
		"version 2 in a namespace of its own": {map[string]string{
			"/proc/self/cgroup": "0::/\n", "/proc/self/mountinfo": v2, "/sys/fs/cgroup/memory.max": "3000\n",
		}, 3000},
		"version 2 above the namespace": {map[string]string{
			"/proc/self/cgroup": "0::/../..\n", "/proc/self/mountinfo": v2, "/sys/fs/cgroup/memory.max": "3000\n",
		}, 3000},
		"version 1": {map[string]string{
			"/proc/self/cgroup": "5:cpu,cpuacct:/other\n9:memory:/app\n", "/proc/self/mountinfo": v1,
			"/sys/fs/cgroup/memory/app/memory.limit_in_bytes":   "4000\n",
			"/sys/fs/cgroup/memory/memory.limit_in_bytes":       "9223372036854771712\n",
			"/sys/fs/cgroup/memory/other/memory.limit_in_bytes": "1\n",
		}, 4000},
		"version 1 in a container": {map[string]string{
			"/proc/self/cgroup":             "9:memory:/docker/1/app\n",
			"/proc/self/mountinfo":          "35 31 0:32 /docker/1 /cg ro - cgroup cgroup rw,cpu,memory\n",
			"/cg/app/memory.limit_in_bytes": "6000\n", "/cg/memory.limit_in_bytes": "5000\n",
		}, 5000},
		"version 1, a cgroup that is not mounted": {map[string]string{
			"/proc/self/cgroup":             "9:memory:/docker/12\n",
			"/proc/self/mountinfo":          "35 31 0:32 /docker/1 /cg ro - cgroup cgroup rw,memory\n",
			"/cg/memory.limit_in_bytes":     "5000\n",
			"/cg/2/memory.limit_in_bytes":   "1\n",
			"/memory.limit_in_bytes":        "1\n",
			"/docker/memory.limit_in_bytes": "1\n",
		}, 5000},
		"both": {map[string]string{
			"/proc/self/cgroup": "9:memory:/app\n0::/app\n", "/proc/self/mountinfo": v1 + v2,
			"/sys/fs/cgroup/memory/app/memory.limit_in_bytes": "4000\n", "/sys/fs/cgroup/app/memory.max": "7000\n",
		}, 4000},
		"garbage": {map[string]string{
			"/proc/self/cgroup": "9\n:\n0::/app\n\n", "/proc/self/mountinfo": "1 2\n - \n" + v2,
			"/sys/fs/cgroup/app/memory.max": "many\n",
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := cgroupLimit(func(file string) ([]byte, error) {
				if b, ok := c.files[file]; ok {
					return []byte(b), nil
				}
				return nil, fs.ErrNotExist
			})
			if got != c.want {
				t.Errorf("limit %d, want %d", got, c.want)
			}
		})
	}
	if n := MemoryLimit(); n < 1<<20 {
		t.Errorf("this machine has %d bytes of memory", n)
	}
	if lowest(0, 5) != 5 || lowest(5, 0) != 5 || lowest(5, 6) != 5 {
		t.Error("the lowest limit is wrong")
	}
}
