package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/daemon"
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

The consensus comes from a tor, by --control or --config, or from two files that
hold what GETINFO dir/status-vote/current/consensus-microdesc and GETINFO md/all
gave. For files of a network with TestingTorNetwork set, add --testing: its
periods are shorter. A tor is asked whether it is set.`,
		Example: `  balancer hsdirs --control unix:/run/tor/control ADDRESS
  balancer hsdirs --json --config balancer.toml ADDRESS
  balancer hsdirs --consensus consensus --microdescs microdescs ADDRESS`,
		Args: misuse(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := descriptor.ParseAddress(args[0])
			if err != nil {
				return usageError{err}
			}
			return in.with(cmd.Context(), func(c *hsdir.Consensus) error {
				v, err := newHSDirsView(address, c)
				if err != nil {
					return err
				}
				if asJSON {
					return writeJSON(cmd.OutOrStdout(), v)
				}
				return printHSDirs(cmd.OutOrStdout(), v)
			})
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

// with calls do with the consensus.
func (in *hsdirsInput) with(ctx context.Context, do func(*hsdir.Consensus) error) error {
	if err := in.check(); err != nil {
		return err
	}
	if in.consensus != "" {
		c, err := in.readFiles()
		if err != nil {
			return err
		}
		return do(c)
	}
	cfg, err := controlConfig(in.config, in.control)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, hsdirsWait)
	defer cancel()
	c, err := daemon.Consensus(ctx, cfg)
	if err != nil {
		return err
	}
	return do(c)
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
