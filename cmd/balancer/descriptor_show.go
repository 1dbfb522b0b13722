package main

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/internal/printable"
)

func newDescriptorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "descriptor",
		Short: "Look at the descriptors of onion services",
		Long: `Look at the descriptors of onion services, from a file or from the HSDirs.

A descriptor is encrypted for those who know the onion address, so every subcommand
needs the address; and it is signed with another key for each period of a day, so
the period must also be known, or guessed from the clock.`,
	}
	addCommands(cmd, newDescriptorShowCommand(), newDescriptorVerifyCommand(), newDescriptorFetchCommand())
	return cmd
}

func newDescriptorShowCommand() *cobra.Command {
	var in descriptorInput
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show --address ADDRESS FILE",
		Short: "Verify a descriptor and print its contents",
		Long: `Verify a descriptor as a client would, and print all its contents, both
encrypted layers included. FILE holds the descriptor as it came from an HSDir;
"-" stands for standard input. A descriptor that a client would refuse is
refused with the layer, line and keyword at fault, and exit status 1.

Introduction points that are damaged or expired are listed apart: clients leave
them out and use the others.`,
		Example: `  balancer descriptor show --address ADDRESS fetched
  balancer descriptor fetch ADDRESS | balancer descriptor show --json --address ADDRESS -
  balancer descriptor show --address ADDRESS --now 2026-11-20T09:00:00Z old
  balancer descriptor show --address ADDRESS --client-key me.auth_private fetched`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := in.decode(cmd, args[0])
			if err != nil {
				return err
			}
			v := newDescriptorView(found)
			return show(cmd, asJSON, v, table(func(w io.Writer) { printDescriptor(w, v, found.keys.Period) }))
		},
	}
	in.addFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, for programs")
	return cmd
}

func newDescriptorVerifyCommand() *cobra.Command {
	var in descriptorInput
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify --address ADDRESS FILE",
		Short: "Say whether clients would accept a descriptor",
		Long: `Say in one line whether clients would accept a descriptor, and if not, why.
The exit status is 0 if they would and 1 if not. "balancer descriptor show"
prints its contents.`,
		Example: `  balancer descriptor verify --address ADDRESS fetched`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := in.decode(cmd, args[0])
			fault := (*descriptor.ParseError)(nil)
			if asJSON && (err == nil || errors.As(err, &fault)) {
				return errors.Join(writeJSON(cmd.OutOrStdout(), newVerdictView(found, err)), err)
			}
			if err != nil {
				return err
			}
			d := found.descriptor
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "valid until %s: period %s, revision counter %d, %d introduction points, %d left out\n",
				d.SigningCert.Expires().Format(time.RFC3339), found.keys.Period, d.RevisionCounter, len(d.IntroductionPoints), len(d.Dropped))
			return err
		},
	}
	in.addFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, for programs")
	return cmd
}

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
	CAACritical   bool             `json:"caa_critical"`
	Create2       []int            `json:"create2_formats"`
	IntroAuth     []string         `json:"intro_auth_required"`
	SingleOnion   bool             `json:"single_onion_service"`
	CAA           []string         `json:"caa"`
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

// verdictView is the output of "descriptor verify --json".
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
		CAACritical: d.CAACritical, CAA: []string{}, PowParams: []string{}, PointCount: len(d.IntroductionPoints), Points: []introPointView{}, Dropped: []faultView{},
	}
	for _, c := range d.AuthClients {
		v.AuthClients = append(v.AuthClients, authClientView{hex.EncodeToString(c.ID[:]), hex.EncodeToString(c.IV[:]), hex.EncodeToString(c.EncryptedCookie[:])})
	}
	for _, r := range d.CAA {
		v.CAA = append(v.CAA, r.String())
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
		Relay: p.Relay().String(), OnionKey: hex.EncodeToString(p.OnionKey[:]), AuthKey: hex.EncodeToString(p.AuthKey[:]),
		AuthCert: newCertificateView(auth), EncKey: hex.EncodeToString(p.EncKey[:]), EncCert: newCertificateView(enc),
		Expires: instant{p.Expires}, Legacy: p.Legacy,
	}
	for _, l := range p.LinkSpecifiers {
		v.Specifiers = append(v.Specifiers, newSpecifierView(l))
	}
	return v
}

