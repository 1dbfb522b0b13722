package main

import (
	"fmt"
	"io"
	"path/filepath"

	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
	"onionbalancer/keystore/offline"
)

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
	parts, err := o.write(raw, b.Split, func(i int) string {
		return fmt.Sprintf("%s-%d.json", b.Entries[i].Address.Label(), b.Entries[i].Period)
	})
	if err != nil {
		return nil, fmt.Errorf("writing the bundle: %w", err)
	}
	return &signed{requestShown: *shown, Bundle: o.out, Parts: parts}, nil
}

func (s *signed) write(w io.Writer) error {
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
	_, err := fmt.Fprintf(w, "Carry it to the manager, and there: balancer ceremony install %s --config FILE\n", what)
	return err
}
