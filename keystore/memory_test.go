//go:build goexperiment.runtimesecret && linux

package keystore

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"filippo.io/edwards25519"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/locked/lockedtest"
	"onionbalancer/keystore/offline"
)

func init() {
	memoryProcess = func() error { return searchedProcess(os.Getenv(memoryChild), os.Args[1]) }
}

// hunt is what the process is told: no secret.
type hunt struct {
	Key     string // path of the key file
	Plain   string // path of the secrets themselves, to be planted
	Period  descriptor.Period
	Needles lockedtest.Needles
}

// TestMemory has a process certify with a key on disk, as the daemon does, and
// searches all of its memory for every eight bytes of the secrets afterwards.
func TestMemory(t *testing.T) {
	t.Parallel()
	v := loadVectors[memoryVectors](t, "blinding.json").OnionService[0]
	p := descriptor.Period{Number: v.Number, Length: time.Duration(v.Minutes) * time.Minute}
	dir := writeDir(t, map[string][]byte{torSecretFile: append(torHeader(torSecretTag), v.Expanded...)})
	secrets := map[string][]byte{
		"identity scalar": v.Expanded[:32], "identity prefix": v.Expanded[32:],
		"blinded scalar": v.BlindedSecret[:32], "blinded prefix": v.BlindedSecret[32:],
	}
	addForms(t, secrets, "identity scalar", clampedScalar(t, v.Expanded[:32]))
	addForms(t, secrets, "blinded scalar", canonicalScalar(t, v.BlindedSecret[:32]))
	disk, err := OpenDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := disk.Certify(t.Context(), p, signingKey, hours)
	if err != nil {
		t.Fatal(err)
	}
	for n := range hours.Count {
		cert := certs.At(wish.Add(time.Duration(n)*time.Hour - descriptor.CertLifetime)).Bytes()
		digest := sha512.Sum512(append(slices.Clone(v.BlindedSecret[32:]), cert[:len(cert)-64]...))
		name := fmt.Sprintf("hour %d's nonce", n)
		secrets[name+"'s digest"] = digest[:]
		nonce, err := edwards25519.NewScalar().SetUniformBytes(digest[:])
		if err != nil {
			t.Fatal(err)
		}
		addForms(t, secrets, name, nonce)
	}
	searchBoth(t, "certify", filepath.Join(dir, torSecretFile), p, secrets)
}

// TestMemoryPEM does the same with a key as OnionBalance writes it, where the
// secret is a seed in base64.
func TestMemoryPEM(t *testing.T) {
	t.Parallel()
	v := loadVectors[keyVectors](t, "keys.json").PEM[0]
	dir := writeDir(t, map[string][]byte{"front.pem": []byte(v.PEM)})
	secrets := map[string][]byte{
		"seed": v.Seed, "base64": []byte(v.PEM[50:90]),
		"identity scalar": v.Expanded[:32], "identity prefix": v.Expanded[32:],
	}
	addForms(t, secrets, "identity scalar", clampedScalar(t, v.Expanded[:32]))
	searchBoth(t, "certify", filepath.Join(dir, "front.pem"), period, secrets)
}

// TestMemoryOffline has a process make signing keys beside those that are there,
// sign by one, and retire one, as a ceremony and the daemon do. Afterwards none
// may be in its memory but the one that signed.
func TestMemoryOffline(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "front.offline")
	const prepared = 6
	preparation := offline.Preparation{Dir: dir, Address: newKey(t).Address(), Schedule: offline.Public, First: period.Number, Count: prepared}
	if _, err := offline.Prepare(t.Context(), preparation); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, offline.KeysFile))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Keys []struct {
			Period uint64
			Seed   string
		}
	}
	if err := json.Unmarshal(raw, &file); err != nil || len(file.Keys) != prepared {
		t.Fatalf("%d keys, %v", len(file.Keys), err)
	}
	used := period.Next()
	secrets := map[string][]byte{}
	for _, k := range file.Keys {
		secrets[fmt.Sprintf("base64 of %d", k.Period)] = []byte(k.Seed[:40])
		seed, err := base64.StdEncoding.DecodeString(k.Seed)
		if err != nil {
			t.Fatal(err)
		}
		if k.Period != used.Number {
			secrets[fmt.Sprintf("seed of %d", k.Period)] = seed
		}
	}
	searchBoth(t, "offline", dir, used, secrets)
}

type memoryVectors struct {
	OnionService []struct {
		Expanded      hexBytes `json:"identity_secret_key_expanded"`
		BlindedSecret hexBytes `json:"blinded_secret_key"`
		Number        uint64   `json:"time_period_number"`
		Minutes       int      `json:"time_period_length_minutes"`
	} `json:"onion_service"`
}

