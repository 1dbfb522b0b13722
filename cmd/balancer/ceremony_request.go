package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/internal/owner"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
	"onionbalancer/keystore"
	"onionbalancer/keystore/offline"
	"onionbalancer/keystore/pkcs11uri"
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
is created. With several addresses, each gets a directory of its own in DIR, named
after it. Later, --config finds all services and customers of shards whose key is such a
directory, and --dir works without a configuration: with the directory itself, one that
has such directories in it, or that of a shard. Run this as the balancer's user.

The keys stay on this machine: in DIR (0600), where the balancer wipes each when
its period is over, or on a token (--signing; with --config the token that the
service has there). Put DIR where the balancer may write, for instance below
state_dir. Keys are kept, and requested again until their period is over; so a lost
request or bundle does no harm.

--split also writes the request in small files, each of 40 periods of one address
at most: a QR code (version 40, error correction M). "ceremony sign" takes them all.

The default is 60 periods, 60 days on the public network, from the period on whose
descriptor is in use now. With --config the running balancer is asked which one
that is, and how long periods are; else it goes by the clock, and by the timing of
the public network or that of the keys in DIR.`,
		Example: `  balancer ceremony request --dir /var/lib/balancer/front.offline ADDRESS.onion --out request.json
  balancer ceremony request --config /etc/balancer/balancer.toml --periods 90 --out request.json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			made, err := o.make(cmd.Context(), args)
			if err != nil {
				return err
			}
			return show(cmd, o.asJSON, made, made.write)
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

// dirs returns the directories that the command line asks to make keys in.
func (o *requestOptions) dirs(args []string) ([]keysDir, error) {
	if o.periods < 1 || o.periods > offline.MaxPeriods {
		return nil, usageError{fmt.Errorf("%d periods, want 1 to %d", o.periods, offline.MaxPeriods)}
	}
	if len(args) == 0 {
		list, err := preparedIn(o.config, o.dir)
		for i := range list {
			list[i].signing = cmp.Or(o.signing, list[i].signing)
		}
		return list, err
	}
	if o.dir == "" || o.config != "" {
		return nil, usageError{errors.New("with addresses, name the directory of their signing keys with --dir DIR, and no configuration")}
	}
	var list []keysDir
	for _, arg := range args {
		address, err := descriptor.ParseAddress(arg)
		if err != nil {
			return nil, usageError{err}
		}
		dir := o.dir
		if len(args) > 1 {
			dir = filepath.Join(o.dir, address.Label())
		}
		list = append(list, keysDir{dir, o.signing, address})
	}
	return list, nil
}

// make does all of the command but printing.
func (o *requestOptions) make(ctx context.Context, args []string) (*requestMade, error) {
	list, err := o.dirs(args)
	if err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("writing the request: %w", err)
	}
	for _, d := range list {
		if err := owner.Check(d.dir); err != nil {
			return nil, err
		}
	}
	schedule, now, err := o.timing(ctx, list)
	if err != nil {
		return nil, err
	}
	if err := offline.Fits(schedule, len(list), o.periods); err != nil {
		return nil, usageError{err}
	}
	first, err := o.first(schedule, now)
	if err != nil {
		return nil, err
	}
	var wanted []offline.Wanted
	dirs := map[descriptor.Address]string{}
	for _, d := range list {
		one, err := d.prepare(ctx, schedule, first, o.periods)
		if err != nil {
			return nil, err
		}
		wanted = append(wanted, one)
		dirs[one.Address] = d.dir
	}
	// Only when all keys are safe is there anything to carry away.
	request, err := offline.NewRequest(time.Now(), schedule, first, wanted)
	if err != nil {
		return nil, err
	}
	shown, err := showRequest(request, o.out)
	if err != nil {
		return nil, err
	}
	shown.Warnings = request.Warnings(request.Made)
	made := &requestMade{requestShown: *shown, Dirs: dirs}
	if len(list) == 1 && wanted[0].CertifiedThrough == 0 {
		if made.forConfig, err = list[0].configLines(); err != nil {
			return nil, err
		}
	}
	raw, err := request.Encode()
	if err == nil {
		made.Parts, err = o.write(raw, request.Split, func(i int) string { return fmt.Sprintf("request-%03d.json", i+1) })
	}
	if err != nil {
		return nil, fmt.Errorf("writing the request: %w", err)
	}
	return made, nil
}

// prepare makes the keys of one address.
func (d keysDir) prepare(ctx context.Context, schedule offline.Schedule, first uint64, count int) (wanted offline.Wanted, err error) {
	p := offline.Preparation{Dir: d.dir, Address: d.address, Schedule: schedule, First: first, Count: count}
	if d.signing != "" {
		address := d.address
		if offline.Is(d.dir) {
			there, err := offline.Describe(d.dir)
			if err != nil {
				return wanted, err
			}
			address = there.Address
		}
		token, err := keystore.OpenSigning(d.signing, address, d.dir)
		if err != nil {
			return wanted, err
		}
		defer func() { err = errors.Join(err, token.Close()) }()
		p.Source = token
	}
	return offline.Prepare(ctx, p)
}

// requestShown is a request in plain words. It has no secret in it.
type requestShown struct {
	Path        string              `json:"request"`
	Fingerprint offline.Fingerprint `json:"fingerprint"`
	Made        string              `json:"made"`
	offline.Schedule
	offline.Span
	Periods  int             `json:"periods"`
	Services []serviceWanted `json:"services"`
	Warnings []string        `json:"warnings,omitempty"`

	paths []string // the same as Path, one by one
}

