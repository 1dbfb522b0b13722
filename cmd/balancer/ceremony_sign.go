package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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
)

// signOptions are the flags of "balancer ceremony sign".
type signOptions struct {
	outputs
	keys   []string
	yes    string
	asJSON bool
}

func newCeremonySignCommand() *cobra.Command {
	var o signOptions
	cmd := &cobra.Command{
		Use:   "sign REQUEST... --key KEY [--key KEY...] --out BUNDLE",
		Short: "Sign a request with the identity key, offline",
		Long: `Shows in plain words what a request asks for, asks whether to sign it, and signs:
for each period and address a certificate of the manager's signing key, the key of
the period's revision counters, and a signature by the identity key that protects
both on their way back. It checks every certificate that it made, then writes the
bundle.

Run this on a machine that has no network, and never will have: an old laptop with
its radios removed, started from a medium of which you know the origin. It needs no
tor, no configuration and no other file than the request and the key. Set the clock
before: nothing signed depends on it, but the warnings do.

Compare the fingerprint with the one that the manager showed. Anyone who can change the
request on its way would otherwise have keys of their own certified, and could
publish under the address. The fingerprint covers everything in the request. To sign,
type its last group of four characters, from your note of what the manager showed.

KEY is a key file, a tor HiddenServiceDir, or the "pkcs11:" URI of a key that a token
seals (with x-sealed). Give one for each address: a key that belongs to no address
in the request, or an address without a key, is an error before anything is signed.
KEY may also be a directory that has HiddenServiceDirs in it, of hundreds of customers:
those that the request is about are used, and the others left alone.
The identity key is in memory only while this runs, and a period's blinded key never
leaves memory.

REQUEST is a file, or a directory, which stands for all its *.json files. Give all
parts of a split request, in any order.
--split writes small files besides or instead, each small enough for a QR code (version
40, error correction M): three for each period and address. "ceremony install" takes
them in any order, of any periods, all three of each.`,
		Example: `  balancer ceremony sign request.json --key front --out bundle.json
  balancer ceremony sign codes/ --key front --key mail.pem --split signed
  balancer ceremony sign request.json --key front --out bundle.json --yes abcd-efgh-ijkl-mnop-qrst-uvwx`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			signed, err := o.sign(cmd.Context(), args, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return show(cmd, o.asJSON, signed, signed.write)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&o.keys, "key", nil, "the identity `KEY` of an address; repeat it for more")
	flags.StringVar(&o.out, "out", "", "the bundle `FILE` to write; never overwritten")
	flags.StringVar(&o.split, "split", "", "write small files, three for each period and address, to the new `DIR`")
	flags.StringVar(&o.yes, "yes", "", "sign without asking if this is the `FINGERPRINT` of the request")
	flags.BoolVar(&o.asJSON, "json", false, "print the signed entries as JSON")
	return cmd
}

// sign does all of the command except printing the signed entries.
func (o *signOptions) sign(ctx context.Context, paths []string, talk io.Writer) (*signed, error) {
	if len(o.keys) == 0 {
		return nil, usageError{errors.New("name the identity key with --key KEY")}
	}
	if o.out == "" && o.split == "" {
		return nil, usageError{errors.New("name the bundle to write with --out FILE, or a directory for small ones with --split DIR")}
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("writing the bundle: %w", err)
	}
	paths, err := documents(paths)
	if err != nil {
		return nil, fmt.Errorf("reading the request: %w", err)
	}
	request, repeated, err := readRequest(paths)
	if err != nil {
		return nil, err
	}
	keys, err := o.load(ctx, request)
	defer func() {
		for _, key := range keys {
			key.Wipe()
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := request.Match(keys); err != nil {
		return nil, fmt.Errorf("the keys and the request do not fit together: %w", err)
	}
	shown, err := showRequest(request, paths...)
	if err != nil {
		return nil, err
	}
	shown.Warnings = append(repeated, request.Warnings(time.Now())...)
	if err := o.consent(ctx, shown, talk); err != nil {
		return nil, err
	}
	bundle, err := request.Sign(keys, time.Now())
	if err != nil {
		return nil, err
	}
	return o.store(shown, bundle)
}

// load loads the keys that are named, and of those in a directory of many the ones that the
// request asks for. The caller wipes those that are returned, also with an error.
func (o *signOptions) load(ctx context.Context, request *offline.Request) (keys []*descriptor.IdentityKey, err error) {
	wanted := map[descriptor.Address]bool{}
	for _, s := range request.Services {
		wanted[s.Address] = true
	}
	for _, ref := range o.keys {
		within, err := keysWithin(ref)
		if err != nil {
			return keys, err
		}
		if len(within) == 0 {
			key, err := keystore.Load(ctx, ref)
			if err != nil {
				return keys, err
			}
			keys = append(keys, key)
		}
		for _, one := range within {
			key, err := keystore.Load(ctx, one)
			if err != nil {
				return keys, err
			}
			if wanted[key.Address()] {
				keys = append(keys, key)
			} else {
				key.Wipe()
			}
		}
	}
	return keys, nil
}

// keysWithin lists the directories of keys in the directory ref; none if it is not such a
// directory, but a key itself.
func keysWithin(ref string) (dirs []string, err error) {
	if info, err := os.Stat(ref); err != nil || !info.IsDir() {
		return nil, nil // Load says what is wrong
	}
	entries, err := os.ReadDir(ref)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.IsDir() {
			return nil, nil // tor's files, or Arti's
		}
		if !strings.HasPrefix(e.Name(), ".") {
			dirs = append(dirs, filepath.Join(ref, e.Name()))
		}
	}
	return dirs, nil
}

// readRequest reads a request from one file, or from those of its parts, and
// says which files have the same in them.
func readRequest(paths []string) (whole *offline.Request, repeated []string, err error) {
	var parts []*offline.Request
	read := map[offline.Fingerprint]string{}
	for _, path := range paths {
		raw, err := offline.ReadFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the request: %w", err)
		}
		part, err := offline.ParseRequest(raw)
		if err != nil {
			return nil, nil, fmt.Errorf("%q: %w", path, err)
		}
		name, err := part.Fingerprint()
		if err != nil {
			return nil, nil, err
		}
		if same, there := read[name]; there {
			repeated = append(repeated, fmt.Sprintf("%q has the same in it as %q", path, same))
			continue
		}
		read[name] = path
		parts = append(parts, part)
	}
	whole, err = offline.JoinRequests(parts)
	return whole, repeated, err
}

// consent asks for it, or compares the fingerprint that was given.
func (o *signOptions) consent(ctx context.Context, shown *requestShown, talk io.Writer) error {
	shown.write(talk)
	if o.yes != "" {
		if !shown.Fingerprint.Is(o.yes) {
			return fmt.Errorf("not signed: the request's fingerprint is %s, not what --yes says: another request, or a changed one", shown.Fingerprint)
		}
		return nil
	}
	answer, err := ask(ctx, "\nIs it the fingerprint that the manager showed, and do you want to sign all of this?\n"+
		"Then type its last group, four characters, from your note: ", "give the fingerprint that the manager showed with --yes FINGERPRINT", talk, os.Stdin)
	if err != nil {
		return fmt.Errorf("not signed: %w", err)
	}
	if !shown.Fingerprint.EndsWith(answer) {
		return errors.New("not signed: the input is not the last group of the request's fingerprint")
	}
	return nil
}

// signed is what "balancer ceremony sign" tells.
type signed struct {
	requestShown
	Bundle string   `json:"bundle,omitempty"`
	Parts  []string `json:"parts,omitempty"`
}

// store writes the bundle, and its parts.
func (o *signOptions) store(shown *requestShown, b *offline.Bundle) (*signed, error) {
	raw, err := b.Encode()
	if err != nil {
		return nil, err
	}
	pieces := b.Pieces()
	parts, err := o.write(raw, b.Split, func(i int) string {
		return fmt.Sprintf("%s-%d-%d.json", pieces[i].Address.Label(), pieces[i].Period, pieces[i].Piece.Number)
	})
	if err != nil {
		return nil, fmt.Errorf("writing the bundle: %w", err)
	}
	return &signed{requestShown: *shown, Bundle: o.out, Parts: parts}, nil
}

func (s *signed) write(w io.Writer) {
	each := ""
	if n := len(s.Services); n > 1 {
		each = fmt.Sprintf(" for each of %d addresses", n)
	}
	fmt.Fprintf(w, "Signed and checked: %d certificates%s, until %s.\n", s.Periods, each, moment(s.Until))
	what := shell.Quote(s.Bundle)
	if s.Bundle != "" {
		fmt.Fprintf(w, "bundle  %s\n", printable.Text(s.Bundle))
	}
	if len(s.Parts) > 0 {
		dir := filepath.Dir(s.Parts[0])
		fmt.Fprintf(w, "parts   %d files in %s, one for each period and address\n", len(s.Parts), printable.Text(dir))
		if s.Bundle == "" {
			what = shell.Quote(dir)
		}
	}
	fmt.Fprintf(w, "Carry it to the manager, and there: balancer ceremony install %s --config FILE\n", what)
}

func newCeremonyInstallCommand() *cobra.Command {
	var configPath, dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "install BUNDLE... {--config FILE | --dir DIR}",
		Short: "Install certificates that were signed offline",
		Long: `Checks bundles, or parts of one, and puts them into the directories of their
addresses: those that are keys in the configuration, or DIR, or those in DIR. A
directory BUNDLE stands for all its *.json files.

It checks, for every entry, that the holder of the onion address signed exactly this
entry; that the certificate is by the blinded key of that address and period, of
the right type, for the signing key that is here, and valid until the period's
descriptor is no longer used. If anything is wrong, nothing is replaced, for any
address. Periods that are over are left out.

A bundle adds to the certificates already installed. Installing one twice, or an
older one after a newer one, does no harm. A running balancer notices by itself,
without SIGHUP. The exit status is 0 even if there are warnings.`,
		Example: `  balancer ceremony install bundle.json --config /etc/balancer/balancer.toml
  balancer ceremony install codes/ --dir front.offline`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			done, err := installBundles(args, configPath, dir)
			if err != nil {
				return err
			}
			return show(cmd, asJSON, done, func(w io.Writer) { writeInstalled(w, done, time.Now()) })
		},
	}
	addConfigFlag(cmd, &configPath)
	addKeysDirFlag(cmd, &dir)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

