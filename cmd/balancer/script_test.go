package main

import (
	"fmt"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the scripts run this very binary as the command "balancer".
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"balancer": func() { os.Exit(run(os.Args[1:])) },
	})
}

// TestScripts runs what is in testdata/script, each file in a directory of its
// own: the command line as an operator meets it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true,
		Condition: func(cond string) (bool, error) {
			if cond != "pkcs11" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			return withPKCS11, nil
		},
	})
}
