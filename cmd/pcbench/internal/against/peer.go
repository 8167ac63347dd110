package against

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/pick"
	"pagecache/cmd/pcbench/internal/units"
	"pagecache/internal/versus"
)

// peers is the program of the bench module, with the stores that it knows.
type peers struct {
	path string
	list versus.List
}

// findPeers finds the program. Without names it is not needed.
func findPeers(ctx context.Context, path string, names []string) (*peers, error) {
	if len(names) == 0 {
		return nil, nil
	}
	option := "--against=" + strings.Join(names, ",")
	p := &peers{path: path}
	if path == "" {
		if exe, err := os.Executable(); err == nil {
			p.path, _ = exec.LookPath(filepath.Join(filepath.Dir(exe), versus.Program))
		}
		if p.path == "" {
			p.path, _ = exec.LookPath(versus.Program)
		}
		if p.path == "" {
			return nil, fmt.Errorf("%s: the program %s is neither beside pcbench nor in PATH; build it in a checkout "+
				"with: %s, or name it with --peers=FILE", option, versus.Program, versus.Build)
		}
	}
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, p.path, "peer", "--list").Output()
	if err == nil {
		err = json.Unmarshal(out, &p.list)
	}
	if err == nil && p.list.Format != versus.Format {
		err = fmt.Errorf("its format is %d, want %d", p.list.Format, versus.Format)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s is not the program of this version: %w; build it in a checkout with: %s", option,
			p.path, err, versus.Build)
	}
	return p, nil
}

// side returns a store as a side.
func (p *peers) side(s *job.Spec, name string) (*side, error) {
	var names []string
	for _, k := range p.list.Stores {
		if !strings.EqualFold(k.Name, name) {
			names = append(names, strings.ToLower(k.Name))
			continue
		}
		config := fmt.Sprintf("%s; for this load, with a cache of %s if it has one of its own", k.Config,
			units.Bytes(peerLoad(s).Cache))
		x := &side{name: k.Name, config: strings.TrimSpace(k.Version + " " + config), notes: peerNotes(s)}
		x.work = func(ctx context.Context, dir string) (*versus.Outcome, error) {
			return p.work(ctx, s, k.Name, dir)
		}
		return x, nil
	}
	return nil, fmt.Errorf("--against=%s: no such side; there are %s and %s", name, job.AgainstFio,
		strings.Join(names, ", "))
}

// work does the work on a store once.
func (p *peers) work(ctx context.Context, s *job.Spec, name, dir string) (*versus.Outcome, error) {
	l := peerLoad(s)
	l.Store, l.Dir = name, filepath.Join(dir, "store")
	if err := os.Mkdir(l.Dir, 0o755); err != nil {
		return nil, err
	}
	if s.Random {
		l.Draws = filepath.Join(dir, "draws")
		if err := writeDraws(l.Draws, s); err != nil {
			return nil, err
		}
	}
	in, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	const patience = 10 * time.Second
	cmd := exec.CommandContext(ctx, p.path, "peer")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	var errOut bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &errOut
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run %s peer: %w: %s", p.path, err, tail(errOut.String()))
	}
	o := &versus.Outcome{}
	if err := json.Unmarshal(out, o); err != nil || o.Format != versus.Format {
		return nil, fmt.Errorf("read the outcome: format %d, %w: %s", o.Format, err, tail(string(out)))
	}
	return o, nil
}

// peerLoad returns a job as a load on another store.
func peerLoad(s *job.Spec) *versus.Load {
	const defaultCache = 1 << 30 // as of engine.Options
	l := &versus.Load{Format: versus.Format, Cache: s.Engine.CacheCapacity, Pages: s.Size / s.PageSize(),
		PageSize: int(s.PageSize()), Laid: s.NeedsPages(), Jobs: s.NumJobs, Depth: s.IODepth,
		ReadPercent: s.ReadPercent(), Runtime: s.Runtime, Ramp: s.Ramp, SyncEvery: s.FDataSync, Flush: s.EndFsync,
		Seed: s.Seed}
	if l.Cache == 0 {
		l.Cache = defaultCache
	}
	if n, limited := s.Operations(); limited {
		l.Operations = n
	}
	return l
}

// drawn is the number of pages that other stores draw before they begin again.
const drawn = 1 << 21

// writeDraws writes the pages that a job draws to a file.
func writeDraws(name string, s *job.Spec) error {
	pages, rng := pick.NewPages(s.Size/s.PageSize(), s.Dist, s.PageSize()), pick.New(s.Seed, 1)
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	b := bufio.NewWriter(f)
	var word [4]byte
	for range drawn {
		binary.LittleEndian.PutUint32(word[:], uint32(pages.Next(rng)))
		b.Write(word[:]) // Flush returns the error
	}
	return errors.Join(b.Flush(), f.Close())
}
