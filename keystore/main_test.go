package keystore

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"testing"

	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/helper"
)

// signingKey is a descriptor-signing key to be certified.
var signingKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)

// memoryChild in the environment makes this binary the process of TestMemory.
const memoryChild = "KEYSTORE_TEST_MEMORY"

// memoryProcess is that process, where it is built.
var memoryProcess func() error

// TestMain lets the test binary be a token's helper, and the process whose
// memory is searched.
func TestMain(m *testing.M) {
	// The race detector makes each process that it watches end a second late.
	os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0")
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == token.HelperArgument:
		err = helper.Run(context.Background())
	case os.Getenv(memoryChild) != "":
		err = memoryProcess()
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
