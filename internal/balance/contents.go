package balance

import (
	"slices"
	"strconv"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/selection"
)

// ntorHandshake is the one CREATE2 format that every service offers.
const ntorHandshake = 2

// contents assembles the inner layer of a master descriptor from the chosen
// points, in their order. A property of whole services is claimed only if every
// instance that clients may end up at has it. sendmeInc is the consensus's
// cc_sendme_inc: clients refuse a descriptor whose value is not near their own.
func contents(chosen []selection.Candidate, instances []*instance, sendmeInc uint8) *descriptor.Contents {
	c := &descriptor.Contents{Create2Formats: []int{ntorHandshake}}
	var offers []*descriptor.FlowControl
	single := len(chosen) > 0
	for _, i := range instances {
		if !slices.ContainsFunc(chosen, func(c selection.Candidate) bool { return c.Instance == i.Name }) {
			continue
		}
		single = single && i.held.SingleOnion
		offers = append(offers, i.held.FlowControl)
	}
	c.SingleOnion = single
	c.FlowControl = commonFlowControl(offers, sendmeInc)
	for _, candidate := range chosen {
		c.IntroductionPoints = append(c.IntroductionPoints, *candidate.Point)
	}
	return c
}

// commonFlowControl returns the protocol versions that all the offers contain,
// nil if one of them is missing or they have none in common.
func commonFlowControl(offers []*descriptor.FlowControl, sendmeInc uint8) *descriptor.FlowControl {
	if len(offers) == 0 {
		return nil
	}
	common := ^uint64(0)
	for _, offer := range offers {
		if offer == nil {
			return nil
		}
		common &= versionSet(offer.Versions)
	}
	versions := versionRanges(common)
	if versions == "" {
		return nil
	}
	return &descriptor.FlowControl{Versions: versions, SendmeInc: sendmeInc}
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
	sameFlow := a.FlowControl == b.FlowControl ||
		a.FlowControl != nil && b.FlowControl != nil && *a.FlowControl == *b.FlowControl
	return sameFlow && a.SingleOnion == b.SingleOnion &&
		slices.EqualFunc(a.IntroductionPoints, b.IntroductionPoints, samePoint)
}

func samePoint(a, b descriptor.IntroductionPoint) bool {
	a.Expires = b.Expires
	return a.Equal(&b)
}
