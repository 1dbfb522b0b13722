package main

import (
	"github.com/spf13/cobra"
)

// torKeyName is the file that stands for its whole directory in arguments.
const torKeyName = "hs_ed25519_secret_key"

func newKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make, seal and show identity keys of services",
		Long: `The identity key of a service is its onion address: whoever has the secret half
can publish under the address, and when it is lost, so is the address. The
configuration names it ("key = …") in one of these forms:

  tor     hs_ed25519_secret_key, or the HiddenServiceDir that it is in. The files
          hs_ed25519_public_key and hostname beside it are not needed, but if they
          are there, they have to agree with it.
  pem     the key file of OnionBalance: an Ed25519 key, PKCS #8, not encrypted.
  sealed  a file that only a token (an HSM, a smart card) can open, named by the
          token's "pkcs11:" URI with x-sealed=FILE: "balancer key seal --help".
  offline a directory of certificates made where the key is, on a machine without a
          network: "balancer ceremony --help".

To move a service over from a single tor or from OnionBalance, copy the key as it
is; there is nothing to convert. A key file that anyone but its owner can read is
refused ("chmod 600 FILE" mends it), and no key file is ever overwritten.

No token can hold the identity key itself and publish with it: tor wants signatures
by keys that are derived from it, one for each period, and tokens can neither derive
nor sign for them. So a token seals the key, and opens it for the moment in which a
period's one certificate is signed.

Instances need no key here: each has its own, made by its own tor.`,
		Args: misuse(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	addTryPINFlag(cmd.PersistentFlags())
	cmd.AddCommand(newKeyNewCommand(), newKeyShowCommand(), newKeySealCommand(), newKeyRewrapCommand(), newKeyCSRCommand())
	return cmd
}
