package daemon

import (
	"context"
	"fmt"
	"os"
	"testing"

	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/helper"
)

// TestMain lets this very binary be the helper process of a token.
func TestMain(m *testing.M) {
	if len(os.Args) != 2 || os.Args[1] != token.HelperArgument {
		os.Exit(m.Run())
	}
	if err := helper.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
