package simdisk

import (
	"fmt"
	"slices"
	"syscall"

	"pagecache/internal/vfs"
)

// device is a vfs.Device on a simulated file: Y2.
type device struct {
	h      *file
	flight []inFlight
}

type inFlight struct {
	w   vfs.Write
	tag uint64 // of the pending change; 0: none
	err error
}

func (v *device) Depth() int { return v.h.d.opts.Depth }

func (v *device) Block() int { return v.h.d.opts.Block }

func (v *device) Close() error {
	v.flight = nil
	return nil
}

// Do is vfs.Device.Do. It copies the bytes when the write starts.
func (v *device) Do(writes []vfs.Write, need int, dst []vfs.Completion) ([]vfs.Completion, error) {
	d, f := v.h.d, v.h.f
	if len(writes) > 0 {
		d.rest()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range writes {
		if w.Off%int64(d.opts.Block) != 0 || len(w.Buf)%d.opts.Block != 0 || len(w.Buf) == 0 {
			return dst, fmt.Errorf("write %d bytes at %d: not whole blocks of %d", len(w.Buf), w.Off, d.opts.Block)
		}
		last, err := d.op(Op{OpDeviceWrite, v.h.name, w.Off, len(w.Buf)})
		if err != nil && d.crashed.Load() && !last {
			return dst, ErrCrashed
		}
		if err == nil && !d.hasRoom(f.now.missing(w.Off, int64(len(w.Buf)))) {
			err = fmt.Errorf("write %s: %w", v.h.name, syscall.ENOSPC)
		}
		x := inFlight{w: w, err: err}
		if p, made := d.made(f, w.Buf, w.Off, err); made {
			d.tags++
			x.tag, p.tag = d.tags, d.tags
			f.put(p.data, p.off)
			f.pending = append(f.pending, p)
		}
		v.flight = append(v.flight, x)
		if last {
			return dst, ErrCrashed
		}
	}
	if len(v.flight) > d.opts.Depth {
		return dst, fmt.Errorf("%d writes in flight exceed the depth of %d", len(v.flight), d.opts.Depth)
	}
	for d.hung && need > 0 && !d.crashed.Load() {
		d.wake.Wait()
	}
	if d.crashed.Load() {
		return dst, ErrCrashed
	}
	if d.hung {
		return dst, nil
	}
	n := min(need, len(v.flight))
	n += d.rng.IntN(len(v.flight) - n + 1)
	for range n {
		i := d.rng.IntN(len(v.flight))
		dst = append(dst, v.complete(v.flight[i], f))
		v.flight = slices.Delete(v.flight, i, i+1)
	}
	return dst, nil
}

// complete ends a write. A failed one stays pending: it may have reached the disk or not.
func (v *device) complete(x inFlight, f *inode) vfs.Completion {
	f.differs = f.differs || len(f.pending) > 1 // the order of changes that overlap may be another one in f.durable
	c := vfs.Completion{Tag: x.w.Tag}
	if x.err != nil && !isLie(x.err) {
		c.Err = x.err
		return c
	}
	if i := slices.IndexFunc(f.pending, func(p dirty) bool { return x.tag != 0 && p.tag == x.tag }); i >= 0 {
		p := f.pending[i]
		f.pending = slices.Delete(f.pending, i, i+1)
		f.settleHoles(p, i)
		f.durable.settle(p)
	}
	return c
}
