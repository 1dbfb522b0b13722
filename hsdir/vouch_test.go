package hsdir

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"onionbalancer/descriptor"
)

func TestVouch(t *testing.T) {
	net := randomNetwork(5, 3, publicNoon)
	net.Relays[1].Flags = []string{"Fast", "Running", "Valid"} // no HSDir
	net.Relays[2].Flags = []string{"Fast", "HSDir", "Valid"}   // not running
	net.Relays[3].NoMicrodesc = true
	c := net.parse(t, false)
	order := slices.Clone(net.Relays)
	slices.SortFunc(order, func(a, b testRelay) int { return slices.Compare(a.Fingerprint[:], b.Fingerprint[:]) })
	named := func(i int) *descriptor.IntroductionPoint {
		r := net.Relays[i]
		place := slices.IndexFunc(order, func(o testRelay) bool { return o.Fingerprint == r.Fingerprint })
		return &descriptor.IntroductionPoint{LinkSpecifiers: []descriptor.LinkSpecifier{
			{Type: descriptor.LinkIPv4, Data: binary.BigEndian.AppendUint16([]byte{127, 0, 0, 1}, uint16(5000+place))},
			{Type: descriptor.LinkRSA, Data: slices.Clone(r.Fingerprint[:])},
			{Type: descriptor.LinkEd25519, Data: slices.Clone(r.Ed25519[:])},
			{Type: descriptor.LinkIPv6, Data: binary.BigEndian.AppendUint16(append(make([]byte, 15), 1), 9001)},
		}}
	}
	for _, test := range []struct {
		name   string
		relay  int
		change func(*descriptor.IntroductionPoint)
		says   string // nothing: it is right
	}{
		{"as it is", 0, func(*descriptor.IntroductionPoint) {}, ""},
		{"without IPv6", 0, func(p *descriptor.IntroductionPoint) { p.LinkSpecifiers = p.LinkSpecifiers[:3] }, ""},
		{"no HSDir", 1, func(*descriptor.IntroductionPoint) {}, ""},
		{"not running", 2, func(*descriptor.IntroductionPoint) {}, "not running"},
		{"no microdescriptor", 3, func(*descriptor.IntroductionPoint) {}, ""},
		{"another relay's Ed25519 identity", 0, func(p *descriptor.IntroductionPoint) { p.LinkSpecifiers[2].Data = net.Relays[1].Ed25519[:] }, "Ed25519"},
		{"another address", 0, func(p *descriptor.IntroductionPoint) { p.LinkSpecifiers[0].Data[0] = 10 }, "IPv4"},
		{"another port", 0, func(p *descriptor.IntroductionPoint) { p.LinkSpecifiers[0].Data[5]++ }, "IPv4"},
		{"an unknown relay", 0, func(p *descriptor.IntroductionPoint) { p.LinkSpecifiers[1].Data[0]++ }, "there is no"},
		{"two RSA identities", 0, func(p *descriptor.IntroductionPoint) {
			p.LinkSpecifiers = append(p.LinkSpecifiers, descriptor.LinkSpecifier{Type: descriptor.LinkRSA, Data: net.Relays[1].Fingerprint[:]})
		}, "RSA"},
		{"none", 0, func(p *descriptor.IntroductionPoint) { p.LinkSpecifiers = nil }, "there is no"},
	} {
		p := named(test.relay)
		test.change(p)
		got, err := c.Vouch(p)
		if err == nil && !got.Equal(p) {
			t.Errorf("%s: became %+v", test.name, got)
		}
		if test.says == "" && err != nil || test.says != "" && (!errors.Is(err, ErrRelay) || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.says)
		}
	}
	// An IPv6 address that the consensus does not know is not published.
	p := named(0)
	p.LinkSpecifiers[3].Data[0] = 0x20
	if got, err := c.Vouch(p); err != nil || len(got.LinkSpecifiers) != 3 || len(p.LinkSpecifiers) != 4 {
		t.Errorf("with another IPv6 address: %d specifiers, %v", len(got.LinkSpecifiers), err)
	}
}
