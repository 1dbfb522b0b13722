package keystore

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"filippo.io/edwards25519"

	"onionbalancer/descriptor"
)

// sshString writes a string of SSH.
func sshString(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// artiKey is a key in the form of OpenSSH, before PEM, in parts that tests
// change. Parts are joined as they are, strings of SSH and all.
func artiKey(kind string, public, secret []byte) [][]byte {
	inner := slices.Concat([]byte{1, 2, 3, 4, 1, 2, 3, 4}, sshString([]byte(kind)), sshString(public), sshString(secret), sshString(nil))
	for i := byte(1); len(inner)%opensshBlock != 0; i++ {
		inner = append(inner, i)
	}
	return [][]byte{
		[]byte(opensshMagic), sshString([]byte("none")), sshString([]byte("none")), sshString(nil), {0, 0, 0, 1},
		sshString(slices.Concat(sshString([]byte(kind)), sshString(public))), sshString(inner),
	}
}

func opensshPEM(parts [][]byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemOpenSSH, Bytes: slices.Concat(parts...)})
}

// aKey is one key in the parts that its forms are made of.
type aKey struct {
	seed, expanded, public []byte
	address                descriptor.Address
	pem                    string
}

func someKey(t testing.TB) aKey {
	t.Helper()
	v := loadVectors[keyVectors](t, "keys.json").PEM[0]
	address, err := descriptor.ParseAddress(v.OnionAddress)
	if err != nil {
		t.Fatal(err)
	}
	return aKey{seed: v.Seed, expanded: v.Expanded, public: address[:], address: address, pem: v.PEM}
}

// fold breaks text into lines of n characters.
func fold(text string, n int, end string) string {
	var lines []string
	for chunk := range slices.Chunk([]byte(text), n) {
		lines = append(lines, string(chunk))
	}
	return strings.Join(lines, end) + end
}

// TestForms: one key in every form that the field gives it in.
func TestForms(t *testing.T) {
	k := someKey(t)
	standard, url := base64.StdEncoding, base64.URLEncoding
	tor := append(torHeader(torSecretTag), k.expanded...)
	arti := string(opensshPEM(artiKey(artiExpanded, k.public, k.expanded)))
	der := slices.Concat(pkcs8Header, k.seed)
	oneLine := strings.ReplaceAll(strings.TrimSpace(k.pem), "\n", " ")
	for _, test := range []struct {
		name, content string
		form          Form
	}{
		{"tor's", string(tor), FormTor},
		{"Arti's", arti, FormArti},
		{"Arti's, with CRLF", strings.ReplaceAll(arti, "\n", "\r\n"), FormArti},
		{"PEM", k.pem, FormPEM},
		{"PEM on one line", oneLine, FormPEM},
		{"PEM on one line, without blanks within", strings.ReplaceAll(k.pem, "\n", ""), FormPEM},
		{"PEM with CRLF", strings.ReplaceAll(k.pem, "\n", "\r\n"), FormPEM},
		{"PEM with CR", strings.ReplaceAll(k.pem, "\n", "\r"), FormPEM},
		{"PEM indented", "    " + strings.ReplaceAll(k.pem, "\n", "\n    "), FormPEM},
		{"PEM behind a BOM", "\ufeff" + k.pem, FormPEM},
		{"PEM without its last line end", strings.TrimSpace(k.pem), FormPEM},
		{"PEM in an environment file", `"` + strings.ReplaceAll(k.pem, "\n", `\n`) + `"`, FormPEM},
		{"PEM in a Windows environment file", `'` + strings.ReplaceAll(k.pem, "\n", `\r\n`) + `'`, FormPEM},
		{"PEM's label broken", strings.ReplaceAll(k.pem, "PRIVATE KEY", "PRIVATE\nKEY"), FormPEM},
		{"PEM's inside", standard.EncodeToString(der) + "\n", FormPEM},
		{"base64, 88 characters", standard.EncodeToString(k.expanded) + "\n", FormText},
		{"base64, unpadded", standard.WithPadding(base64.NoPadding).EncodeToString(k.expanded), FormText},
		{"base64 for URLs", url.EncodeToString(k.expanded), FormText},
		{"base64 for URLs, unpadded", url.WithPadding(base64.NoPadding).EncodeToString(k.expanded), FormText},
		{"base64 in lines of 64", fold(standard.EncodeToString(k.expanded), 64, "\n"), FormText},
		{"base64 in lines of 76 with CRLF, a BOM and quotes", "\ufeff\"" + fold(standard.EncodeToString(k.expanded), 76, "\r\n") + "\"", FormText},
		{"hexadecimal", hex.EncodeToString(k.expanded), FormText},
		{"hexadecimal, upper case, in lines", fold(strings.ToUpper(hex.EncodeToString(k.expanded)), 60, "\n"), FormText},
		{"the control port's", "ED25519-V3:" + standard.EncodeToString(k.expanded) + "\n", FormText},
		{"the control port's answer", "250-ServiceID=" + k.address.Label() + "\r\n250-PrivateKey=ED25519-V3:" + standard.EncodeToString(k.expanded) + "\r\n250 OK\r\n", FormText},
		{"tor's in base64", fold(standard.EncodeToString(tor), 76, "\n"), FormText},
		{"tor's in hexadecimal", hex.EncodeToString(tor), FormText},
		{"PEM in base64", standard.EncodeToString([]byte(k.pem)), FormPEM},
		{"seed and public key", string(k.seed) + string(k.public), FormSeed},
		{"seed and public key in base64", standard.EncodeToString(slices.Concat(k.seed, k.public)), FormSeed},
		{"seed and public key in hexadecimal", hex.EncodeToString(slices.Concat(k.seed, k.public)), FormSeed},
	} {
		key, form, err := parse([]byte(test.content), "/a key")
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if key.Address() != k.address || form != test.form || !bytes.Equal(key.Expanded(), k.expanded) {
			t.Errorf("%s: read as the key of %s, form %q", test.name, key.Address(), form)
		}
	}
}

