package main

import (
	"encoding/base64"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestField runs what is in testdata/field: inputs as the field gives them, each
// with what the command line answers. A case is added by adding a file.
func TestField(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/field", RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"unbase64": unbase64, "listen": listenAs},
	})
}

// unbase64 FROM TO decodes what a script can only hold as text.
func unbase64(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: unbase64 FROM TO")
	}
	raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(ts.ReadFile(args[0])), ""))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), raw, 0o600))
}
