package main

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"onionbalancer/bench/report"

	"onionbalancer/bench/points"
	"onionbalancer/descriptor"
)

// sizes returns how many bytes a descriptor takes by its number of introduction
// points, from 1, on relays without or with an IPv6 address.
func sizes(ipv6 bool) (sizes []int, err error) {
	identity, err := descriptor.IdentityKeyFromSeed(make([]byte, 32))
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	now := midnight
	period := descriptor.PeriodAt(now, descriptor.DefaultPeriodLength, 12*time.Hour)
	keys, err := identity.Address().Keys(period)
	if err != nil {
		return nil, fmt.Errorf("making the keys of a period: %w", err)
	}
	blinded, err := identity.Blind(period)
	if err != nil {
		return nil, fmt.Errorf("blinding a key: %w", err)
	}
	signing := ed25519.NewKeyFromSeed(make([]byte, 32))
	cert, err := blinded.Certify([32]byte(signing.Public().(ed25519.PublicKey)), descriptor.SigningCertExpiry(now))
	if err != nil {
		return nil, fmt.Errorf("certifying a key: %w", err)
	}
	encoder, err := descriptor.NewEncoder(keys, cert, signing)
	if err != nil {
		return nil, fmt.Errorf("making an encoder: %w", err)
	}
	contents, err := points.Contents(now)
	if err != nil {
		return nil, fmt.Errorf("making introduction points: %w", err)
	}
	for i := range contents.IntroductionPoints {
		if p := &contents.IntroductionPoints[i]; ipv6 {
			p.LinkSpecifiers = append(p.LinkSpecifiers, descriptor.LinkSpecifier{Type: descriptor.LinkIPv6, Data: points.RandomBytes(18)})
		}
	}
	for n := range contents.IntroductionPoints {
		few := *contents
		few.IntroductionPoints = contents.IntroductionPoints[:n+1]
		raw, err := encoder.Encode(&few, revision, zeros{})
		if err != nil {
			return nil, fmt.Errorf("making a descriptor of %d points: %w", n+1, err)
		}
		sizes = append(sizes, len(raw))
	}
	return sizes, nil
}

// revision is a counter of as many digits as they have on most of a period's days.
const revision = 5_000_000_000

// zeros is a source of salts that need not be random: only sizes matter.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// A decoy that a client meets costs it so many seconds (measured: half a second to a
// second on loopback, 0.9 to 1.3 at a round trip of 200 ms to the guard).
const (
	decoyLoopback = 0.8
	decoyDistant  = 1.1
)

// decoysMet is how many dead points a client meets on average before it draws one of
// the live ones, without putting any back.
func decoysMet(decoys, live int) float64 { return float64(decoys) / float64(live+1) }

// atLeastOne is the part of first visits that meet one.
func atLeastOne(decoys, live int) float64 { return float64(decoys) / float64(decoys+live) }

// measuredDelay is what visits of a private network's clients took longer than
// those which met no dead point, in seconds.
var measuredDelay = []struct {
	decoys, live int
	distant      bool
	seconds      float64
}{{2, 1, false, 0.61}, {5, 3, false, 1.29}, {2, 1, true, 1.12}, {5, 3, true, 1.52}}

// introductions is the mean number that a point takes before tor ends it: 16,384 to
// 32,768 (or.h, INTRO_POINT_MIN_LIFETIME_INTRODUCTIONS).
const introductions = (16384 + 32768) / 2

func measureFixed(say progress) (figures, error) {
	say("encoding descriptors of 1 to %d points", descriptor.MaxIntroductionPoints)
	size := chart{Name: "fixed-size", Title: "What an HSDir sees of the number of points",
		X: axis{Label: "introduction points", From: 1, To: descriptor.MaxIntroductionPoints}, Y: axis{Label: "bytes of the descriptor", From: 0, To: 50000}}
	sizeTable := table{Name: "sizes", Head: []string{"relays", "introduction points", "bytes"}}
	for _, relays := range []struct {
		name string
		ipv6 bool
	}{{"with IPv4 only", false}, {"with IPv6 too", true}} {
		bytes, err := sizes(relays.ipv6)
		if err != nil {
			return figures{}, err
		}
		line := series{Name: "relays " + relays.name, Dashed: relays.ipv6}
		from := 1
		for i, n := range bytes {
			if i > 0 && n != bytes[i-1] { // a step, not a slope
				line.Add(float64(i+1), float64(bytes[i-1]))
			}
			line.Add(float64(i+1), float64(n))
			if i == len(bytes)-1 || bytes[i+1] != n {
				sizeTable.Add(relays.name, fmt.Sprintf("%d to %d", from, i+1), n)
				from = i + 2
			}
		}
		size.Series = append(size.Series, line)
	}

	delay := chart{Name: "fixed-decoys", Title: "What decoys cost a new visitor",
		X: axis{Label: "decoys in the descriptor", From: 0, To: 17}, Y: axis{Label: "added to a first visit, mean (s)"}}
	delayTable := table{Name: "decoys", Head: []string{"live points", "decoys", "first visits that meet one", "added, loopback", "added, 200 ms to the guard"}}
	for _, c := range []struct {
		live    int
		each    float64
		name    string
		distant bool
	}{{1, decoyDistant, "1 live point", true}, {3, decoyDistant, "3 live", true}, {8, decoyDistant, "8 live", true}, {3, decoyLoopback, "3 live, loopback", false}} {
		line := series{Name: c.name, Dashed: !c.distant}
		for d := 0; d <= descriptor.MaxIntroductionPoints-c.live && d <= 17; d++ {
			line.Add(float64(d), c.each*decoysMet(d, c.live))
		}
		delay.Series = append(delay.Series, line)
	}
	for _, distant := range []bool{true, false} {
		dots := series{Name: map[bool]string{true: "measured, 200 ms", false: "measured, loopback"}[distant], Dots: true}
		for _, m := range measuredDelay {
			if m.distant == distant {
				dots.Add(float64(m.decoys), m.seconds)
			}
		}
		delay.Series = append(delay.Series, dots)
	}
	for _, c := range [][2]int{{3, 1}, {3, 5}, {3, 17}, {8, 2}, {8, 12}} {
		live, decoys := c[0], c[1]
		met := decoysMet(decoys, live)
		delayTable.Add(live, decoys, f0(100*atLeastOne(decoys, live))+" %", f1(decoyLoopback*met)+" s", f1(decoyDistant*met)+" s")
	}

	spent := table{Name: "spent", Head: []string{"new visitors a second", "3 points", "8 points", "20 points", "60 points"}}
	for _, rate := range []float64{0.2, 1, 5, 20, 100} {
		cells := []any{report.Number(rate)}
		for _, n := range []float64{3, 8, 20, 60} {
			cells = append(cells, hours(introductions*n/rate/3600))
		}
		spent.Add(cells...)
	}
	return figures{[]table{sizeTable, delayTable, spent, measureServing(say)}, []chart{size, delay}}, nil
}

// hours writes how long a point lasts, which is never longer than tor's own limit.
func hours(h float64) string {
	if h >= 18 {
		return "its whole life"
	}
	return f1(h) + " h"
}