// TestConversions: a key in a form that is not taken is named, and the line that
// converts it makes the key that the text says it makes.
func TestConversions(t *testing.T) {
	k := someKey(t)
	standard := base64.StdEncoding
	tor := append(torHeader(torSecretTag), k.expanded...)
	short := k.address.Short()
	zero := append(make([]byte, 31), 1)
	for _, test := range []struct {
		name    string
		content []byte
		made    string // the file that the line with the address of k makes
	}{
		{"a seed", k.seed, "NEW.pem"},
		{"a seed in base64", []byte(standard.EncodeToString(k.seed)), "NEW.pem"},
		{"a seed in base64 for URLs, unpadded", []byte(base64.RawURLEncoding.EncodeToString(k.seed)), "NEW.pem"},
		{"a seed in hexadecimal", []byte(hex.EncodeToString(k.seed) + "\n"), "NEW.pem"},
		{"a seed behind tor's header", slices.Concat(torHeader(torSecretTag), k.seed), "NEW.pem"},
		{"a scalar", k.expanded[:32], torSecretFile},
		{"a scalar in base64", []byte(standard.EncodeToString(k.expanded[:32])), torSecretFile},
		{"a scalar in hexadecimal", []byte(hex.EncodeToString(k.expanded[:32])), torSecretFile},
		{"an expanded key", k.expanded, torSecretFile},
		{"DER", slices.Concat(pkcs8Header, k.seed), "NEW.pem"},
		{"tor's with a line end", append(slices.Clone(tor), '\n'), "NEWFILE"},
		{"UTF-16", slices.Concat([]byte{0xff, 0xfe}, bytes.Join(bytes.Split([]byte(k.pem), nil), []byte{0}), []byte{0}), "NEWFILE"},
	} {
		dir := writeDir(t, map[string][]byte{"the key": test.content, "zero": zero})
		_, err := OpenDisk(filepath.Join(dir, "the key"))
		if err == nil {
			t.Errorf("%s: taken", test.name)
			continue
		}
		text := err.Error()
		if strings.Contains(text, "as a seed") && test.made == torSecretFile {
			_, text, _ = strings.Cut(text, "as the first half") // the line behind it
		}
		if strings.Contains(text, "of ") && !strings.Contains(text, short) && strings.Contains(text, "…") {
			t.Errorf("%s: %v does not name %s", test.name, err, short)
		}
		_, line, found := strings.Cut(text, "run: ")
		if !found {
			t.Errorf("%s: no line converts it: %v", test.name, err)
			continue
		}
		line = regexp.MustCompile(`; (as the first half|and keep tor).*`).ReplaceAllString(line, "")
		run := exec.Command("sh", "-c", line)
		run.Dir = dir
		if out, err := run.CombinedOutput(); err != nil {
			t.Errorf("%s: %s: %v: %s", test.name, line, err, out)
			continue
		}
		key, err := OpenDisk(filepath.Join(dir, test.made))
		if err != nil || key.Address() != k.address {
			t.Errorf("%s: %s: makes another key, or %v", test.name, line, err)
		}
	}
}