func clampedScalar(t *testing.T, raw []byte) *edwards25519.Scalar {
	t.Helper()
	s, err := edwards25519.NewScalar().SetBytesWithClamping(raw)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func canonicalScalar(t *testing.T, raw []byte) *edwards25519.Scalar {
	t.Helper()
	s, err := edwards25519.NewScalar().SetCanonicalBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// addForms adds the forms that a scalar takes in computing with it: reduced,
// the limbs of its Montgomery form as they stand in memory, and the signed
// digits to the base 16 by which the base point is multiplied.
func addForms(t *testing.T, secrets map[string][]byte, name string, s *edwards25519.Scalar) {
	t.Helper()
	reduced := s.Bytes()
	secrets[name+", reduced"] = reduced
	secrets[name+", Montgomery form"] = slices.Clone(unsafe.Slice((*byte)(unsafe.Pointer(s)), unsafe.Sizeof(*s)))
	digits := make([]byte, 64)
	for i, b := range reduced {
		digits[2*i], digits[2*i+1] = b&15, b>>4
	}
	for i := range 63 {
		carry := (digits[i] + 8) >> 4
		digits[i] -= carry << 4
		digits[i+1] += carry
	}
	secrets[name+", digits"] = digits
}

// searchBoth searches a process that did a deed, and one that has the secrets
// planted: the search must find nothing in the one, and everything in the other.
func searchBoth(t *testing.T, deed, key string, p descriptor.Period, secrets map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	h := hunt{Key: key, Plain: filepath.Join(dir, "plain"), Period: p, Needles: lockedtest.NewNeedles(secrets)}
	var plain []byte
	for _, secret := range secrets {
		plain = append(plain, secret...)
	}
	raw, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{h.Plain: plain, filepath.Join(dir, "hunt"): raw} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if found := search(t, deed, filepath.Join(dir, "hunt")); len(found) > 0 {
		t.Errorf("left in memory after it did %q: %v", deed, found)
	}
	found := search(t, "plant", filepath.Join(dir, "hunt"))
	for _, name := range h.Needles.Names() {
		if found[name] == "" {
			t.Errorf("the search does not find %s where it is", name)
		}
	}
}

// search runs a process and returns what it found in its memory, and where.
func search(t *testing.T, mode, file string) (found map[string]string) {
	t.Helper()
	child := exec.Command(os.Args[0], file)
	child.Env = append(os.Environ(), memoryChild+"="+mode)
	var out, errs bytes.Buffer
	child.Stdout, child.Stderr = &out, &errs
	if err := child.Run(); err != nil {
		t.Fatalf("%v: %s", err, &errs)
	}
	if err := json.Unmarshal(out.Bytes(), &found); err != nil {
		t.Fatalf("%v in %s", err, &out)
	}
	return found
}

// searchedProcess does a deed, or plants the secrets, and searches itself.
func searchedProcess(mode, file string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var h hunt
	if err := json.Unmarshal(raw, &h); err != nil {
		return err
	}
	var kept any
	var planted []byte
	switch mode {
	case "plant":
		planted, err = os.ReadFile(h.Plain)
	case "offline":
		kept, err = useOffline(h)
	default:
		err = certifyOnce(h)
	}
	if err != nil {
		return err
	}
	found, err := h.Needles.Search("self")
	if err != nil {
		return err
	}
	clear(planted) // they were there until now
	runtime.KeepAlive(kept)
	return json.NewEncoder(os.Stdout).Encode(found)
}

// certifyOnce does what the daemon does for a period, and waits for the garbage
// collection that was asked for.
func certifyOnce(h hunt) error {
	disk, err := OpenDisk(h.Key)
	if err != nil {
		return err
	}
	before := collections()
	if _, err := disk.Certify(disk.life, h.Period, signingKey, hours); err != nil {
		return err
	}
	if _, err := disk.RevisionKey(disk.life, h.Period); err != nil {
		return err
	}
	collected(before)
	return nil
}

// useOffline does with the keys of a ceremony's directory all that balancer does,
// waits for the garbage collection, and returns the custodian and the key in use.
func useOffline(h hunt) (kept any, err error) {
	ctx := context.Background()
	more := offline.Preparation{Dir: h.Key, Schedule: offline.Public, First: h.Period.Number, Count: 10}
	if _, err := offline.Prepare(ctx, more); err != nil {
		return nil, err
	}
	before := collections()
	custodian, err := OpenOffline(h.Key)
	if err != nil {
		return nil, err
	}
	signer, err := custodian.SigningKey(ctx, h.Period)
	if err != nil {
		return nil, err
	}
	if _, err := signer.Sign(nil, []byte("a descriptor"), crypto.Hash(0)); err != nil {
		return nil, err
	}
	if err := custodian.Retire(ctx, []descriptor.Period{h.Period}); err != nil {
		return nil, err
	}
	collected(before)
	return []any{custodian, signer}, nil
}

// collected waits for the garbage collection that was asked for after before.
func collected(before uint32) {
	var now runtime.MemStats
	for now.NumForcedGC == before {
		time.Sleep(time.Millisecond)
		runtime.ReadMemStats(&now)
	}
	runtime.GC() // which waits until the one before has swept everything
}

// collections returns how many there were, and has CollectSoon not take long.
func collections() uint32 {
	locked.CollectDelay = 100 * time.Millisecond
	var now runtime.MemStats
	runtime.ReadMemStats(&now)
	return now.NumForcedGC
}
