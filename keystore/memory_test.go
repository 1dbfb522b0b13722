//go:build goexperiment.runtimesecret && linux

package keystore

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"filippo.io/edwards25519"

	"onionbalancer/descriptor"
	"onionbalancer/keystore/offline"
)

func init() {
	memoryProcess = func() error { return searchedProcess(os.Getenv(memoryChild), os.Args[1]) }
}

// needle is eight bytes of a secret. It is kept masked, so that who searches
// does not hold what is searched for.
type needle struct {
	Name   string
	Masked uint64
}

// hunt is what the process is told: no secret.
type hunt struct {
	Key     string // path of the key file
	Plain   string // path of the secrets themselves, to be planted
	Period  descriptor.Period
	Mask    uint64
	Needles []needle
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
	cert, err := disk.Certify(t.Context(), p, make([]byte, 32), wish)
	if err != nil {
		t.Fatal(err)
	}
	signed := cert.Bytes()[:len(cert.Bytes())-64]
	digest := sha512.Sum512(append(slices.Clone(v.BlindedSecret[32:]), signed...))
	secrets["nonce's digest"] = digest[:]
	nonce, err := edwards25519.NewScalar().SetUniformBytes(digest[:])
	if err != nil {
		t.Fatal(err)
	}
	addForms(t, secrets, "nonce", nonce)
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
	var mask [8]byte
	if _, err := rand.Read(mask[:]); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	h := hunt{Key: key, Plain: filepath.Join(dir, "plain"), Period: p, Mask: binary.LittleEndian.Uint64(mask[:])}
	var plain []byte
	for name, secret := range secrets {
		for i := 0; i+8 <= len(secret); i += 8 {
			h.Needles = append(h.Needles, needle{fmt.Sprintf("%s[%d:%d]", name, i, i+8), binary.LittleEndian.Uint64(secret[i:]) ^ h.Mask})
		}
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
	for _, n := range h.Needles {
		if !slices.Contains(found, n.Name) {
			t.Errorf("the search does not find %s where it is", n.Name)
		}
	}
}

// search runs a process and returns the names of what it found in its memory.
func search(t *testing.T, mode, file string) (found []string) {
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
	found, err := h.searchMemory()
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
	if _, err := disk.Certify(disk.life, h.Period, make([]byte, 32), wish); err != nil {
		return err
	}
	if _, err := disk.RevisionKey(disk.life, h.Period); err != nil {
		return err
	}
	time.Sleep(6 * time.Second)
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
	time.Sleep(6 * time.Second)
	return []any{custodian, signer}, nil
}

// searchMemory returns the names of the needles that are in any memory that
// this process can read.
func (h *hunt) searchMemory() (found []string, err error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	var searched int64
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil {
			return nil, fmt.Errorf("reading %q: %w", line, err)
		}
		// What is larger than any secret's place is the race detector's.
		if mode[0] != 'r' || strings.Contains(line, "[v") || to-from > 4<<30 {
			continue
		}
		names, err := h.searchMapping(io.NewSectionReader(memory, int64(from), int64(to-from)))
		if err != nil {
			return nil, fmt.Errorf("searching %q: %w", line, err)
		}
		found = append(found, names...)
		searched += int64(to - from)
	}
	if searched < 1<<20 {
		return nil, fmt.Errorf("only %d bytes were searched", searched)
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// searchMapping compares each eight bytes with each needle, all masked.
func (h *hunt) searchMapping(mapping io.Reader) (found []string, err error) {
	var likely [1 << 16]bool
	for _, n := range h.Needles {
		likely[uint16(n.Masked)] = true
	}
	chunk := make([]byte, 1<<20)
	kept := 0
	for {
		n, err := io.ReadFull(mapping, chunk[kept:])
		end := kept + n
		for i := 0; end-i >= 8; i++ {
			if i += skip(chunk[i:end], h.Mask, &likely); end-i < 8 {
				break
			}
			masked := binary.LittleEndian.Uint64(chunk[i:]) ^ h.Mask
			for _, needle := range h.Needles {
				if needle.Masked == masked {
					found = append(found, needle.Name)
				}
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		kept = copy(chunk, chunk[end-7:end])
	}
}

// skip returns how many bytes come before the next eight that may be a needle.
// It goes through all memory, and is slow under the race detector.
//
//go:norace
func skip(chunk []byte, mask uint64, likely *[1 << 16]bool) int {
	low := uint16(mask)
	for i := 0; i+8 <= len(chunk); i++ {
		if likely[(uint16(chunk[i])|uint16(chunk[i+1])<<8)^low] {
			return i
		}
	}
	return len(chunk)
}
