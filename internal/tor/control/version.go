package control

import (
	"fmt"
	"strconv"
	"strings"

	"onionbalancer/internal/printable"
)

// OldestVersion is the oldest series of tor that a balancer should use. It is
// the first whose clients and services speak of everything that descriptors
// hold today (flow-control came with 0.4.7, pow-params with 0.4.8), and what
// came before it is no longer mended.
const OldestVersion = "0.4.8"

// CheckVersion says what is wrong with a version of tor, such as "0.4.9.11" or
// "0.4.9.3-alpha".
func CheckVersion(version string) error {
	have, err := parseVersion(version)
	if err != nil {
		return fmt.Errorf("reading tor's version %q: %w", version, err)
	}
	oldest, err := parseVersion(OldestVersion)
	if err != nil {
		return err
	}
	for i := range have {
		if have[i] > oldest[i] {
			return nil
		}
		if have[i] < oldest[i] {
			return advise(fmt.Errorf("tor %s is older than %s, the oldest that balancer is made for", printable.Text(version), OldestVersion),
				"install a newer tor (Debian: from deb.torproject.org or backports)")
		}
	}
	return nil
}

// parseVersion reads the first three numbers, which name the series.
func parseVersion(version string) (numbers [3]int, err error) {
	parts := strings.Split(version, ".")
	if len(parts) < len(numbers) {
		return numbers, fmt.Errorf("want at least %d numbers", len(numbers))
	}
	for i := range numbers {
		if numbers[i], err = strconv.Atoi(parts[i]); err != nil {
			return numbers, err
		}
	}
	return numbers, nil
}
