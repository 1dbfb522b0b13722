package tor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"onionbalancer/internal/tor/control"
)

// How long an answer counts, as a GeoIP file seldom changes; how soon to ask again
// after a failure; and how long a question counts as open.
const (
	countryKept     = 24 * time.Hour
	countryRetry    = time.Minute
	countryPatience = 10 * time.Second
	maxCountries    = 20_000 // answers kept
)

// Countries tells in which countries addresses are, by tor's GeoIP file. It may be used
// by several goroutines.
type Countries struct {
	getInfo func(ctx context.Context, key string) ([]byte, error)
	changed func()
	woken   chan struct{} // holds a token while there are questions

	mu        sync.Mutex
	known     map[netip.Addr]country
	questions []netip.Addr
	trouble   error
}

// country is what is known of an address.
type country struct {
	code    string    // "de", "??" where tor knows none, "" where tor did not say
	asked   time.Time // when it was first of interest
	until   time.Time // when to ask again; zero while there is a question
	settled bool      // a question was answered, or failed
}

// NewCountries returns Countries that ask by getInfo, the GETINFO command of a tor, once
// Run runs. changed is called after answers that are others than before.
func NewCountries(getInfo func(ctx context.Context, key string) ([]byte, error), changed func()) *Countries {
	return &Countries{getInfo: getInfo, changed: changed, woken: make(chan struct{}, 1), known: map[netip.Addr]country{}}
}

// Of returns the country of an address, as tor writes it in lower case: "??" where it
// knows none, and "" where it did not say. It does not wait: open says that tor is being
// asked for the first time, for some seconds at most, and the answer will be followed
// by a call of changed.
func (c *Countries) Of(a netip.Addr) (code string, open bool) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	k, found := c.known[a]
	if !found {
		k.asked = now
	}
	if !found || !k.until.IsZero() && now.After(k.until) {
		if len(c.known) >= maxCountries {
			clear(c.known)
		}
		k.until = time.Time{}
		c.known[a] = k
		c.questions = append(c.questions, a)
		select {
		case c.woken <- struct{}{}:
		default:
		}
	}
	return k.code, k.code == "" && k.until.IsZero() && now.Sub(k.asked) < countryPatience
}

// Trouble says why countries are not known; nil if they are, or nobody asked.
func (c *Countries) Trouble() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trouble
}

// Run asks tor until ctx ends.
func (c *Countries) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.woken:
		}
		c.mu.Lock()
		questions := c.questions
		c.questions = nil
		c.mu.Unlock()
		var err error
		news := false
		for _, a := range questions {
			var code string
			if !errors.Is(err, context.DeadlineExceeded) { // else the others would hang as well
				code, err = c.ask(ctx, a)
			}
			news = c.settle(a, code, err) || news
		}
		if ctx.Err() == nil && news {
			c.changed()
		}
	}
}

// ask asks tor for the country of one address.
func (c *Countries) ask(ctx context.Context, a netip.Addr) (code string, err error) {
	ctx, cancel := context.WithTimeout(ctx, countryPatience)
	defer cancel()
	answer, err := c.getInfo(ctx, "ip-to-country/"+a.String())
	if errors.As(err, new(*control.ReplyError)) {
		if missing := CheckGeoIP(ctx, c.getInfo); missing != nil {
			err = missing
		}
	}
	return strings.ToLower(strings.TrimSpace(string(answer))), err
}

// settle takes an answer down, and reports whether Of says something else than before.
func (c *Countries) settle(a netip.Addr, code string, err error) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trouble = err
	k := c.known[a]
	news = !k.settled
	k.settled, k.until = true, time.Now().Add(countryRetry)
	if err == nil {
		news = news || code != k.code
		k.code, k.until = code, time.Now().Add(countryKept)
	}
	c.known[a] = k
	return news
}

// Country asks tor, by its GETINFO command, for the country of an address: as
// Countries.Of, but it waits for the answer.
func Country(ctx context.Context, getInfo func(ctx context.Context, key string) ([]byte, error), a netip.Addr) string {
	answer, err := getInfo(ctx, "ip-to-country/"+a.String())
	if err != nil {
		return ""
	}
	return strings.ToLower(strings.TrimSpace(string(answer)))
}

// CheckGeoIP returns an error if tor, whose GETINFO command is getInfo, has no GeoIP
// file of IPv4 addresses.
func CheckGeoIP(ctx context.Context, getInfo func(ctx context.Context, key string) ([]byte, error)) error {
	answer, err := getInfo(ctx, "ip-to-country/ipv4-available")
	switch {
	case err != nil:
		return fmt.Errorf("asking tor whether it has a GeoIP file: %w", err)
	case strings.TrimSpace(string(answer)) != "1":
		return &control.Advice{
			Err: errors.New("tor has no GeoIP file, so rules about countries match no relay"),
			Fix: "install the package tor-geoipdb, or name a file by GeoIPFile in tor's torrc, and restart tor",
		}
	}
	return nil
}
