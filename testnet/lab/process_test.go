package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func run(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Run(exec.Command("/bin/sh", "-c", script), filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestProcessEndsByItself: a waiting caller hears why, and the log's end.
func TestProcessEndsByItself(t *testing.T) {
	p := run(t, "echo oops; exit 3")
	ctx, cancel := p.WhileRunning(t.Context())
	defer cancel()
	<-ctx.Done()
	if said := context.Cause(ctx).Error(); !strings.Contains(said, "exit status 3") || !strings.Contains(said, "oops") {
		t.Errorf("got %q", said)
	}
	if err := p.Stop(); err != nil {
		t.Errorf("stopping what has ended: %v", err)
	}
}

func TestProcessStop(t *testing.T) {
	for _, c := range []struct{ status, want string }{{"0", ""}, {"5", "exit status 5"}} {
		p := run(t, `trap "exit `+c.status+`" TERM; echo ready; while :; do sleep 0.02; done`)
		awaitLog(t, p, "ready") // the trap is set
		err := p.Stop()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("leaving with %s: %v", c.status, err)
		}
	}
}

func awaitLog(t *testing.T, p *Process, word string) {
	t.Helper()
	for {
		text, err := os.ReadFile(p.Log)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), word) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}
