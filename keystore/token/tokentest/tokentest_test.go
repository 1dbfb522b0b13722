package tokentest

import (
	"os/exec"
	"strings"
	"testing"
)

func TestKeys(t *testing.T) {
	k := New(t)
	other := k.Another(t, "other token")
	k.Make(t, AES, "wrap aes", "01")
	k.Make(t, RSA, "wrap rsa", "02")
	k.Make(t, P256, "wrap ec", "03")
	k.Make(t, Ed25519, "sign", "04")

	listing := k.Tool(t, "--list-objects")
	for _, label := range []string{"wrap aes", "wrap rsa", "wrap ec", "sign"} {
		if !strings.Contains(listing, "label:      "+label) {
			t.Errorf("no %q among\n%s", label, listing)
		}
	}
	if n := strings.Count(listing, "sensitive, always sensitive, never extractable"); n != 4 {
		t.Errorf("%d keys that cannot leave the token, not 4, among\n%s", n, listing)
	}
	if listing := other.Tool(t, "--list-objects"); strings.Contains(listing, "label:") {
		t.Errorf("the other token has objects:\n%s", listing)
	}
	if uri := other.URI("wrap aes"); !strings.HasPrefix(uri, "pkcs11:token=other%20token;object=wrap%20aes?module-path=/") {
		t.Error(uri)
	}
}

func TestRemoveAndWarn(t *testing.T) {
	k := New(t)
	if k.Warned(t) {
		t.Error("a new token warns of a wrong PIN")
	}
	k.Remove(t)
	if slot := k.slot(t); slot != "" {
		t.Errorf("a token that was removed is listed:\n%s", slot)
	}
	k.Insert(t)
	if k.slot(t) == "" {
		t.Error("a token that was put back is not listed")
	}

	cmd := exec.Command("pkcs11-tool", "--module", k.Module, "--token-label", k.Label,
		"--login", "--pin", "env:WRONG", "--list-objects")
	cmd.Env = append(k.env(), "WRONG=wrong-4711")
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Fatalf("a wrong PIN was accepted:\n%s", out)
	}
	if !k.Warned(t) {
		t.Error("the token does not warn after a wrong PIN")
	}
	k.Tool(t, "--list-objects")
	if k.Warned(t) {
		t.Error("the token still warns after the right PIN")
	}
}
