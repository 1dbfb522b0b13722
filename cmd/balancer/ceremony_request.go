package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/internal/owner"
	"onionbalancer/keystore"
	"onionbalancer/keystore/offline"
)

// requestOptions are the flags of "balancer ceremony request".
type requestOptions struct {
	outputs
	config, dir, signing, from string
	periods                    int
	length, offset             time.Duration
	asJSON                     bool
}

func newCeremonyRequestCommand() *cobra.Command {
	var o requestOptions
	cmd := &cobra.Command{
		Use:   "request {--config FILE | --dir DIR [ADDRESS...]}",
		Short: "Make signing keys for the next periods, and ask for their certificates",
		Long: `Makes the descriptor-signing keys of the next periods, and writes a request: a file
with their public halves, to be carried to the machine that has the identity key.
Then compare the fingerprint shown here with the one that "ceremony sign" shows.

The first time, name the public onion address and a directory for its keys, which
is made. With several addresses, each gets a directory of its own in DIR, named
after it. Later, --config finds all services whose key is such a directory, and
--dir alone does without a configuration. Run this as the balancer's user.

The keys stay on this machine: in DIR (0600), where the balancer wipes each when
its period is over, or on a token (--signing; with --config the token that the
service has there). Put DIR where the balancer may write, as below state_dir. A key
that was made is kept, and asked for again until its period is over; so nothing is
lost if a request or a bundle is.

--split writes the request in small files besides, each of 40 periods of one address
at most: a QR code (version 40, error correction M). "ceremony sign" takes them all.

The default is 60 periods, 60 days on the public network, from the period on whose
descriptor is in use now. With --config the running balancer is asked which one
that is, and how long periods are; else it goes by the clock, and by the timing of
the public network or that of the keys in DIR.`,
		Example: `  balancer ceremony request --dir /var/lib/balancer/front.offline ADDRESS.onion --out request.json
  balancer ceremony request --config /etc/balancer/balancer.toml --periods 90 --out request.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			made, err := o.make(cmd.Context(), args)
			if err != nil {
				return err
			}
			if o.asJSON {
				return writeJSON(cmd.OutOrStdout(), made)
			}
			return made.write(cmd.OutOrStdout())
		},
	}
	addConfigFlag(cmd, &o.config)
	addKeysDirFlag(cmd, &o.dir)
	flags := cmd.Flags()
	flags.StringVar(&o.out, "out", "ceremony-request.json", "the request `FILE` to write; never overwritten")
	flags.StringVar(&o.split, "split", "", "write small files as well, each for a QR code, to the new `DIR`")
	flags.IntVar(&o.periods, "periods", 60, "how many `PERIODS` to prepare")
	flags.StringVar(&o.from, "from", "", "the first period: its `NUMBER`, or a time in it (RFC 3339); the one in use now by default")
	flags.DurationVar(&o.length, "period-length", 0, "how long a period is, on a network of one's own")
	flags.DurationVar(&o.offset, "rotation-offset", 0, "how long after a multiple of their length periods begin; half of it by default")
	flags.StringVar(&o.signing, "signing", "", "the pkcs11: `URI` of the token to make the keys on")
	flags.BoolVar(&o.asJSON, "json", false, "print as JSON")
	return cmd
}

// wish is one address to make keys for.
type wish struct {
	prepared
	address descriptor.Address // zero: the one whose directory it is
}

// wishes returns what the command line asks for.
func (o *requestOptions) wishes(args []string) ([]wish, error) {
	if o.periods < 1 || o.periods > offline.MaxPeriods {
		return nil, usageError{fmt.Errorf("%d periods, want 1 to %d", o.periods, offline.MaxPeriods)}
	}
	if len(args) == 0 {
		list, err := preparedIn(o.config, o.dir)
		wishes := make([]wish, len(list))
		for i, p := range list {
			if o.signing != "" {
				p.signing = o.signing
			}
			wishes[i] = wish{prepared: p}
		}
		return wishes, err
	}
	if o.dir == "" || o.config != "" {
		return nil, usageError{errors.New("with addresses, name the directory of their signing keys with --dir DIR, and no configuration")}
	}
	var wishes []wish
	for _, arg := range args {
		address, err := descriptor.ParseAddress(arg)
		if err != nil {
			return nil, usageError{err}
		}
		dir := o.dir
		if len(args) > 1 {
			dir = filepath.Join(o.dir, address.Label())
		}
		wishes = append(wishes, wish{prepared{dir, o.signing}, address})
	}
	return wishes, nil
}

// make does all of the command but printing.
func (o *requestOptions) make(ctx context.Context, args []string) (*requestMade, error) {
	wishes, err := o.wishes(args)
	if err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("writing the request: %w", err)
	}
	for _, w := range wishes {
		if err := owner.Check(w.dir); err != nil {
			return nil, err
		}
	}
	schedule, now, err := o.timing(ctx, wishes)
	if err != nil {
		return nil, err
	}
	first, err := o.first(schedule, now)
	if err != nil {
		return nil, err
	}
	var wanted []offline.Wanted
	dirs := map[descriptor.Address]string{}
	for _, w := range wishes {
		one, err := w.prepare(ctx, schedule, first, o.periods)
		if err != nil {
			return nil, err
		}
		wanted = append(wanted, one)
		dirs[one.Address] = w.dir
	}
	// Only when all keys are safe is there anything to carry away.
	request, err := offline.NewRequest(time.Now(), schedule, first, wanted)
	if err != nil {
		return nil, err
	}
	made, err := newRequestMade(request, o.out, dirs)
	if err == nil && len(wishes) == 1 && wanted[0].CertifiedThrough == 0 {
		made.forConfig, err = wishes[0].configLines()
	}
	if err != nil {
		return nil, err
	}
	return made, o.store(request, made)
}

// store writes the request, and its parts.
func (o *requestOptions) store(r *offline.Request, made *requestMade) error {
	raw, err := r.Encode()
	if err == nil {
		made.Parts, err = o.write(raw, r.Split, func(i int) string { return fmt.Sprintf("request-%03d.json", i+1) })
	}
	if err != nil {
		return fmt.Errorf("writing the request: %w", err)
	}
	return nil
}

// prepare makes the keys of one address.
func (w wish) prepare(ctx context.Context, schedule offline.Schedule, first uint64, count int) (wanted offline.Wanted, err error) {
	p := offline.Preparation{Dir: w.dir, Address: w.address, Schedule: schedule, First: first, Count: count}
	if w.signing != "" {
		address := w.address
		if offline.Is(w.dir) {
			d, err := offline.Describe(w.dir)
			if err != nil {
				return wanted, err
			}
			address = d.Address
		}
		token, err := keystore.OpenSigning(w.signing, address, w.dir)
		if err != nil {
			return wanted, err
		}
		defer func() { err = errors.Join(err, token.Close()) }()
		p.Source = token
	}
	return offline.Prepare(ctx, p)
}
