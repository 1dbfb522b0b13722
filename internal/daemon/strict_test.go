package daemon

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"onionbalancer/internal/config"
)

const clientKeyText = "descriptor:x25519:OM7TGIVRYMY6PFX6GAC6ATRTA5U6WW6U7A4ZNHQDI6OVL52XVV2Q\n"

// TestStrictModes opens each thing that decides about code or keys, and each
// directory above it, to others: the daemon does not start with it, and check
// names it with the command that fixes it.
func TestStrictModes(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "etc")
	address := writeKey(t, filepath.Join(dir, "web"), 3)
	writeKey(t, filepath.Join(dir, "front"), 1)
	for name, content := range map[string]string{"torrc": "", "bin/tor": "#!/bin/sh\n", "client.auth_private": clientKeyText, "module/m.so": "", "module/pin": "1234"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600), os.Chmod(path, 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("state_dir = \"state\"\n[tor]\nbinary = \"bin/tor\"\ntorrc = \"torrc\"\n[[service]]\nkey = \"front\"\n"+
		"signing = \"pkcs11:token=t?module-path=module/m.so&pin-source=file:module/pin\"\n"+
		"[[service.instance]]\naddress = %q\nclient_key = \"client.auth_private\"\n", address)
	cfg := parse(t, dir, text)
	find := func() string {
		var found findings
		c := &checker{cfg: cfg, tell: found.tell}
		c.checkModes()
		if err := checkService(intendedUser(cfg), cfg.Services[0]); err != nil {
			c.fail("service", "", err)
		}
		if _, err := New(cfg, "test", slog.New(slog.DiscardHandler)); err != nil {
			c.fail("not started", "", err)
		}
		return found.String()
	}
	if got := find(); got != "" {
		t.Fatalf("in order: %s", got)
	}
	for name, what := range map[string]string{
		"balancer.toml": "configuration", "state": "state_dir", "torrc": "tor.torrc", "bin/tor": "tor.binary", "bin": "tor.binary",
		"module/m.so": "signing: module-path", "module": "signing: pin-source", "client.auth_private": `client_key of "` + cfg.Services[0].Instances[0].Name + `"`,
		"front": "", ".": "configuration", "..": "state_dir",
	} {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o722); err != nil {
			t.Fatal(err)
		}
		got := find()
		for _, want := range []string{what, "not started: ", path, "can be written by everybody (mode 0722): run: chmod go-w " + path} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in %s", name, want, got)
			}
		}
		if err := os.Chmod(path, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	if got := find(); got != "" {
		t.Errorf("in order again: %s", got)
	}
}

// TestStrictReload: a configuration that others can write is not taken over, and
// a password of that kind is a warning.
func TestStrictReload(t *testing.T) {
	dir := t.TempDir()
	address := writeKey(t, filepath.Join(dir, "web"), 3)
	writeKey(t, filepath.Join(dir, "front"), 1)
	password := filepath.Join(dir, "password")
	if err := errors.Join(os.WriteFile(password, []byte("hunter2"), 0o600), os.Chmod(password, 0o666)); err != nil {
		t.Fatal(err)
	}
	cfg := parse(t, dir, fmt.Sprintf("[tor]\ncontrol = \"127.0.0.1:1\"\npassword_file = \"password\"\n[[service]]\nkey = \"front\"\n[[service.instance]]\naddress = %q\n", address))
	var log strings.Builder
	d, err := New(cfg, "test", slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "chmod go-w "+password) {
		t.Errorf("no warning: %s", &log)
	}
	if err := os.Chmod(cfg.File, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := d.Reload(cfg); err == nil || !strings.Contains(err.Error(), "chmod go-w "+cfg.File) {
		t.Errorf("reloaded: %v", err)
	}
}

// TestCredentials: keys and passwords that systemd hands over by name.
func TestCredentials(t *testing.T) {
	dir, given := t.TempDir(), t.TempDir()
	address := writeKey(t, filepath.Join(dir, "web"), 3)
	writeKey(t, filepath.Join(given, "made"), 1)
	if err := errors.Join(os.Rename(filepath.Join(given, "made", "hs_ed25519_secret_key"), filepath.Join(given, "front")),
		os.WriteFile(filepath.Join(given, "web1"), []byte(clientKeyText), 0o400),
		os.WriteFile(filepath.Join(given, "control"), []byte("hunter2\n"), 0o400)); err != nil {
		t.Fatal(err)
	}
	cfg := parse(t, dir, fmt.Sprintf("[tor]\ncontrol = \"127.0.0.1:1\"\npassword_file = \"credential:control\"\n[[service]]\nkey = \"credential:front\"\n"+
		"[[service.instance]]\naddress = %q\nclient_key = \"credential:web1\"\n", address))
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := New(cfg, "test", log); err == nil || !strings.Contains(err.Error(), "CREDENTIALS_DIRECTORY is not set: systemd sets it for a unit with LoadCredential=web1:PATH") {
		t.Errorf("outside of a unit: %v", err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", given)
	services, err := buildAll(cfg, log)
	if err != nil || len(services) != 1 {
		t.Fatalf("%d services, %v", len(services), err)
	}
	for _, s := range services {
		if s.Instances[0].Client == nil {
			t.Error("no client key")
		}
	}
	if tors, err := openTors(t.Context(), cfg, log); err != nil || tors.Tors()[0].Own() {
		t.Errorf("a password from a credential: %v", err)
	}
	if err := os.Chmod(filepath.Join(given, "web1"), 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := clientKey("credential:web1"); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a client key that everybody can read: %v", err)
	}
	bad := "[[service]]\nkey = \"credential:../front\"\ninstance = [{ address = \"" + address.String() + "\" }]\n"
	if _, err := config.Parse([]byte(bad), "/etc/b.toml"); err == nil || !strings.Contains(err.Error(), "b.toml:2: service.key: a credential's name") {
		t.Errorf("a path as a credential: %v", err)
	}
}
