package load

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"

	"pagecache/cmd/pcbench/internal/job"
)

var errVerify = errors.New("verify")

// A verified page begins with a header, and the rest is its contents:
//
//	0  magic 4 B | length of the page 4 B | number of the page 8 B | digest of the rest, up to 64 B
const (
	verifyMagic = 0xacca5eed
	digestAt    = 16
)

// verifier makes pages that can be checked, and checks them. A nil verifier does nothing. It belongs to one goroutine.
type verifier struct {
	new     func() hash.Hash // nil: no digest
	pattern []byte           // the whole page, without a header
	header  int              // bytes; 0: nothing to check
	digest  []byte
}

var digests = map[string]func() hash.Hash{
	"crc32c": func() hash.Hash { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) },
	"crc32":  func() hash.Hash { return crc32.NewIEEE() },
	"crc64":  func() hash.Hash { return crc64.New(crc64.MakeTable(crc64.ISO)) },
	"md5":    md5.New, "sha1": sha1.New, "sha256": sha256.New, "sha512": sha512.New,
	"sha3-256": func() hash.Hash { return sha3.New256() }, "sha3-512": func() hash.Hash { return sha3.New512() },
}

// newVerifier returns the verifier of a job, or nil.
func newVerifier(v *job.Verify) *verifier {
	switch v.Method {
	case "":
		return nil
	case "null":
		return &verifier{}
	case "pattern":
		return &verifier{pattern: v.Pattern}
	}
	f := &verifier{new: digests[v.Method], header: digestAt}
	if f.new != nil {
		f.header += f.new().Size()
	}
	return f
}

// seal makes b, whose contents are given, the page of number i.
func (v *verifier) seal(b []byte, i int64) error {
	switch {
	case v == nil:
		return nil
	case v.pattern != nil:
		repeat(b, v.pattern)
		return nil
	case v.header == 0:
		return nil
	case len(b) < v.header:
		return fmt.Errorf("%w: a page of %d bytes has no room for %d bytes of header", errVerify, len(b), v.header)
	}
	binary.LittleEndian.PutUint32(b, verifyMagic)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
	binary.LittleEndian.PutUint64(b[8:], uint64(i))
	copy(b[digestAt:v.header], v.sum(b[v.header:]))
	return nil
}

func (v *verifier) sum(b []byte) []byte {
	if v.new == nil {
		return nil
	}
	h := v.new()
	h.Write(b)
	v.digest = h.Sum(v.digest[:0])
	return v.digest
}

// check returns an error that wraps errVerify if b is not the page of number i.
func (v *verifier) check(b []byte, i int64) error {
	switch {
	case v == nil:
		return nil
	case v.pattern != nil:
		for at := 0; at < len(b); at += len(v.pattern) {
			if n := min(len(v.pattern), len(b)-at); !bytes.Equal(b[at:at+n], v.pattern[:n]) {
				return fmt.Errorf("%w page %d: the pattern differs at byte %d", errVerify, i, at)
			}
		}
		return nil
	case v.header == 0:
		return nil
	}
	n, number, ok := readHeader(b)
	switch {
	case !ok || len(b) < v.header:
		return fmt.Errorf("%w page %d: it has no header; it was not written with verify", errVerify, i)
	case n != len(b):
		return fmt.Errorf("%w page %d: it has %d bytes, and %d were written", errVerify, i, len(b), n)
	case number != i:
		return fmt.Errorf("%w page %d: these are the contents of page %d", errVerify, i, number)
	case !bytes.Equal(v.sum(b[v.header:]), b[digestAt:v.header]):
		return fmt.Errorf("%w page %d: the digest of its contents differs", errVerify, i)
	}
	return nil
}

// readHeader returns the length and the number in the header of a page, and whether there is a header.
func readHeader(b []byte) (n int, number int64, ok bool) {
	if len(b) < digestAt || binary.LittleEndian.Uint32(b) != verifyMagic {
		return 0, 0, false
	}
	return int(binary.LittleEndian.Uint32(b[4:])), int64(binary.LittleEndian.Uint64(b[8:])), true
}

// repeat fills b with a pattern.
func repeat(b, pattern []byte) {
	for at := 0; at < len(b); at += len(pattern) {
		copy(b[at:], pattern)
	}
}
