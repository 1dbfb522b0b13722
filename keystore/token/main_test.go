package token_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/helper"
)

// TestMain lets this very binary be the helper: with SoftHSM, or with a module
// that a test describes by files.
func TestMain(m *testing.M) {
	// The race detector makes each process that it watches end a second late.
	os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0")
	if len(os.Args) == 2 {
		var err error
		switch {
		case os.Args[1] == argClient:
			err = clientThatDies()
		case os.Args[1] != token.HelperArgument:
			goleak.VerifyTestMain(m)
			return
		case os.Getenv(envGarbage) != "":
			err = garbageHelper()
		case os.Getenv(envFake) != "":
			err = helper.RunWith(context.Background(), loadFake)
		default:
			err = helper.Run(context.Background())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func contextFor(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}
