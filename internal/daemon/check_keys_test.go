//go:build cgo

package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/keystore"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/token/tokentest"
	"onionbalancer/selection"
)

// checked checks a file without a network and returns the findings, a line each.
func checked(t *testing.T, dir, text string) string {
	t.Helper()
	var found findings
	if err := Check(t.Context(), parse(t, dir, text), true, slog.New(slog.DiscardHandler), found.tell); err != nil {
		t.Fatal(err)
	}
	return found.String()
}

// sealKey seals a key by the token, and returns the reference to it.
func sealKey(t *testing.T, hsm *tokentest.Token, dir string, n byte) (ref string, address descriptor.Address) {
	t.Helper()
	key, err := descriptor.IdentityKeyFromSeed(append([]byte{n}, make([]byte, 31)...))
	if err != nil {
		t.Fatal(err)
	}
	ref = hsm.URI("seal") + "&x-sealed=" + filepath.Join(dir, fmt.Sprintf("front%d.sealed", n))
	uri, err := pkcs11uri.Parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	file, err := keystore.SealTo(context.Background(), key, uri)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := file.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(uri.Sealed, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return ref, key.Address()
}

// One service has its key sealed and its signing keys on the token, another its
// key sealed by the same key of the token.
func TestCheckToken(t *testing.T) {
	hsm := tokentest.New(t)
	hsm.Make(t, tokentest.AES, "seal", "01")
	dir := t.TempDir()
	one, address := sealKey(t, hsm, dir, 1)
	two, _ := sealKey(t, hsm, dir, 2)
	instance := fmt.Sprintf("[[service.instance]]\naddress = %q\n", writeKey(t, filepath.Join(dir, "web"), 3))
	text := fmt.Sprintf("[[service]]\nkey = %q\nsigning = %q\n%s[[service]]\nkey = %q\n%s", one, hsm.URI(""), instance, two, instance)

	got := checked(t, dir, text)
	for _, want := range []string{
		"ok key " + filepath.Join(dir, "front1.sealed") + ": publishes " + address.String(),
		"front1.sealed: token \"" + hsm.Label + "\"",
		"front1.sealed: the token unseals it and certifies",
		"ok signing keys of " + address.Short() + ": the token makes keys, signs",
		"front2.sealed: the token unseals it and certifies",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "failed") || strings.Contains(got, hsm.PIN) {
		t.Errorf("findings:\n%s", got)
	}
	if objects := hsm.Tool(t, "--list-objects"); strings.Contains(objects, "balancer") {
		t.Errorf("left behind on the token:\n%s", objects)
	}

	hsm.Remove(t)
	got = checked(t, dir, text)
	if strings.Count(got, "is the token plugged in") != 3 || !strings.Contains(got, "publishes "+address.String()) {
		t.Errorf("without the token:\n%s", got)
	}
	hsm.Insert(t)
	if err := os.WriteFile(hsm.PINFile, []byte("SECRET-wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got = checked(t, dir, text)
	if strings.Count(got, "put the right PIN where pin-source says") != 3 || strings.Contains(got, "SECRET") {
		t.Errorf("with a wrong PIN:\n%s", got)
	}
}

// What keystore refuses is told, whatever else there is.
func TestCheckTokenAlone(t *testing.T) {
	dir := t.TempDir()
	instance := fmt.Sprintf("[[service.instance]]\naddress = %q\n", writeKey(t, filepath.Join(dir, "web"), 3))
	got := checked(t, dir, "[[service]]\nkey = \"pkcs11:token=t;object=o?module-path=m.so\"\n"+instance)
	if !strings.Contains(got, "failed key of service 1: ") || !strings.Contains(got, "no token can certify") {
		t.Errorf("a key on the token itself:\n%s", got)
	}
}

// TestShownKeys: a token that shows public keys without its PIN is warned of.
func TestShownKeys(t *testing.T) {
	for shown, want := range map[bool]Level{false: LevelOK, true: LevelWarning} {
		var told findings
		(&checker{tell: told.tell}).tellTrial("signing keys", time.Second, 2*time.Second, shown)
		if len(told) != 1 || told[0].Level != want || strings.Contains(told[0].Detail, "without the PIN") != shown {
			t.Errorf("shown %v: %+v", shown, told)
		}
	}
}

// TestCheckWeights: weights that the points of an instance cannot follow are told.
func TestCheckWeights(t *testing.T) {
	for each, want := range map[int]bool{1: true, 3: false} {
		var said findings
		(&checker{tell: said.tell}).checkWeights("front", balance.Config{
			Strategy: selection.Weighted{}, Room: selection.Room{Points: 20, PerInstance: each},
			Instances: []balance.Instance{{Name: "web1", Weight: 9}, {Name: "web2", Weight: 1}},
		})
		if got := len(said) == 1 && strings.Contains(said[0].Detail, "web1 cannot have the 90 % that its weight asks for, but 83 %"); got != want {
			t.Errorf("with %d points: %s", each, said)
		}
	}
}
