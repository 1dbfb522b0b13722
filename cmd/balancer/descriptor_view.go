package main

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"time"

	"onionbalancer/descriptor"
)

// descriptorView is what "descriptor show --json" prints. Byte strings are in
// lower-case hex.
type descriptorView struct {
	Address       string           `json:"onion_address"`
	PeriodNumber  uint64           `json:"time_period_number"`
	PeriodMinutes uint64           `json:"time_period_length_minutes"`
	Blinded       string           `json:"blinded_public_key"`
	Subcredential string           `json:"subcredential"`
	Size          int              `json:"total_length"`
	Version       int              `json:"version"`
	Lifetime      int              `json:"descriptor_lifetime_minutes"`
	Revision      uint64           `json:"revision_counter"`
	SigningCert   certificateView  `json:"signing_key_cert"`
	SigningKey    string           `json:"signing_public_key"`
	NeedsKey      bool             `json:"needs_client_key"`
	AuthType      string           `json:"desc_auth_type"`
	Ephemeral     string           `json:"desc_auth_ephemeral_key"`
	AuthCount     int              `json:"auth_client_count"`
	AuthClients   []authClientView `json:"auth_clients"`
	Create2       []int            `json:"create2_formats"`
	IntroAuth     []string         `json:"intro_auth_required"`
	SingleOnion   bool             `json:"single_onion_service"`
	FlowControl   *string          `json:"flow_control"`
	PowParams     []string         `json:"pow_params"`
	PointCount    int              `json:"intro_point_count"`
	Points        []introPointView `json:"introduction_points"`
	Dropped       []faultView      `json:"dropped_introduction_points"`
}

// instant is a time that a certificate may have: up to the year 491936.
type instant struct{ time.Time }

// MarshalJSON writes RFC 3339, which ends with the year 9999, or null.
func (i instant) MarshalJSON() ([]byte, error) {
	if i.UTC().Year() > 9999 {
		return []byte("null"), nil
	}
	return i.Time.MarshalJSON()
}

type authClientView struct {
	ID     string `json:"client_id"`
	IV     string `json:"iv"`
	Cookie string `json:"encrypted_cookie"`
}

type certificateView struct {
	Type       byte            `json:"cert_type"`
	Hours      int64           `json:"expiration_hours"`
	Expires    instant         `json:"expires"`
	KeyType    byte            `json:"key_type"`
	Key        string          `json:"certified_key"`
	SigningKey string          `json:"signing_key"`
	Extensions []extensionView `json:"extensions"`
	Signature  string          `json:"signature"`
	Raw        string          `json:"raw"`
}

type extensionView struct {
	Type  byte   `json:"type"`
	Flags byte   `json:"flags"`
	Data  string `json:"data"`
}

type introPointView struct {
	Relay      string          `json:"relay"`
	Specifiers []specifierView `json:"link_specifiers"`
	OnionKey   string          `json:"onion_key_ntor"`
	AuthKey    string          `json:"auth_key"`
	AuthCert   certificateView `json:"auth_key_cert"`
	EncKey     string          `json:"enc_key_ntor"`
	EncCert    certificateView `json:"enc_key_cert"`
	Expires    instant         `json:"expires"`
	Legacy     bool            `json:"legacy"`
}

type specifierView struct {
	Type    byte   `json:"type"`
	Name    string `json:"name"`
	Address string `json:"address,omitempty"`
	Port    uint16 `json:"port,omitempty"`
	Raw     string `json:"raw"`
}

// faultView is a parse error: of the descriptor, or of one introduction point.
type faultView struct {
	Layer   string `json:"layer"`
	Line    int    `json:"line"`
	Keyword string `json:"keyword"`
	Error   string `json:"error"`
}

// verdictView is what "descriptor verify --json" prints.
type verdictView struct {
	Valid        bool       `json:"valid"`
	Fault        *faultView `json:"fault"`
	PeriodNumber *uint64    `json:"time_period_number"`
	Revision     *uint64    `json:"revision_counter"`
	PointCount   *int       `json:"intro_point_count"`
}

