package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

const descriptorVectors = "../../descriptor/testdata/descriptors"

type showVector struct {
	File    string `json:"file"`
	Verdict string `json:"verdict"`
	Address string `json:"onion_address"`
	Number  uint64 `json:"time_period_number"`
	Minutes uint64 `json:"time_period_length_minutes"`
	CheckAt int64  `json:"check_at_unix"`
	Clients []struct {
		Secret string `json:"secret_key_base32"`
	} `json:"client_authorization"`
	Expected map[string]any `json:"expected"`
}

func (v showVector) args(more ...string) []string {
	args := []string{"--address", v.Address, "--now", strconv.FormatInt(v.CheckAt, 10),
		"--period", strconv.FormatUint(v.Number, 10), "--period-length", strconv.FormatUint(v.Minutes, 10)}
	if len(v.Clients) > 0 {
		args = append(args, "--client-key", v.Clients[0].Secret)
	}
	return append(append(args, more...), filepath.Join(descriptorVectors, v.File))
}

func showVectors(t *testing.T) (good, bad []showVector) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(descriptorVectors, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index struct{ Descriptors, Bad []showVector }
	if err := json.Unmarshal(raw, &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Descriptors) < 45 || len(index.Bad) < 154 {
		t.Fatalf("%d and %d vectors", len(index.Descriptors), len(index.Bad))
	}
	return index.Descriptors, index.Bad
}

