package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"onionbalancer/internal/durable"
	"onionbalancer/internal/owner"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
	"onionbalancer/keystore"
	"onionbalancer/keystore/csr"
)

// csrOptions are the flags of "balancer key csr".
type csrOptions struct {
	acmeNonce, textNonce, hexNonce string
	wildcard                       bool
	names                          []string
	out                            string
	asDER, asJSON                  bool
}

func newKeyCSRCommand() *cobra.Command {
	var o csrOptions
	cmd := &cobra.Command{
		Use:   "csr --nonce NONCE KEY",
		Short: "Prove to a certificate authority that the address is yours",
		Long: `Makes a certificate request for the onion address, signed with its identity key:
the proof of control that a certificate authority (CA) accepts for an address and
for all names below it (CA/Browser Forum, Baseline Requirements, appendix B, 2.b;
RFC 9799, challenge onion-csr-01). It is checked as the CA will before it is
printed. Nothing is sent anywhere.

The CA gives a nonce, valid for 30 days at most. Depending on its form, use:

  --nonce         the field "nonce" of an ACME challenge of type onion-csr-01. Send
                  back the field "csr" that --json prints, as {"csr": "…"}.
  --ca-nonce      a text from a CA's web page or letter, taken as it stands.
  --ca-nonce-hex  the same where the CA writes bytes in hexadecimal.

A request is valid for this one nonce only. It is not secret.

The certificate itself is for another key: one that the web server makes, with a
request of its own ("openssl req -new"). RFC 9799 forbids using this one for it, CAs
do not certify Ed25519 keys, and the identity key does not belong on a web server.
Names given with --wildcard and --san are for CAs that read them here; with ACME,
only the order counts. A single label, as in --san www, stands for www.ADDRESS.

KEY is a key file or a tor HiddenServiceDir, or the "pkcs11:" URI of a key that a
token seals (with x-sealed) or of an Ed25519 key on the token itself. An existing
FILE is not overwritten.`,
		Example: `  balancer key csr --nonce bI6/MRqV4gw= --json front
  balancer key csr --ca-nonce 8rDWGfoV1TpKu7Kl --wildcard --san www --out front.csr front
  openssl req -in front.csr -noout -verify -text`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			made, err := o.make(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return made.write(cmd.OutOrStdout(), &o)
		},
	}
	o.addFlags(cmd)
	return cmd
}

func (o *csrOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.acmeNonce, "nonce", "", "`NONCE` of the ACME challenge, in base64")
	f.StringVar(&o.textNonce, "ca-nonce", "", "random value of the CA, a `TEXT`")
	f.StringVar(&o.hexNonce, "ca-nonce-hex", "", "random value of the CA, in `HEX`")
	f.BoolVar(&o.wildcard, "wildcard", false, "ask for *.ADDRESS too")
	f.StringArrayVar(&o.names, "san", nil, "ask for this `NAME` below the address too; may be repeated")
	f.StringVar(&o.out, "out", "", "write the request to a new `FILE`")
	f.BoolVar(&o.asDER, "der", false, "binary DER rather than PEM")
	f.BoolVar(&o.asJSON, "json", false, "print JSON, for programs; the field csr is what ACME wants")
}

// nonce returns the raw bytes of the CA's nonce, from the one flag that was given.
func (o *csrOptions) nonce() ([]byte, error) {
	given := 0
	var nonce []byte
	var err error
	for _, flag := range []struct {
		text string
		read func(string) ([]byte, error)
	}{{o.acmeNonce, csr.ACMENonce}, {o.textNonce, csr.TextNonce}, {o.hexNonce, csr.HexNonce}} {
		if flag.text != "" {
			given++
			nonce, err = flag.read(flag.text)
		}
	}
	if given != 1 {
		return nil, usageError{errors.New(`give the CA's nonce by one of --nonce, --ca-nonce and --ca-nonce-hex; see "balancer key csr --help"`)}
	}
	if err != nil {
		return nil, usageError{err}
	}
	return nonce, nil
}

