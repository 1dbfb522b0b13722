package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"onionbalancer/internal/printable"
)

// blockers are settings with which tor never has a consensus for us.
var blockers = []struct{ option, value, effect, fix string }{
	{"DisableNetwork", "1", "has its network switched off (DisableNetwork 1)", "set DisableNetwork 0 in its torrc, then reload it"},
	{"FetchServerDescriptors", "0", "fetches nothing of the directory (FetchServerDescriptors 0)", "remove that line from its torrc, then reload it"},
	{"UseMicrodescriptors", "0", "keeps no microdescriptors (UseMicrodescriptors 0)", "remove that line from its torrc, then reload it"},
}

// WhyNoConsensus asks tor why it has no consensus, after it returned none, for
// which refused is the error, or only an old one. percent is its bootstrap
// progress, or negative if it cannot continue by itself: why, which is
// never nil, then says how to fix it, as far as tor knows.
func (c *Client) WhyNoConsensus(ctx context.Context, refused error) (percent int, why error) {
	var advice *Advice
	if errors.Is(refused, ErrNotConnected) || errors.As(refused, &advice) {
		return -1, refused
	}
	if err := CheckVersion(c.State().TorVersion); errors.As(err, &advice) {
		return -1, err
	}
	for _, h := range blockers {
		if values, err := c.GetConf(ctx, h.option); err == nil && len(values) == 1 && values[0] == h.value {
			return -1, advise(fmt.Errorf("tor %s", h.effect), "%s", h.fix)
		}
	}
	step, err := c.Bootstrap(ctx)
	if err := c.clockError(step); err != nil {
		return -1, err
	}
	if err != nil {
		return -1, fmt.Errorf("tor has no consensus, and does not say why: %w", err)
	}
	return step.standstill()
}

// standstill describes where tor's bootstrap stopped.
func (p Progress) standstill() (percent int, why error) {
	fix := "see that this machine can reach the Tor network (firewall, proxy, bridges?)"
	at := fmt.Sprintf("tor is at %d %% of its start (%s)", p.Percent, printable.Text(p.Summary))
	switch {
	case p.Stuck:
		return -1, advise(fmt.Errorf("%s and does not get on: %s", at, printable.Text(p.Warning)), "%s", fix)
	case p.Done():
		at = "tor has started, and has no new consensus yet"
	default: // with a clock that is days off it only fails to shake hands
		fix += ", and that its clock is right"
	}
	return p.Percent, advise(errors.New(at), "%s", fix)
}

// ClockError returns tor's complaint about the clock, nil if there is none.
func (c *Client) ClockError(ctx context.Context) error {
	step, _ := c.Bootstrap(ctx) // empty if tor does not say
	return c.clockError(step)
}

func (c *Client) clockError(step Progress) error {
	c.mu.Lock()
	skew := c.skew
	c.mu.Unlock()
	if step.Reason == "CLOCK_SKEW" {
		_, seconds, _ := strings.Cut(step.Warning, "skew ")
		seconds, _, _ = strings.Cut(seconds, " ")
		if told := parseSkew(seconds); told != 0 {
			skew = told
		}
	}
	if skew == 0 {
		return nil
	}
	direction := "ahead of"
	if skew < 0 {
		direction = "behind"
	}
	return advise(fmt.Errorf("tor finds this machine's clock %v %s the Tor network's", skew.Abs(), direction), setClock)
}

const setClock = "set the clock right, by NTP for instance"

// parseSkew returns by how many seconds our clock is ahead, 0 if the value is
// implausible.
func parseSkew(seconds string) time.Duration {
	n, err := strconv.ParseInt(seconds, 10, 32)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// oldestVersion is the oldest series of tor that a balancer should use. It is
// the first whose clients and services support everything that descriptors
// hold today (flow-control came with 0.4.7, pow-params with 0.4.8), and
// older ones are no longer maintained.
const oldestVersion = "0.4.8"

// CheckVersion returns an error for an old version of tor, such as "0.4.9.11" or
// "0.4.9.3-alpha".
func CheckVersion(version string) error {
	have, err := parseVersion(version)
	if err != nil {
		return fmt.Errorf("reading tor's version %q: %w", version, err)
	}
	oldest, err := parseVersion(oldestVersion)
	if err != nil {
		return err
	}
	if slices.Compare(have[:], oldest[:]) >= 0 {
		return nil
	}
	return advise(fmt.Errorf("tor %s is older than %s, the oldest that balancer is made for", printable.Text(version), oldestVersion),
		"install a newer tor (Debian: from deb.torproject.org or backports)")
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
