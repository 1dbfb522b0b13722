package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/internal/printable"
	"onionbalancer/keystore/offline"
)

func newCeremonyShowCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show FILE|DIR",
		Short: "Show a request, a bundle or a directory of signing keys",
		Long: `Shows in plain words what a request asks for, with its fingerprint; what a bundle
has certificates for, after checking them; or until when the certificates in a
directory last. No secret key is shown, and nothing is changed.`,
		Example: `  balancer ceremony show request.json
  balancer ceremony show bundle.json
  balancer ceremony show front.offline --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			shown, err := showCeremony(args[0])
			if err != nil {
				return err
			}
			return show(cmd, asJSON, shown, shown.write)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

// showCeremony detects the kind of file at path.
func showCeremony(path string) (interface{ write(io.Writer) }, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return showDirs(path)
	}
	raw, err := offline.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	if offline.IsBundle(raw) {
		b, err := offline.ParseBundle(raw)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", path, err)
		}
		return showBundle(b, path)
	}
	r, err := offline.ParseRequest(raw)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	return showRequest(r, path)
}

// bundleShown is a bundle in plain words.
type bundleShown struct {
	Path string `json:"bundle"`
	offline.Schedule
	Services []serviceCertified `json:"services"`
}

// serviceCertified is a bundle's content for one address.
type serviceCertified struct {
	Address  descriptor.Address    `json:"address"`
	Spans    []offline.Span        `json:"certified"`
	Requests []offline.Fingerprint `json:"requests"`
}

func showBundle(b *offline.Bundle, path string) (*bundleShown, error) {
	shown := &bundleShown{Path: path, Schedule: b.Schedule}
	for _, address := range b.Addresses() {
		one := serviceCertified{Address: address, Spans: b.Spans(address)}
		for _, e := range b.Of(address) {
			if _, err := e.Verify(b.Schedule); err != nil {
				return nil, fmt.Errorf("%q is not good: %w", path, err)
			}
			if n := len(one.Requests); n == 0 || one.Requests[n-1] != e.Request {
				one.Requests = append(one.Requests, e.Request)
			}
		}
		shown.Services = append(shown.Services, one)
	}
	return shown, nil
}

func (b *bundleShown) write(w io.Writer) {
	fmt.Fprintf(w, "Bundle %q, checked: signed by the addresses that it names.\n", b.Path)
	for _, s := range b.Services {
		fmt.Fprintf(w, "\n  for %s\n", s.Address)
		writeSpans(w, "certificates", s.Spans)
		for _, r := range s.Requests {
			fmt.Fprintf(w, "  of the request with the fingerprint %s\n", r)
		}
	}
}

func writeSpans(w io.Writer, what string, spans []offline.Span) {
	if len(spans) == 0 {
		fmt.Fprintf(w, "  %s: none\n", what)
	}
	for _, s := range spans {
		fmt.Fprintf(w, "  %s: %d periods, from %s until %s (%d to %d)\n", what, s.Periods(), moment(s.From), moment(s.Until), s.First, s.Last)
	}
}

// dirsShown is directories in plain words.
type dirsShown []*offline.Description

func showDirs(path string) (dirsShown, error) {
	list, err := preparedIn("", path)
	if err != nil {
		return nil, err
	}
	var shown dirsShown
	for _, p := range list {
		d, err := offline.Describe(p.dir)
		if err != nil {
			return nil, err
		}
		shown = append(shown, d)
	}
	return shown, nil
}

func (list dirsShown) write(w io.Writer) {
	for _, d := range list {
		fmt.Fprintf(w, "%s\n  in %s\n", d.Address, printable.Text(d.Dir))
		writeSpans(w, "signing keys", d.Keys)
		if d.OnToken > 0 {
			fmt.Fprintf(w, "  %d of them on a token\n", d.OnToken)
		}
		writeSpans(w, "certificates", d.Certified)
		if d.Horizon > 0 {
			fmt.Fprintf(w, "  last ceremony: %s, for %d periods\n", moment(d.Ceremony), d.Horizon)
		}
	}
}
