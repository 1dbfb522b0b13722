package csr

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	address := newIdentity(t, 1).Address()
	a := address.String()
	for _, c := range []struct {
		all  bool
		more []string
		want []string
	}{
		{false, nil, []string{a}},
		{true, nil, []string{a, "*." + a}},
		{false, []string{"www", "WWW." + strings.ToUpper(a), a}, []string{a, "www." + a}},
		{true, []string{"*." + a, "*.shop." + a, "a.b-c.d1." + a}, []string{a, "*." + a, "*.shop." + a, "a.b-c.d1." + a}},
		{false, []string{"xn--bcher-kva"}, []string{a, "xn--bcher-kva." + a}},
		{false, []string{strings.Repeat("x", 63)}, []string{a, strings.Repeat("x", 63) + "." + a}},
	} {
		got, err := Names(address, c.all, c.more)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("names %q, %v; want %q", got, err, c.want)
		}
	}
	for name, says := range map[string]string{
		"":                                   "does not end in the address",
		"www.example.com":                    "does not end in the address",
		newIdentity(t, 2).Address().String(): "does not end in the address",
		a + ".":                              "does not end in the address",
		"www" + a:                            "no dot before",
		"." + a:                              "empty label",
		"a..b." + a:                          "empty label",
		"*.":                                 "does not end in the address",
		"www.*." + a:                         "* stands only",
		"*.*." + a:                           "* stands only",
		"w*." + a:                            "only letters",
		"w_w":                                "only letters",
		"bücher":                             "only letters",
		"w w":                                "only letters",
		"-w":                                 "hyphen at its end",
		"w-":                                 "hyphen at its end",
		"ab--c":                              "before two hyphens",
		strings.Repeat("x", 64):              "64 characters",
		strings.Repeat("xxxxxxx.", 25) + a:   "at most 253",
	} {
		_, err := Names(address, false, []string{name})
		wantError(t, name, err, says)
	}
}

func TestNonces(t *testing.T) {
	for _, c := range []struct {
		read func(string) ([]byte, error)
		text string
		want string // nothing for an error
	}{
		{ACMENonce, "bI6/MRqV4gw=", "\x6c\x8e\xbf\x31\x1a\x95\xe2\x0c"}, // RFC 9799, section 3.2
		{ACMENonce, "bI6/MRqV4gw", "\x6c\x8e\xbf\x31\x1a\x95\xe2\x0c"},
		{ACMENonce, "bI6_MRqV4gw", "\x6c\x8e\xbf\x31\x1a\x95\xe2\x0c"},
		{ACMENonce, "bI6_MRqV4gw=", "\x6c\x8e\xbf\x31\x1a\x95\xe2\x0c"},
		{ACMENonce, "MTIzNDU2Nzg5MA==", "1234567890"},
		{ACMENonce, "MTIzNDU2Nzg5MA=", ""},   // half a padding
		{ACMENonce, "MTIzNDU2Nzg5MA===", ""}, // too much of it
		{ACMENonce, "MTIzNDU2Nzg5MB==", ""},  // bits that mean nothing
		{ACMENonce, "bI6/MRqV4_w=", ""},      // both alphabets
		{ACMENonce, "bI6/\nMRqV4gw=", ""},
		{ACMENonce, "bI6/ MRqV4gw=", ""},
		{ACMENonce, "MTIzNDU2Nw==", ""}, // 7 bytes
		{ACMENonce, "", ""},
		{ACMENonce, "====", ""},
		{TextNonce, "8rDWGfoV1TpKu7Kl", "8rDWGfoV1TpKu7Kl"},
		{TextNonce, "4841524943413C33", "4841524943413C33"},
		{TextNonce, "8rDWGfoV1TpKu7Kl\n", ""},
		{TextNonce, "8rDWGfo 1TpKu7Kl", ""},
		{TextNonce, "8rDWGföV1TpKu7Kl", ""},
		{TextNonce, "8rDWGfo", ""},
		{TextNonce, "", ""},
		{HexNonce, "4841524943413C336F6E", "HARICA<3on"},
		{HexNonce, "48:41:52:49:43:41:3c:33", "HARICA<3"},
		{HexNonce, "4841524943413C3", ""},
		{HexNonce, "4841524943413C", ""},
		{HexNonce, "0x4841524943413C33", ""},
		{HexNonce, "", ""},
		{HexNonce, strings.Repeat("41", maxNonce), strings.Repeat("A", maxNonce)},
		{HexNonce, strings.Repeat("41", maxNonce+1), ""},
	} {
		got, err := c.read(c.text)
		if c.want == "" && err == nil {
			t.Errorf("%q is read as %x", c.text, got)
		}
		if c.want != "" && (err != nil || !bytes.Equal(got, []byte(c.want))) {
			t.Errorf("%q is read as %x, %v", c.text, got, err)
		}
	}
}
