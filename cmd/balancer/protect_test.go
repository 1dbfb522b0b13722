package main

import (
	"testing"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"onionbalancer/keystore/token"
)

// TestEveryCommandIsProtected: what protects the memory is at the root, and no
// command takes its place. The helper of tokens has its own, which is tested
// there.
func TestEveryCommandIsProtected(t *testing.T) {
	seen := 0
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		seen++
		own := cmd.PersistentPreRun != nil || cmd.PersistentPreRunE != nil
		if own != (!cmd.HasParent() || cmd.Name() == token.HelperArgument) {
			t.Errorf("%s: runs something of its own instead of what protects the memory: %v", cmd.CommandPath(), own)
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRootCommand())
	if seen < 20 {
		t.Errorf("only %d commands", seen)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if code := run([]string{"key"}); code != exitDone {
		t.Fatalf("exit status %d", code)
	}
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil || dumpable != 0 {
		t.Errorf("PR_GET_DUMPABLE is %d, %v", dumpable, err)
	}
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil || core != (unix.Rlimit{}) {
		t.Errorf("RLIMIT_CORE is %v, %v", core, err)
	}
}
