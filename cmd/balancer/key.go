package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"onionbalancer/descriptor"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/probe"
	"onionbalancer/keystore"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
)

// torKeyName is the file that stands for its whole directory in arguments.
const torKeyName = "hs_ed25519_secret_key"

func newKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make, seal and show identity keys of services",
		Long: `The identity key of a service is its onion address: anyone who has the secret half
can publish under the address, and when it is lost, so is the address. The
configuration names it ("key = …") in one of these forms:

  tor     hs_ed25519_secret_key, or the HiddenServiceDir that it is in. The files
          hs_ed25519_public_key and hostname beside it are not needed, but if they
          are there, they have to agree with it.
  pem     the key file of OnionBalance: an Ed25519 key, PKCS #8, not encrypted.
  sealed  a file that only a token (an HSM, a smart card) can open, named by the
          token's "pkcs11:" URI with x-sealed=FILE: "balancer key seal --help".
  offline a directory of certificates made on another machine, without a network,
          that has the key: "balancer ceremony --help".

To move a service over from a single tor or from OnionBalance, copy the key as it
is; there is nothing to convert. A key file that anyone but its owner can read is
refused ("chmod 600 FILE" fixes it), and no key file is ever overwritten.

No token can hold the identity key itself and publish with it: tor wants signatures
by keys that are derived from it, one for each period, and tokens can neither derive
nor sign for them. So a token seals the key, and opens it for the moment in which a
period's one certificate is signed.

Instances need no key here: each has its own, made by its own tor.`,
	}
	addTryPINFlag(cmd.PersistentFlags())
	addCommands(cmd, newKeyNewCommand(), newKeyShowCommand(), newKeySealCommand(), newKeyRewrapCommand(), newKeyCSRCommand(), newKeyCAACommand())
	return cmd
}

