package cputime

import (
	"os/exec"
	"testing"
	"time"
)

// TestChildren: a child that works counts, one that sleeps hardly does.
func TestChildren(t *testing.T) {
	start := func(script string) {
		t.Helper()
		child := exec.Command("sh", "-c", script)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = child.Process.Kill()
			_ = child.Wait()
		})
	}
	start("sleep 60; true")
	if took := Children(); took > 500*time.Millisecond {
		t.Errorf("a child that sleeps took %v", took)
	}
	before := Children()
	start("while :; do :; done")
	for deadline := time.Now().Add(20 * time.Second); Children()-before < 50*time.Millisecond; {
		if time.Now().After(deadline) {
			t.Fatalf("a child that does not sleep took %v", Children()-before)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
