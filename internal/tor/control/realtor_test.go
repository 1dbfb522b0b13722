package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// realTor is a tor process that keeps off the network.
type realTor struct {
	dir    string
	args   []string
	socket string // "unix:…"
	tcp    string // "127.0.0.1:…"
	cookie string
	stop   func()

	drained sync.WaitGroup
}

func startTor(t *testing.T, options ...string) *realTor {
	t.Helper()
	dir, err := os.MkdirTemp("", "tor") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	torrc := filepath.Join(dir, "torrc")
	if err := os.WriteFile(torrc, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := &realTor{dir: dir, socket: "unix:" + dir + "/control", cookie: filepath.Join(dir, "cookie \"é")}
	r.args = append([]string{
		"-f", torrc, "--defaults-torrc", torrc, "DataDirectory", filepath.Join(dir, "data"),
		"DisableNetwork", "1", "SocksPort", "0", "Log", "notice stdout",
		"ControlPort", r.socket, "+ControlPort", "127.0.0.1:auto",
		"CookieAuthFile", r.cookie,
		"__OwningControllerProcess", fmt.Sprint(os.Getpid()),
	}, options...)
	r.start(t)
	return r
}

// start starts the process and waits until both control ports are open.
func (r *realTor) start(t *testing.T) {
	t.Helper()
	cmd := exec.Command("tor", r.args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("this test needs tor: %v", err)
	}
	r.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		r.drained.Wait()
		_ = cmd.Wait()
	})
	t.Cleanup(func() { r.stop() })
	lines := bufio.NewScanner(out)
	var log strings.Builder
	for opened := 0; opened < 2; {
		if !lines.Scan() {
			t.Fatalf("tor did not start:\n%s", log.String())
		}
		log.WriteString(lines.Text() + "\n")
		_, where, found := strings.Cut(lines.Text(), "Opened Control listener connection (ready) on ")
		if found {
			opened++
		}
		if strings.HasPrefix(where, "127.") {
			r.tcp = where
		}
	}
	r.drained.Go(func() { _, _ = io.Copy(io.Discard, out) })
}

// runClient runs a client for the rest of the test and waits for it to be
// connected, if it should be.
func runClient(t *testing.T, cfg Config, connects bool) *Client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := New(cfg)
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	if connects {
		within(t, 20*time.Second, c.Ready)
	}
	return c
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func hashPassword(t *testing.T, password string) string {
	t.Helper()
	out, err := exec.Command("tor", "--quiet", "--hash-password", password).Output()
	if err != nil {
		t.Fatalf("this test needs tor: %v", err)
	}
	lines := strings.Fields(strings.TrimSpace(string(out)))
	return lines[len(lines)-1]
}

func TestRealTorAuthentication(t *testing.T) {
	const password = "pass \"word\" é %s"
	hash := hashPassword(t, password)
	open := startTor(t)
	cookie := startTor(t, "CookieAuthentication", "1")
	pass := startTor(t, "HashedControlPassword", hash)
	both := startTor(t, "CookieAuthentication", "1", "HashedControlPassword", hash)
	good, wrong := writeFile(t, password+"\n"), writeFile(t, "wrong\n")
	stale, missing := writeFile(t, strings.Repeat("x", 32)), filepath.Join(t.TempDir(), "missing")
	runClient(t, Config{Dial: DialTarget(open.socket)}, true)
	for name, test := range map[string]struct {
		tor    *realTor
		cfg    Config
		errHas string // "" when it should connect
	}{
		"null, cookie set":                  {open, Config{CookieFile: open.cookie}, "though cookie_file is set"},
		"null, password set":                {open, Config{PasswordFile: good}, "though password_file is set"},
		"safe cookie":                       {cookie, Config{}, ""},
		"safe cookie, named":                {cookie, Config{CookieFile: cookie.cookie}, ""},
		"stale cookie":                      {cookie, Config{CookieFile: stale}, "left over"},
		"missing cookie":                    {cookie, Config{CookieFile: missing}, "set password_file"},
		"password that tor does not take":   {cookie, Config{PasswordFile: good}, ""},
		"password":                          {pass, Config{PasswordFile: good}, ""},
		"wrong password":                    {pass, Config{PasswordFile: wrong}, "515"},
		"no password":                       {pass, Config{}, "set password_file"},
		"missing password":                  {pass, Config{PasswordFile: missing}, "password_file"},
		"empty password":                    {pass, Config{PasswordFile: writeFile(t, "\n")}, "empty"},
		"both, cookie":                      {both, Config{}, ""},
		"both, password":                    {both, Config{PasswordFile: good}, ""},
		"both, unreadable cookie":           {both, Config{CookieFile: missing, PasswordFile: good}, ""},
		"both, unreadable password":         {both, Config{PasswordFile: missing}, ""},
		"both, unreadable cookie, no other": {both, Config{CookieFile: missing}, "reading tor's cookie"},
		"both, cookie named goes first":     {both, Config{CookieFile: both.cookie, PasswordFile: wrong}, ""},
		"both, cookie of the wrong length":  {both, Config{CookieFile: wrong}, "want 32"},
		"both, password goes before cookie": {both, Config{PasswordFile: wrong}, "515"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, target := range []string{test.tor.socket, test.tor.tcp} {
				cfg := test.cfg
				cfg.Dial = DialTarget(target)
				c := runClient(t, cfg, test.errHas == "")
				if test.errHas == "" {
					if v := c.State().TorVersion; !strings.HasPrefix(v, "0.4.") {
						t.Errorf("version %q", v)
					}
					continue
				}
				for c.State().LastError == "" && c.State().Connects == 0 {
					time.Sleep(time.Millisecond)
				}
				if got := c.State().LastError; !strings.Contains(got, test.errHas) {
					t.Errorf("got %q, want an error with %q", got, test.errHas)
				} else if strings.Contains(got, password) {
					t.Error("the password is in the error")
				}
			}
		})
	}
}

