package shell

import (
	"os/exec"
	"testing"

	"onionbalancer/internal/printable"
)

// TestQuote asks a shell what it makes of it.
func TestQuote(t *testing.T) {
	for word, want := range map[string]string{
		"/var/lib/balancer/front.offline": "/var/lib/balancer/front.offline",
		"a b":                             "'a b'",
		"":                                "''",
		"it's":                            `'it'\''s'`,
		"pkcs11:token=hsm;object=s?module-path=/m.so&pin-source=prompt": "'pkcs11:token=hsm;object=s?module-path=/m.so&pin-source=prompt'",
		"$HOME `id` \\ \"x\" *~ é":                                      "'$HOME `id` \\ \"x\" *~ é'",
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

// is text in one line.
func TestQuoteForTerminals(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"a\nb", "\x1b[2J'\\", "\u202e7\u009b1", "\xff0", "\tgrößer"} {
		quoted := Quote(word)
		if printable.Text(quoted) != quoted {
			t.Errorf("%q is quoted as %q", word, quoted)
		}
		if got, err := exec.Command(bash, "-c", "printf %s "+quoted).Output(); err != nil || string(got) != word {
			t.Errorf("%s is %q, %v, want %q", quoted, got, err, word)
		}
	}
}
