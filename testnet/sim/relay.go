package sim

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/netip"
	"strings"

	"onionbalancer/descriptor"
)

// Relay is a relay of the network; most relays are HSDirs too. Its methods
// may be called at any time from any goroutine.
type Relay struct {
	net *Network
	// The fields up to the blank line never change.
	fingerprint [20]byte
	identity    [32]byte // Ed25519
	onionKey    [32]byte // ntor
	nickname    string
	address     netip.AddrPort
	bandwidth   int
	microdesc   []byte
	routerLines [2][]byte // its entry in a consensus, without the HSDir flag and with it

	hsdir   bool
	gone    bool // left the network for good
	indexes [4]struct {
		ring  ringKey
		index [32]byte
	}
	store  map[descriptor.BlindedPublicKey]*stored
	faults Faults
}

// Fingerprint is the relay's RSA identity, 40 upper-case hex digits, which is
// how the control protocol names it.
func (r *Relay) Fingerprint() string {
	return strings.ToUpper(hex.EncodeToString(r.fingerprint[:]))
}

// Ed25519 is the relay's Ed25519 identity.
func (r *Relay) Ed25519() [32]byte { return r.identity }

// Nickname is the relay's nickname.
func (r *Relay) Nickname() string { return r.nickname }

// HSDir says whether the relay has the HSDir flag.
func (r *Relay) HSDir() bool {
	r.net.lock()
	defer r.net.mu.Unlock()
	return r.hsdir
}

// Running says whether the relay is still part of the network.
func (r *Relay) Running() bool {
	r.net.lock()
	defer r.net.mu.Unlock()
	return !r.gone
}

// longName is how events name the relay.
func (r *Relay) longName() string { return "$" + r.Fingerprint() + "~" + r.nickname }

// LinkSpecifiers are those that tor gives for an introduction point: IPv4,
// RSA identity, Ed25519 identity.
func (r *Relay) LinkSpecifiers() []descriptor.LinkSpecifier {
	ip := r.address.Addr().As4()
	return []descriptor.LinkSpecifier{
		{Type: 0, Data: binary.BigEndian.AppendUint16(ip[:], r.address.Port())},
		{Type: 2, Data: bytes.Clone(r.fingerprint[:])},
		{Type: 3, Data: bytes.Clone(r.identity[:])},
	}
}

var unpadded = base64.RawStdEncoding

// newRelay makes the relay of a number: the first Config.Relays numbers are
// there from the start, later ones join.
func (n *Network) newRelay(number uint64) *Relay {
	random := n.cfg.source("relay", number)
	seed := n.cfg.derive("relay identity", binary.BigEndian.AppendUint64(nil, number))
	r := &Relay{
		net:       n,
		nickname:  fmt.Sprintf("relay%d", number),
		identity:  [32]byte(ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)),
		onionKey:  n.cfg.derive("relay onion key", seed[:]),
		bandwidth: 1000 + random.IntN(9000),
		store:     make(map[descriptor.BlindedPublicKey]*stored),
	}
	id := n.cfg.derive("relay fingerprint", seed[:])
	copy(r.fingerprint[:], id[:])
	// The benchmarking networks of RFC 2544: nobody's.
	ip := binary.BigEndian.AppendUint32(nil, 198<<24|18<<16|uint32(number)&0x1ffff)
	r.address = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip)), 9001)
	r.microdesc = r.describe()
	return r
}

// describe writes the relay's microdescriptor (dir-spec, section 3.3), with
// the obsolete RSA onion key that it still contains.
func (r *Relay) describe() []byte {
	modulus := make([]byte, 0, 128)
	for i := byte(0); i < 4; i++ {
		part := r.net.cfg.derive("relay modulus", r.fingerprint[:], []byte{i})
		modulus = append(modulus, part[:]...)
	}
	modulus[0] |= 0x80
	der := append([]byte{0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00}, modulus...)
	der = append(der, 0x02, 0x03, 0x01, 0x00, 0x01)
	var b bytes.Buffer
	b.WriteString("onion-key\n")
	b.Write(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: der}))
	fmt.Fprintf(&b, "ntor-onion-key %s\n", unpadded.EncodeToString(r.onionKey[:]))
	fmt.Fprintf(&b, "id ed25519 %s\n", unpadded.EncodeToString(r.identity[:]))
	return b.Bytes()
}

const (
	relayProtocols = "Conflux=1 Cons=1-2 Desc=1-4 DirCache=2 FlowCtrl=1-2 HSDir=2 HSIntro=4-5 HSRend=1-2 " +
		"Link=1-5 LinkAuth=1,3 Microdesc=1-3 Padding=2 Relay=1-6"
	relayVersion = "Tor 0.4.9.11"
)

// lines writes the relay's entry in a consensus (dir-spec, section 3.4.1).
func (r *Relay) lines(hsdir bool) []byte {
	flags, known := "Fast Running V2Dir Valid", &r.routerLines[0]
	if hsdir {
		flags, known = "Fast Guard HSDir Running Stable V2Dir Valid", &r.routerLines[1]
	}
	if *known != nil {
		return *known
	}
	digest := sha256.Sum256(r.microdesc)
	*known = fmt.Appendf(nil, "r %s %s 2038-01-01 00:00:00 %s %d 0\nm %s\ns %s\nv %s\npr %s\nw Bandwidth=%d\n",
		r.nickname, unpadded.EncodeToString(r.fingerprint[:]), r.address.Addr(), r.address.Port(),
		unpadded.EncodeToString(digest[:]), flags, relayVersion, relayProtocols, r.bandwidth)
	return *known
}
