package keystore

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/locked/lockedtest"
)

// hexBytes is a byte string in hexadecimal; nil for null.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type torFiles struct {
	Name, Hostname string
	Secret         hexBytes `json:"hs_ed25519_secret_key"`
	Public         hexBytes `json:"hs_ed25519_public_key"`
	Expanded       hexBytes `json:"identity_secret_key_expanded"`
}

type keyVectors struct {
	TorKeyFiles []torFiles `json:"tor_key_files"`
	Verdicts    []struct {
		Name         string
		SecretFile   hexBytes `json:"secret_file"`
		PublicFile   hexBytes `json:"public_file"`
		TorAccepts   bool     `json:"tor_accepts"`
		OnionAddress string   `json:"onion_address"`
		SecretAfter  hexBytes `json:"secret_file_after"`
	} `json:"tor_key_file_verdicts"`
	PEM []struct {
		PEM          string
		OnionAddress string   `json:"onion_address"`
		Expanded     hexBytes `json:"expanded_secret_key"`
		Seed         hexBytes
	} `json:"onionbalance_pem"`
	PEMOdd []struct {
		Name    string
		Bytes   hexBytes
		Verdict string `json:"python_cryptography_load_pem_private_key"`
	} `json:"pem_odd"`
}

func loadVectors[T any](t testing.TB, name string) *T {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	v := new(T)
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatal(err)
	}
	return v
}

