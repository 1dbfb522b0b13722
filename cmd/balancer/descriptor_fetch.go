package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
	"onionbalancer/internal/daemon"
	"onionbalancer/internal/owner"
	"onionbalancer/internal/shell"
)

func newDescriptorFetchCommand() *cobra.Command {
	var path, target, key string
	cmd := &cobra.Command{
		Use:   "fetch ADDRESS",
		Short: "Fetch the descriptor of an onion service from the HSDirs",
		Long: `Fetch the descriptor of an onion service from the HSDirs that are responsible
for it, verify it, and write it unchanged to standard output. "balancer
descriptor show" prints its contents.

The descriptor is that of the current period: tor fetches no other.`,
		Example: `  balancer descriptor fetch --control unix:/run/tor/control ADDRESS > fetched
  balancer descriptor show --address ADDRESS fetched`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := descriptor.ParseAddress(args[0])
			if err != nil {
				return usageError{err}
			}
			cfg, err := controlConfig(path, target)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Minute)
			defer cancel()
			raw, err := daemon.FetchDescriptor(ctx, cfg, address, key)
			if err != nil {
				return err
			}
			_, err = binary(cmd.OutOrStdout()).Write(raw)
			return err
		},
	}
	addControlFlags(cmd, &path, &target)
	cmd.Flags().StringVar(&key, "client-key", "", "the `FILE` of a client-authorization key (tor's .auth_private)")
	return cmd
}

// addControlFlags adds the two ways to say which tor to talk to.
func addControlFlags(cmd *cobra.Command, path, target *string) {
	addConfigFlag(cmd, path)
	cmd.Flags().StringVar(target, "control", "", "tor's control port, `unix:PATH or HOST:PORT`, instead of the configuration's")
}

// controlConfig returns a configuration that says which tor to talk to.
func controlConfig(path, target string) (*config.Config, error) {
	if target != "" {
		return &config.Config{Tor: config.Tor{Controls: []string{target}}}, nil
	}
	if path == "" {
		return nil, usageError{fmt.Errorf("say which tor to ask: --control unix:PATH or HOST:PORT, or --config FILE")}
	}
	cfg, err := config.Load(path)
	if err == nil && cfg.Tor.Own() {
		err = owner.Check(cfg.File, cfg.StateDir) // a tor would run there
	}
	return cfg, err
}

// descriptorInput holds the flags that say how to read a descriptor.
type descriptorInput struct {
	address, clientKey, now string
	period, length          uint64
}

// foundDescriptor is a descriptor with the inputs that opened it.
type foundDescriptor struct {
	keys       descriptor.PeriodKeys
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
	found, err := decodeInPeriods(raw, address, periods, client, now)
	if err != nil && bytes.Contains(raw, []byte("\r\n")) {
		// An editor or a mail program did that: no HSDir and no tor writes them.
		from := " < " + shell.Quote(path)
		if path == "-" {
			from = ""
		}
		err = fmt.Errorf("%w: it has Windows line ends (CRLF), which no client takes; without them: tr -d '\\r'%s", err, from)
	}
	return found, err
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

// decodeInPeriods tries one period after the other. If it is signed for none of
// them, it returns the last such error; any other error ends the search.
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
		// The input may be a mistyped key: it is not repeated.
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
