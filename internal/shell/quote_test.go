package shell

import (
	"os/exec"
	"testing"
)

// TestQuote asks a shell what it makes of it.
func TestQuote(t *testing.T) {
	for word, want := range map[string]string{
		"/var/lib/balancer/front.offline": "/var/lib/balancer/front.offline",
		"a b":                             "'a b'",
		"":                                "''",
		"it's":                            `'it'\''s'`,
		"pkcs11:token=hsm;object=s?module-path=/m.so&pin-source=prompt": "'pkcs11:token=hsm;object=s?module-path=/m.so&pin-source=prompt'",
		"$HOME `id` \\ \"x\" *\n~ é":                                    "'$HOME `id` \\ \"x\" *\n~ é'",
	} {
		got := Quote(word)
		if got != want {
			t.Errorf("%q is quoted as %s, want %s", word, got, want)
		}
		if said, err := exec.Command("sh", "-c", "printf %s "+got).Output(); err != nil || string(said) != word {
			t.Errorf("a shell reads %s as %q: %v", got, said, err)
		}
	}
}
