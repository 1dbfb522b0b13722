package printable

import "testing"

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"":                "",
		"web1, größer":    "web1, größer",
		`C:\key "a"`:      `C:\key "a"`,
		"a\x1b[2Jb":       `a\x1b[2Jb`,
		"a\nlevel=ERROR":  `a\nlevel=ERROR`,
		"\x1b\"\\":        `\x1b"\\`,
		"\u202egnp":       `\u202egnp`,
		"\u009b2J":        `\u009b2J`,
		"a\xff":           `a\xff`,
		"zero\u200bwidth": `zero\u200bwidth`,
		"no\u00a0break":   `no\u00a0break`,
	} {
		if got := Text(in); got != want {
			t.Errorf("Text(%q) = %q, want %q", in, got, want)
		}
	}
	if got := Lines("a\n\x1bb"); got != "a\n\\x1bb" {
		t.Errorf("Lines: %q", got)
	}
}
