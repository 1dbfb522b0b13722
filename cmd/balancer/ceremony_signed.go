package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

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
	s := &signed{requestShown: *shown, Bundle: o.out}
	if o.out != "" {
		raw, err := b.Encode()
		if err != nil {
			return nil, err
		}
		if err := offline.WriteNew(o.out, raw); err != nil {
			return nil, fmt.Errorf("writing the bundle: %w", err)
		}
	}
	if o.split == "" {
		return s, nil
	}
	parts, err := b.Split()
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(o.split, 0o700); err != nil {
		return nil, fmt.Errorf("writing the parts of the bundle: %w", err)
	}
	for i, e := range b.Entries {
		path := filepath.Join(o.split, fmt.Sprintf("%s-%d.json", e.Address.Label(), e.Period))
		if err := offline.WriteNew(path, parts[i]); err != nil {
			return nil, fmt.Errorf("writing the parts of the bundle: %w", err)
		}
		s.Parts = append(s.Parts, path)
	}
	return s, nil
}

func (s *signed) write(w io.Writer) error {
	fmt.Fprintf(w, "Signed and checked: %d certificates for each of %d addresses, until %s.\n", s.Periods, len(s.Services), moment(s.Until))
	what := s.Bundle
	if s.Bundle != "" {
		fmt.Fprintf(w, "bundle  %s\n", s.Bundle)
	}
	if len(s.Parts) > 0 {
		dir := filepath.Dir(s.Parts[0])
		fmt.Fprintf(w, "parts   %d files in %s, one for each period and address\n", len(s.Parts), dir)
		if what == "" {
			what = filepath.Join(dir, "*.json")
		}
	}
	_, err := fmt.Fprintf(w, "Carry it to the manager, and there: balancer ceremony install %s --config FILE\n", what)
	return err
}