func newKeyShowCommand() *cobra.Command {
	var asJSON, verify bool
	cmd := &cobra.Command{
		Use:   "show PATH|URI",
		Short: "Print the onion address that a key stands for",
		Long: `Checks a key as "balancer run" would, and prints its onion address, its public half
and its form. The secret half is never printed. Nothing is changed.

PATH is a key file of any form that the configuration takes, the directory of a service
of tor's or Arti's, a directory of ceremonies, or a sealed key's file. URI is the
"pkcs11:" URI of a sealed key. Of a sealed key, only the file is read: the token is not
used, and may be in a safe.

With --verify, the token unseals the key and certifies with it as a test, as
"balancer run" would have it do. That takes the URI, and the PIN. It shows the address
of an Ed25519 key on a token as well, which "balancer key csr" can use.`,
		Example: `  balancer key show front
  balancer key show front.sealed
  balancer key show --verify 'pkcs11:token=hsm;object=seal?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=prompt&x-sealed=front.sealed'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			look := showKey
			if verify {
				look = func(ref string) (*keyShown, error) { return verifyKey(cmd.Context(), ref) }
			}
			shown, err := look(args[0])
			if err != nil {
				return err
			}
			return showLine(cmd, asJSON, shown, func(w io.Writer) {
				shown.write(w)
				if shown.Verified {
					fmt.Fprintln(w, "verified    the token opened it just now, and it signs for the address")
				}
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	cmd.Flags().BoolVar(&verify, "verify", false, "have the token open the key")
	return cmd
}

// showKey shows the key that ref names. It asks no token.
func showKey(ref string) (*keyShown, error) {
	if pkcs11uri.Is(ref) {
		shown, _, err := showByURI(ref)
		return shown, err
	}
	if keystore.IsSealed(ref) {
		return showSealedAlone(ref)
	}
	custodian, err := keystore.Open(ref)
	if err != nil {
		return nil, err
	}
	shown := shownOf(custodian.Address(), custodian.Form())
	switch custodian := custodian.(type) {
	case *keystore.DiskKey:
		shown.Path = custodian.Path()
	case keystore.OfflineKey:
		if shown.Path, err = filepath.Abs(custodian.Dir()); err != nil {
			return nil, err
		}
	}
	return shown, custodian.Close()
}

// verifyKey shows the key that ref names and has its token open it.
func verifyKey(ctx context.Context, ref string) (*keyShown, error) {
	if !pkcs11uri.Is(ref) {
		return nil, usageError{errors.New(`--verify is for keys that a token has to open, which are named by their "pkcs11:" URI`)}
	}
	if uri, err := pkcs11uri.Parse(ref); err == nil && uri.Sealed == "" {
		return showOnToken(ctx, ref)
	}
	shown, uri, err := showByURI(ref)
	if err != nil {
		return nil, err
	}
	if err := keystore.VerifySealed(ctx, uri); err != nil {
		return nil, err
	}
	shown.Verified = true
	return shown, nil
}

// showByURI shows a sealed key whose token is named as well.
func showByURI(ref string) (*keyShown, *pkcs11uri.URI, error) {
	uri, err := pkcs11uri.Parse(ref)
	if err != nil {
		return nil, nil, usageError{err}
	}
	if uri.Sealed == "" {
		return nil, nil, usageError{errors.New("the URI has no x-sealed, so it names a key on the token itself: give --verify to have the token asked for it")}
	}
	custodian, err := keystore.OpenSealed(uri) // checks the URI
	if err != nil {
		return nil, nil, err
	}
	if err := custodian.Close(); err != nil {
		return nil, nil, err
	}
	file, err := keystore.ReadSealed(uri.Sealed)
	if err != nil {
		return nil, nil, err
	}
	shown, err := showSealed(file, uri)
	return shown, uri, err
}

// showSealedAlone shows a sealed key whose token's place is unknown.
func showSealedAlone(path string) (*keyShown, error) {
	file, err := keystore.ReadSealed(path)
	if err != nil {
		return nil, err
	}
	shown, err := showSealed(file, &pkcs11uri.URI{Sealed: path})
	if err == nil {
		shown.Reference = "" // the partial reference is useless
	}
	return shown, err
}

// showOnToken shows an identity key that was made on a token, and has it sign.
func showOnToken(ctx context.Context, ref string) (*keyShown, error) {
	signer, err := keystore.OpenIdentitySigner(ctx, ref)
	if err != nil {
		return nil, err
	}
	shown := shownOf(signer.Address(), keystore.FormToken)
	_, err = signer.SignIdentity(ctx, []byte("balancer key show --verify"))
	shown.Verified = err == nil
	return shown, errors.Join(err, signer.Close())
}

// keyShown is the public information about a key.
type keyShown struct {
	Address   string        `json:"address"`
	PublicKey string        `json:"public_key"` // hex
	Form      keystore.Form `json:"form"`
	Path      string        `json:"path,omitempty"`
	Sealed    *sealedShown  `json:"sealed,omitempty"`
	Reference string        `json:"reference,omitempty"` // for the configuration, where it is not the path
	Verified  bool          `json:"verified,omitempty"`  // unsealed by its token, just now
}

// sealedShown is the content of a sealed key's header.
type sealedShown struct {
	Method  token.Method   `json:"method"`
	Token   token.Selector `json:"token"`
	Object  objectShown    `json:"object"`
	Created time.Time      `json:"created"`
}

type objectShown struct {
	Label string `json:"label,omitempty"`
	ID    string `json:"id,omitempty"` // hex
}

// shownOf shows the information in an address.
func shownOf(address descriptor.Address, form keystore.Form) *keyShown {
	return &keyShown{Address: address.String(), PublicKey: hex.EncodeToString(address[:]), Form: form}
}

// showSealed shows a sealed file. uri says where the token is.
func showSealed(file *sealed.File, uri *pkcs11uri.URI) (*keyShown, error) {
	dir, err := filepath.Abs(".")
	if err != nil {
		return nil, err
	}
	uri = uri.Resolve(dir)
	shown := shownOf(file.Address(), keystore.FormSealed)
	shown.Path, shown.Reference = uri.Sealed, uri.String()
	shown.Sealed = &sealedShown{
		Method: file.Method(), Token: file.Token(), Created: file.Created(),
		Object: objectShown{file.Object().Label, hex.EncodeToString(file.Object().ID)},
	}
	return shown, nil
}

// configText is the line for the configuration.
func (k *keyShown) configText() string {
	text := fmt.Sprintf("In the configuration: key = %q\n", k.Reference)
	if uri, err := pkcs11uri.Parse(k.Reference); err == nil && !daemonsPIN(uri.PINSource) {
		text += "There, give a pin-source that needs no terminal: file:PATH or credential:NAME.\n"
	}
	return text
}

// instanceText is the line for the instances.
func (k *keyShown) instanceText() string {
	address, err := descriptor.ParseAddress(k.Address)
	if err != nil {
		return ""
	}
	return "In the ob_config of each instance: " + probe.Line(address) + "\n"
}

// daemonsPIN reports whether a daemon can read its PIN from there by itself.
func daemonsPIN(source string) bool {
	return strings.HasPrefix(source, "file:") || strings.HasPrefix(source, "credential:") || strings.Contains(source, "/")
}

func (k *keyShown) write(w io.Writer) {
	fmt.Fprintf(w, "address     %s\npublic key  %s\nform        %s\n", k.Address, k.PublicKey, k.Form)
	if k.Path != "" {
		fmt.Fprintf(w, "path        %s\n", printable.Text(k.Path))
	}
	if k.Sealed != nil {
		fmt.Fprintf(w, "method      %s\ntoken       %s\nits key     %s\nsealed at   %s\n",
			methodText(k.Sealed.Method), tokenText(k.Sealed.Token), k.Sealed.Object, k.Sealed.Created.Format(time.RFC3339))
	}
}

// String names an object on a token.
func (o objectShown) String() string {
	var parts []string
	if o.Label != "" {
		parts = append(parts, fmt.Sprintf("%q", o.Label))
	}
	if o.ID != "" {
		parts = append(parts, "id "+o.ID)
	}
	return strings.Join(parts, ", ")
}

// tokenText names a token by all that is written on it.
func tokenText(s token.Selector) string {
	text := fmt.Sprintf("%q", s.Label)
	if s.Serial != "" {
		text += ", serial " + printable.Text(s.Serial)
	}
	if s.Model != "" || s.Manufacturer != "" {
		text += ", " + printable.Text(strings.TrimSpace(s.Model+" by "+s.Manufacturer))
	}
	return text
}

// methodText says how the file's data key is wrapped.
func methodText(m token.Method) string {
	how := map[token.Method]string{
		token.MethodAESGCM:     "encrypted by the token's AES key (AES-GCM)",
		token.MethodAESKeyWrap: "wrapped by the token's AES key (AES key wrap, RFC 3394)",
		token.MethodOAEPSHA256: "encrypted to the token's RSA key (RSA-OAEP, SHA-256)",
		token.MethodOAEPSHA1:   "encrypted to the token's RSA key (RSA-OAEP, SHA-1, which is sound in OAEP)",
		token.MethodECDHP256:   "encrypted to the token's EC key (ECDH over P-256)",
	}[m]
	return string(m) + ": " + how
}

// addTryPINFlag adds the flag by which an operator has a PIN tried despite
// an earlier refusal.
func addTryPINFlag(flags *pflag.FlagSet) {
	flags.BoolFunc("try-pin", "try the PIN though the token counts a wrong one, or refused this one before", func(text string) error {
		wanted, err := strconv.ParseBool(text)
		if wanted {
			token.TryPIN()
		}
		return err
	})
}