func runDescriptor(t *testing.T, stdin []byte, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newDescriptorCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	cmd.SetIn(bytes.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.Execute()
	return out.String(), err
}

// TestDescriptorShowJSON compares every field that the vectors know by the
// same name.
func TestDescriptorShowJSON(t *testing.T) {
	good, _ := showVectors(t)
	for _, v := range good {
		out, err := runDescriptor(t, nil, append([]string{"show"}, v.args("--json")...)...)
		if err != nil {
			t.Errorf("%s: %v", v.File, err)
			continue
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		compared := 0
		for name, want := range v.Expected {
			if name == "intro_points" {
				comparePoints(t, v.File, got["introduction_points"], want)
				continue
			}
			if mine, ok := got[name]; ok && name != "signing_key_cert" {
				compared++
				if !reflect.DeepEqual(mine, want) {
					t.Errorf("%s: %s is %v, want %v", v.File, name, mine, want)
				}
			}
		}
		if compared < 17 {
			t.Errorf("%s: only %d fields of the vectors are shown", v.File, compared)
		}
		cert, want := got["signing_key_cert"].(map[string]any), v.Expected["signing_key_cert"].(map[string]any)
		for _, name := range []string{"cert_type", "expiration_hours", "key_type", "certified_key", "signing_key", "extensions", "signature"} {
			if !reflect.DeepEqual(cert[name], want[name]) {
				t.Errorf("%s: certificate's %s is %v, want %v", v.File, name, cert[name], want[name])
			}
		}
	}
}

func comparePoints(t *testing.T, file string, got, want any) {
	t.Helper()
	mine, theirs := got.([]any), want.([]any)
	if len(mine) != len(theirs) {
		t.Fatalf("%s: %d introduction points, want %d", file, len(mine), len(theirs))
	}
	for i := range mine {
		m, w := mine[i].(map[string]any), theirs[i].(map[string]any)
		for _, name := range []string{"onion_key_ntor", "auth_key", "enc_key_ntor"} {
			if m[name] != w[name] {
				t.Errorf("%s: point %d: %s is %v, want %v", file, i, name, m[name], w[name])
			}
		}
		for _, name := range []string{"auth_key_cert", "enc_key_cert"} {
			if m[name].(map[string]any)["raw"] != w[name].(map[string]any)["raw"] {
				t.Errorf("%s: point %d: %s differs", file, i, name)
			}
		}
		for j, s := range m["link_specifiers"].([]any) {
			for name, value := range w["link_specifiers"].([]any)[j].(map[string]any) {
				if name != "name" && s.(map[string]any)[name] != value {
					t.Errorf("%s: point %d: specifier %d: %s is %v, want %v", file, i, j, name, s.(map[string]any)[name], value)
				}
			}
		}
	}
}

func TestDescriptorShowBad(t *testing.T) {
	_, bad := showVectors(t)
	for _, v := range bad {
		for _, sub := range []string{"show", "verify"} {
			out, err := runDescriptor(t, nil, append([]string{sub}, v.args()...)...)
			if (err != nil) != (v.Verdict == "reject") {
				t.Errorf("%s %s: error %v, verdict %s", sub, v.File, err, v.Verdict)
			}
			if misuse := (usageError{}); err != nil && (out != "" || errors.As(err, &misuse)) {
				t.Errorf("%s %s: printed %q, error %v", sub, v.File, out, err)
			}
		}
	}
}

func TestDescriptorVerifyJSON(t *testing.T) {
	_, bad := showVectors(t)
	for _, v := range bad {
		if v.File != "bad/lifetime-721.txt" && v.File != "bad/real-unchanged.txt" {
			continue
		}
		out, err := runDescriptor(t, nil, append([]string{"verify"}, v.args("--json")...)...)
		var got verdictView
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		if got.Valid != (v.Verdict == "accept") || (err == nil) != got.Valid || (got.Fault == nil) != got.Valid {
			t.Errorf("%s: %s, error %v", v.File, out, err)
		}
		if !got.Valid && (got.Fault.Layer != "outer wrapper" || got.Fault.Line != 2 || got.Fault.Keyword != "descriptor-lifetime") {
			t.Errorf("%s: fault %+v", v.File, *got.Fault)
		}
	}
}

func TestDescriptorShowTable(t *testing.T) {
	good, bad := showVectors(t)
	out, err := runDescriptor(t, nil, append([]string{"show"}, good[0].args()...)...)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{good[0].Address, "15166956", "127.0.0.1:30000", "180 minutes", "needs client key     yes", "1-2 31", "proof of work        none"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	for _, v := range bad {
		if v.File == "bad/ip-auth-key-type-08.txt" {
			if out, err = runDescriptor(t, nil, append([]string{"show"}, v.args()...)...); err != nil || !strings.Contains(out, "left out: introduction point") {
				t.Errorf("%v\n%s", err, out)
			}
		}
	}
}

// TestDescriptorShowPeriods finds a descriptor of the public network's periods
// by the clock, from standard input.
func TestDescriptorShowPeriods(t *testing.T) {
	now := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	identity, err := descriptor.IdentityKeyFromSeed(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	current := descriptor.PeriodAt(now, descriptor.DefaultPeriodLength, descriptor.DefaultRotationOffset)
	for _, c := range []struct {
		period descriptor.Period
		found  bool
	}{{current, true}, {current.Next(), true}, {current.Previous(), true}, {current.Next().Next(), false}} {
		raw := emptyDescriptor(t, identity, c.period, now)
		address := identity.Address().String()
		out, err := runDescriptor(t, raw, "verify", "--address", address, "--now", now.Format(time.RFC3339), "-")
		if (err == nil) != c.found || c.found != strings.Contains(out, c.period.String()) {
			t.Errorf("period %s: %q, error %v", c.period, out, err)
		}
		if !c.found && !errors.Is(err, descriptor.ErrNotOurs) {
			t.Errorf("period %s: error %v", c.period, err)
		}
	}
}

func TestDescriptorShowMisuse(t *testing.T) {
	good, _ := showVectors(t)
	file := filepath.Join(descriptorVectors, good[0].File)
	for _, args := range [][]string{
		{"show"},
		{"show", "--address", good[0].Address},
		{"show", file},
		{"show", "--address", "wrong.onion", file},
		{"show", "--address", good[0].Address, "--now", "yesterday", file},
		{"show", "--address", good[0].Address, "--period-length", "8", file},
		{"show", "--address", good[0].Address, "--period", "1", "--period-length", "0", file},
	} {
		_, err := runDescriptor(t, nil, args...)
		if misuse := (usageError{}); !errors.As(err, &misuse) {
			t.Errorf("%q: error %v, want a usage error", args, err)
		}
	}
	secret := good[0].Clients[0].Secret
	_, err := runDescriptor(t, nil, "show", "--address", good[0].Address, "--client-key", secret+"A", file)
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("a mistyped key: %v", err)
	}
	if _, err := runDescriptor(t, nil, "show", "--address", good[0].Address, file+".none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestDescriptorShowClientKeyFile(t *testing.T) {
	good, _ := showVectors(t)
	v := good[0]
	label := strings.TrimSuffix(v.Address, ".onion")
	path := filepath.Join(t.TempDir(), "me.auth_private")
	if err := os.WriteFile(path, []byte(label+":descriptor:x25519:"+v.Clients[1].Secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v.Clients = nil
	if _, err := runDescriptor(t, nil, append([]string{"show"}, v.args("--client-key", path)...)...); err != nil {
		t.Error(err)
	}
	if _, err := runDescriptor(t, nil, append([]string{"show"}, v.args()...)...); !errors.Is(err, descriptor.ErrClientKey) {
		t.Errorf("without the key: %v", err)
	}
}

// TestDescriptorShowFarExpiry: a certificate may end after the year 9999, with
// which the dates of JSON end.
func TestDescriptorShowFarExpiry(t *testing.T) {
	raw, address := hostileDescriptor(t)
	out, err := runDescriptor(t, raw, "show", "--json", "--address", address, "-")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Points []struct {
			Expires *time.Time `json:"expires"`
			Auth    struct {
				Expires *time.Time `json:"expires"`
				Hours   int64      `json:"expiration_hours"`
			} `json:"auth_key_cert"`
		} `json:"introduction_points"`
		Signing struct {
			Expires *time.Time `json:"expires"`
		} `json:"signing_key_cert"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if p := got.Points[0]; p.Expires != nil || p.Auth.Expires != nil || p.Auth.Hours != 1<<32-1 || got.Signing.Expires == nil {
		t.Errorf("%+v", got)
	}
	if out, err = runDescriptor(t, raw, "show", "--address", address, "-"); err != nil || !strings.Contains(out, "491937-") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestDescriptorShowCAA: records are shown, and whether they are critical.
func TestDescriptorShowCAA(t *testing.T) {
	identity, err := descriptor.IdentityKeyFromSeed(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	period := descriptor.PeriodAt(time.Now(), descriptor.DefaultPeriodLength, descriptor.DefaultRotationOffset)
	for _, critical := range []bool{true, false} {
		c := &descriptor.Contents{CAACritical: critical, CAA: []descriptor.CAA{{Flags: 128, Tag: "issue", Value: "ca.example; a=b"}, {Tag: "iodef", Value: "mailto:a@example"}}}
		raw := makeDescriptor(t, identity, period, time.Now(), c)
		out, err := runDescriptor(t, raw, "show", "--address", identity.Address().String(), "-")
		word := regexp.MustCompile(`(?m)^CAA critical +(yes|no)\nCAA +128 issue "ca\.example; a=b"\n +0 iodef "mailto:a@example"$`).FindStringSubmatch(out)
		if err != nil || word == nil || (word[1] == "yes") != critical {
			t.Errorf("%v in\n%s", err, out)
		}
		if out, err = runDescriptor(t, raw, "show", "--json", "--address", identity.Address().String(), "-"); err != nil {
			t.Fatal(err)
		}
		var got struct {
			Critical bool     `json:"caa_critical"`
			CAA      []string `json:"caa"`
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil || got.Critical != critical || len(got.CAA) != 2 || got.CAA[0] != `128 issue "ca.example; a=b"` {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// emptyDescriptor makes a descriptor without introduction points.
func emptyDescriptor(t *testing.T, identity *descriptor.IdentityKey, period descriptor.Period, now time.Time) []byte {
	t.Helper()
	return makeDescriptor(t, identity, period, now, &descriptor.Contents{})
}

// makeDescriptor makes a descriptor of these contents.
func makeDescriptor(t *testing.T, identity *descriptor.IdentityKey, period descriptor.Period, now time.Time, contents *descriptor.Contents) []byte {
	t.Helper()
	keys, err := identity.Address().Keys(period)
	if err != nil {
		t.Fatal(err)
	}
	blinded, err := identity.Blind(period)
	if err != nil {
		t.Fatal(err)
	}
	public, signing, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := descriptor.NewCertificate(descriptor.CertHSDescSigning, [32]byte(public), keys.Blinded, descriptor.SigningCertExpiry(now),
		func(m []byte) ([]byte, error) { return blinded.Sign(m), nil })
	if err != nil {
		t.Fatal(err)
	}
	encoder, err := descriptor.NewEncoder(keys, cert, signing)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := encoder.Encode(contents, 1, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// farPoint is an introduction point whose certificates end when no certificate
// can end later.
func farPoint(t *testing.T) descriptor.IntroductionPoint {
	t.Helper()
	auth, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return descriptor.IntroductionPoint{
		LinkSpecifiers: []descriptor.LinkSpecifier{
			{Type: descriptor.LinkIPv4, Data: []byte{192, 0, 2, 1, 0x23, 0x29}},
			{Type: descriptor.LinkRSA, Data: make([]byte, 20)},
			{Type: descriptor.LinkEd25519, Data: auth},
		},
		OnionKey: [32]byte{9}, AuthKey: [32]byte(auth), EncKey: [32]byte{9}, Expires: time.Unix((1<<32-1)*3600, 0),
	}
}

// TestDescriptorWithCRLF: of a descriptor that went through a Windows editor the
// line ends are named, with the command that fixes them.
func TestDescriptorWithCRLF(t *testing.T) {
	good, _ := showVectors(t)
	v := good[0]
	args := v.args()
	args = args[:len(args)-1]
	raw, err := os.ReadFile(filepath.Join(descriptorVectors, v.File))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "crlf.txt")
	crlf := bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n"))
	if err := os.WriteFile(path, crlf, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, fix := range map[string]string{path: "tr -d '\\r' < " + path, "-": "tr -d '\\r'"} {
		for _, command := range []string{"show", "verify"} {
			_, err := runDescriptor(t, crlf, append(append([]string{command}, args...), name)...)
			if err == nil || !strings.HasSuffix(err.Error(), ": it has Windows line ends (CRLF), which no client takes; without them: "+fix) {
				t.Errorf("%s %s: %v", command, name, err)
			}
		}
	}
	fixed, err := exec.CommandContext(t.Context(), "sh", "-c", "tr -d '\\r' < "+path).Output()
	if err != nil || !bytes.Equal(fixed, raw) {
		t.Errorf("the command does not fix it: %v", err)
	}
}
