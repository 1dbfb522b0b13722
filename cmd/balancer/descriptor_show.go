package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
)

// newDescriptorCommand makes "balancer descriptor" with show, verify and the
// subcommands in extra.
func newDescriptorCommand(extra ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "descriptor",
		Short: "Look at the descriptors of onion services",
		Long: `Look at the descriptors of onion services, from a file or from the HSDirs.

A descriptor is encrypted for those who know the onion address, so that every
subcommand needs it; and for each period of a day it is signed with another key,
so that it must also be known, or guessed from the clock, which period it is of.`,
		Args: misuse(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDescriptorShowCommand(), newDescriptorVerifyCommand())
	cmd.AddCommand(extra...)
	return cmd
}

func newDescriptorShowCommand() *cobra.Command {
	var in descriptorInput
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show --address ADDRESS FILE",
		Short: "Verify a descriptor and print all that is in it",
		Long: `Verify a descriptor as a client would, and print all that is in it, both
encrypted layers included. FILE holds the descriptor as it came from an HSDir;
"-" stands for standard input. A descriptor that a client would refuse is
refused with the layer, line and keyword at fault, and exit status 1.

Introduction points that are damaged or expired are listed apart: clients leave
them out and use the others.`,
		Example: `  balancer descriptor show --address ADDRESS fetched
  balancer descriptor fetch ADDRESS | balancer descriptor show --json --address ADDRESS -
  balancer descriptor show --address ADDRESS --now 2026-11-20T09:00:00Z old
  balancer descriptor show --address ADDRESS --client-key me.auth_private fetched`,
		Args: misuse(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := in.decode(cmd, args[0])
			if err != nil {
				return err
			}
			if !asJSON {
				return printDescriptor(cmd.OutOrStdout(), found)
			}
			return writeJSON(cmd.OutOrStdout(), newDescriptorView(found))
		},
	}
	in.addFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, for programs")
	return cmd
}

func newDescriptorVerifyCommand() *cobra.Command {
	var in descriptorInput
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify --address ADDRESS FILE",
		Short: "Say whether clients would accept a descriptor",
		Long: `Say in one line whether clients would accept a descriptor, and if not, why.
The exit status is 0 if they would and 1 if not. "balancer descriptor show"
prints what is in it.`,
		Example: `  balancer descriptor verify --address ADDRESS fetched`,
		Args:    misuse(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := in.decode(cmd, args[0])
			fault := (*descriptor.ParseError)(nil)
			if asJSON && (err == nil || errors.As(err, &fault)) {
				return errors.Join(writeJSON(cmd.OutOrStdout(), newVerdictView(found, err)), err)
			}
			if err != nil {
				return err
			}
			d := found.descriptor
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "valid until %s: period %s, revision counter %d, %d introduction points, %d left out\n",
				d.SigningCert.Expires().Format(time.RFC3339), found.keys.Period, d.RevisionCounter, len(d.IntroductionPoints), len(d.Dropped))
			return err
		},
	}
	in.addFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, for programs")
	return cmd
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// descriptorInput holds the flags that say how to read a descriptor.
type descriptorInput struct {
	address, clientKey, now string
	period, length          uint64
}

// foundDescriptor is a descriptor with what it took to read it.
type foundDescriptor struct {
	keys       descriptor.Keys
	descriptor *descriptor.Descriptor
	size       int // bytes
}

func (in *descriptorInput) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&in.address, "address", "", "the onion `ADDRESS` of the service (required)")
	f.StringVar(&in.clientKey, "client-key", "", "the `KEY` of an authorized client: tor's .auth_private file, or the base32 key itself (which other users of this machine may then see)")
	f.StringVar(&in.now, "now", "", "the `TIME` to judge by, in unix seconds or as RFC 3339 (default: now)")
	f.Uint64Var(&in.period, "period", 0, "the `NUMBER` of the time period (default: the current, next and previous one of the public network are tried)")
	f.Uint64Var(&in.length, "period-length", uint64(descriptor.DefaultPeriodLength/time.Minute), "the length of a time period in `MINUTES`, together with --period")
}

