package balance

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backend"
	"onionbalancer/selection"
)

// ntorHandshake is the one CREATE2 format that every service offers.
const ntorHandshake = 2

// contents assembles the inner layer of a master descriptor from the chosen
// points, in their order. A service is declared a single onion service
// only if every instance that clients may end up at says so. flow has the congestion
// control versions of most instances. Clients refuse a descriptor whose
// cc_sendme_inc is not near their consensus's own.
func contents(chosen []selection.Candidate, v View, flow uint64) *descriptor.Contents {
	single := make(map[string]bool)
	for n, b := range v.Instances.Backends {
		single[v.Config.Instances[n].Name] = b.Offer.SingleOnion
	}
	c := &descriptor.Contents{Create2Formats: []int{ntorHandshake}, CAACritical: v.Config.caaCritical(), Clients: v.Config.Clients, CAA: v.Config.CAA}
	c.SingleOnion = len(chosen) > 0
	c.IntroductionPoints = make([]descriptor.IntroductionPoint, 0, len(chosen))
	for _, candidate := range chosen {
		c.IntroductionPoints = append(c.IntroductionPoints, *candidate.Point)
		c.SingleOnion = c.SingleOnion && single[candidate.Instance]
	}
	if versions := versionRanges(flow); versions != "" && len(chosen) > 0 {
		c.FlowControl = &descriptor.FlowControl{Versions: versions, SendmeInc: v.SendmeInc}
	}
	return c
}

// caaCritical reports whether the descriptor says that there are CAA records to read.
func (c Config) caaCritical() bool { return c.CAACritical && len(c.CAA) > 0 }

// knownFlow are the versions of the FlowCtrl subprotocol whose meaning is known:
// authenticated SENDMEs and congestion control.
const knownFlow = 1<<1 | 1<<2

// agreedFlow returns the versions that more than half of the instances have.
// The majority's versions are published, and instances without them are left out: so
// no single one of three or more can switch congestion control off, or on, for all.
func agreedFlow(flows []*descriptor.FlowControl) (agreed uint64) {
	for v := range maxVersion {
		have := 0
		for _, f := range flows {
			have += int(versionsOf(f) >> v & 1)
		}
		if 2*have > len(flows) {
			agreed |= 1 << v
		}
	}
	return agreed
}

// versionsOf returns the known versions in an offer, none for no offer.
func versionsOf(f *descriptor.FlowControl) uint64 {
	if f == nil {
		return 0
	}
	return versionSet(f.Versions) & knownFlow
}

// maxVersion is the highest version that a protocol list can name: tor packs
// them into 64 bits.
const maxVersion = 63

// versionSet reads a protocol-version list such as "1-2,4" as a set of bits. A
// part that is malformed counts as absent.
func versionSet(list string) uint64 {
	var set uint64
	for part := range strings.SplitSeq(list, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		from, errFrom := strconv.ParseUint(low, 10, 8)
		to, errTo := strconv.ParseUint(high, 10, 8)
		if errFrom != nil || errTo != nil {
			continue
		}
		for v := from; v <= min(to, maxVersion); v++ {
			set |= 1 << v
		}
	}
	return set
}

// versionRanges is the inverse of versionSet, in the shortest form.
func versionRanges(set uint64) string {
	var parts []string
	for v := 0; v <= maxVersion; v++ {
		if set>>v&1 == 0 {
			continue
		}
		from := v
		for v < maxVersion && set>>(v+1)&1 == 1 {
			v++
		}
		part := strconv.Itoa(from)
		if v > from {
			part += "-" + strconv.Itoa(v)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ",")
}

// sameContents reports whether b would tell clients anything that a does not. A
// later expiry alone does not count: instances renew their certificates about
// hourly, and the new ones go along with the next descriptor that is due.
func sameContents(a, b *descriptor.Contents) bool {
	return a == b || sameBeside(a, b) && a.SingleOnion == b.SingleOnion &&
		slices.EqualFunc(a.IntroductionPoints, b.IntroductionPoints, func(p, q descriptor.IntroductionPoint) bool { return backend.SamePoint(&p, &q) })
}

// sameBeside compares what is beside the points and does not follow from them.
func sameBeside(a, b *descriptor.Contents) bool {
	return backend.SameFlow(a.FlowControl, b.FlowControl) && slices.Equal(a.CAA, b.CAA) && a.CAACritical == b.CAACritical && slices.Equal(a.Clients, b.Clients)
}

// dated returns c as it is published in a descriptor made at now: with one expiry
// for all points, the one that tor gives, and this hour's certificate. The points' own
// expiries would tell which of them belong to one instance.
func dated(c *descriptor.Contents, now time.Time) *descriptor.Contents {
	out := *c
	out.Made = now
	return &out
}
