package checkpoint

// Size returns the length in bytes of a complete stream of the checkpoint. It is too high by what blobs would take that
// no message points to: after a crash there may be some until the cleaner has removed them.
func (k *Checkpoint) Size() int64 {
	n := int64(partHeaderSize + beginSize)
	n += listSize(len(k.image.Segments), segmentSize)
	for _, g := range k.image.Segments {
		n += partHeaderSize + int64(g.Used)
	}
	if f := &k.snap; f.file != nil {
		n += partHeaderSize + int64(len(f.id.Name())) + fileSize(f.size)
	}
	ids := k.blobs.IDs()
	n += listSize(len(ids), blobIDSize)
	for _, id := range ids {
		n += fileSize(k.blobs.Size(id))
	}
	return n + partHeaderSize + endSize
}

// The lengths of an entry of the list of blobs, and of the payload of the last part.
const blobIDSize, endSize = 8, 16

// listSize returns the length of the parts of a list.
func listSize(entries, size int) int64 {
	most := MaxPayload / size
	parts := (entries + most - 1) / most
	return int64(parts)*partHeaderSize + int64(entries)*int64(size)
}

// fileSize returns the length of the parts with a file's bytes.
func fileSize(size int64) int64 { return (size+piece-1)/piece*partHeaderSize + size }
