package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/printable"
)

// hsdirsView is what "balancer hsdirs" prints.
type hsdirsView struct {
	Address    string    `json:"address"`
	ValidAfter time.Time `json:"valid_after"`
	NextChange time.Time `json:"next_change"`
	Known      int       `json:"hsdirs"`
	Listed     int       `json:"hsdirs_listed"` // Known and those without a usable microdescriptor
	Current    string    `json:"current"`       // the descriptor that clients fetch
	First      ringView  `json:"first"`
	Second     ringView  `json:"second"`

	coverage hsdir.Coverage
}

type ringView struct {
	Period       uint64        `json:"period"`
	Minutes      uint64        `json:"period_length_minutes"`
	Begins       time.Time     `json:"period_begins"`
	SharedRandom string        `json:"shared_random"`
	Disaster     bool          `json:"shared_random_missing"` // and a stand-in is used
	Blinded      string        `json:"blinded_key"`
	Replicas     [][]hsdirView `json:"replicas"`
}

type hsdirView struct {
	Fingerprint string `json:"fingerprint"`
	Index       string `json:"index"`
	Nickname    string `json:"nickname"`
	Asked       bool   `json:"asked_by_clients"`
}

func newHSDirsView(address descriptor.Address, c *hsdir.Consensus) (v hsdirsView, err error) {
	v = hsdirsView{
		Address: address.String(), ValidAfter: c.ValidAfter, NextChange: c.NextChange(),
		Known: len(c.HSDirs), Listed: c.Coverage.Listed, Current: c.Current().Role.String(),
		coverage: c.Coverage,
	}
	if v.First, err = newRingView(address, c, hsdir.FirstRole); err != nil {
		return v, err
	}
	v.Second, err = newRingView(address, c, hsdir.SecondRole)
	return v, err
}

func newRingView(address descriptor.Address, c *hsdir.Consensus, role hsdir.Role) (ringView, error) {
	ring, err := c.Ring(role)
	if err != nil {
		return ringView{}, err
	}
	blinded, err := address.Blind(ring.Period)
	if err != nil {
		return ringView{}, err
	}
	v := ringView{
		Period: ring.Period.Number, Minutes: ring.Period.Minutes(), Begins: ring.Period.Start(c.RotationOffset()),
		SharedRandom: hex.EncodeToString(ring.SharedRandom[:]), Disaster: ring.Disaster,
		Blinded: hex.EncodeToString(blinded[:]),
	}
	asked := make(map[[20]byte]bool)
	for _, replica := range ring.Fetch(blinded) {
		for _, h := range replica {
			asked[h.Fingerprint] = true
		}
	}
	for _, replica := range ring.Store(blinded) {
		list := []hsdirView{}
		for _, h := range replica {
			list = append(list, hsdirView{hex.EncodeToString(h.Fingerprint[:]), hex.EncodeToString(h.Index[:]), h.Nickname, asked[h.Fingerprint]})
		}
		v.Replicas = append(v.Replicas, list)
	}
	return v, nil
}

// printHSDirs writes the view for people.
func printHSDirs(out io.Writer, v hsdirsView) error {
	printable.Fields(&v)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "address\t%s\n", v.Address)
	fmt.Fprintf(w, "consensus of\t%s\n", v.ValidAfter.Format(time.RFC3339))
	fmt.Fprintf(w, "HSDirs\t%v\n", v.coverage)
	fmt.Fprintf(w, "clients fetch\tthe %s descriptor\n", v.Current)
	fmt.Fprintf(w, "next change\t%s\n", v.NextChange.Format(time.RFC3339))
	if err := w.Flush(); err != nil {
		return err
	}
	for _, r := range []struct {
		name string
		ringView
	}{{"first", v.First}, {"second", v.Second}} {
		if err := printRing(out, r.name, r.ringView); err != nil {
			return err
		}
	}
	return nil
}

func printRing(out io.Writer, name string, r ringView) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	note := ""
	if r.Disaster {
		note = " (stands in for a missing one)"
	}
	fmt.Fprintf(w, "\n%s descriptor\n", name)
	fmt.Fprintf(w, "  period\t%d of %d minutes, from %s\n", r.Period, r.Minutes, r.Begins.Format(time.RFC3339))
	fmt.Fprintf(w, "  shared random\t%s%s\n", r.SharedRandom, note)
	fmt.Fprintf(w, "  blinded key\t%s\n", r.Blinded)
	if err := w.Flush(); err != nil {
		return err
	}
	w = tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprint(w, "\n  REPLICA\tHSDIR\tNICKNAME\tINDEX\n")
	for i, replica := range r.Replicas {
		if len(replica) == 0 {
			fmt.Fprintf(w, "  %d\tnone is left for it\t\t\n", i+1)
		}
		for _, h := range replica {
			star := " "
			if h.Asked {
				star = "*"
			}
			fmt.Fprintf(w, "%s %d\t%s\t%s\t%s\n", star, i+1, h.Fingerprint, h.Nickname, h.Index)
		}
	}
	return w.Flush()
}
