package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"onionbalancer/internal/owner"
	"onionbalancer/internal/printable"
	"onionbalancer/keystore"
	"onionbalancer/keystore/pkcs11uri"
)

// newOptions are the flags of "balancer key new".
type newOptions struct {
	seal, out, spare, backup string
	noBackup, asJSON         bool
}

func newKeyNewCommand() *cobra.Command {
	var o newOptions
	cmd := &cobra.Command{
		Use:   "new DIR|FILE|--seal URI",
		Short: "Make a new key, and with it a new onion address",
		Long: `Makes a new identity key and prints the onion address that it stands for.

DIR is made with mode 0700 and gets the files of a tor HiddenServiceDir, each with
mode 0600: hs_ed25519_secret_key, hs_ed25519_public_key and hostname. A tor can use
the directory as it is. A FILE whose name ends in .pem gets the key in the form of
OnionBalance instead.

Nothing is overwritten. Back up hs_ed25519_secret_key (or FILE) to where nobody else
can read it: the other files are made from it, and nothing can make it again. Run
this as the user that balancer will run as, or change the owner afterwards.

With --seal, the key is sealed by a token ("balancer key seal --help") as soon as it
is made, and is on no disk in the clear. When the token dies, is lost, or locks
itself after wrong PINs, the address is lost with it. So choose a backup:

  --spare URI    seal the key by a second token as well, to another file. Keep token
                 and file at another place than the first, out of reach of a fire there.
  --backup PATH  write the key in the clear too, as DIR or FILE above: to a stick
                 that goes into a safe, not to a disk of this machine.
  --no-backup    there is no backup, and none is wanted. Later, "balancer key
                 rewrap" makes one with the token, for as long as it works.`,
		Example: `  balancer key new front
  balancer key new front.pem --json
  balancer key new --seal 'pkcs11:token=hsm;object=seal?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=prompt&x-sealed=front.sealed' --backup /media/stick/front`,
		Args: func(_ *cobra.Command, args []string) error { return o.check(args) },
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.seal != "" {
				return o.makeSealed(cmd)
			}
			return o.makePlain(cmd, args[0])
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.asJSON, "json", false, "print as JSON")
	f.StringVar(&o.seal, "seal", "", "seal the key by the token's key of this `URI`")
	f.StringVar(&o.out, "out", "", "sealed `FILE` to write, where the URI of --seal has no x-sealed")
	f.StringVar(&o.spare, "spare", "", "seal it by the token's key of this `URI` too, which has x-sealed")
	f.StringVar(&o.backup, "backup", "", "write it in the clear to this `PATH` too")
	f.BoolVar(&o.noBackup, "no-backup", false, "do without --spare and --backup")
	return cmd
}

// check refuses flags and arguments that make no sense together.
func (o *newOptions) check(args []string) error {
	saved := o.spare != "" || o.backup != ""
	var err error
	switch {
	case o.seal == "" && len(args) != 1:
		err = fmt.Errorf("name one new DIR or FILE, or --seal URI, not %d", len(args))
	case o.seal == "" && args[0] == "":
		err = errors.New("the path of the new key is empty")
	case o.seal == "" && (saved || o.noBackup || o.out != ""):
		err = errors.New("--out, --spare, --backup and --no-backup go with --seal")
	case o.seal != "" && len(args) != 0:
		err = errors.New("a sealed key is written to x-sealed of its URI or to --out, not to DIR or FILE")
	case o.seal != "" && saved == o.noBackup:
		err = errors.New("when the token is lost, the address is lost, unless there is another way to the key: give --spare URI or --backup PATH, or say --no-backup")
	}
	return err
}

func (o *newOptions) makePlain(cmd *cobra.Command, path string) error {
	shown, err := makeKey(path)
	if err != nil {
		return err
	}
	return showLine(cmd, o.asJSON, shown, func(w io.Writer) {
		shown.write(w)
		fmt.Fprintf(w, "\nBack up %s, for your eyes only: when it is lost, so is the address.\nIn the configuration: key = %q\n%s",
			printable.Text(shown.Path), shown.Path, shown.instanceText())
	})
}

// makeKey writes a new key to path, and opens it again to see that it is good.
func makeKey(path string) (*keyShown, error) {
	fresh, err := keystore.New(rand.Reader)
	if err != nil {
		return nil, err
	}
	defer fresh.Wipe()
	if path, err = writePlain(fresh, path); err != nil {
		return nil, err
	}
	return showKey(path)
}

// writePlain writes a key in the form that path asks for, and returns the path
// to open it by.
func writePlain(fresh *keystore.Fresh, path string) (string, error) {
	if err := owner.Check(path); err != nil {
		return "", err
	}
	if filepath.Base(path) == torKeyName {
		path = filepath.Dir(path)
	} else if strings.EqualFold(filepath.Ext(path), ".pem") {
		return path, fresh.WritePEM(path)
	}
	return path, fresh.WriteTor(path)
}

// sealedNew is the output about a new sealed key.
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
	return showLine(cmd, o.asJSON, made, made.write)
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
		return nil, usageError{errors.New("--seal and --spare would be written to the same file")}
	}
	return []*pkcs11uri.URI{first, second}, nil
}

func (s *sealedNew) write(w io.Writer) {
	s.keyShown.write(w)
	fmt.Fprint(w, "\n", triedText, "\n", s.configText(), s.instanceText())
	switch {
	case s.Spare != nil && s.Backup != "":
		fmt.Fprintf(w, "\nThe spare is %s with %s, the backup %s.\n%s", printable.Text(s.Spare.Path), tokenText(s.Spare.Sealed.Token), printable.Text(s.Backup), backupText)
	case s.Spare != nil:
		fmt.Fprintf(w, "\nThe spare is %s with %s. Keep both, apart from\nthe first: the file is useless without the token, and the token without the file.\n", printable.Text(s.Spare.Path), tokenText(s.Spare.Sealed.Token))
	case s.Backup != "":
		fmt.Fprintf(w, "\nThe backup is %s.\n%s", printable.Text(s.Backup), backupText)
	default:
		fmt.Fprint(w, "\nThere is no backup: when the token is lost or locked, so is the address.\n\"balancer key rewrap\" makes one with another token.\n")
	}
}

const backupText = "The backup is not sealed: anyone who reads it has the address. Take it off this machine.\n"

// triedText says how SealTo tested the key.
const triedText = `Tried: the file was read back from disk, the token opened it, the key in it is the
same, and a certificate that was signed with it is good for the address.
`
