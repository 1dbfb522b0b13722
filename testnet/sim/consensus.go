package sim

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"onionbalancer/descriptor"
)

// Consensus is what the authorities agreed on at one moment. It does not
// change.
type Consensus struct {
	// ValidAfter, FreshUntil and ValidUntil are whole seconds.
	ValidAfter, FreshUntil, ValidUntil time.Time
	// SharedRandomCurrent and SharedRandomPrevious are nil when the
	// authorities could not agree on one.
	SharedRandomCurrent, SharedRandomPrevious *[32]byte
	// Relays are all relays, in order of their fingerprints.
	Relays []*Relay

	cfg     *Config
	byID    map[[20]byte]*Relay
	rings   map[ringKey]*ring
	text    []byte
	microds []byte
}

// Period is the time period that the consensus falls into.
func (c *Consensus) Period() descriptor.Period {
	return descriptor.PeriodAt(c.ValidAfter, c.cfg.periodLength(), c.cfg.periodOffset())
}

// RunStart is when the shared-random run of the consensus began, at which
// SharedRandomCurrent appeared.
func (c *Consensus) RunStart() time.Time {
	run := int64(c.cfg.run() / time.Second)
	return time.Unix(c.ValidAfter.Unix()/run*run, 0).UTC()
}

// betweenPeriodAndRun says whether the period is newer than the shared random
// value: clients then look where services put their second descriptors.
func (c *Consensus) betweenPeriodAndRun() bool {
	start := c.RunStart()
	next := descriptor.PeriodAt(start, c.cfg.periodLength(), c.cfg.periodOffset()).End(c.cfg.periodOffset())
	return c.ValidAfter.Before(start) || !c.ValidAfter.Before(next)
}

// relay finds a relay by its fingerprint; nil if the consensus has none.
func (c *Consensus) relay(fingerprint [20]byte) *Relay { return c.byID[fingerprint] }

// usable is for how long after valid-until tor goes on with a consensus.
const usable = 24 * time.Hour

// live says whether tor would still work with c at now.
func (c *Consensus) live(now time.Time) bool {
	return c != nil && !now.After(c.ValidUntil.Add(usable)) && !now.Before(c.ValidAfter.Add(-usable))
}

// Text is the consensus as GETINFO dir/status-vote/current/consensus-microdesc
// gives it, in dir-spec's microdesc flavour. Its signature is made up.
func (c *Consensus) Text() []byte {
	if c.text != nil {
		return c.text
	}
	var b bytes.Buffer
	b.Grow(2000 + 400*len(c.Relays))
	b.WriteString("network-status-version 3 microdesc\nvote-status consensus\nconsensus-method 35\n")
	fmt.Fprintf(&b, "valid-after %s\nfresh-until %s\nvalid-until %s\n", c.ValidAfter.Format(time.DateTime),
		c.FreshUntil.Format(time.DateTime), c.ValidUntil.Format(time.DateTime))
	b.WriteString("voting-delay 300 300\nclient-versions 0.4.9.11\nserver-versions 0.4.9.11\n")
	b.WriteString("known-flags Authority BadExit Exit Fast Guard HSDir MiddleOnly NoEdConsensus Running Stable StaleDesc Sybil V2Dir Valid\n")
	b.WriteString("recommended-client-protocols Cons=2 Desc=2 FlowCtrl=1 HSDir=2 HSIntro=4 HSRend=2 Link=4-5 Microdesc=2 Relay=2\n")
	b.WriteString("recommended-relay-protocols Cons=2 Desc=2 DirCache=2 HSDir=2 HSIntro=4 HSRend=2 Link=4-5 LinkAuth=3 Microdesc=2 Relay=2\n")
	b.WriteString("required-client-protocols Cons=2 Desc=2 Link=4 Microdesc=2 Relay=2\n")
	b.WriteString("required-relay-protocols Cons=2 Desc=2 DirCache=2 HSDir=2 HSIntro=4 HSRend=2 Link=4-5 LinkAuth=3 Microdesc=2 Relay=2\n")
	c.writeParams(&b)
	writeSharedRandom(&b, "previous", c.SharedRandomPrevious)
	writeSharedRandom(&b, "current", c.SharedRandomCurrent)
	authority := c.cfg.derive("authority")
	id := strings.ToUpper(hex.EncodeToString(authority[:20]))
	fmt.Fprintf(&b, "dir-source auth1 %s 198.18.255.254 198.18.255.254 9030 9001\ncontact nobody\nvote-digest %s\n", id, id)
	for _, r := range c.Relays {
		b.Write(r.lines())
	}
	b.WriteString("directory-footer\nbandwidth-weights Wbd=0 Wbe=0 Wbg=4203 Wbm=10000 Wdb=10000 Web=10000 Wed=10000 Wee=10000 " +
		"Weg=10000 Wem=10000 Wgb=10000 Wgd=0 Wgg=5797 Wgm=5797 Wmb=10000 Wmd=0 Wme=0 Wmg=4203 Wmm=10000\n")
	digest := sha256.Sum256(b.Bytes())
	fmt.Fprintf(&b, "directory-signature sha256 %s %s\n-----BEGIN SIGNATURE-----\n%s\n-----END SIGNATURE-----\n",
		id, id, base64.StdEncoding.EncodeToString(digest[:]))
	c.text = b.Bytes()
	return c.text
}

func (c *Consensus) writeParams(b *bytes.Buffer) {
	if len(c.cfg.Params) == 0 {
		return
	}
	b.WriteString("params")
	for _, name := range slices.Sorted(maps.Keys(c.cfg.Params)) {
		fmt.Fprintf(b, " %s=%d", name, c.cfg.Params[name])
	}
	b.WriteByte('\n')
}

func writeSharedRandom(b *bytes.Buffer, which string, value *[32]byte) {
	if value != nil {
		fmt.Fprintf(b, "shared-rand-%s-value 9 %s\n", which, base64.StdEncoding.EncodeToString(value[:]))
	}
}

// Microdescs is the relays' microdescriptors one after another, as GETINFO
// md/all gives them.
func (c *Consensus) Microdescs() []byte {
	if c.microds == nil {
		c.microds = make([]byte, 0, 400*len(c.Relays))
		for _, r := range c.Relays {
			c.microds = append(c.microds, r.microdesc...)
		}
	}
	return c.microds
}
