package osfs

import (
	"pagecache/internal/vfs"
	"pagecache/iouring"
	"pagecache/mmapread"
)

// The types that cross the seam for each read or write are identical on both sides, so these need no adapter.
var (
	_ vfs.Parker       = (*iouring.Writer)(nil)
	_ vfs.Map          = (*mmapread.Map)(nil)
	_ mmapread.Fetcher = (*iouring.Reader)(nil)
	_ mmapread.Fetcher = (*osReader)(nil)
)

func (f *osFile) OpenDevice(o vfs.DeviceOptions) (vfs.Device, vfs.DeviceReport, error) {
	opts := iouring.WriterOptions{Ring: mode(o.Ring), Direct: mode(o.Direct), Depth: o.Depth, Buffers: o.Buffers}
	w, r, err := iouring.OpenWriter(f.fd, opts)
	if err != nil {
		return nil, vfs.DeviceReport{}, err
	}
	return w, vfs.DeviceReport(r), nil
}

func (f *osFile) OpenMap(p vfs.Pattern, r vfs.Reader) (vfs.Map, error) {
	fetch, _ := r.(mmapread.Fetcher)
	open := mmapread.Open
	if p == vfs.PatternSequential {
		open = mmapread.OpenWhole
	}
	m, err := open(f.File, fetch)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func mode(m vfs.Mode) iouring.Mode {
	switch m {
	case vfs.ModeOn:
		return iouring.ModeOn
	case vfs.ModeOff:
		return iouring.ModeOff
	}
	return iouring.ModeAuto
}