func newSpecifierView(l descriptor.LinkSpecifier) specifierView {
	names := map[byte]string{
		descriptor.LinkIPv4: "ipv4", descriptor.LinkIPv6: "ipv6",
		descriptor.LinkRSA: "rsa_fingerprint", descriptor.LinkEd25519: "ed25519_identity",
	}
	v := specifierView{Type: l.Type, Name: cmp.Or(names[l.Type], "unknown"), Raw: hex.EncodeToString(l.Data)}
	if l.Type == descriptor.LinkIPv4 || l.Type == descriptor.LinkIPv6 {
		n := len(l.Data) - 2
		if ip, ok := netip.AddrFromSlice(l.Data[:n]); ok {
			v.Address, v.Port = ip.String(), uint16(l.Data[n])<<8|uint16(l.Data[n+1])
		}
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

// printDescriptor writes a descriptor for people: one table of its fields as
// a whole, then one of its introduction points.
func printDescriptor(w io.Writer, v descriptorView, period descriptor.Period) {
	printable.Fields(&v)
	row := func(name string, value any) { fmt.Fprintf(w, "%s\t%v\n", name, value) }
	row("address", v.Address)
	row("period", period)
	row("blinded key", v.Blinded)
	row("revision counter", v.Revision)
	row("size", fmt.Sprintf("%d bytes", v.Size))
	row("lifetime", fmt.Sprintf("%d minutes", v.Lifetime))
	row("signing key", v.SigningKey)
	row("certificate until", v.SigningCert.Expires.Format(time.RFC3339))
	row("client entries", v.AuthCount)
	row("needs client key", yesNo(v.NeedsKey))
	row("handshakes", formats(v.Create2))
	row("introduction auth", orNone(strings.Join(v.IntroAuth, " ")))
	row("single onion", yesNo(v.SingleOnion))
	row("CAA critical", yesNo(v.CAACritical))
	for n, record := range v.CAA {
		row([]string{"CAA", ""}[min(n, 1)], record)
	}
	if v.FlowControl == nil {
		v.FlowControl = new(string)
	}
	row("flow control", orNone(*v.FlowControl))
	row("proof of work", orNone(strings.Join(v.PowParams, "; ")))
	row("introduction points", v.PointCount)
	printPoints(w, v.Points)
	for _, d := range v.Dropped {
		fmt.Fprintf(w, "left out: introduction point, line %d, %q: %s\n", d.Line, d.Keyword, d.Error)
	}
}

func printPoints(w io.Writer, points []introPointView) {
	if len(points) == 0 {
		return
	}
	fmt.Fprintf(w, "\n#\tRELAY\tAT\tAUTH-KEY\tUNTIL\tNOTE\n")
	for i, p := range points {
		var at []string
		for _, s := range p.Specifiers {
			if s.Address != "" {
				at = append(at, fmt.Sprintf("%s:%d", s.Address, s.Port))
			}
		}
		note := ""
		if p.Legacy {
			note = "legacy key"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", i+1, shortHex(p.Relay), strings.Join(at, " "), shortHex(p.AuthKey), p.Expires.Format(time.RFC3339), note)
	}
}

// shortHex shows enough of a key to tell keys apart; --json prints the whole.
func shortHex(s string) string {
	const n = 16
	if _, err := hex.DecodeString(s); err != nil || len(s) <= n {
		return s
	}
	return s[:n] + "…"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func orNone(s string) string {
	return cmp.Or(s, "none")
}

func formats(numbers []int) string {
	var words []string
	for _, n := range numbers {
		words = append(words, strconv.Itoa(n))
	}
	return strings.Join(words, " ")
}