func newDescriptorView(f *foundDescriptor) descriptorView {
	d, k := f.descriptor, f.keys
	key := d.SigningCert.Key()
	v := descriptorView{
		Address: k.Address.String(), PeriodNumber: k.Period.Number, PeriodMinutes: k.Period.Minutes(),
		Blinded: hex.EncodeToString(k.Blinded[:]), Subcredential: hex.EncodeToString(k.Subcredential[:]),
		Size: f.size, Version: 3, Lifetime: int(d.Lifetime / time.Minute), Revision: d.RevisionCounter,
		SigningCert: newCertificateView(d.SigningCert), SigningKey: hex.EncodeToString(key[:]),
		NeedsKey: d.NeedsClientKey, AuthType: "x25519", Ephemeral: hex.EncodeToString(d.AuthEphemeralKey[:]),
		AuthCount: len(d.AuthClients), Create2: d.Create2Formats, IntroAuth: d.IntroAuthRequired, SingleOnion: d.SingleOnion,
		PowParams: []string{}, PointCount: len(d.IntroductionPoints), Points: []introPointView{}, Dropped: []faultView{},
	}
	for _, c := range d.AuthClients {
		v.AuthClients = append(v.AuthClients, authClientView{hex.EncodeToString(c.ID[:]), hex.EncodeToString(c.IV[:]), hex.EncodeToString(c.EncryptedCookie[:])})
	}
	if d.FlowControl != nil {
		s := d.FlowControl.String()
		v.FlowControl = &s
	}
	for _, p := range d.PowParams {
		v.PowParams = append(v.PowParams, p.String())
	}
	for i := range d.IntroductionPoints {
		v.Points = append(v.Points, newIntroPointView(&d.IntroductionPoints[i]))
	}
	for _, fault := range d.Dropped {
		v.Dropped = append(v.Dropped, newFaultView(fault))
	}
	return v
}

func newCertificateView(c descriptor.Certificate) certificateView {
	key := c.Key()
	v := certificateView{
		Type: byte(c.Type()), Hours: c.Expires().Unix() / 3600, Expires: instant{c.Expires()}, KeyType: c.KeyType(),
		Key: hex.EncodeToString(key[:]), Extensions: []extensionView{},
		Signature: hex.EncodeToString(c.Signature()), Raw: hex.EncodeToString(c.Bytes()),
	}
	if signer, ok := c.SigningKey(); ok {
		v.SigningKey = hex.EncodeToString(signer[:])
	}
	for _, e := range c.Extensions() {
		v.Extensions = append(v.Extensions, extensionView{e.Type, e.Flags, hex.EncodeToString(e.Data)})
	}
	return v
}

func newIntroPointView(p *descriptor.IntroductionPoint) introPointView {
	auth, enc := p.Certificates()
	v := introPointView{
		Relay: p.Relay(), OnionKey: hex.EncodeToString(p.OnionKey[:]), AuthKey: hex.EncodeToString(p.AuthKey[:]),
		AuthCert: newCertificateView(auth), EncKey: hex.EncodeToString(p.EncKey[:]), EncCert: newCertificateView(enc),
		Expires: instant{p.Expires}, Legacy: p.Legacy,
	}
	for _, l := range p.LinkSpecifiers {
		v.Specifiers = append(v.Specifiers, newSpecifierView(l))
	}
	return v
}

func newSpecifierView(l descriptor.LinkSpecifier) specifierView {
	v := specifierView{Type: l.Type, Name: "unknown", Raw: hex.EncodeToString(l.Data)}
	switch l.Type {
	case descriptor.LinkIPv4, descriptor.LinkIPv6:
		v.Name = map[byte]string{descriptor.LinkIPv4: "ipv4", descriptor.LinkIPv6: "ipv6"}[l.Type]
		n := len(l.Data) - 2
		if ip, ok := netip.AddrFromSlice(l.Data[:n]); ok {
			v.Address, v.Port = ip.String(), uint16(l.Data[n])<<8|uint16(l.Data[n+1])
		}
	case descriptor.LinkRSA:
		v.Name = "rsa_fingerprint"
	case descriptor.LinkEd25519:
		v.Name = "ed25519_identity"
	}
	return v
}

func newFaultView(err error) faultView {
	v := faultView{Error: err.Error()}
	if p := (*descriptor.ParseError)(nil); errors.As(err, &p) {
		v.Layer, v.Line, v.Keyword, v.Error = string(p.Layer), p.Line, p.Keyword, p.Err.Error()
	}
	return v
}

func newVerdictView(f *foundDescriptor, err error) verdictView {
	if err != nil {
		fault := newFaultView(err)
		return verdictView{Fault: &fault}
	}
	n := len(f.descriptor.IntroductionPoints)
	return verdictView{Valid: true, PeriodNumber: &f.keys.Period.Number, Revision: &f.descriptor.RevisionCounter, PointCount: &n}
}
