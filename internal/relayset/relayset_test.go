package relayset

import (
	"strings"
	"testing"
)

const (
	lower = "00112233445566778899aabbccddeeff00112233"
	upper = "00112233445566778899AABBCCDDEEFF00112233"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		lower: "$" + upper, "$" + lower: "$" + upper, "$" + upper: "$" + upper,
		"{de}": "{de}", "{DE}": "{de}", "{??}": "{??}",
		"family:" + lower: "family:$" + upper, "Family:$" + upper: "family:$" + upper,
		"flag:exit": "flag:Exit", "FLAG:BadExit": "flag:BadExit", "flag:v2dir": "flag:V2Dir",
	} {
		p, err := Parse(text)
		if err != nil || p.String() != want {
			t.Errorf("%q: %s, %v, want %s", text, p, err, want)
		}
		if again, err := Parse(p.String()); err != nil || again.String() != want {
			t.Errorf("%q is not read again: %v", p, err)
		}
	}
	for text, want := range map[string]string{
		"de": `write "{de}"`, "{de": `write "{de}"`, "{deu}": "no country", "{d}": "no country", "{": "no country", "{1?}": "no country",
		"": "is no relay", "relay1": "nicknames", "$" + upper[1:]: "40 hexadecimal digits", upper + "0": "40 hexadecimal",
		"flag:": "there is no flag", "flag:Exits": "only Authority, BadExit", "Exit": `write "flag:Exit"`,
		"family:relay1": "no fingerprint", "family:": "no fingerprint", "family:$" + upper + "x": "no fingerprint",
		"192.0.2.0/24": "addresses", "flags:Exit": "is no relay", " {de}": "is no relay", "{de},{fr}": "no country",
	} {
		if p, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v, want %q", text, p, err, want)
		}
	}
}

func TestSet(t *testing.T) {
	s, err := ParseSet([]string{"{de}", "flag:Exit", "family:" + upper})
	if err != nil || s.String() != "{de},flag:Exit,family:$"+upper || !s.Countries() || len(s.Families()) != 1 {
		t.Error(s, err, s.Countries(), s.Families())
	}
	if Set(s[1:]).Countries() || Set(s[:2]).Families() != nil || Set(nil).String() != "none" {
		t.Error("of no entries")
	}
	if _, err := ParseSet([]string{"{de}", "x", "{fr}", "y"}); err == nil || strings.Count(err.Error(), "is no relay") != 2 {
		t.Errorf("%v, want both", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{lower, "$" + upper, "{de}", "{??}", "family:" + lower, "flag:Exit", "de", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(p.String()); err != nil || again.String() != p.String() {
			t.Fatalf("%q is %s, and read again %s, %v", text, p, again, err)
		}
	})
}
