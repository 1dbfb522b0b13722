package pkcs11uri

import (
	"reflect"
	"strings"
	"testing"
)

// The examples of RFC 7512, section 3, that name what can be used, and ours.
func TestParse(t *testing.T) {
	for _, test := range []struct {
		in   string
		want URI
		out  string // of String, if not in
	}{
		{in: "pkcs11:", want: URI{}},
		{in: "pkcs11:object=my-key;type=private?pin-source=file:/etc/token",
			want: URI{Object: "my-key", Type: "private", PINSource: "file:/etc/token"}},
		{in: "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1",
			want: URI{Object: "my-sign-key", Type: "private", ModulePath: "/mnt/libmypkcs11.so.1"}},
		// The RFC's with a certificate, as the key that belongs to it.
		{in: "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;object=my-certificate;type=private;id=%69%95%3E%5C%F4%BD%EC%91?pin-source=file:/etc/token_pin",
			want: URI{Label: "The Software PKCS#11 Softtoken", Manufacturer: "Snake Oil, Inc.", Model: "1.0", Object: "my-certificate",
				Type: "private", ID: []byte{0x69, 0x95, 0x3e, 0x5c, 0xf4, 0xbd, 0xec, 0x91}, PINSource: "file:/etc/token_pin"},
			out: "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;object=my-certificate;id=%69%95%3E%5C%F4%BD%EC%91;type=private?pin-source=file:/etc/token_pin"},
		{in: "pkcs11:token=My%20token%25%20created%20by%20Joe;id=%01%02%03%Ba%dd%Ca%fe%04%05%06",
			want: URI{Label: "My token% created by Joe", ID: []byte{1, 2, 3, 0xba, 0xdd, 0xca, 0xfe, 4, 5, 6}},
			out:  "pkcs11:token=My%20token%25%20created%20by%20Joe;id=%01%02%03%BA%DD%CA%FE%04%05%06"},
		{in: "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate",
			want: URI{Label: "A name with a substring %;", Object: "my-certificate"}},
		{in: "pkcs11:object=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1",
			want: URI{Object: "Name with a small A with acute: á"}},
		{in: "PKCS11:serial=0a;id=ab?x-sealed=front.sealed&pin-source=prompt&module-path=libsofthsm2.so",
			want: URI{Serial: "0a", ID: []byte("ab"), Sealed: "front.sealed", PINSource: "prompt", ModulePath: "libsofthsm2.so"},
			out:  "pkcs11:serial=0a;id=%61%62?module-path=libsofthsm2.so&pin-source=prompt&x-sealed=front.sealed"},
		{in: "pkcs11:object=a&b=c?x-sealed=d=e/f?g|h%26i",
			want: URI{Object: "a&b=c", Sealed: "d=e/f?g|h&i"}},
	} {
		got, err := Parse(test.in)
		if err != nil {
			t.Errorf("%s: %v", test.in, err)
			continue
		}
		if !reflect.DeepEqual(*got, test.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", test.in, *got, test.want)
		}
		want := test.out
		if want == "" {
			want = test.in
		}
		if got.String() != want {
			t.Errorf("%s is written %s", test.in, got)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                                    "does not begin",
		"pkcs1:token=a":                       "does not begin",
		"/etc/key":                            "does not begin",
		"pkcs11:" + strings.Repeat("a", 9000): "too many",
		// Of RFC 7512, section 3.
		"pkcs11:object=my-pubkey;type=public":                                                             "of type private or secret-key",
		"pkcs11:object=my-certificate;type=cert":                                                          "of type private or secret-key",
		"pkcs11:object=my-sign-key;type=private?module-name=mypkcs11":                                     "module-path",
		"pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.?pin-value=hunter": "use pin-source",
		"pkcs11:slot-description=Sun%20Metaslot":                                                          "slots change",
		"pkcs11:library-version=3":                                                                        "module-path",
		"pkcs11:token=my-token;vendor-aaa=hunter?pin-source=file:/etc/token_pin&vendor-bbb=hunter":        "attribute 2 is not known; known here are id, manufacturer,",
		"pkcs11:object=a?pin-source=|/usr/lib/hunter":                                                     "a command to run is not taken",

		"pkcs11:token=a?pin=hunter":           "known here are module-path, pin-source, x-sealed",
		"pkcs11:token=a;pin-value=hunter":     "wrong side",
		"pkcs11:token=a?object=b":             "wrong side",
		"pkcs11:token=a;token=b":              "token is given twice",
		"pkcs11:?module-path=a&module-path=a": "module-path is given twice",
		"pkcs11:token=":                       "token is empty",
		"pkcs11:token=a;":                     "part 2 has no \"=\"",
		"pkcs11:token=a;hunter":               "part 2 has no \"=\"",
		"pkcs11:token=a?":                     "part 1 has no \"=\"",
		"pkcs11:token=a b":                    "%20",
		"pkcs11:token=a/b":                    "position 2",
		"pkcs11:token=a%2":                    "cut short",
		"pkcs11:token=a%zz":                   "%25",
		"pkcs11:token=%ff":                    "not UTF-8",
		"pkcs11:token=a%00":                   "control characters",
		"pkcs11:?module-path=/a%00b":          "control characters",
		"pkcs11:TOKEN=a":                      "attribute 1 is not known",
		"pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1;object=my-certificate;type=cert": "34 bytes are too many, at most 32",
		"pkcs11:serial=12345678901234567":          "17 bytes are too many, at most 16",
		"pkcs11:token=a?x-sealed=f":                "needs object or id",
		"pkcs11:token=a?pin-source=hunter:2":       "unknown scheme",
		"pkcs11:token=a#hunter":                    "position 2",
		"pkcs11:token=a?module-path=/a#hunter":     "position 3",
		"pkcs11:token=a?pin-source=fd:hunter":      "fd:3",
		"pkcs11:token=a?pin-source=credential:a/b": "no slash",
	} {
		_, err := Parse(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", in, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter") {
			t.Errorf("an error repeats the input: %v", err)
		}
	}
}

func TestIs(t *testing.T) {
	for in, want := range map[string]bool{"pkcs11:": true, "PKCS11:token=a": true, "pkcs11": false, "": false, "./pkcs11:a": false} {
		if Is(in) != want {
			t.Errorf("%q: %v", in, !want)
		}
	}
}

func TestResolve(t *testing.T) {
	for in, want := range map[string]string{
		"pkcs11:object=o?module-path=m.so&pin-source=pin&x-sealed=s":                   "pkcs11:object=o?module-path=m.so&pin-source=file:/etc/b/pin&x-sealed=/etc/b/s",
		"pkcs11:object=o?module-path=./m.so&pin-source=file:../pin&x-sealed=d/s":       "pkcs11:object=o?module-path=/etc/b/m.so&pin-source=file:/etc/pin&x-sealed=/etc/b/d/s",
		"pkcs11:object=o?module-path=/l/m.so&pin-source=file:///r/pin&x-sealed=/run/s": "pkcs11:object=o?module-path=/l/m.so&pin-source=file:/r/pin&x-sealed=/run/s",
		"pkcs11:object=o?pin-source=prompt":                                            "pkcs11:object=o?pin-source=prompt",
		"pkcs11:object=o?pin-source=fd:3":                                              "pkcs11:object=o?pin-source=fd:3",
		"pkcs11:object=o?pin-source=credential:pin":                                    "pkcs11:object=o?pin-source=credential:pin",
		"pkcs11:id=%01": "pkcs11:id=%01",
	} {
		u, err := Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := u.Resolve("/etc/b"); got.String() != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
		if u.Resolve("/etc/b").Resolve("/other").String() != want {
			t.Errorf("%s: resolved twice", in)
		}
	}
}

// FuzzParse makes sure that what is read is written as it was meant.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"pkcs11:", "pkcs11:token=a%20b;object=c;id=%01?module-path=/m.so&pin-source=file:/p&x-sealed=s",
		"pkcs11:serial=1;manufacturer=m;model=n;type=private?pin-source=prompt", "pkcs11:object=a&b?x-sealed=c?d",
		"pkcs11:token=%C3%A1", "PKCS11:id=%ff?pin-source=fd:0", "pkcs11:?pin-value=1234", "pkcs11:token=a;token=b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(u.String())
		if err != nil {
			t.Fatalf("%q is written %q: %v", s, u, err)
		}
		if !reflect.DeepEqual(u, again) || again.String() != u.String() {
			t.Fatalf("%q is written %q, which is read as %+v, not %+v", s, u, *again, *u)
		}
		if strings.ContainsFunc(u.String(), func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("%q is written %q", s, u)
		}
		r := u.Resolve("/dir")
		if _, err := Parse(r.String()); err != nil {
			t.Fatalf("%q resolved is %q: %v", s, r, err)
		}
	})
}
