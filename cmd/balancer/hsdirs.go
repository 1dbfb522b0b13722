package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/daemon"
	"onionbalancer/internal/printable"
)

const (
	// hsdirsWait is how long tor may take to have a consensus.
	hsdirsWait = time.Minute
	// maxDocument is more than the parser takes, so that it is the one to refuse.
	maxDocument = 128 << 20 // 128 MiB
)

// hsdirsInput is where the consensus comes from.
type hsdirsInput struct {
	consensus, microdescs string // files
	testing               bool
	config, control       string
}

func newHSDirsCommand() *cobra.Command {
	var in hsdirsInput
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "hsdirs ADDRESS",
		Short: "Show which HSDirs hold the descriptors of an onion service",
		Long: `Show which HSDirs are responsible for the descriptors of an onion service.

A service has two descriptors at any time, the first and the second, each for a
time period of its own and placed by a shared random value of its own. Each goes
to a few HSDirs for every replica; clients ask only some of them, those marked
with a star, and only for the descriptor of the current period.

The consensus comes from a tor, by --control or --config, or from two files with the
answers to GETINFO dir/status-vote/current/consensus-microdesc and GETINFO md/all.
For files of a network with TestingTorNetwork set, add --testing: its
periods are shorter. A tor is asked whether it is set.`,
		Example: `  balancer hsdirs --control unix:/run/tor/control ADDRESS
  balancer hsdirs --json --config balancer.toml ADDRESS
  balancer hsdirs --consensus consensus --microdescs microdescs ADDRESS`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := descriptor.ParseAddress(args[0])
			if err != nil {
				return usageError{err}
			}
			c, err := in.read(cmd.Context())
			if err != nil {
				return err
			}
			v, err := newHSDirsView(address, c)
			if err != nil {
				return err
			}
			return show(cmd, asJSON, v, table(func(w io.Writer) { printHSDirs(w, v) }))
		},
	}
	addControlFlags(cmd, &in.config, &in.control)
	cmd.Flags().StringVar(&in.consensus, "consensus", "", "a `FILE` with the consensus of the microdesc flavour")
	cmd.Flags().StringVar(&in.microdescs, "microdescs", "", "a `FILE` with the microdescriptors")
	cmd.Flags().BoolVar(&in.testing, "testing", false, "the files are of a network with TestingTorNetwork set")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, for programs")
	return cmd
}

// check refuses flags that do not go together.
func (in *hsdirsInput) check() error {
	files, tor := in.consensus != "" || in.microdescs != "", in.config != "" || in.control != ""
	switch {
	case files && (in.consensus == "" || in.microdescs == ""):
		return usageError{errors.New("--consensus and --microdescs go together: the one names relays, the other places them")}
	case files && tor:
		return usageError{errors.New("take the consensus from files or from a tor, not from both")}
	case in.testing && !files:
		return usageError{errors.New("--testing is for files: a tor is asked whether its network is for testing")}
	}
	return nil
}

// read reads the consensus.
func (in *hsdirsInput) read(ctx context.Context) (*hsdir.Consensus, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	if in.consensus != "" {
		return in.readFiles()
	}
	cfg, err := controlConfig(in.config, in.control)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, hsdirsWait)
	defer cancel()
	return daemon.Consensus(ctx, cfg)
}

func (in *hsdirsInput) readFiles() (*hsdir.Consensus, error) {
	consensus, err := readDocument(in.consensus)
	if err != nil {
		return nil, err
	}
	microdescs, err := readDocument(in.microdescs)
	if err != nil {
		return nil, err
	}
	return new(hsdir.Parser).Parse(consensus, microdescs, in.testing)
}

// readDocument reads a directory document. Line ends as on the control port are
// made those that tor digested.
func readDocument(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxDocument))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if bytes.IndexByte(text, '\r') >= 0 {
		text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	}
	return text, nil
}

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
func printHSDirs(w io.Writer, v hsdirsView) {
	printable.Fields(&v)
	fmt.Fprintf(w, "address\t%s\n", v.Address)
	fmt.Fprintf(w, "consensus of\t%s\n", v.ValidAfter.Format(time.RFC3339))
	fmt.Fprintf(w, "HSDirs\t%v\n", v.coverage)
	fmt.Fprintf(w, "clients fetch\tthe %s descriptor\n", v.Current)
	fmt.Fprintf(w, "next change\t%s\n", v.NextChange.Format(time.RFC3339))
	printRing(w, "first", v.First)
	printRing(w, "second", v.Second)
}

func printRing(w io.Writer, name string, r ringView) {
	note := ""
	if r.Disaster {
		note = " (stands in for a missing one)"
	}
	fmt.Fprintf(w, "\n%s descriptor\n", name)
	fmt.Fprintf(w, "  period\t%d of %d minutes, from %s\n", r.Period, r.Minutes, r.Begins.Format(time.RFC3339))
	fmt.Fprintf(w, "  shared random\t%s%s\n", r.SharedRandom, note)
	fmt.Fprintf(w, "  blinded key\t%s\n", r.Blinded)
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
}
