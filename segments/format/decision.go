package format

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A Decision says that a group in several parts has taken effect. The last part of the group is one by itself. Before
// its segment leaves the log while other parts are in use, a message of kind decided says it again.
//
// In the body of that message, which has one or more:
//
//	0  8  LSN of the first part
//	8  8  LSN of the last part
//
// In a snapshot, the LSN of the message that says it follows (8).
type Decision struct {
	First, Last LSN // of the group's parts
	At          LSN // of the message that says so: the last part, or one of kind decided
}

const (
	decisionSize         = 16
	snapshotDecisionSize = 24
	// MaxDecisions is the largest number of decisions in one message.
	MaxDecisions = 64
)

// ErrDecision reports that the body of a KindDecided message is not valid.
var ErrDecision = errors.New("corrupt list of decisions")

// DecisionsSize returns the length in bytes of the body with n decisions.
func DecisionsSize(n int) int { return n * decisionSize }

// PutDecisions encodes decisions into dst, which has DecisionsSize(len(ds)) bytes.
func PutDecisions(dst []byte, ds []Decision) {
	for i, d := range ds {
		binary.LittleEndian.PutUint64(dst[i*decisionSize:], uint64(d.First))
		binary.LittleEndian.PutUint64(dst[i*decisionSize+8:], uint64(d.Last))
	}
}

// DecodeDecisions decodes the body of a KindDecided message at LSN at. The error wraps ErrDecision.
func DecodeDecisions(body []byte, at LSN) ([]Decision, error) {
	n := len(body) / decisionSize
	if n < 1 || n > MaxDecisions || len(body) != DecisionsSize(n) {
		return nil, fmt.Errorf("%w: %d bytes", ErrDecision, len(body))
	}
	ds := make([]Decision, n)
	for i := range ds {
		ds[i] = Decision{First: LSN(binary.LittleEndian.Uint64(body[i*decisionSize:])),
			Last: LSN(binary.LittleEndian.Uint64(body[i*decisionSize+8:])), At: at}
		if !ds[i].valid() || ds[i].Last >= at {
			return nil, fmt.Errorf("%w: a group from LSN %v to %v", ErrDecision, ds[i].First, ds[i].Last)
		}
	}
	return ds, nil
}

// valid reports whether a group may have such parts.
func (d Decision) valid() bool { return d.First > 0 && d.First < d.Last && d.Last <= d.At }

// appendSnapshot appends the encoding of d in a snapshot to dst.
func (d Decision) appendSnapshot(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(d.First))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(d.Last))
	return binary.LittleEndian.AppendUint64(dst, uint64(d.At))
}

// decodeSnapshotDecisions decodes n decisions of a snapshot at the beginning of src, which is long enough. Its error
// wraps ErrSnapshot.
func decodeSnapshotDecisions(src []byte, n int, high LSN) (ds []Decision, err error) {
	for i := range n {
		at := src[i*snapshotDecisionSize:]
		d := Decision{First: LSN(binary.LittleEndian.Uint64(at)), Last: LSN(binary.LittleEndian.Uint64(at[8:])),
			At: LSN(binary.LittleEndian.Uint64(at[16:]))}
		if !d.valid() || d.At > high {
			return nil, fmt.Errorf("%w: a commit from LSN %v to %v, as LSN %v says", ErrSnapshot, d.First, d.Last, d.At)
		}
		ds = append(ds, d)
	}
	return ds, nil
}
