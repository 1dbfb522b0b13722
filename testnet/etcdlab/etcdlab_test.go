package etcdlab_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"onionbalancer/testnet/etcdlab"
	"onionbalancer/testnet/etcdlab/etcdtest"
)

// orphan has the test program start an etcd and tell its files, for TestDies.
const orphan = "ETCDLAB_ORPHAN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(orphan); dir != "" {
		if _, err := etcdlab.Start(context.Background(), etcdlab.Config{Dir: dir}); err != nil {
			os.Stdout.WriteString(err.Error())
		}
		os.Stdout.WriteString("started\n")
		select {}
	}
	goleak.VerifyTestMain(m)
}

func TestMissing(t *testing.T) {
	t.Setenv("PATH", "")
	t.Setenv(etcdlab.Variable, "")
	if _, err := etcdlab.Start(t.Context(), etcdlab.Config{}); err == nil || !strings.Contains(err.Error(), "apt-get install etcd-server") {
		t.Errorf("%v", err)
	}
	t.Setenv(etcdlab.Variable, "/no/such/etcd")
	if _, err := etcdlab.Start(t.Context(), etcdlab.Config{}); err == nil || !strings.Contains(err.Error(), "/no/such/etcd") {
		t.Errorf("%v", err)
	}
}

func TestBadArgument(t *testing.T) {
	if _, err := etcdlab.Start(t.Context(), etcdlab.Config{Args: []string{"--no-such-flag"}}); err == nil || !strings.Contains(err.Error(), "no-such-flag") {
		t.Errorf("%v", err)
	}
}

// request makes one at a member's endpoint.
func request(t *testing.T, endpoint, path, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, endpoint+"/v3/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestFaults: three members go on without one of them, whatever has become of it.
func TestFaults(t *testing.T) {
	l := etcdtest.Start(t, etcdlab.Config{Members: 3})
	ctx := t.Context()
	request(t, l.Endpoints()[0], "kv/put", `{"key":"YQ==","value":"Yg=="}`)
	for _, fault := range []struct {
		name      string
		do, undo  func(int) error
		wasLeader bool
	}{
		{"killed", func(i int) error { l.Kill(i); return nil }, l.Restart, true},
		{"paused", l.Pause, l.Resume, true},
		{"paused follower", l.Pause, l.Resume, false},
	} {
		before, err := l.Leader(ctx)
		if err != nil {
			t.Fatalf("%s: %v", fault.name, err)
		}
		member := before
		if !fault.wasLeader {
			member = (before + 1) % 3
		}
		if err := fault.do(member); err != nil {
			t.Fatalf("%s: %v", fault.name, err)
		}
		after, err := l.Leader(ctx)
		if err != nil {
			t.Fatalf("%s: %v", fault.name, err)
		}
		if after == member {
			t.Errorf("%s: it is the leader", fault.name)
		}
		if err := fault.undo(member); err != nil {
			t.Fatalf("%s: %v", fault.name, err)
		}
		if _, err := l.Leader(ctx); err != nil {
			t.Fatalf("%s: %v", fault.name, err)
		}
		if got := request(t, l.Endpoints()[member], "kv/range", `{"key":"YQ=="}`); !strings.Contains(got, `"Yg=="`) {
			t.Errorf("%s: its data: %s", fault.name, got)
		}
	}
	if err := l.Wipe(ctx, true); err != nil {
		t.Fatal(err)
	}
	if got := request(t, l.Endpoints()[1], "kv/range", `{"key":"YQ=="}`); strings.Contains(got, `"Yg=="`) {
		t.Errorf("after it was wiped: %s", got)
	}
}

// TestDies: etcd dies with whoever started it, even while it is paused.
func TestDies(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), orphan+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || said != "started\n" {
		t.Errorf("%q, %v", said, err)
	}
	pid := childOf(t, cmd.Process.Pid)
	etcd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(etcd)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Error(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(etcd), Events: unix.POLLIN}}, int(time.Minute/time.Millisecond))
		if err == unix.EINTR {
			continue
		}
		if ready != 1 || err != nil {
			t.Errorf("etcd %d lives: %v", pid, err)
		}
		return
	}
}

func childOf(t *testing.T, parent int) int {
	t.Helper()
	lists, err := filepath.Glob("/proc/" + strconv.Itoa(parent) + "/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		if fields := strings.Fields(string(text)); len(fields) > 0 {
			pid, err := strconv.Atoi(fields[0])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("it has no child")
	return 0
}
