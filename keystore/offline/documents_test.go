package offline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"onionbalancer/internal/locked/lockedtest"
)

func readGolden(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// parsers are those of the documents, by the golden file of each.
var parsers = map[string]func([]byte) (any, error){
	"request.json":  func(raw []byte) (any, error) { return ParseRequest(raw) },
	"bundle.json":   func(raw []byte) (any, error) { return ParseBundle(raw) },
	"part.json":     func(raw []byte) (any, error) { return ParseBundle(raw) },
	"bundle-1.json": func(raw []byte) (any, error) { return ParseBundle(raw) },
	"part-1.json":   func(raw []byte) (any, error) { return ParseBundle(raw) },
	"keys.json":     func(raw []byte) (any, error) { return parseKeys(bytes.Clone(raw)) },
}

var versionText = regexp.MustCompile(`"version": ?[12]`)

// otherVersion puts the other one of the two versions in a text.
func otherVersion(text string) string {
	return strings.NewReplacer("1", "2", "2", "1").Replace(text)
}

// TestStrict: documents that say something more, twice, or in another way.
func TestStrict(t *testing.T) {
	for name, parse := range parsers {
		raw := string(readGolden(t, name))
		if _, err := parse([]byte(raw)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := parse([]byte(strings.ReplaceAll(raw, "\n", "\r\n"))); err != nil {
			t.Errorf("%s with other line ends: %v", name, err)
		}
		edit := func(old, new string) string {
			if !strings.Contains(raw, old) {
				t.Fatalf("%s has no %s", name, old)
			}
			return strings.Replace(raw, old, new, 1)
		}
		for what, bad := range map[string]string{
			"empty":          "",
			"a list":         "[]",
			"null":           "null",
			"cut":            raw[:len(raw)-20],
			"twice":          raw + raw,
			"something more": raw + "x",
			"unknown key":    edit(`"version"`, `"more":1,"version"`),
			"key twice":      edit(`"kind"`, `"kind":"x","kind"`),
			"other case":     edit(`"period_length_minutes"`, `"Period_length_minutes"`),
			"later version":  versionText.ReplaceAllString(raw, `"version":3`),
			"other version":  versionText.ReplaceAllStringFunc(raw, otherVersion),
			"other kind":     edit(`"balancer ceremony `, `"balancer ceremony x`),
			"no kind":        edit(`"kind"`, `"kinds"`),
			"upper case":     edit(`67bag3`, `67BAG3`),
			"other address":  edit(`67bag3`, `67bag4`),
			"a float":        strings.Replace(strings.Replace(raw, `minutes": 1440`, `minutes": 1440.0`, 1), `minutes":1440`, `minutes":1440.0`, 1),
			"line in base64": edit(`="`, `=\n"`),
			"no length":      strings.Replace(strings.Replace(raw, `minutes": 1440`, `minutes": 0`, 1), `minutes":1440`, `minutes":0`, 1),
		} {
			if _, err := parse([]byte(bad)); err == nil {
				t.Errorf("%s, %s: accepted", name, what)
			}
		}
	}
}

// TestKinds: a document of one kind in place of another is named.
func TestKinds(t *testing.T) {
	_, err := ParseRequest(readGolden(t, "bundle.json"))
	wantError(t, "a bundle", err, `this is a "balancer ceremony bundle"`)
	_, err = ParseBundle(readGolden(t, "keys.json"))
	wantError(t, "keys", err, `this is a "balancer ceremony keys"`)
	for name, want := range map[string]bool{"request.json": false, "part.json": true, "bundle.json": true, "part-1.json": true, "bundle-1.json": true, "keys.json": false} {
		if got := IsBundle(readGolden(t, name)); got != want {
			t.Errorf("%s is a bundle: %v", name, got)
		}
	}
	for _, raw := range []string{"", "{}", `{"kind":"x"}`, `{"kind":1}`} {
		if IsBundle([]byte(raw)) {
			t.Errorf("%q is a bundle", raw)
		}
	}
	_, err = ParseRequest([]byte(strings.Replace(string(readGolden(t, "request.json")), `"version": 1`, `"version": 2`, 1)))
	wantError(t, "a later version", err, "version 2, which this balancer does not know", "older")
}

// TestRequestRefuses: what is well formed and makes no sense.
func TestRequestRefuses(t *testing.T) {
	parse := func() *Request {
		r, err := ParseRequest(readGolden(t, "request.json"))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for what, test := range map[string]struct {
		edit func(*Request)
		want string
	}{
		"no address":      {func(r *Request) { r.Services = nil }, "0 addresses"},
		"no periods":      {func(r *Request) { r.Services[0].Keys = nil }, "0 periods"},
		"uneven":          {func(r *Request) { r.Services[1].Keys = r.Services[1].Keys[:2] }, "2 signing keys"},
		"a short key":     {func(r *Request) { r.Services[1].Keys[1] = r.Services[1].Keys[1][:31] }, "31 bytes"},
		"address twice":   {func(r *Request) { r.Services[1].Address = r.Services[0].Address }, "twice"},
		"key twice":       {func(r *Request) { r.Services[1].Keys[2] = r.Services[0].Keys[0] }, "belong together"},
		"before all time": {func(r *Request) { r.Made = time.Unix(0, 0).UTC() }, "the time"},
		"half a second":   {func(r *Request) { r.Made = r.Made.Add(time.Second / 2) }, "whole seconds"},
		"another zone":    {func(r *Request) { r.Made = r.Made.In(time.FixedZone("", 3600)) }, "UTC"},
		"after all time":  {func(r *Request) { r.First = 1 << 60 }, "period"},
	} {
		r := parse()
		test.edit(r)
		raw, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParseRequest(raw)
		wantError(t, what, err, test.want)
		_, err = r.Sign(nil, noon)
		wantError(t, what+", to sign", err, "signing a request")
	}
}

// TestSecretsDoNotPrint: not in any verb, not in a struct.
func TestSecretsDoNotPrint(t *testing.T) {
	keys, err := parseKeys(readGolden(t, "keys.json"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseBundle(readGolden(t, "bundle.json"))
	if err != nil {
		t.Fatal(err)
	}
	m := newManager(t, "front")
	m.ceremony(noon, current, 2)
	c := m.open()
	for _, secret := range []Secret{lockedtest.Bytes(&keys.Keys[0].Seed.Buffer), b.Entries[0].RevisionKey} {
		for _, shown := range []any{keys, *keys, b.Entries, keys.Keys[0], b.Entries[0], secret, &secret, c, *b} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s", "%d", "%q"} {
				text := fmt.Sprintf(verb, shown)
				for _, form := range []string{fmt.Sprintf("%x", []byte(secret)), fmt.Sprint([]byte(secret)), fmt.Sprintf("%#v", []byte(secret)), string(secret)} {
					if strings.Contains(text, strings.Trim(form, "[]{}byte")) {
						t.Errorf("%s of a %T shows a secret", verb, shown)
					}
				}
			}
		}
	}
}

// TestFingerprint: it is of the content and not of the layout, and people may
// type it as they like.
func TestFingerprint(t *testing.T) {
	raw := readGolden(t, "request.json")
	r, err := ParseRequest(raw)
	if err != nil {
		t.Fatal(err)
	}
	var flat bytes.Buffer
	if err := json.Compact(&flat, raw); err != nil {
		t.Fatal(err)
	}
	again, err := ParseRequest(flat.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	one, _ := r.Fingerprint()
	two, _ := again.Fingerprint()
	if one != two || !one.valid() {
		t.Errorf("%s and %s", one, two)
	}
	for _, typed := range []string{string(one), strings.ToUpper(string(one)), strings.ReplaceAll(string(one), "-", ""), strings.ReplaceAll(string(one), "-", " ")} {
		if !one.Is(typed) {
			t.Errorf("%q is not taken for %s", typed, one)
		}
	}
	for _, typed := range []string{"", "yes", string(one[:len(one)-1]), string(one) + "a"} {
		if one.Is(typed) {
			t.Errorf("%q is taken for %s", typed, one)
		}
	}
	r.Services[0].Keys[0], r.Services[0].Keys[1] = r.Services[0].Keys[1], r.Services[0].Keys[0]
	if swapped, _ := r.Fingerprint(); swapped == one {
		t.Error("swapped keys have the same fingerprint")
	}
}
