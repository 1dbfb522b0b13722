package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
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
	yes    []string
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

Where several managers share the services, each has signing keys of its own, and makes a
request of its own. Give all of them: they are shown, asked about and signed one after
the other, all or none. --out is a new directory then, with a bundle for each request in
it, which has the name of the request's file. With --yes, give each fingerprint.

--split writes small files besides or instead, each small enough for a QR code (version
40, error correction M): three for each period and address. "ceremony install" takes
them in any order, of any periods, all three of each.`,
		Example: `  balancer ceremony sign request.json --key front --out bundle.json
  balancer ceremony sign codes/ --key front --key mail.pem --split signed
  balancer ceremony sign request.json --key front --out bundle.json --yes abcd-efgh-ijkl-mnop-qrst-uvwx
  balancer ceremony sign m1.json m2.json m3.json --key front --out bundles`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			signed, err := o.sign(cmd.Context(), args, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			var v any = signed
			if len(signed) == 1 {
				v = signed[0]
			}
			return show(cmd, o.asJSON, v, func(w io.Writer) {
				for _, s := range signed {
					s.write(w)
				}
			})
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&o.keys, "key", nil, "the identity `KEY` of an address; repeat it for more")
	flags.StringVar(&o.out, "out", "", "the bundle `FILE` to write, or the new directory for those of several requests; never overwritten")
	flags.StringVar(&o.split, "split", "", "write small files, three for each period and address, to the new `DIR`")
	flags.StringArrayVar(&o.yes, "yes", nil, "sign without asking if this is the `FINGERPRINT` of the request; repeat it for more")
	flags.BoolVar(&o.asJSON, "json", false, "print the signed entries as JSON")
	return cmd
}

// sign does all of the command except printing the signed entries.
func (o *signOptions) sign(ctx context.Context, paths []string, talk io.Writer) ([]*signed, error) {
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
	requests, err := readRequests(paths)
	if err != nil {
		return nil, err
	}
	keys, err := o.load(ctx, requests)
	defer func() {
		for _, key := range keys {
			key.Wipe()
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := match(requests, keys); err != nil {
		return nil, fmt.Errorf("the keys and the request do not fit together: %w", err)
	}
	bundles := make([]*offline.Bundle, len(requests))
	for _, r := range requests {
		if err := o.consent(ctx, r.shown, len(requests), talk); err != nil {
			return nil, err
		}
	}
	for i, r := range requests {
		if bundles[i], err = r.request.Sign(keysOf(r.request, keys), time.Now()); err != nil {
			return nil, err
		}
	}
	return o.store(requests, bundles)
}

// readRequest is a request to be signed.
type readRequest struct {
	request *offline.Request
	shown   *requestShown
}

// name is that of its first file, without the extension.
func (r *readRequest) name() string {
	return strings.TrimSuffix(filepath.Base(r.shown.paths[0]), ".json")
}

// readRequests reads requests, each from one file or from those of its parts, and says what
// is odd about each.
func readRequests(paths []string) (list []*readRequest, err error) {
	var parts []*offline.Request
	var repeated []string
	read, from := map[offline.Fingerprint]string{}, map[*offline.Request]string{}
	for _, path := range paths {
		raw, err := offline.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading the request: %w", err)
		}
		part, err := offline.ParseRequest(raw)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", path, err)
		}
		name, err := part.Fingerprint()
		if err != nil {
			return nil, err
		}
		if same, there := read[name]; there {
			repeated = append(repeated, fmt.Sprintf("%q has the same in it as %q", path, same))
			continue
		}
		read[name], from[part] = path, path
		parts = append(parts, part)
	}
	asked := map[string]string{} // the file that asks for a signing key
	for _, group := range offline.SortRequests(parts) {
		whole, err := offline.JoinRequests(group)
		if err != nil {
			return nil, err
		}
		var files []string
		for _, part := range group {
			files = append(files, from[part])
		}
		shown, err := showRequest(whole, files...)
		if err != nil {
			return nil, err
		}
		shown.Warnings = append(repeated, whole.Warnings(time.Now())...)
		repeated = nil
		if other := whole.Shares(asked, files[0]); other != "" {
			shown.Warnings = append(shown.Warnings, fmt.Sprintf("it asks for signing keys that %q asks for, too: both are by one manager, or its keys were copied", other))
		}
		list = append(list, &readRequest{whole, shown})
	}
	return list, nil
}

// load loads the keys that are named, and of those in a directory of many the ones that the
// requests ask for. The caller wipes those that are returned, also with an error.
func (o *signOptions) load(ctx context.Context, requests []*readRequest) (keys []*descriptor.IdentityKey, err error) {
	wanted := map[descriptor.Address]bool{}
	for _, r := range requests {
		for _, s := range r.request.Services {
			wanted[s.Address] = true
		}
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

// match reports whether keys are those of the requests' addresses, all of which are needed.
func match(requests []*readRequest, keys []*descriptor.IdentityKey) error {
	used := map[*descriptor.IdentityKey]bool{}
	for _, r := range requests {
		own := keysOf(r.request, keys)
		if len(requests) == 1 {
			own = keys
		}
		if err := r.request.Match(own); err != nil {
			return err
		}
		for _, key := range own {
			used[key] = true
		}
	}
	for _, key := range keys {
		if !used[key] {
			return fmt.Errorf("the key of %s was given, which is not in any request", key.Address())
		}
	}
	return nil
}

// keysOf are those of the addresses of a request.
func keysOf(r *offline.Request, keys []*descriptor.IdentityKey) (own []*descriptor.IdentityKey) {
	for _, key := range keys {
		if slices.ContainsFunc(r.Services, func(s offline.Wanted) bool { return s.Address == key.Address() }) {
			own = append(own, key)
		}
	}
	return own
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

// consent asks for it, or compares the fingerprints that were given. The request is one of
// several that are signed.
func (o *signOptions) consent(ctx context.Context, shown *requestShown, several int, talk io.Writer) error {
	shown.write(talk)
	if len(o.yes) > 0 {
		if slices.ContainsFunc(o.yes, shown.Fingerprint.Is) {
			return nil
		}
		which := "the request's fingerprint"
		if several > 1 {
			which = fmt.Sprintf("the fingerprint of %q", shown.Path)
		}
		return fmt.Errorf("not signed: %s is %s, not what --yes says: another request, or a changed one", which, shown.Fingerprint)
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

// store writes the bundles, and their parts. Those of several requests go into directories,
// under the names of the requests; if one cannot be written, none is left.
func (o *signOptions) store(requests []*readRequest, bundles []*offline.Bundle) (list []*signed, err error) {
	if len(requests) == 1 {
		one, err := o.storeOne(requests[0].shown, bundles[0])
		return []*signed{one}, err
	}
	names := map[string]bool{}
	for _, r := range requests {
		if names[r.name()] {
			return nil, fmt.Errorf("two requests are called %q, which their bundles would be called, too: rename one", r.name())
		}
		names[r.name()] = true
	}
	var made []string
	defer func() {
		if err != nil {
			for _, dir := range made {
				err = errors.Join(err, os.RemoveAll(dir))
			}
		}
	}()
	for _, dir := range []string{o.out, o.split} {
		if dir == "" {
			continue
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, fmt.Errorf("writing the bundles: %w", err)
		}
		made = append(made, dir)
	}
	for i, r := range requests {
		into := signOptions{}
		if o.out != "" {
			into.out = filepath.Join(o.out, r.name()+".json")
		}
		if o.split != "" {
			into.split = filepath.Join(o.split, r.name())
		}
		one, err := into.storeOne(r.shown, bundles[i])
		if err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	return list, nil
}

// storeOne writes the bundle of a request, and its parts.
func (o *signOptions) storeOne(shown *requestShown, b *offline.Bundle) (*signed, error) {
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
