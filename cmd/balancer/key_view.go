package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/printable"
	"onionbalancer/keystore"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
)

// keyShown is what may be known of a key.
type keyShown struct {
	Address   string        `json:"address"`
	PublicKey string        `json:"public_key"` // hex
	Form      keystore.Form `json:"form"`
	Path      string        `json:"path,omitempty"`
	Sealed    *sealedShown  `json:"sealed,omitempty"`
	Reference string        `json:"reference,omitempty"` // for the configuration, where it is not the path
	Verified  bool          `json:"verified,omitempty"`  // unsealed by its token, just now
}

// sealedShown is what a sealed key's file says of itself.
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

// shownOf shows what an address tells.
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

func (k *keyShown) writeJSON(w io.Writer) error { return writeLine(w, k) }

// writeLine writes v as one line of JSON, in which a URI stays readable.
func writeLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// configText is the line for the configuration.
func (k *keyShown) configText() string {
	text := fmt.Sprintf("In the configuration: key = %q\n", k.Reference)
	if uri, err := pkcs11uri.Parse(k.Reference); err == nil && !daemonsPIN(uri.PINSource) {
		text += "There, give a pin-source that is there when nobody is: file:PATH or credential:NAME.\n"
	}
	return text
}

// daemonsPIN tells whether a daemon can read its PIN from there by itself.
func daemonsPIN(source string) bool {
	return strings.HasPrefix(source, "file:") || strings.HasPrefix(source, "credential:") || strings.Contains(source, "/")
}

func (k *keyShown) writeText(w io.Writer) error {
	text := fmt.Sprintf("address     %s\npublic key  %s\nform        %s\n", k.Address, k.PublicKey, k.Form)
	if k.Path != "" {
		text += fmt.Sprintf("path        %s\n", printable.Text(k.Path))
	}
	if k.Sealed != nil {
		text += fmt.Sprintf("method      %s\ntoken       %s\nits key     %s\nsealed at   %s\n",
			methodText(k.Sealed.Method), tokenText(k.Sealed.Token), k.Sealed.Object, k.Sealed.Created.Format(time.RFC3339))
	}
	_, err := io.WriteString(w, text)
	return err
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
