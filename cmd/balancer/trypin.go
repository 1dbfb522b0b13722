package main

import (
	"strconv"

	"github.com/spf13/pflag"

	"onionbalancer/keystore/token"
)

// addTryPINFlag adds the flag by which an operator has a PIN tried in spite of
// what is known of it.
func addTryPINFlag(flags *pflag.FlagSet) {
	flags.BoolFunc("try-pin", "try the PIN though the token counts a wrong one, or refused this one before", func(text string) error {
		wanted, err := strconv.ParseBool(text)
		if wanted {
			token.TryPIN()
		}
		return err
	})
}
