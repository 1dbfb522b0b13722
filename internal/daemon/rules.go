package daemon

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/config"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/relayset"
	"onionbalancer/internal/tor"
)

// rules returns the sets of relays whose introduction points a service avoids and
// prefers.
func rules(p config.Points) (avoid, prefer relayset.Set, err error) {
	if avoid, err = relayset.ParseSet(p.Avoid); err == nil {
		prefer, err = relayset.ParseSet(p.Prefer)
	}
	return avoid, prefer, err
}

// families lists the relays whose families the rules of cfg ask for, in order.
func families(cfg *config.Config) (list [][20]byte) {
	add := func(p config.Points) {
		avoid, prefer, _ := rules(p) // config.Parse has seen them
		list = append(append(list, avoid.Families()...), prefer.Families()...)
	}
	for _, s := range cfg.Services {
		add(s.Points)
	}
	for _, s := range cfg.Shards {
		add(s.Points)
	}
	slices.SortFunc(list, func(a, b [20]byte) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(list)
}

// asksCountries reports whether countries decide about points of a service.
func asksCountries(s balance.Config) bool { return s.Avoid.Countries() || s.Prefer.Countries() }

// checkGeoIP warns if the rules of some service ask for countries that a tor does not
// know.
func (c *checker) checkGeoIP(ctx context.Context, t *tor.Tor) {
	if !slices.ContainsFunc(c.services, asksCountries) {
		return
	}
	const what = "countries of relays"
	if err := tor.CheckGeoIP(ctx, t.Client().GetInfo); err != nil {
		c.warn(what, c.torLog, "%w", err)
		return
	}
	c.ok(what, "tor has a GeoIP file")
}

// avoided counts the introduction points of a descriptor whose relays a service
// avoids.
func avoided(ctx context.Context, t *tor.Tor, consensus *hsdir.Consensus, s balance.Config, d *descriptor.Descriptor) (n int) {
	for i := range d.IntroductionPoints {
		relay, known := consensus.Relay(&d.IntroductionPoints[i])
		if !known {
			continue
		}
		country := ""
		if s.Avoid.Countries() {
			country = tor.Country(ctx, t.Client().GetInfo, relay.Address())
		}
		if s.Avoid.Find(relay, country) >= 0 {
			n++
		}
	}
	return n
}

// avoidedNote says for check what becomes of an instance with points that are avoided.
func avoidedNote(avoided, points int) string {
	switch {
	case avoided == 0:
		return ""
	case avoided == points:
		return "points.avoid has the relays of all its introduction points: it gets no clients while other instances have some"
	}
	return fmt.Sprintf("points.avoid leaves out %s of it", printable.Count(avoided, "introduction point"))
}
