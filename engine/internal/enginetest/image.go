package enginetest

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"pagecache/engine"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// Image is the durable bytes of all files of a store at one moment, by name below its directory. It is not changed.
type Image map[string]string

// TakeImage returns the image of the store in dir, also after the disk has crashed.
func TakeImage(d *simdisk.Disk, dir string) Image {
	d = d.Copy()
	m := Image{}
	var add func(below string)
	add = func(below string) {
		names, err := d.ReadDir(path.Join(dir, below))
		if err != nil {
			return // the directory was not made, or below is a file
		}
		for _, n := range names {
			n = path.Join(below, n)
			if b := d.ReadDurable(path.Join(dir, n)); b != nil {
				m[n] = string(b)
			} else {
				add(n)
			}
		}
	}
	add("")
	return m
}

// Put puts the files of the image into dir on a disk.
func (m Image) Put(d *simdisk.Disk, dir string) {
	for name, b := range m {
		d.WriteFile(path.Join(dir, name), []byte(b))
	}
}

// Disk returns a disk that has the image in /store.
func (m Image) Disk() *simdisk.Disk {
	d := simdisk.New(1, simdisk.Options{})
	m.Put(d, "/store")
	return d
}

// Place is a part of a store that can be put back as it was: a whole file, or a range of it. Len 0 is a whole file.
type Place struct {
	File     string
	Off, Len int
}

// overlaps reports whether the places have bytes in common.
func (p Place) overlaps(q Place) bool {
	return p.File == q.File && (p.Len == 0 || q.Len == 0 || p.Off < q.Off+q.Len && q.Off < p.Off+p.Len)
}

// Slot returns the place of a slot of the log.
func Slot(i, segmentSize int) Place { return Place{LogName, i * segmentSize, segmentSize} }

// Part is the contents of a Place in an image. Without the file, it has none.
type Part struct {
	Found bool
	Bytes string // of a range: padded with zeros beyond the end of the file
}

// Part returns the contents of a place.
func (m Image) Part(p Place) Part {
	b, found := m[p.File]
	if p.Len == 0 || !found {
		return Part{found, b}
	}
	b = b[min(p.Off, len(b)):min(p.Off+p.Len, len(b))]
	return Part{true, b + strings.Repeat("\x00", p.Len-len(b))}
}

// Change is a place with contents that another image has there.
type Change struct {
	Place
	Part Part
	From string // the image, for messages
}

// With returns the image with changes.
func (m Image) With(changes ...Change) Image {
	n := Image{}
	for name, b := range m {
		n[name] = b
	}
	for _, c := range changes {
		b, found := n[c.File]
		switch {
		case !c.Part.Found && c.Len == 0:
			delete(n, c.File)
		case c.Len == 0:
			n[c.File] = c.Part.Bytes
		case found && c.Part.Found:
			b += strings.Repeat("\x00", max(0, c.Off+c.Len-len(b)))
			n[c.File] = b[:c.Off] + c.Part.Bytes + b[c.Off+c.Len:]
		}
	}
	return n
}

// Places returns every place of an image: the whole log and its slots, the superblock and its copies, and all other
// files.
func (m Image) Places(segmentSize int) (all []Place) {
	for name, b := range m {
		all = append(all, Place{File: name})
		switch name {
		case LogName:
			for i := range (len(b) + segmentSize - 1) / segmentSize {
				all = append(all, Slot(i, segmentSize))
			}
		case SuperName:
			for off := 0; off < len(b); off += format.SuperCopySize {
				all = append(all, Place{name, off, format.SuperCopySize})
			}
		}
	}
	slices.SortFunc(all, comparePlaces)
	return all
}

func comparePlaces(a, b Place) int {
	return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Off, b.Off), cmp.Compare(a.Len, b.Len))
}

