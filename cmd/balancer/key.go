package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"onionbalancer/keystore"
)

// torKeyName is the file that stands for its whole directory in arguments.
const torKeyName = "hs_ed25519_secret_key"

func newKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make and show identity keys of services",
		Long: `The identity key of a service is its onion address: whoever has the secret half
can publish under the address, and when it is lost, so is the address. The
configuration names it ("key = PATH") in one of these forms:

  tor   hs_ed25519_secret_key, or the HiddenServiceDir that it is in. The files
        hs_ed25519_public_key and hostname beside it are not needed, but if they
        are there, they have to agree with it.
  pem   the key file of OnionBalance: an Ed25519 key, PKCS #8, not encrypted.

To move a service over from a single tor or from OnionBalance, copy the key as it
is; there is nothing to convert. A key file that anyone but its owner can read is
refused ("chmod 600 FILE" mends it), and no key file is ever overwritten.

Instances need no key here: each has its own, made by its own tor.`,
		Args: misuse(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKeyNewCommand(), newKeyShowCommand(), newKeyCSRCommand())
	return cmd
}

func newKeyNewCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "new DIR|FILE",
		Short: "Make a new key, and with it a new onion address",
		Long: `Makes a new identity key and prints the onion address that it stands for.

DIR is made with mode 0700 and gets the files of a tor HiddenServiceDir, each with
mode 0600: hs_ed25519_secret_key, hs_ed25519_public_key and hostname. A tor can use
the directory as it is. A FILE whose name ends in .pem gets the key in the form of
OnionBalance instead.

Nothing is overwritten. Back up hs_ed25519_secret_key (or FILE) to where nobody else
can read it: the other files are made from it, and nothing can make it again. Run
this as the user that balancer will run as, or change the owner afterwards.`,
		Example: "  balancer key new front\n  balancer key new front.pem --json",
		Args:    misuse(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			shown, err := makeKey(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return shown.writeJSON(cmd.OutOrStdout())
			}
			if err := shown.writeText(cmd.OutOrStdout()); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "\nBack up %s, for your eyes only: when it is lost, so is the address.\nIn the configuration: key = %q\n",
				shown.Path, shown.Path)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

func newKeyShowCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show PATH",
		Short: "Print the onion address that a key stands for",
		Long: `Checks the key at PATH, a key file or a tor HiddenServiceDir, as "balancer run"
would, and prints its onion address, its public half and its form. The secret half
is never printed. Nothing is changed.`,
		Example: "  balancer key show front\n  balancer key show /var/lib/tor/service --json",
		Args:    misuse(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			shown, err := showKey(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return shown.writeJSON(cmd.OutOrStdout())
			}
			return shown.writeText(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

// keyShown is what may be known of a key.
type keyShown struct {
	Address   string        `json:"address"`
	PublicKey string        `json:"public_key"` // hex
	Form      keystore.Form `json:"form"`
	Path      string        `json:"path,omitempty"`
}

func (k *keyShown) writeJSON(w io.Writer) error { return json.NewEncoder(w).Encode(k) }

func (k *keyShown) writeText(w io.Writer) error {
	_, err := fmt.Fprintf(w, "address     %s\npublic key  %s\nform        %s\npath        %s\n", k.Address, k.PublicKey, k.Form, k.Path)
	return err
}

func showKey(ref string) (*keyShown, error) {
	custodian, err := keystore.Open(ref)
	if err != nil {
		return nil, err
	}
	address := custodian.Address()
	shown := &keyShown{Address: address.String(), PublicKey: hex.EncodeToString(address[:]), Form: custodian.Form()}
	if disk, ok := custodian.(*keystore.DiskKey); ok {
		shown.Path = disk.Path()
	}
	return shown, custodian.Close()
}

// makeKey writes a new key to path, and opens it again to see that it is good.
func makeKey(path string) (*keyShown, error) {
	if path == "" {
		return nil, usageError{errors.New("the path of the new key is empty")}
	}
	fresh, err := keystore.New(rand.Reader)
	if err != nil {
		return nil, err
	}
	defer fresh.Wipe()
	write := fresh.WriteTor
	if filepath.Base(path) == torKeyName {
		path = filepath.Dir(path)
	} else if strings.EqualFold(filepath.Ext(path), ".pem") {
		write = fresh.WritePEM
	}
	if err := write(path); err != nil {
		return nil, err
	}
	return showKey(path)
}
