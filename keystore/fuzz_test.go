package keystore

import (
	"bytes"
	"slices"
	"testing"
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
}

// FuzzKeyFile: no file makes the parsers panic, what is taken for a key has a
// valid address, and tor's form has one reading only.
func FuzzKeyFile(f *testing.F) {
	addKeySeeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		key, form, err := parse(raw)
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
		text, err := encodePEM(seed)
		if err != nil {
			t.Fatal(err)
		}
		file := slices.Concat(before, []byte("\n"), text.Bytes(), after)
		key, err := parsePEM(file)
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
