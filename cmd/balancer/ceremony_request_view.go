package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
	"onionbalancer/keystore/offline"
	"onionbalancer/keystore/pkcs11uri"
)

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

// serviceWanted is what a request wants for one address.
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

// keysPerLine is how many fingerprints of signing keys stand in a line.
const keysPerLine = 4

// write prints all of it: that is what is about to be signed.
func (r *requestShown) write(w io.Writer) {
	// Always in quotes: a name could go on as our own words do.
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

// configLines returns what the configuration of one service has to say of the
// keys made: where they are, in full.
func (w wish) configLines() (string, error) {
	dir, err := filepath.Abs(w.dir)
	if err != nil || w.signing == "" {
		return fmt.Sprintf("key = %q", dir), err
	}
	here, err := filepath.Abs(".")
	if err != nil {
		return "", err
	}
	uri, err := pkcs11uri.Parse(w.signing)
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

func newRequestMade(r *offline.Request, path string, dirs map[descriptor.Address]string) (*requestMade, error) {
	shown, err := showRequest(r, path)
	if err != nil {
		return nil, err
	}
	shown.Warnings = r.Warnings(r.Made)
	return &requestMade{requestShown: *shown, Dirs: dirs}, nil
}

func (m *requestMade) write(w io.Writer) error {
	fmt.Fprintf(w, "%d periods, from %s until %s (%s):\n", m.Periods, moment(m.From), moment(m.Until), days(m.From, m.Until))
	for _, s := range m.Services {
		fmt.Fprintf(w, "  %s  keys in %s\n", s.Address, printable.Text(m.Dirs[s.Address]))
	}
	if len(m.Parts) > 0 {
		fmt.Fprintf(w, "In parts, for QR codes: %d files in %s\n", len(m.Parts), printable.Text(filepath.Dir(m.Parts[0])))
	}
	writeWarnings(w, m.Warnings)
	_, err := fmt.Fprintf(w, `
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
	if err == nil && m.forConfig != "" {
		_, err = fmt.Fprintf(w, "\nIn the configuration: %s\n", m.forConfig)
	}
	return err
}
