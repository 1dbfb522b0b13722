package hosting

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"onionbalancer/descriptor"
	"onionbalancer/internal/printable"
)

// Trouble is what is not as it should be with a shard's directory or the files of its replicas.
type Trouble struct {
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // a command, or what else to do
	Bad    bool   `json:"bad,omitempty"` // customers are not served, or will not be
}

// Inspect looks at a shard's directory, and at the files of replicas with the given names. Its
// counts do not tell suspended customers from active ones.
func (d *Dir) Inspect(shard string, replicas []string) (s Shard, troubles []Trouble, err error) {
	// In this order, as Lines does it.
	var lists [3][]descriptor.Address
	for i, list := range []func() ([]descriptor.Address, error){d.Pending, d.Spares, d.Removed} {
		if lists[i], err = list(); err != nil {
			return s, nil, err
		}
	}
	pending, spares, removed := lists[0], lists[1], lists[2]
	served, err := d.served()
	if err != nil {
		return s, nil, err
	}
	_, strange, err := d.Customers()
	if err != nil {
		return s, nil, err
	}
	s = Shard{Name: shard, Active: len(served), Removed: len(removed), Spares: len(spares), Pending: len(pending)}
	for _, err := range strange {
		troubles = append(troubles, Trouble{Detail: err.Error(), Fix: "move it elsewhere"})
	}
	for _, name := range replicas {
		troubles = append(troubles, d.inspect(shard, name, slices.Concat(served, spares), pending)...)
	}
	return s, append(troubles, s.Troubles()...), nil
}

// inspect looks at the ob_config of a replica, which has to have the addresses of known, and
// is to have those of pending.
func (d *Dir) inspect(shard, replica string, known, pending []descriptor.Address) []Trouble {
	refill := "balancer shard refill " + shard
	written, err := d.Written(replica)
	if errors.Is(err, fs.ErrNotExist) {
		return []Trouble{{Detail: "no files were written for the replica " + replica, Fix: refill}}
	}
	if err != nil {
		return []Trouble{{Detail: err.Error(), Fix: refill}}
	}
	has := make(map[descriptor.Address]bool)
	for _, a := range written {
		has[a] = true
	}
	lacks := func(list []descriptor.Address) (n int) {
		for _, a := range list {
			if !has[a] {
				n++
			}
		}
		return n
	}
	switch {
	case lacks(known) > 0:
		return []Trouble{{
			Detail: fmt.Sprintf("the ob_config that was written for %s lacks %s that it should answer for", replica, printable.Count(lacks(known), "line")),
			Fix:    refill + ", and restart the replicas as it says", Bad: true,
		}}
	case lacks(pending) > 0:
		return []Trouble{{
			Detail: fmt.Sprintf("the ob_config that was written for %s lacks %s of pending keys", replica, printable.Count(lacks(pending), "line")),
			Fix:    refill,
		}}
	}
	return nil
}

// Troubles tells of numbers that are not as they should be.
func (s Shard) Troubles() (list []Trouble) {
	if n := s.Lines(); n > ShardMost {
		list = append(list, Trouble{
			Detail: fmt.Sprintf("%d addresses: each introduction, whomever it is for, costs a replica's tor %s of processor time, and garbage costs the same", n, introduction(n)),
			Fix:    fmt.Sprintf("put further customers on another shard: about %d to each", ShardSize),
		})
	}
	switch {
	case s.Spares == 0 && s.Pending > 0:
		list = append(list, Trouble{
			Detail: fmt.Sprintf("no spare key, so no customer can be added; %s wait for the replicas' restart", printable.Count(s.Pending, "key")),
			Fix:    "when all replicas were restarted with their new ob_config: balancer shard installed " + s.Name,
		})
	case s.Spares == 0:
		list = append(list, Trouble{Detail: "no spare key, so no customer can be added", Fix: "balancer shard refill " + s.Name})
	case s.Spares < FewSpares && s.Pending == 0:
		list = append(list, Trouble{Detail: fmt.Sprintf("only %s left for new customers", printable.Count(s.Spares, "spare key")), Fix: "balancer shard refill " + s.Name})
	}
	return list
}

// introduction is what one costs a tor with n lines in its ob_config.
func introduction(n int) string { return fmt.Sprintf("%d ms", 2+n/100) }
