package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/raft"
)

// member is the JSON of a member of the cluster, and of requests that name one.
type member struct {
	ID      string `json:"id"`
	Address string `json:"address,omitempty"`
	Voter   bool   `json:"voter"`
}

// status is the JSON that describes a node.
type status struct {
	ID            string   `json:"id"`
	Address       string   `json:"address"`
	State         string   `json:"state"`
	Leader        member   `json:"leader"`
	Term          uint64   `json:"term"`
	LastIndex     uint64   `json:"last_index"`     // of its log
	CommitIndex   uint64   `json:"commit_index"`   // as far as it knows
	AppliedIndex  uint64   `json:"applied_index"`  // of its pages
	SnapshotIndex uint64   `json:"snapshot_index"` // of its newest snapshot
	Members       []member `json:"members"`
	Error         string   `json:"error,omitempty"` // why it does not work
}

// describe returns the status of the node.
func (n *node) describe() status {
	addr, id := n.raft.LeaderWithID()
	snapshot, _ := strconv.ParseUint(n.raft.Stats()["last_snapshot_index"], 10, 64)
	s := status{
		ID: n.conf.id, Address: n.conf.advertise, State: n.raft.State().String(),
		Leader: member{ID: string(id), Address: string(addr), Voter: id != ""},
		Term:   n.raft.CurrentTerm(), LastIndex: n.raft.LastIndex(), CommitIndex: n.raft.CommitIndex(),
		AppliedIndex: n.applied(), SnapshotIndex: snapshot, Members: n.members(),
	}
	if err := n.err(); err != nil {
		s.Error = err.Error()
	}
	return s
}

// members returns the members of the newest configuration that the node knows.
func (n *node) members() (all []member) {
	f := n.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	for _, s := range f.Configuration().Servers {
		all = append(all, member{string(s.ID), string(s.Address), s.Suffrage == raft.Voter})
	}
	return all
}

// member returns the member of that id.
func (n *node) member(id string) (member, bool) {
	for _, m := range n.members() {
		if m.ID == id {
			return m, true
		}
	}
	return member{}, false
}

// status describes this node, or the leader with leader=true.
func (a *api) status(w http.ResponseWriter, r *http.Request, body []byte) error {
	if leader, _ := strconv.ParseBool(r.URL.Query().Get("leader")); leader {
		if err := a.n.verifyLeader(r.Context()); err != nil {
			return a.unlessLeader(err, w, r, body)
		}
	}
	reply(w, http.StatusOK, a.n.describe())
	return nil
}

// unlessLeader forwards a request that only the leader can answer.
func (a *api) unlessLeader(err error, w http.ResponseWriter, r *http.Request, body []byte) error {
	if errors.Is(err, errNotLeader) {
		return a.forward(w, r, body)
	}
	return err
}

// memberOf returns the member that a request names.
func memberOf(body []byte) (m member, err error) {
	if err := json.Unmarshal(body, &m); err != nil {
		return m, requestError{http.StatusBadRequest, fmt.Sprintf("the body is not the JSON of a member: %v", err)}
	}
	return m, nil
}

// join makes a node a member. One that is a member already stays as it is; another address replaces its old one.
func (a *api) join(w http.ResponseWriter, r *http.Request, body []byte) error {
	m, err := memberOf(body)
	if err != nil {
		return err
	}
	if m.ID == "" || m.Address == "" {
		return requestError{http.StatusBadRequest, "a member needs an id and an address"}
	}
	if err := a.n.verifyLeader(r.Context()); err != nil {
		return a.unlessLeader(err, w, r, body)
	}
	if is, ok := a.n.member(m.ID); ok && is == m {
		reply(w, http.StatusOK, a.n.describe())
		return nil
	}
	id, addr := raft.ServerID(m.ID), raft.ServerAddress(m.Address)
	add := a.n.raft.AddNonvoter
	if m.Voter {
		add = a.n.raft.AddVoter
	}
	if err := a.n.outcome(await(r.Context(), add(id, addr, 0, remaining(r.Context())))); err != nil {
		return a.unlessLeader(fmt.Errorf("join of node %s: %w", m.ID, err), w, r, body)
	}
	reply(w, http.StatusOK, a.n.describe())
	return nil
}

// leave ends the membership of a node. The leader hands its leadership on first.
func (a *api) leave(w http.ResponseWriter, r *http.Request, body []byte) error {
	m, err := memberOf(body)
	if err != nil {
		return err
	}
	if err := a.n.verifyLeader(r.Context()); err != nil {
		return a.unlessLeader(err, w, r, body)
	}
	switch _, ok := a.n.member(m.ID); {
	case !ok:
		return requestError{http.StatusNotFound, fmt.Sprintf("there is no member %q", m.ID)}
	case len(a.n.members()) == 1:
		return requestError{http.StatusConflict, fmt.Sprintf("%q is the only member", m.ID)}
	case m.ID == a.n.conf.id:
		if err := a.n.handOn(r.Context(), member{}); err != nil {
			return err
		}
		return a.forward(w, r, body)
	}
	f := a.n.raft.RemoveServer(raft.ServerID(m.ID), 0, remaining(r.Context()))
	if err := a.n.outcome(await(r.Context(), f)); err != nil {
		return a.unlessLeader(fmt.Errorf("leave of node %s: %w", m.ID, err), w, r, body)
	}
	reply(w, http.StatusOK, a.n.describe())
	return nil
}

// transfer hands the leadership to a member, or to any.
func (a *api) transfer(w http.ResponseWriter, r *http.Request, body []byte) error {
	var m member
	if len(body) > 0 {
		var err error
		if m, err = memberOf(body); err != nil {
			return err
		}
	}
	if err := a.n.verifyLeader(r.Context()); err != nil {
		return a.unlessLeader(err, w, r, body)
	}
	if m.ID != "" {
		is, ok := a.n.member(m.ID)
		if !ok || !is.Voter {
			return requestError{http.StatusNotFound, fmt.Sprintf("there is no member %q that votes", m.ID)}
		}
		m = is
	}
	if m.ID != a.n.conf.id {
		if err := a.n.handOn(r.Context(), m); err != nil {
			return err
		}
	}
	reply(w, http.StatusOK, a.n.describe())
	return nil
}

// handOn waits for changes that are under way, hands the leadership to a member, or to any if it is zero, and waits
// until another node leads.
func (n *node) handOn(ctx context.Context, to member) error {
	locked := make(chan struct{})
	go func() {
		n.gate.Lock()
		close(locked)
	}()
	select {
	case <-locked:
		defer n.gate.Unlock()
	case <-ctx.Done():
		go func() {
			<-locked
			n.gate.Unlock()
		}()
		return fmt.Errorf("transfer of the leadership: changes are under way: %w", ctx.Err())
	}
	f := n.raft.LeadershipTransfer
	if to.ID != "" {
		f = func() raft.Future {
			return n.raft.LeadershipTransferToServer(raft.ServerID(to.ID), raft.ServerAddress(to.Address))
		}
	}
	if err := await(ctx, f()); err != nil {
		return fmt.Errorf("transfer of the leadership: %w", err)
	}
	for {
		if addr, _ := n.raft.LeaderWithID(); addr != "" && string(addr) != n.conf.advertise {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("transfer of the leadership: %w", errNoLeader)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// snapshot has this node take a snapshot now, and shorten its log.
func (a *api) snapshot(w http.ResponseWriter, r *http.Request, _ []byte) error {
	err := await(r.Context(), a.n.raft.Snapshot())
	if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("take a snapshot: %w", err)
	}
	reply(w, http.StatusOK, a.n.describe())
	return nil
}
