package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// After two of three nodes are lost for good, the third goes on alone, with all that was acknowledged, and others join.
func TestLostMajority(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.begin()
	for i := range 30 {
		c.change(opLink, "list", fmt.Sprint(i, ","))
	}
	want := c.equal()
	left := c.followers()[0]
	for _, p := range c.nodes {
		p.kill()
	}
	var s survivor
	decode(t, succeed(t, "inspect", "-id", left.id, "-dir", left.dir), &s)
	if s.LastIndex < 30 || s.LastTerm == 0 || s.AppliedIndex == 0 {
		t.Errorf("the survivor has %+v", s)
	}
	succeed(t, "recover", "-id", left.id, "-dir", left.dir, "-advertise", left.addr)
	c.nodes = []*process{left}
	left.flags = nil
	left.start()
	c.settled(1)
	for key, value := range want {
		c.expect(key, value)
	}
	for _, id := range []string{"n4", "n5"} {
		c.add(id).start("-join", left.addr)
	}
	c.settled(3)
	c.change(opLink, "list", "end")
	if is := c.equal(); is["list"] != want["list"]+"end" {
		t.Errorf("list %q, want %qend", is["list"], want["list"])
	}
}

// recover takes a file in the form of peers.json, for several survivors at once.
func TestRecoverWithPeers(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 5)
	c.begin()
	c.change(opPut, "key", "value")
	want := c.equal()
	for _, p := range c.nodes {
		p.kill()
	}
	c.nodes = c.nodes[:2]
	file := filepath.Join(c.dir, "peers.json")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `[{"id":%q,"address":%q},{"id":%q,"address":%q}]`, c.nodes[0].id,
		c.nodes[0].addr, c.nodes[1].id, c.nodes[1].addr), 0o644))
	for _, p := range c.nodes {
		succeed(t, "recover", "-id", p.id, "-dir", p.dir, "-advertise", p.addr, "-peers", file)
		p.flags = nil
		p.start()
	}
	c.settled(2)
	if is := c.equal(); is["key"] != want["key"] {
		t.Errorf("pages %q, want %q", is, want)
	}
}

// A backup of any node makes a store, and fills another cluster.
func TestBackup(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.begin()
	for i := range 50 {
		c.change(opPut, fmt.Sprint("key ", i), strings.Repeat("x", i*100))
	}
	c.settled(2)
	name := filepath.Join(c.dir, "backup")
	to := []string{"client", "-tls", c.certs("client"), "-timeout=1m", "-to"}
	succeed(t, append(to, c.followers()[0].addr, "backup", name)...)
	want := pagesOf(t, name)
	if len(want) != 50 || len(want["key 49"]) != 4900 {
		t.Fatalf("the backup has %d pages", len(want))
	}
	nowhere := filepath.Join(c.dir, "missing", "x")
	if code, _, _ := pagesd(t, append(to, c.addrs(), "backup", nowhere)...); code != exitError {
		t.Errorf("a backup to nowhere: exit code %d", code)
	}
	for _, p := range c.nodes {
		p.stop()
	}

	other := newCluster(t, 3)
	other.begin()
	other.change(opPut, "old", "old")
	to = []string{"client", "-tls", other.certs("client"), "-timeout=1m", "-to"}
	succeed(t, append(to, other.addrs(), "restore", name)...)
	other.settled(3)
	is := other.equal()
	delete(is, "last")
	if fmt.Sprint(is) != fmt.Sprint(want) {
		t.Errorf("the cluster has %d pages after restore, want %d", len(is), len(want))
	}
	broken, err := os.ReadFile(name)
	must(t, err)
	broken[len(broken)/2] ^= 1
	must(t, os.WriteFile(name, broken, 0o644))
	if code, _, said := pagesd(t, append(to, other.addrs(), "restore", name)...); code != exitError ||
		!strings.Contains(said, "not a complete backup") {
		t.Errorf("restore of a broken backup: exit code %d: %s", code, said)
	}
	url := "http://" + other.leader().addr + "/v1/restore"
	req, err := http.NewRequestWithContext(within(t, limit), http.MethodPost, url, bytes.NewReader(broken))
	must(t, err)
	if resp, err := other.client().http.Do(req); err == nil {
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Error("a node has taken a broken backup")
		}
	}
	other.settled(3)
	if is := other.equal(); len(is) != 51 {
		t.Errorf("the cluster has %d pages after a broken backup, want 51", len(is))
	}
}