// TestMistaken: what people give in the place of a key is named for what it is,
// whatever its mode is.
func TestMistaken(t *testing.T) {
	k := someKey(t)
	ssh := artiKey("ssh-ed25519", k.public, slices.Concat(k.seed, k.public))
	encrypted := artiKey(artiExpanded, k.public, k.expanded)
	encrypted[1] = sshString([]byte("aes256-ctr"))
	for content, want := range map[string]string{
		"state_dir = \"/var/lib/balancer\"\n\n[[service]]\nkey = \"front\"\n": "this is TOML",
		"# ours\n[tor]\n": "this is TOML",
		"services:\n- instances:\n  - address: x.onion\n  key: front.key\n":        "this is YAML",
		"apiVersion: v1\nkind: Secret\ndata:\n  key: AAAA\n":                       "manifest of Kubernetes",
		"HiddenServiceDir /var/lib/tor/web\nHiddenServicePort 80\n":                "this is a torrc",
		"MasterOnionAddress " + k.address.String() + "\n":                          "ob_config",
		k.address.Label() + ":descriptor:x25519:" + strings.Repeat("A", 52) + "\n": "client_key",
		strings.Repeat("a", 52):                                       "client_key",
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI me@here\n":             "public key of OpenSSH",
		string(opensshPEM(ssh)):                                       `a key of OpenSSH of type "ssh-ed25519"`,
		string(opensshPEM(encrypted)):                                 `encrypted ("aes256-ctr")`,
		"RSA1024:MIICXQ\n":                                            "version 2",
		"—BEGIN PRIVATE KEY—\nMC4\n—END PRIVATE KEY—\n":               "the dashes",
		"-----BEGIN PRIVATE KEY-----\nMC4C":                           "ends before its last line, -----END PRIVATE KEY-----",
		"-----BEGIN PGP MESSAGE-----\nx":                              "gpg -o NEWFILE -d ",
		"<!DOCTYPE html>":                                             "a web page",
		"{\"key\": 1}":                                                "JSON",
		base64.StdEncoding.EncodeToString(k.expanded[:50]):            "it is 50 bytes, and an expanded secret key has 64",
		string(append(torHeader(torSecretTag), k.expanded[:60]...)):   "cut short",
		strings.Repeat("0", 128):                                      "scalar is zero",
		hex.EncodeToString(k.expanded[:32]) + strings.Repeat("0", 64): "random bytes",
	} {
		path := filepath.Join(writeDir(t, map[string][]byte{"balancer.toml": []byte(content)}), "balancer.toml")
		for _, mode := range []os.FileMode{0o600, 0o644} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			_, err := Open(path)
			wantError(t, content, err, want)
			if err != nil && (strings.Contains(err.Error(), "damaged") || strings.Contains(err.Error(), "chmod")) {
				t.Errorf("%q: %v", content, err)
			}
		}
	}
}

