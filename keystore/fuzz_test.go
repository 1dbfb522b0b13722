package keystore

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"onionbalancer/internal/locked/lockedtest"
)

func addKeySeeds(f *testing.F) {
	vectors := loadVectors[keyVectors](f, "keys.json")
	for _, v := range vectors.TorKeyFiles[:2] {
		f.Add([]byte(v.Secret))
		f.Add([]byte(v.Public))
		f.Add([]byte(v.Hostname))
	}
	for _, v := range vectors.Verdicts {
		f.Add([]byte(v.SecretFile))
	}
	for _, v := range vectors.PEM {
		f.Add([]byte(v.PEM))
	}
	for _, v := range vectors.PEMOdd {
		f.Add([]byte(v.Bytes))
	}
	k := someKey(f)
	for _, raw := range [][]byte{k.seed, k.expanded, slices.Concat(k.seed, k.public), slices.Concat(pkcs8Header, k.seed)} {
		f.Add(raw)
		f.Add([]byte(base64.StdEncoding.EncodeToString(raw)))
		f.Add([]byte(controlPrefix + base64.RawURLEncoding.EncodeToString(raw)))
		f.Add([]byte(hex.EncodeToString(raw)))
	}
	f.Add(opensshPEM(artiKey(artiExpanded, k.public, k.expanded)))
	f.Add([]byte("[[service]]\nkey = \"front\"\n"))
}

// FuzzKeyFile: no file makes the parsers panic, what is taken for a key has a
// valid address, and tor's form has one reading only.
func FuzzKeyFile(f *testing.F) {
	addKeySeeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		key, form, err := parse(raw, "FILE")
		if !bytes.Equal(raw, before) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			return
		}
		if err := key.Address().Validate(); err != nil {
			t.Fatal(err)
		}
		if form == FormTor && !bytes.Equal(append(torHeader(torSecretTag), key.Expanded()...), raw) {
			t.Fatalf("%x is read as another key", raw)
		}
	})
}

// FuzzPEM: whatever PEM is taken gives the key that its seed gives.
func FuzzPEM(f *testing.F) {
	for _, v := range loadVectors[keyVectors](f, "keys.json").PEM {
		f.Add([]byte(v.Seed), []byte("text\n"), []byte("\n"))
	}
	f.Fuzz(func(t *testing.T, seed, before, after []byte) {
		dashes := []byte("--")
		if len(seed) != 32 || bytes.Contains(before, dashes) || bytes.Contains(after, dashes) {
			return // may be the beginning of another block
		}
		fresh, err := New(bytes.NewReader(seed))
		if err != nil {
			t.Fatal(err)
		}
		text, err := encodePEM(fresh.seed)
		if err != nil {
			t.Fatal(err)
		}
		file := slices.Concat(before, []byte("\n"), lockedtest.Bytes(text), after)
		key, _, err := parsePEM(file, "FILE")
		if err != nil || key.Address() != fresh.Address() {
			t.Fatalf("%q: %v", file, err)
		}
	})
}

// FuzzNeighbours: no host name or public key file makes the parsers panic.
func FuzzNeighbours(f *testing.F) {
	addKeySeeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if address, err := parsePublic(raw); err == nil && !bytes.Equal(append(torHeader(torPublicTyp), address[:]...), raw) {
			t.Fatalf("%x is read as another key", raw)
		}
		if address, err := parseHostname(raw); err == nil && !bytes.Contains(bytes.ToLower(raw), []byte(address.Label())) {
			t.Fatalf("%q is read as %s", raw, address)
		}
	})
}

// FuzzOpenSSH: nothing makes the parser panic, and the key that it takes, and
// its public half, stand in the file.
func FuzzOpenSSH(f *testing.F) {
	k := someKey(f)
	f.Add(slices.Concat(artiKey(artiExpanded, k.public, k.expanded)...))
	f.Add(slices.Concat(artiKey("ssh-ed25519", k.public, k.expanded)...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		key, err := parseOpenSSH(raw, "FILE")
		if err != nil {
			return
		}
		if address := key.Address(); !bytes.Contains(raw, key.Expanded()) || bytes.Count(raw, address[:]) < 2 {
			t.Fatalf("%x is read as the key of %s", raw, address)
		}
	})
}

// FuzzText: what text spells is spelled so by nothing else, but for blanks, the
// padding, the case of hexadecimal and the alphabet of base64.
func FuzzText(f *testing.F) {
	addKeySeeds(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		decoded, _ := decodeText(text, "FILE")
		if decoded == nil || bytes.Contains(text, []byte(controlPrefix)) {
			return
		}
		packed := strings.TrimRight(strings.Join(strings.Fields(string(text)), ""), "=")
		packed = strings.NewReplacer("-", "+", "_", "/").Replace(packed)
		if packed != base64.RawStdEncoding.EncodeToString(decoded) && !strings.EqualFold(packed, hex.EncodeToString(decoded)) {
			t.Fatalf("%q is read as %x", text, decoded)
		}
	})
}