// make looks at all that can be wrong before it uses the key, since that may
// take a person to type a PIN.
func (o *csrOptions) make(ctx context.Context, ref string) (*csrMade, error) {
	caNonce, err := o.nonce()
	if err != nil {
		return nil, err
	}
	if o.asDER && o.asJSON && o.out == "" {
		return nil, usageError{errors.New("--json holds the request in base64 already; give --der an --out FILE")}
	}
	if err := checkNewPublic(o.out); err != nil {
		return nil, fmt.Errorf("writing the request: %w", err)
	}
	return withSigner(ctx, ref, func(signer keystore.IdentitySigner) (*csrMade, error) { return o.sign(ctx, signer, caNonce) })
}

// withSigner has do sign with the identity key that ref names.
func withSigner[T any](ctx context.Context, ref string, do func(keystore.IdentitySigner) (T, error)) (made T, err error) {
	signer, err := keystore.OpenIdentitySigner(ctx, ref)
	if err != nil {
		return made, err
	}
	made, err = do(signer)
	return made, errors.Join(err, signer.Close())
}

// sign makes the request and checks it as the CA will.
func (o *csrOptions) sign(ctx context.Context, signer keystore.IdentitySigner, caNonce []byte) (*csrMade, error) {
	names, err := csr.Names(signer.Address(), o.wildcard, o.names)
	if err != nil {
		return nil, usageError{err}
	}
	request, err := csr.New(signer.Address(), names, caNonce, rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := request.Sign(func(message []byte) ([]byte, error) { return signer.SignIdentity(ctx, message) })
	if err != nil {
		return nil, err
	}
	checked, err := csr.Verify(der, signer.Address(), caNonce)
	if err != nil {
		return nil, err
	}
	return newCSRMade(checked, der), nil
}

// csrMade is a request that was made and checked, as "--json" prints it.
type csrMade struct {
	Address        string   `json:"address"`
	Names          []string `json:"names"`
	CANonce        string   `json:"ca_nonce"`        // hex
	ApplicantNonce string   `json:"applicant_nonce"` // hex
	CSR            string   `json:"csr"`             // DER in base64url without padding, as ACME has it
	PEM            string   `json:"pem"`
	Path           string   `json:"path,omitempty"` // of the file it was written to

	der []byte
}

func newCSRMade(r csr.Request, der []byte) *csrMade {
	return &csrMade{
		Address:        r.Address.String(),
		Names:          r.Names,
		CANonce:        hex.EncodeToString(r.CANonce),
		ApplicantNonce: hex.EncodeToString(r.ApplicantNonce),
		CSR:            base64.RawURLEncoding.EncodeToString(der),
		PEM:            string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
		der:            der,
	}
}

// write writes the request to where o wants it, and to w what it wants there.
func (m *csrMade) write(w io.Writer, o *csrOptions) error {
	content, form := []byte(m.PEM), ""
	if o.asDER {
		content, form = m.der, " -inform DER"
	}
	if o.out != "" {
		path, err := filepath.Abs(o.out)
		if err == nil {
			err = writeNewPublic(path, content)
		}
		if err != nil {
			return fmt.Errorf("writing the request: %w", err)
		}
		m.Path = path
	}
	switch {
	case o.asJSON:
		return writeJSON(w, m)
	case o.out == "":
		_, err := binary(w).Write(content)
		return err
	}
	_, err := fmt.Fprintf(w, "address   %s\nnames     %s\nCA nonce  %s (hex)\npath      %s\n\nIn full: openssl req%s -in %s -noout -verify -text\n",
		m.Address, strings.Join(m.Names, "\n          "), m.CANonce, printable.Text(m.Path), form, shell.Quote(o.out))
	return err
}

// checkNewPublic refuses what writeNewPublic would, before a key is used. No path is
// one, too.
func checkNewPublic(path string) error {
	if _, err := os.Lstat(path); path != "" && err == nil {
		return fmt.Errorf("%q exists already, and is not overwritten: %w", path, os.ErrExist)
	}
	return owner.Check(path)
}

// writeNewPublic writes a new file that anyone may read.
func writeNewPublic(path string, content []byte) error {
	err := durable.WriteNew(path, content, 0o644)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%q exists already, and is not overwritten: %w", path, os.ErrExist)
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}