// TestOpenSSHRefuses spoils a good key in one place each.
func TestOpenSSHRefuses(t *testing.T) {
	k := someKey(t)
	other := newKey(t).Address()
	good := artiKey(artiExpanded, k.public, k.expanded)
	if _, err := parseOpenSSH(slices.Concat(good...), "FILE"); err != nil {
		t.Fatal(err)
	}
	inner := func(change func([]byte) []byte) func([][]byte) {
		return func(parts [][]byte) { parts[6] = sshString(change(slices.Clone(parts[6][4:]))) }
	}
	for name, spoil := range map[string]func([][]byte){
		"another magic":      func(p [][]byte) { p[0] = []byte("openssh-key-v2\x00") },
		"a kdf":              func(p [][]byte) { p[2] = sshString([]byte("bcrypt")) },
		"options of a kdf":   func(p [][]byte) { p[3] = sshString([]byte("x")) },
		"no key":             func(p [][]byte) { p[4] = []byte{0, 0, 0, 0} },
		"two keys":           func(p [][]byte) { p[4] = []byte{0, 0, 0, 2} },
		"more behind":        func(p [][]byte) { p[6] = append(p[6], 0) },
		"a length beyond":    func(p [][]byte) { p[6][0] = 0xff },
		"check numbers":      inner(func(b []byte) []byte { b[0]++; return b }),
		"padding":            inner(func(b []byte) []byte { b[len(b)-1]++; return b }),
		"a block of padding": inner(func(b []byte) []byte { return append(b, 5, 6, 7, 8, 9, 10, 11, 12) }),
		"no whole block":     inner(func(b []byte) []byte { return b[:len(b)-1] }),
		"the secret":         inner(func(b []byte) []byte { b[len(b)-60]++; return b }),
		"its public key":     inner(func(b []byte) []byte { b[8+4+len(artiExpanded)+4]++; return b }),
		"the public key": func(p [][]byte) {
			p[5] = sshString(slices.Concat(sshString([]byte(artiExpanded)), sshString(other[:])))
		},
		"both public keys": func(p [][]byte) { copy(p[5:], artiKey(artiExpanded, other[:], k.expanded)[5:]) },
		"a short secret":   func(p [][]byte) { copy(p[5:], artiKey(artiExpanded, k.public, k.expanded[:63])[5:]) },
		"a short public":   func(p [][]byte) { copy(p[5:], artiKey(artiExpanded, k.public[:31], k.expanded)[5:]) },
	} {
		parts := make([][]byte, len(good))
		for i := range good {
			parts[i] = slices.Clone(good[i])
		}
		spoil(parts)
		if _, err := parseOpenSSH(slices.Concat(parts...), "FILE"); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestDirectories: a directory stands for the one key that it is known by.
func TestDirectories(t *testing.T) {
	k := someKey(t)
	tor, arti := append(torHeader(torSecretTag), k.expanded...), opensshPEM(artiKey(artiExpanded, k.public, k.expanded))
	for _, test := range []struct {
		name  string
		files map[string][]byte
		want  string // part of the error, or the form
	}{
		{"tor's", map[string][]byte{torSecretFile: tor, "front.pem": []byte(k.pem)}, string(FormTor)},
		{"Arti's", map[string][]byte{artiSecretFile: arti, "front.pem": []byte(k.pem)}, string(FormArti)},
		{"both", map[string][]byte{torSecretFile: tor, artiSecretFile: arti}, "two keys in this directory, " + torSecretFile + " and " + artiSecretFile},
		{"others", map[string][]byte{"b.pem": []byte(k.pem), "a.txt": []byte(hex.EncodeToString(k.expanded)), "c": []byte("c")}, `name the key file itself: "a.txt" or "b.pem"`},
		{"none", map[string][]byte{"c": []byte("c")}, "name the key file itself"},
		{"a blinded key", map[string][]byte{"ks_hs_blind_id+1_1440_0.ed25519_expanded_private": arti}, "name the key file itself"},
		{"low order beside it", map[string][]byte{torSecretFile: tor, torPublicFile: append(torHeader(torPublicTyp), append([]byte{1}, make([]byte, 31)...)...)}, "not the canonical encoding of a point of prime order"},
		{"torsion beside it", map[string][]byte{torSecretFile: tor, torPublicFile: append(torHeader(torPublicTyp), withTorsion(t, k.public)...)}, "torsion"},
	} {
		key, err := Open(writeDir(t, test.files))
		if err == nil {
			if key.Address() != k.address || string(key.Form()) != test.want {
				t.Errorf("%s: %s of form %s", test.name, key.Address(), key.Form())
			}
			continue
		}
		wantError(t, test.name, err, test.want)
	}
	_, err := Open(filepath.Join(writeDir(t, map[string][]byte{"ks_hs_blind_id+1_1440_0.ed25519_expanded_private": arti}), "ks_hs_blind_id+1_1440_0.ed25519_expanded_private"))
	wantError(t, "a blinded key", err, "blinded key of Arti's")
}

// TestUnclamped: a reduced scalar, as vanity tools write it, is the same key as
// the clamped one, and certifies for the same blinded key.
func TestUnclamped(t *testing.T) {
	k := someKey(t)
	reduced := slices.Concat(reduce(t, k.expanded[:32]), k.expanded[32:])
	if bytes.Equal(reduced, k.expanded) {
		t.Fatal("the scalar is as it was")
	}
	dir := writeDir(t, map[string][]byte{torSecretFile: append(torHeader(torSecretTag), reduced...)})
	key, err := OpenDisk(dir)
	if err != nil || key.Address() != k.address {
		t.Fatalf("another address, or %v", err)
	}
	blinded, err := k.address.Blind(period)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := key.Certify(t.Context(), period, signingKey, hours)
	if err != nil || cert.Verify(blinded, wish) != nil {
		t.Errorf("a certificate that does not verify: %v, %v", err, cert.Verify(blinded, wish))
	}
	signature, err := key.SignIdentity(t.Context(), []byte("message"))
	if err != nil || !ed25519.Verify(k.public, []byte("message"), signature) {
		t.Errorf("a signature that does not verify: %v", err)
	}
	other := newKey(t).Address()
	if err := os.WriteFile(filepath.Join(dir, torHostnameFile), []byte(other.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = OpenDisk(dir)
	wantError(t, "another's host name beside it", err, "mixed up")
}

// TestCredential: a key that systemd hands over.
func TestCredential(t *testing.T) {
	k := someKey(t)
	t.Setenv("CREDENTIALS_DIRECTORY", writeDir(t, map[string][]byte{"front": []byte(k.pem)}))
	key, err := Open("credential:front")
	if err != nil || key.Address() != k.address {
		t.Errorf("%v", err)
	}
	_, err = Open("credential:../front")
	wantError(t, "a path", err, "no slash")
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	_, err = Open("credential:front")
	wantError(t, "outside of the unit", err, "CREDENTIALS_DIRECTORY is not set", "LoadCredential=front:PATH")
	if _, err = Open("credential:none"); errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// reduce writes a scalar modulo the order of the group.
func reduce(t *testing.T, scalar []byte) []byte {
	t.Helper()
	s, err := edwards25519.NewScalar().SetUniformBytes(append(slices.Clone(scalar), make([]byte, 32)...))
	if err != nil {
		t.Fatal(err)
	}
	return s.Bytes()
}

// withTorsion adds the point of order two to a public key.
func withTorsion(t *testing.T, public []byte) []byte {
	t.Helper()
	p, err := new(edwards25519.Point).SetBytes(public)
	if err != nil {
		t.Fatal(err)
	}
	minusOne, err := hex.DecodeString("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")
	if err != nil {
		t.Fatal(err)
	}
	two, err := new(edwards25519.Point).SetBytes(minusOne)
	if err != nil {
		t.Fatal(err)
	}
	return p.Add(p, two).Bytes()
}