func TestRealTorCommands(t *testing.T) {
	tor := startTor(t, "CookieAuthentication", "1")
	c := runClient(t, Config{Dial: DialTarget(tor.socket)}, true)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	refused := func(name string, err error, code int) {
		var reply *ReplyError
		if !errors.As(err, &reply) || reply.Code != code {
			t.Errorf("%s: got %v, want code %d", name, err, code)
		}
	}
	if v, err := c.GetInfo(ctx, "version"); err != nil || !strings.HasPrefix(string(v), c.State().TorVersion) {
		t.Errorf("version: %q, %v", v, err)
	}
	_, err := c.GetInfo(ctx, "dir/status-vote/current/consensus-microdesc")
	refused("consensus", err, 551)
	if v, err := c.GetInfo(ctx, "md/all"); err != nil || len(v) != 0 {
		t.Errorf("md/all: %q, %v", v, err)
	}
	if v, err := c.GetInfo(ctx, "config/names"); err != nil || len(v) < 5000 || !strings.HasSuffix(string(v), "\n") {
		t.Errorf("config/names: %d bytes, %v", len(v), err)
	}
	if v, err := c.GetConf(ctx, "TestingTorNetwork"); err != nil || len(v) != 1 || v[0] != "0" {
		t.Errorf("TestingTorNetwork: %q, %v", v, err)
	}
	if v, err := c.GetConf(ctx, "Nickname"); err != nil || len(v) != 0 {
		t.Errorf("Nickname: %q, %v", v, err)
	}
	if v, err := c.GetConf(ctx, "ControlPort"); err != nil || len(v) != 2 {
		t.Errorf("ControlPort: %q, %v", v, err)
	}
	refused("SIGNAL", c.Signal(ctx, "NOSUCH"), 552)
	if err := c.Signal(ctx, "HEARTBEAT"); err != nil {
		t.Error(err)
	}
	if p, err := c.Bootstrap(ctx); err != nil || p.Percent != 0 || p.Summary == "" {
		t.Errorf("bootstrap: %+v, %v", p, err)
	}
	address := "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd" // published by the Tor Project
	_, err = c.HSFetch(ctx, address, hsdir1)
	refused("HSFETCH", err, 552)
	refused("HSPOST", c.HSPost(ctx, address, hsdir1, []byte("hs-descriptor 3\n.\n..x\n")), 552)
	if s := c.State(); s.Connects != 1 {
		t.Errorf("refusals cost the connection: %+v", s)
	}
}

func TestRealTorRestarts(t *testing.T) {
	tor := startTor(t, "CookieAuthentication", "1")
	c := runClient(t, Config{Dial: DialTarget(tor.socket)}, true)
	watch := c.Watch(t.Context())
	<-watch
	tor.stop()
	for c.State().Connected {
		time.Sleep(time.Millisecond)
	}
	if _, err := c.GetInfo(t.Context(), "version"); !errors.Is(err, ErrNotConnected) {
		t.Errorf("without tor: %v", err)
	}
	tor.start(t) // with another cookie
	select {
	case <-watch:
	case <-time.After(20 * time.Second):
		t.Fatal("no wake after the restart")
	}
	if _, err := c.GetInfo(t.Context(), "version"); err != nil {
		t.Error(err)
	}
}

// A tor that we own ends with our connection.
func TestRealTorOwnership(t *testing.T) {
	tor := startTor(t, "CookieAuthentication", "1")
	ctx, cancel := context.WithCancel(t.Context())
	c := New(Config{Dial: DialTarget(tor.socket), TakeOwnership: true})
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	within(t, 20*time.Second, c.Ready)
	cancel()
	<-done
	other := New(Config{Dial: DialTarget(tor.socket)})
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := other.cfg.Dial(t.Context())
		if err != nil {
			break
		}
		conn.Close()
		if time.Now().After(deadline) {
			t.Fatal("tor lives on without its owner")
		}
		time.Sleep(10 * time.Millisecond)
	}
}