// decode reads, decrypts and verifies the descriptor in a file.
func (in *descriptorInput) decode(cmd *cobra.Command, path string) (*foundDescriptor, error) {
	address, err := descriptor.ParseAddress(in.address)
	if err != nil {
		return nil, usageError{fmt.Errorf("--address: %w", err)}
	}
	now, err := parseMoment(in.now)
	if err != nil {
		return nil, usageError{fmt.Errorf("--now: %w", err)}
	}
	client, err := readClientKey(in.clientKey)
	if err != nil {
		return nil, fmt.Errorf("--client-key: %w", err)
	}
	periods, err := in.periods(cmd, now)
	if err != nil {
		return nil, err
	}
	raw, err := readDescriptor(cmd, path)
	if err != nil {
		return nil, err
	}
	return decodeInPeriods(raw, address, periods, client, now)
}

// periods returns the periods to try.
func (in *descriptorInput) periods(cmd *cobra.Command, now time.Time) ([]descriptor.Period, error) {
	const week = 7 * 24 * 60
	if in.length < 1 || in.length > week {
		return nil, usageError{fmt.Errorf("--period-length: %d minutes, want 1 to %d", in.length, week)}
	}
	if cmd.Flags().Changed("period") {
		return []descriptor.Period{{Number: in.period, Length: time.Duration(in.length) * time.Minute}}, nil
	}
	if cmd.Flags().Changed("period-length") {
		return nil, usageError{errors.New("--period-length goes together with --period")}
	}
	p := descriptor.PeriodAt(now, descriptor.DefaultPeriodLength, descriptor.DefaultRotationOffset)
	return []descriptor.Period{p, p.Next(), p.Previous()}, nil
}

// decodeInPeriods tries one period after the other. What is signed for none of
// them gives the last such error; any other fault ends the search.
func decodeInPeriods(raw []byte, address descriptor.Address, periods []descriptor.Period, client *descriptor.ClientKey, now time.Time) (*foundDescriptor, error) {
	var d descriptor.Decoder
	var names []string
	var last error
	for _, p := range periods {
		keys, err := address.Keys(p)
		if err != nil {
			return nil, err
		}
		decoded, err := d.Decode(raw, keys, client, now)
		if err == nil {
			return &foundDescriptor{keys: keys, descriptor: decoded, size: len(raw)}, nil
		}
		if !errors.Is(err, descriptor.ErrNotOurs) {
			return nil, err
		}
		names, last = append(names, p.String()), err
	}
	return nil, fmt.Errorf("%w (tried period %s; is the address right? --now and --period name another time)", last, strings.Join(names, ", "))
}

// parseMoment reads unix seconds or RFC 3339; empty is now.
func parseMoment(s string) (time.Time, error) {
	if s == "" {
		return time.Now(), nil
	}
	if seconds, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is neither unix seconds nor RFC 3339", s)
	}
	return t, nil
}

// readClientKey takes a file of that name if there is one, else a key.
func readClientKey(s string) (*descriptor.ClientKey, error) {
	if s == "" {
		return nil, nil
	}
	text, err := os.ReadFile(s)
	if err != nil {
		if key, keyErr := descriptor.ParseClientKey([]byte(s)); keyErr == nil {
			return key, nil
		}
		// What was given may be a mistyped key: it is not repeated.
		return nil, errors.New("neither a readable .auth_private file nor a base32 key of 52 characters")
	}
	defer clear(text)
	return descriptor.ParseClientKey(text)
}

// readDescriptor reads a file, or standard input for "-", but no more of it
// than it takes to see that it is too large.
func readDescriptor(cmd *cobra.Command, path string) ([]byte, error) {
	var from io.Reader = cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading descriptor: %w", err)
		}
		defer f.Close()
		from = f
	}
	raw, err := io.ReadAll(io.LimitReader(from, 2*descriptor.MaxSize))
	if err != nil {
		return nil, fmt.Errorf("reading descriptor: %w", err)
	}
	return raw, nil
}
