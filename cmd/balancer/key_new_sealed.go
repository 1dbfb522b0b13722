package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"onionbalancer/internal/owner"
	"onionbalancer/internal/printable"
	"onionbalancer/keystore"
	"onionbalancer/keystore/pkcs11uri"
)

// sealedNew is what is printed of a new sealed key.
type sealedNew struct {
	*keyShown
	Spare  *keyShown `json:"spare,omitempty"`
	Backup string    `json:"backup,omitempty"`
}

// makeSealed makes a key and seals it: all that was asked for, or nothing.
func (o *newOptions) makeSealed(cmd *cobra.Command) (err error) {
	uris, err := o.uris()
	if err != nil {
		return err
	}
	if err := owner.Check(o.backup); err != nil {
		return err
	}
	fresh, err := keystore.New(rand.Reader)
	if err != nil {
		return err
	}
	defer fresh.Wipe()
	var written []string
	defer func() {
		for _, path := range written {
			if err != nil {
				err = errors.Join(err, os.Remove(path))
			}
		}
	}()
	made := &sealedNew{}
	for i, uri := range uris {
		file, err := keystore.SealTo(cmd.Context(), fresh.Identity(), uri)
		if err != nil {
			return err
		}
		written = append(written, uri.Sealed)
		shown, err := showSealed(file, uri)
		if err != nil {
			return err
		}
		shown.Verified = true
		switch {
		case i == 0:
			made.keyShown = shown
		case shown.Sealed.Token == made.Sealed.Token:
			return fmt.Errorf("--spare names the same token as --seal, %s: when it is lost, both are", tokenText(shown.Sealed.Token))
		default:
			made.Spare = shown
		}
	}
	if o.backup != "" {
		if made.Backup, err = writePlain(fresh, o.backup); err != nil {
			return err
		}
	}
	written = nil
	if o.asJSON {
		return writeLine(cmd.OutOrStdout(), made)
	}
	return made.writeText(cmd.OutOrStdout())
}

// uris returns where to seal the key, and refuses files that are there before a
// token is asked.
func (o *newOptions) uris() ([]*pkcs11uri.URI, error) {
	first, err := newSealedURI("--seal", o.seal, o.out)
	if err != nil {
		return nil, err
	}
	if o.spare == "" {
		return []*pkcs11uri.URI{first}, nil
	}
	second, err := newSealedURI("--spare", o.spare, "")
	if err != nil {
		return nil, err
	}
	if filepath.Clean(first.Sealed) == filepath.Clean(second.Sealed) {
		return nil, usageError{errors.New("--seal and --spare are to be written to the same file")}
	}
	return []*pkcs11uri.URI{first, second}, nil
}

func (s *sealedNew) writeText(w io.Writer) error {
	if err := s.keyShown.writeText(w); err != nil {
		return err
	}
	text := "\n" + triedText + "\n" + s.configText()
	switch {
	case s.Spare != nil && s.Backup != "":
		text += fmt.Sprintf("\nThe spare is %s with %s, the backup %s.\n", printable.Text(s.Spare.Path), tokenText(s.Spare.Sealed.Token), printable.Text(s.Backup)) + backupText
	case s.Spare != nil:
		text += fmt.Sprintf("\nThe spare is %s with %s. Keep both, apart from\nthe first: the file is of no use without the token, nor the token without the file.\n", printable.Text(s.Spare.Path), tokenText(s.Spare.Sealed.Token))
	case s.Backup != "":
		text += fmt.Sprintf("\nThe backup is %s.\n", printable.Text(s.Backup)) + backupText
	default:
		text += "\nThere is no backup: when the token is lost or locked, so is the address.\n\"balancer key rewrap\" makes one with another token.\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

const backupText = "The backup is not sealed: whoever reads it has the address. Take it off this machine.\n"

// triedText says what SealTo did.
const triedText = `Tried: the file was read back from disk, the token opened it, the key in it is the
same, and a certificate that was signed with it is good for the address.
`