// serviceWanted is the request for one address.
type serviceWanted struct {
	Address          descriptor.Address    `json:"address"`
	CertifiedThrough uint64                `json:"certified_through,omitempty"`
	Keys             []offline.Fingerprint `json:"signing_key_fingerprints"`
}

func showRequest(r *offline.Request, paths ...string) (*requestShown, error) {
	name, err := r.Fingerprint()
	if err != nil {
		return nil, err
	}
	shown := &requestShown{
		Path: strings.Join(paths, ", "), paths: paths, Fingerprint: name, Made: moment(r.Made), Schedule: r.Schedule,
		Span: r.Schedule.Span(r.First, r.Last()), Periods: r.Periods(),
	}
	for _, w := range r.Services {
		one := serviceWanted{Address: w.Address, CertifiedThrough: w.CertifiedThrough}
		for _, key := range w.Keys {
			one.Keys = append(one.Keys, offline.KeyFingerprint(key))
		}
		shown.Services = append(shown.Services, one)
	}
	return shown, nil
}

// keysPerLine is how many fingerprints of signing keys stand in a line; of more services
// than keysFor, nobody would read them.
const (
	keysPerLine = 4
	keysFor     = 10
)

// write prints all of it: everything that is about to be signed.
func (r *requestShown) write(w io.Writer) {
	// Always in quotes: a name could look like a part of our own text.
	for _, path := range r.paths {
		fmt.Fprintf(w, "Request %q\n", path)
	}
	fmt.Fprintf(w, "Made %s.\n", r.Made)
	fmt.Fprintf(w, "It asks for certificates of descriptor-signing keys, and for the keys of revision counters.\n")
	fmt.Fprintf(w, "\n  from     %s  (period %d)\n  until    %s  (period %d)\n  that is  %d periods of %s, %s\n",
		moment(r.From), r.First, moment(r.Until), r.Last, r.Periods, r.Length(), days(r.From, r.Until))
	for _, s := range r.Services {
		fmt.Fprintf(w, "\n  for %s\n", s.Address)
		if s.CertifiedThrough != 0 {
			fmt.Fprintf(w, "  which has certificates until %s (period %d)\n", moment(r.End(s.CertifiedThrough)), s.CertifiedThrough)
		}
		if len(r.Services) > keysFor {
			fmt.Fprintf(w, "  %d signing keys\n", len(s.Keys))
			continue
		}
		fmt.Fprintf(w, "  signing keys, by period:")
		for i, key := range s.Keys {
			gap := "   "
			if i%keysPerLine == 0 {
				gap = "\n    "
			}
			fmt.Fprintf(w, "%s%d %s", gap, r.First+uint64(i), key)
		}
		fmt.Fprintln(w)
	}
	writeWarnings(w, r.Warnings)
	fmt.Fprintf(w, "\nFingerprint of the request: %s\n", r.Fingerprint)
}

// configLines returns the configuration lines of one service for the new
// keys: where they are, in full.
func (d keysDir) configLines() (string, error) {
	dir, err := filepath.Abs(d.dir)
	if err != nil || d.signing == "" {
		return fmt.Sprintf("key = %q", dir), err
	}
	here, err := filepath.Abs(".")
	if err != nil {
		return "", err
	}
	uri, err := pkcs11uri.Parse(d.signing)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("key = %q\nand below it:         signing = %q", dir, uri.Resolve(here)), nil
}

func writeWarnings(w io.Writer, warnings []string) {
	for _, warning := range warnings {
		fmt.Fprintf(w, "\nWARNING: %s\n", warning)
	}
}

// requestMade is what "balancer ceremony request" tells.
type requestMade struct {
	requestShown
	Dirs  map[descriptor.Address]string `json:"dirs"`
	Parts []string                      `json:"parts,omitempty"`

	// forConfig are the lines that a configuration needs the first time.
	forConfig string
}

func (m *requestMade) write(w io.Writer) {
	fmt.Fprintf(w, "%d periods, from %s until %s (%s):\n", m.Periods, moment(m.From), moment(m.Until), days(m.From, m.Until))
	for _, s := range m.Services {
		fmt.Fprintf(w, "  %s  keys in %s\n", s.Address, printable.Text(m.Dirs[s.Address]))
	}
	if len(m.Parts) > 0 {
		fmt.Fprintf(w, "In parts, for QR codes: %d files in %s\n", len(m.Parts), printable.Text(filepath.Dir(m.Parts[0])))
	}
	writeWarnings(w, m.Warnings)
	fmt.Fprintf(w, `
request      %[1]s
fingerprint  %[2]s

Next:
  1. Write the fingerprint down, and carry %[3]s to the machine that has the
     identity key.
  2. There: balancer ceremony sign %[3]s --key KEY --out bundle.json
     It shows the fingerprint again. If it is another one, somebody changed the
     file, or a part of it is missing.
  3. Carry bundle.json back, and here: balancer ceremony install bundle.json --config FILE
     (or with --dir DIR for --config FILE)
`, printable.Text(m.Path), m.Fingerprint, shell.Quote(filepath.Base(m.Path)))
	if m.forConfig != "" {
		fmt.Fprintf(w, "\nIn the configuration: %s\n", m.forConfig)
	}
}
