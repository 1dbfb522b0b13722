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
	s.Parts, err = writeParts(o.split, parts, func(i int) string {
		return fmt.Sprintf("%s-%d.json", b.Entries[i].Address.Label(), b.Entries[i].Period)
	})
	return s, err
}

// writeParts writes the parts of a document to the new directory dir, and
// returns their paths.
func writeParts(dir string, parts [][]byte, name func(i int) string) ([]string, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("writing parts: %w", err)
	}
	var paths []string
	for i, part := range parts {
		path := filepath.Join(dir, name(i))
		if err := offline.WriteNew(path, part); err != nil {
			return nil, fmt.Errorf("writing parts: %w", err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// given returns the paths that were given.
func given(paths ...string) (list []string) {
	for _, path := range paths {
		if path != "" {
			list = append(list, path)
		}
	}
	return list
}

func (s *signed) write(w io.Writer) error {
	each := ""
	if n := len(s.Services); n > 1 {
		each = fmt.Sprintf(" for each of %d addresses", n)
	}
	fmt.Fprintf(w, "Signed and checked: %d certificates%s, until %s.\n", s.Periods, each, moment(s.Until))
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
