package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"onionbalancer/keystore"
	"onionbalancer/keystore/pkcs11uri"
)

func newKeyShowCommand() *cobra.Command {
	var asJSON, verify bool
	cmd := &cobra.Command{
		Use:   "show PATH|URI",
		Short: "Print the onion address that a key stands for",
		Long: `Checks a key as "balancer run" would, and prints its onion address, its public half
and its form. The secret half is never printed. Nothing is changed.

PATH is a key file of any form that the configuration takes, the directory of a service
of tor's or Arti's, a directory of ceremonies, or a sealed key's file. URI is the "pkcs11:" URI of a sealed key. Of a sealed key, the file alone
is looked at, and what it says: its token is left alone, and may be in a safe.

With --verify, the token unseals the key and certifies with it for a trial, which is
what "balancer run" asks of it. That takes the URI, and the PIN. It shows the address
of an Ed25519 key on a token as well, which "balancer key csr" can use.`,
		Example: `  balancer key show front
  balancer key show front.sealed
  balancer key show --verify 'pkcs11:token=hsm;object=seal?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=prompt&x-sealed=front.sealed'`,
		Args: misuse(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			show := showKey
			if verify {
				show = func(ref string) (*keyShown, error) { return verifyKey(cmd.Context(), ref) }
			}
			shown, err := show(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return shown.writeJSON(cmd.OutOrStdout())
			}
			if err := shown.writeText(cmd.OutOrStdout()); err != nil || !shown.Verified {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "verified    the token opened it just now, and it signs for the address")
			return err
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
	custodian, err := keystore.OpenSealed(uri) // checks what is named
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

// showSealedAlone shows a sealed key without a word of where its token is.
func showSealedAlone(path string) (*keyShown, error) {
	file, err := keystore.ReadSealed(path)
	if err != nil {
		return nil, err
	}
	shown, err := showSealed(file, &pkcs11uri.URI{Sealed: path})
	if err == nil {
		shown.Reference = "" // what there is of it is of no use
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