func installBundles(paths []string, configPath, dir string) ([]offline.Installed, error) {
	targets, err := preparedIn(configPath, dir)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, t := range targets {
		dirs = append(dirs, t.dir)
	}
	if err := owner.Check(dirs...); err != nil {
		return nil, err
	}
	var bundles []*offline.Bundle
	if paths, err = documents(paths); err != nil {
		return nil, fmt.Errorf("reading the bundle: %w", err)
	}
	for _, path := range paths {
		raw, err := offline.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading the bundle: %w", err)
		}
		b, err := offline.ParseBundle(raw)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", path, err)
		}
		bundles = append(bundles, b)
	}
	return offline.Install(dirs, bundles, time.Now())
}

func writeInstalled(w io.Writer, list []offline.Installed, now time.Time) {
	for _, i := range list {
		fmt.Fprintf(w, "%s\n", i.Address)
		fmt.Fprintf(w, "  in %s: %d periods new, %d renewed, %d as before, %d over and left out\n", printable.Text(i.Dir), i.New, i.Renewed, i.Kept, i.Over)
		switch {
		case i.Through == 0:
		case i.Until.After(now):
			fmt.Fprintf(w, "  the supply lasts until %s, for %s (period %d)\n", moment(i.Until), days(now, i.Until), i.Through)
		default:
			fmt.Fprintf(w, "  the supply ended at %s (period %d)\n", moment(i.Until), i.Through)
		}
		for _, warning := range i.Warnings {
			fmt.Fprintf(w, "  WARNING: %s\n", warning)
		}
	}
	fmt.Fprintln(w, "A running balancer takes it over by itself; balancer status tells.")
}