// writeDir makes a directory with mode 0700 and files of mode 0600; nil files
// are left out.
func writeDir(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if content == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// readDir returns the content of all files of dir, by name.
func readDir(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, e := range entries {
		if e.IsDir() {
			continue // tor's authorized_clients
		}
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(content)
	}
	return files
}

func TestTorKeyFiles(t *testing.T) {
	vectors := loadVectors[keyVectors](t, "keys.json").TorKeyFiles
	if len(vectors) < 17 {
		t.Fatalf("only %d vectors", len(vectors))
	}
	for _, v := range vectors {
		dir := writeDir(t, map[string][]byte{
			torSecretFile: v.Secret, torPublicFile: v.Public, torHostnameFile: []byte(v.Hostname + "\n"),
		})
		for _, path := range []string{dir, filepath.Join(dir, torSecretFile)} {
			key, err := OpenDisk(path)
			if err != nil {
				t.Errorf("%s: %v", v.Name, err)
				continue
			}
			if key.Address().String() != v.Hostname || key.Form() != FormTor || key.Path() != filepath.Join(dir, torSecretFile) {
				t.Errorf("%s: %s, form %s at %s", v.Name, key.Address(), key.Form(), key.Path())
			}
		}
		key, err := parseTor(v.Secret, "FILE")
		if err != nil || !bytes.Equal(key.Expanded(), v.Expanded) {
			t.Errorf("%s: other secret than stated, or %v", v.Name, err)
		}
	}
}

// TestTorKeyFileVerdicts: what tor refuses, we refuse; where tor puts a new key
// in the place of what it cannot read, we refuse too; and nothing is touched.
func TestTorKeyFileVerdicts(t *testing.T) {
	vectors := loadVectors[keyVectors](t, "keys.json").Verdicts
	if len(vectors) < 13 {
		t.Fatalf("only %d vectors", len(vectors))
	}
	for _, v := range vectors {
		dir := writeDir(t, map[string][]byte{torSecretFile: v.SecretFile, torPublicFile: v.PublicFile})
		before := readDir(t, dir)
		key, err := OpenDisk(dir)
		switch accept := v.TorAccepts && v.SecretAfter == nil; {
		case accept && err != nil:
			t.Errorf("%s: %v", v.Name, err)
		case accept && key.Address().String() != v.OnionAddress:
			t.Errorf("%s: address %s, want %s", v.Name, key.Address(), v.OnionAddress)
		case !accept && err == nil:
			t.Errorf("%s: accepted", v.Name)
		}
		after := readDir(t, dir)
		if len(after) != len(before) || after[torSecretFile] != before[torSecretFile] || after[torPublicFile] != before[torPublicFile] {
			t.Errorf("%s: files were changed", v.Name)
		}
	}
}

func TestOnionBalancePEM(t *testing.T) {
	vectors := loadVectors[keyVectors](t, "keys.json").PEM
	if len(vectors) < 4 {
		t.Fatalf("only %d vectors", len(vectors))
	}
	for _, v := range vectors {
		dir := writeDir(t, map[string][]byte{"front.key": []byte(v.PEM)})
		key, err := OpenDisk(filepath.Join(dir, "front.key"))
		if err != nil {
			t.Errorf("%s: %v", v.OnionAddress, err)
			continue
		}
		if key.Address().String() != v.OnionAddress || key.Form() != FormPEM {
			t.Errorf("address %s of form %s, want %s", key.Address(), key.Form(), v.OnionAddress)
		}
		identity, _, err := parsePEM([]byte(v.PEM), "FILE")
		if err != nil || !bytes.Equal(identity.Expanded(), v.Expanded) {
			t.Errorf("%s: other secret than stated, or %v", v.OnionAddress, err)
		}
		if text, err := encodePEM(locked.Copy(bytes.Clone(v.Seed))); err != nil || string(lockedtest.Bytes(text)) != v.PEM {
			t.Errorf("%s: encoded as %q, %v", v.OnionAddress, lockedtest.Bytes(text), err)
		}
	}
}

func TestOddPEM(t *testing.T) {
	vectors := loadVectors[keyVectors](t, "keys.json").PEMOdd
	if len(vectors) < 6 {
		t.Fatalf("only %d vectors", len(vectors))
	}
	for _, v := range vectors {
		key, _, err := parse(v.Bytes, "FILE")
		if accept := v.Verdict == "_Ed25519PrivateKey"; accept != (err == nil) || accept && key == nil {
			t.Errorf("%s: accepted %v, want %v: %v", v.Name, err == nil, accept, err)
		}
	}
}

type blindingVectors struct {
	OnionService []struct {
		Identity    hexBytes `json:"identity_public_key"`
		Expanded    hexBytes `json:"identity_secret_key_expanded"`
		Number      uint64   `json:"time_period_number"`
		Minutes     int      `json:"time_period_length_minutes"`
		Blinded     hexBytes `json:"blinded_public_key"`
		RevisionKey hexBytes `json:"revision_counter_key"`
	} `json:"onion_service"`
}

// TestBlindingVectors: certificates verify under the stated blinded keys, and
// the keys of revision counters are the stated ones.
func TestBlindingVectors(t *testing.T) {
	vectors := loadVectors[blindingVectors](t, "blinding.json").OnionService
	if len(vectors) < 16 {
		t.Fatalf("only %d vectors", len(vectors))
	}
	signing := signingKey
	for _, v := range vectors {
		dir := writeDir(t, map[string][]byte{torSecretFile: append(torHeader(torSecretTag), v.Expanded...)})
		key, err := OpenDisk(dir)
		if err != nil {
			t.Errorf("%x: %v", v.Identity[:4], err)
			continue
		}
		period := descriptor.Period{Number: v.Number, Length: time.Duration(v.Minutes) * time.Minute}
		cert, err := key.Certify(t.Context(), period, signing, hours)
		if err != nil {
			t.Errorf("%x: %v", v.Identity[:4], err)
			continue
		}
		if err := cert.Verify([32]byte(v.Blinded), wish); err != nil {
			t.Errorf("%x: the certificate does not verify under the stated blinded key: %v", v.Identity[:4], err)
		}
		revision, err := key.RevisionKey(t.Context(), period)
		if err != nil || !bytes.Equal(revision.Bytes(), v.RevisionKey) {
			t.Errorf("%x: revision-counter key %x, %v", v.Identity[:4], revision.Bytes(), err)
		}
	}
}