// A node with corrupt data does not start. Under another name, with an empty directory, it gets everything again.
func TestCorruption(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.begin()
	for i := range 20 {
		c.change(opPut, fmt.Sprint("key ", i), strings.Repeat("value ", 1000))
	}
	c.settled(3)
	victim := c.followers()[0]
	victim.stop()
	flipped := 0
	must(t, filepath.Walk(victim.dir, func(name string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() || info.Size() < 20<<10 {
			return err
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		b := make([]byte, info.Size())
		if _, err := f.ReadAt(b, 0); err != nil {
			return err
		}
		if at := bytes.Index(b, []byte("value value value")); at > 0 {
			flipped++
			_, err = f.WriteAt([]byte{b[at] ^ 1}, int64(at))
		}
		return err
	}))
	if flipped == 0 {
		t.Fatal("no value was found on the disk")
	}
	victim.start()
	ended := make(chan int, 1)
	go func() { ended <- victim.wait() }()
	select {
	case code := <-ended:
		if code != exitError && code != exitFailed || !strings.Contains(victim.said.String(), "corrupt") {
			t.Errorf("exit code %d with corrupt data:\n%s", code, tail(victim.said.String()))
		}
	case <-time.After(limit / 2):
		t.Error("the node runs with corrupt data")
	}
	_, err := c.client(c.leader()).leave(within(t, limit), victim.id)
	must(t, err)
	c.add("n4").start("-join", c.addrs(c.leader()))
	c.settled(3)
	c.equal()
}

// While the disk of the leader is full, another node leads, and the cluster goes on. When there is room, the node does,
// too: it still runs, or has stopped with exit code 4 and is started again.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("it mounts a file system, which needs root")
	}
	t.Parallel()
	c := newCluster(t, 3, "-trailing=50", "-snapshot-after=100", "-snapshot-every=500ms")
	full := c.nodes[0]
	must(t, os.Mkdir(full.dir, 0o755))
	if err := syscall.Mount("tmpfs", full.dir, "tmpfs", 0, "size=200m"); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() { // before that of the cluster, whose process may run still
		full.signal(syscall.SIGKILL)
		if full.runs() {
			full.wait()
		}
		must(t, syscall.Unmount(full.dir, syscall.MNT_DETACH)) // the kernel may close the process's files late
	})
	c.begin()
	_, err := c.client().transfer(within(t, limit), full.id)
	must(t, err)
	filler := filepath.Join(full.dir, "filler")
	f, err := os.Create(filler)
	must(t, err)
	for block := make([]byte, 1<<20); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	must(t, f.Close())
	value := strings.Repeat("x", 256<<10)
	refused, noRoom := 0, 0
	end := time.Now().Add(limit)
	for i := 0; i-refused < 160; i++ { // 40 MiB, which is more than the log has reserved
		if time.Now().After(end) {
			t.Fatalf("the cluster did not go on: %d changes within %v", i-refused, limit)
		}
		_, err := c.client().change(within(t, limit), command{opPut, fmt.Sprint("key ", i%8), []byte(value)})
		if err != nil {
			refused++
			t.Logf("change %d: %v", i, err)
			if !errors.As(err, &unknownOutcome{}) {
				t.Fatalf("change %d: %v", i, err)
			}
			var answered answerError
			if errors.As(err, &answered) && answered.status == http.StatusInsufficientStorage {
				noRoom++
			}
		}
	}
	t.Logf("%d changes of unknown outcome", refused)
	if noRoom == 0 {
		t.Error("no change was answered with status 507")
	}
	if leader := c.leader(); leader == full {
		t.Error("the node with the full disk leads")
	}
	must(t, os.Remove(filler))
	if !full.alive() {
		if code := full.wait(); code != exitFailed {
			t.Fatalf("node %s has ended with exit code %d:\n%s", full.id, code, tail(full.said.String()))
		}
		t.Log("the node has stopped")
		full.start()
	}
	c.settled(3)
	c.equal()
}

// alive reports whether the process has not ended.
func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// The script starts three nodes and a client, and leaves nothing behind.
func TestScript(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the program")
	}
	t.Parallel()
	tmp := t.TempDir()
	cmd := exec.Command("./three-nodes.sh")
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	late := time.AfterFunc(4*limit, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer late.Stop()
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "all three nodes have stopped") {
		t.Fatalf("three-nodes.sh: %v\n%s", err, out.String())
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("the script has left %v, %v", left, err)
	}
}

// While a client uploads a backup slowly, the cluster goes on; and nothing is left of an upload that ends early.
func TestSlowRestoreDelaysNobody(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.begin()
	leader := c.leader()
	body, upload := io.Pipe()
	req, err := http.NewRequestWithContext(within(t, limit), http.MethodPost, "http://"+leader.addr+"/v1/restore", body)
	must(t, err)
	req.ContentLength = 1 << 20
	done := make(chan error, 1)
	go func() {
		resp, err := c.client().http.Do(req)
		if err == nil {
			err = resp.Body.Close()
		}
		done <- err
	}()
	_, err = upload.Write(make([]byte, 1000))
	must(t, err)
	for i := range 10 {
		c.change(opPut, fmt.Sprint("key ", i), "value")
		_, err = upload.Write(make([]byte, 1000))
		must(t, err)
	}
	if names, err := filepath.Glob(filepath.Join(leader.dir, uploads)); err != nil || len(names) != 1 {
		t.Errorf("%v hold the upload, error %v", names, err)
	}
	must(t, upload.CloseWithError(io.ErrUnexpectedEOF))
	<-done
	for range 500 {
		if names, _ := filepath.Glob(filepath.Join(leader.dir, uploads)); len(names) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the upload is left")
}
