package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"onionbalancer/internal/durable"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
	"onionbalancer/keystore/csr"
)

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

// writeNewPublic writes a file that anyone may read and that is not there yet.
func writeNewPublic(path string, content []byte) error {
	err := durable.WriteNew(path, content, 0o644)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%q is there already, and is not overwritten: %w", path, os.ErrExist)
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}
