package csr

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"onionbalancer/descriptor"
)

const (
	maxNames = 100
	maxName  = 253 // characters (RFC 1035, without the dot of the root)
	maxLabel = 63
	wildcard = "*."
)

// Names returns the DNS names of a request for address, without repetitions:
// address itself; everything one label below it, if all is set; then more. A
// name in more is below address, "www.ADDRESS" or "*.shop.ADDRESS", or one label
// alone, "www", which stands for www.ADDRESS.
func Names(address descriptor.Address, all bool, more []string) ([]string, error) {
	names := []string{address.String()}
	if all {
		names = append(names, wildcard+address.String())
	}
	for _, given := range more {
		name := strings.ToLower(given)
		if name != "" && !strings.Contains(name, ".") {
			name += "." + address.String()
		}
		if err := checkName(address, name); err != nil {
			return nil, fmt.Errorf("name %q: %w", given, err)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// checkNames checks all names of a request.
func checkNames(address descriptor.Address, names []string) error {
	if len(names) == 0 || len(names) > maxNames {
		return fmt.Errorf("%d names, want 1 to %d", len(names), maxNames)
	}
	seen := make(map[string]bool)
	for _, name := range names {
		if err := checkName(address, name); err != nil {
			return fmt.Errorf("name %q: %w", name, err)
		}
		if seen[name] {
			return fmt.Errorf("name %q: twice", name)
		}
		seen[name] = true
	}
	return nil
}

// checkName checks that name is address or below it, and made of labels as the
// Baseline Requirements have them (section 7.1.2.7.12: LDH labels, in whose
// third and fourth place "--" stands only for "xn--").
func checkName(address descriptor.Address, name string) error {
	rest, ok := strings.CutSuffix(name, address.String())
	if !ok {
		return fmt.Errorf("it does not end in the address of the key, %s", address)
	}
	if len(name) > maxName {
		return fmt.Errorf("%d characters, want at most %d", len(name), maxName)
	}
	if rest == "" {
		return nil
	}
	rest, ok = strings.CutSuffix(rest, ".")
	if !ok {
		return errors.New("there is no dot before the address")
	}
	if rest == "*" {
		return nil
	}
	for label := range strings.SplitSeq(strings.TrimPrefix(rest, wildcard), ".") {
		if err := checkLabel(label); err != nil {
			return err
		}
	}
	return nil
}

func checkLabel(label string) error {
	switch {
	case label == "":
		return errors.New("an empty label between two dots")
	case label == "*":
		return errors.New("a * stands only at the beginning, alone before the first dot")
	case len(label) > maxLabel:
		return fmt.Errorf("a label of %d characters, want at most %d", len(label), maxLabel)
	case strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
		return fmt.Errorf("label %q: only letters, digits and hyphens can stand in a certificate", label)
	case label[0] == '-' || label[len(label)-1] == '-':
		return fmt.Errorf("label %q: a hyphen at its end", label)
	case len(label) > 3 && label[2:4] == "--" && !strings.HasPrefix(label, "xn--"):
		return fmt.Errorf("label %q: only \"xn\" stands before two hyphens", label)
	}
	return nil
}