// Changes returns the ways in which a place of m can be put back as it was in one of the other images, each once.
func (m Image) Changes(others []Image, names []string, segmentSize int) (all []Change) {
	places := m.Places(segmentSize)
	for _, o := range others {
		places = append(places, o.Places(segmentSize)...)
	}
	slices.SortFunc(places, comparePlaces)
	for _, p := range slices.Compact(places) {
		seen := map[Part]bool{m.Part(p): true}
		for i, o := range others {
			c := Change{Place: p, Part: o.Part(p), From: names[i]}
			if !seen[c.Part] && (c.Part.Found || p.Len == 0) {
				seen[c.Part] = true
				all = append(all, c)
			}
		}
	}
	return all
}

// Disjoint reports whether the changes are of different places.
func Disjoint(changes []Change) bool {
	for i, c := range changes {
		for _, e := range changes[:i] {
			if c.overlaps(e.Place) {
				return false
			}
		}
	}
	return true
}

// Proof is what the parts of a store show of how far its log was durable (rule 13). No opening may show less.
type Proof struct {
	Durable  engine.LSN // a message, or a clean close, states this durable end; a batch may be open below
	Stable   engine.LSN // a header or a pad states this end, at which no batch is open
	Super    engine.LSN // the superblock states it as the floor
	Snapshot engine.LSN // a snapshot states it
}

// Proof returns the proof in the parts of an image that do not change. The superblock and snapshots count only if the
// superblock is the same afterwards: another one does not know the timelines of newer snapshots.
func (m Image) Proof(segmentSize int, changes []Change) (f Proof) {
	super, err := format.DecodeSuperblock([]byte(m[SuperName]))
	if err != nil {
		return f
	}
	after, err := format.DecodeSuperblock([]byte(m.With(changes...)[SuperName]))
	same := err == nil && after == super
	for _, p := range m.Places(segmentSize) {
		if slices.ContainsFunc(changes, func(c Change) bool { return c.overlaps(p) }) {
			continue
		}
		b := []byte(m.Part(p).Bytes)
		switch {
		case p.File == SuperName && p.Len > 0 && same:
			f.addSuper(b, super.Sequence)
		case p.File == LogName && p.Len > 0:
			f.addSlot(b, super.Store, format.SegmentID(p.Off/segmentSize))
		case strings.HasPrefix(p.File, "snapshot.") && same:
			f.addSnapshot(b, super.Store)
		}
	}
	return f
}

// addSuper adds the proof in one copy of the superblock. sequence is that of the copy that counts.
func (f *Proof) addSuper(b []byte, sequence uint64) {
	s, err := format.DecodeSuperblock(b)
	if err != nil {
		return
	}
	f.Super = max(f.Super, s.Floor)
	if s.Clean && s.Sequence == sequence { // a batch may have been open
		f.Durable = max(f.Durable, s.End)
	}
}

// addSlot adds the proof in a slot of the log.
func (f *Proof) addSlot(b []byte, store format.StoreID, id format.SegmentID) {
	h, err := format.DecodeSegmentHeader(b, id, len(b))
	if err != nil {
		return
	}
	f.Stable = max(f.Stable, h.Stable+1)
	if h.State != format.SegmentStateInUse {
		return
	}
	seed := format.MakeSeed(store, h.Generation, id)
	for pos := format.SegmentStart; len(b)-pos >= format.HeaderSize; {
		m, body, err := format.DecodeMessage(b[pos:], h.Base+engine.LSN(pos), seed)
		if err != nil {
			return
		}
		f.Durable = max(f.Durable, m.Durable())
		if m.Kind == format.KindPad {
			f.Stable = max(f.Stable, format.PadStable(body)+1)
		}
		pos += m.Step()
	}
}

// addSnapshot adds the proof in a snapshot.
func (f *Proof) addSnapshot(b []byte, store format.StoreID) {
	if h, err := format.DecodeSnapshotHeader(b, int64(len(b))); err == nil && h.Store == store {
		f.Snapshot = max(f.Snapshot, h.From, h.High+1)
	}
}
