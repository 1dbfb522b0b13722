package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"onionbalancer/internal/owner"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
	"onionbalancer/keystore"
	"onionbalancer/keystore/pkcs11uri"
)

// sealOptions are the flags of "balancer key seal" and "balancer key rewrap".
type sealOptions struct {
	with, out string
	asJSON    bool
}

func (o *sealOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.with, "with", "", "`URI` of the key on a token that seals, with x-sealed=FILE")
	f.StringVar(&o.out, "out", "", "new `FILE`, where the URI has no x-sealed")
	f.BoolVar(&o.asJSON, "json", false, "print as JSON")
}

func newKeySealCommand() *cobra.Command {
	var o sealOptions
	cmd := &cobra.Command{
		Use:   "seal KEY --with URI",
		Short: "Seal a key so that only a token can open it",
		Long: `Writes the identity key KEY, tor's or OnionBalance's, to a new file that only a token
can open: an HSM, a smart card, a YubiKey, SoftHSM. The file is sealed by a key that
never leaves the token, and is bound to the onion address. Anyone who steals the disk or
a backup has nothing without the token and its PIN. Anyone who has this machine while it
runs can use the token as balancer does, and see the key while it is open.

URI names the token, its key, the PKCS #11 module to reach it by, where the PIN comes
from, and the new file (RFC 7512; put it between ' ', for the shell):

  pkcs11:token=hsm;object=seal?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/balancer/pin&x-sealed=front.sealed

  token, serial   as written on the token. The number of its slot does not matter.
  object, id      label of the key, and its ID in bytes: id=%01
  pin-source      file:PATH, credential:NAME (of systemd), fd:NUMBER, or prompt.
                  A PIN itself is refused: URIs appear in files and in process
                  lists.
  x-sealed        the new file; or give --out

The key on the token is one of AES (256 bits), RSA (2048 or more) or EC (P-256), and
marked as one that cannot leave; others are refused. To make one:

  pkcs11-tool --module MODULE --login --keygen --key-type AES:32 --sensitive --label seal --id 01
  pkcs11-tool --module MODULE --login --keypairgen --key-type EC:prime256v1 --usage-derive --label seal --id 01

Nothing is overwritten. Before the file gets its name it is synced to disk, opened by
the token, compared with KEY, and has signed a certificate that is checked. KEY is
left as it is; what is printed says how to destroy it.`,
		Example: `  balancer key seal front --with 'pkcs11:token=hsm;object=seal?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=prompt' --out front.sealed`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if pkcs11uri.Is(args[0]) {
				return usageError{errors.New(`KEY is a key on disk; to seal a sealed key by another token, use "balancer key rewrap"`)}
			}
			shown, err := o.seal(cmd, args[0])
			if err != nil {
				return err
			}
			source, err := keystore.OpenDisk(args[0])
			if err != nil {
				return err
			}
			defer source.Close()
			return o.show(cmd, shown, fmt.Sprintf(destroyText, printable.Text(source.Path()), shell.Quote(source.Path())))
		},
	}
	o.addFlags(cmd)
	return cmd
}

func newKeyRewrapCommand() *cobra.Command {
	var o sealOptions
	cmd := &cobra.Command{
		Use:   "rewrap OLDURI --with URI",
		Short: "Seal a sealed key by another key or token",
		Long: `Opens a sealed key by its token, and seals it to a new file: by another token, as a
spare or to replace the old one, or by another key of the same one. Both tokens have
to be present. In between, the key is in locked memory alone.

The new file is tested as "balancer key seal" does. The old file stays, and the old
token can still open it: to make the old token useless to a thief, destroy the old
file and its copies, and the key on the old token.`,
		Example: `  balancer key rewrap 'pkcs11:token=old;object=seal?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=prompt&x-sealed=front.sealed' \
      --with 'pkcs11:token=new;object=seal?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=prompt&x-sealed=front-new.sealed'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			old, err := pkcs11uri.Parse(args[0])
			if err != nil {
				return usageError{err}
			}
			if old.Sealed == "" {
				return usageError{errors.New("the old URI has no x-sealed: a key that is on a token itself cannot be taken out")}
			}
			shown, err := o.seal(cmd, args[0])
			if err != nil {
				return err
			}
			return o.show(cmd, shown, fmt.Sprintf(oldText, printable.Text(old.Sealed)))
		},
	}
	o.addFlags(cmd)
	return cmd
}

// seal seals the key that ref names as the flags say.
func (o *sealOptions) seal(cmd *cobra.Command, ref string) (*keyShown, error) {
	uri, err := newSealedURI("--with", o.with, o.out)
	if err != nil {
		return nil, err
	}
	key, err := keystore.Load(cmd.Context(), ref)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	file, err := keystore.SealTo(cmd.Context(), key, uri)
	if err != nil {
		return nil, err
	}
	shown, err := showSealed(file, uri)
	if err != nil {
		return nil, err
	}
	shown.Verified = true
	return shown, nil
}

// newSealedURI reads the URI of a new sealed key, and refuses the
// path of an existing file.
func newSealedURI(flag, ref, out string) (*pkcs11uri.URI, error) {
	if ref == "" {
		return nil, usageError{fmt.Errorf(`give %s URI, the key on a token that seals; see "balancer key seal --help"`, flag)}
	}
	uri, err := pkcs11uri.Parse(ref)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", flag, err)}
	}
	switch {
	case uri.Object == "" && len(uri.ID) == 0:
		return nil, usageError{fmt.Errorf("%s: the URI names no key on the token: add object=LABEL or id=%%HEX", flag)}
	case uri.ModulePath == "":
		return nil, usageError{fmt.Errorf("%s: the URI has no module-path, the file of the PKCS #11 library", flag)}
	case uri.Sealed != "" && out != "":
		return nil, usageError{fmt.Errorf("%s: the URI has x-sealed, so leave --out away", flag)}
	case uri.Sealed == "" && out == "":
		return nil, usageError{fmt.Errorf("%s: the URI has no x-sealed, the path of the new file; add it, or give --out FILE", flag)}
	case uri.Sealed == "":
		uri.Sealed = out
	}
	if err := owner.Check(uri.Sealed); err != nil {
		return nil, err
	}
	return uri, keystore.CheckNew(uri.Sealed)
}

// show shows a sealed key, the tests made with it, how to configure it, and the
// remaining steps.
func (o *sealOptions) show(cmd *cobra.Command, shown *keyShown, rest string) error {
	return showLine(cmd, o.asJSON, shown, func(w io.Writer) {
		shown.write(w)
		fmt.Fprintf(w, "\n%s\n%s\n%s", triedText, shown.configText(), rest)
	})
}

// destroyText says what to know before destroying the original.
const destroyText = `The key is still in the clear, in
%s. Before you destroy it:
  - Have another way back. When the token dies or locks itself, the sealed file is
    worth nothing: seal the key by a second token too, or keep a copy offline.
  - Run with the new configuration and wait for "certified" in the log.
Then:  shred -u %s
That is no promise. SSDs, journals, copy-on-write file systems (btrfs, ZFS), snapshots
and RAID keep old copies that shred does not reach, and so do backups: find and destroy
those too. If the disk may be read by others some day, destroy it, or move to an address
that was never on a disk: balancer key new --seal.
`

// oldText says which parts of the old seal remain.
const oldText = `The old file %s stays, and its token opens it still.
Destroy it, with its copies in backups, when the old token is no longer to be trusted.
`
