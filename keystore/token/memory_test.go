//go:build cgo

package token_test

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/edwards25519"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/tokentest"
)

// TestMemory searches the memory of a helper for all that is secret in a
// certification, and for what can be computed from it only, after each request
// that needs it.
func TestMemory(t *testing.T) {
	defer token.Program(buildHelper(t))()
	hsm := tokentest.New(t)
	hsm.Make(t, tokentest.AES, "aes", "01")
	hsm.Make(t, tokentest.RSA, "rsa", "02")
	hsm.Make(t, tokentest.P256, "ec", "03")
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{"aes", "rsa", "ec"} {
		o := token.Object{Label: label}
		tok := open(t, hsm.URI(""))
		s := newSecrets(t, tok, o)
		for _, step := range []struct {
			name    string
			request func() error
		}{
			{"wrap", func() error { return nil }}, // done by newSecrets
			{"certify", func() error {
				_, _, err := tok.Certify(t.Context(), o, s.file, period, public, expires)
				return err
			}},
			{"unseal", func() error {
				key, err := tok.Unseal(t.Context(), o, s.file)
				if err == nil {
					key.Wipe()
				}
				return err
			}},
			{"sign-identity", func() error {
				_, err := tok.SignIdentity(t.Context(), o, s.file, []byte("m"))
				return err
			}},
		} {
			t.Run(label+" "+step.name, func(t *testing.T) {
				if err := step.request(); err != nil {
					t.Fatal(err)
				}
				found := search(t, token.HelperPID(tok), s.needles)
				if found["module path"] == 0 {
					t.Error("the search does not even find the path of the module")
				}
				delete(found, "module path")
				for _, name := range slices.Sorted(maps.Keys(found)) {
					t.Errorf("%s is found %d times", name, found[name])
				}
			})
		}
		tok.Close()
	}
}

// buildHelper builds the helper with runtime/secret, without the race detector,
// which has much memory of its own.
func buildHelper(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "helper")
	cmd := exec.Command("go", "build", "-o", path, "./testdata/helper")
	cmd.Env = append(os.Environ(), "GOEXPERIMENT=runtimesecret", "CGO_ENABLED=1", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the helper: %v\n%s", err, out)
	}
	return path
}

// secrets is a sealed file, and what must not be found in memory.
type secrets struct {
	file    []byte
	needles map[string][]byte
}

// newSecrets makes an identity key and has the helper of tok wrap its data key.
func newSecrets(t *testing.T, tok *token.Token, o token.Object) secrets {
	t.Helper()
	key := newIdentity(t)
	expanded := key.Expanded()
	s := secrets{needles: map[string][]byte{
		"module path": []byte("/libsofthsm2.so"),
		"scalar":      expanded[:32],
		"prefix":      expanded[32:],
	}}
	info, err := tok.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	with, err := tok.WrappingKey(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	file, err := sealed.Seal(key, info.Selector, with, time.Unix(1750000000, 0), func(m token.Method, plain *locked.Buffer) ([]byte, error) {
		s.needles["data key"] = bytes.Clone(plain.Bytes())
		return tok.Wrap(t.Context(), o, m, plain)
	}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if s.file, err = file.Encode(); err != nil {
		t.Fatal(err)
	}
	s.addSealKey(t, key.Address(), file.Method())
	s.addBlinded(t, key.Address(), expanded)
	return s
}

// addSealKey adds the key that the data key becomes, and how HMAC keeps what is
// in between.
func (s secrets) addSealKey(t *testing.T, address descriptor.Address, method token.Method) {
	t.Helper()
	var text struct {
		Salt []byte `json:"salt"`
	}
	if err := json.Unmarshal(s.file, &text); err != nil || len(text.Salt) != 32 {
		t.Fatalf("salt %x: %v", text.Salt, err)
	}
	extracted, err := hkdf.Extract(sha256.New, s.needles["data key"], text.Salt)
	if err != nil {
		t.Fatal(err)
	}
	info := "balancer sealed identity key\x00\x01" + string(address[:]) + string(method)
	sealKey, err := hkdf.Expand(sha256.New, extracted, info, 32)
	if err != nil {
		t.Fatal(err)
	}
	s.needles["seal key"] = sealKey
	s.needles["extracted key"] = extracted
	s.needles["extracted key, inner pad"] = xor(extracted, 0x36)
	s.needles["extracted key, outer pad"] = xor(extracted, 0x5c)
}

func xor(b []byte, with byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = b[i] ^ with
	}
	return out
}

// addBlinded adds the blinded key (rend-spec-v3, appendix A.2), and the scalars as
// package edwards25519 keeps them: reduced, and in Montgomery's form.
func (s secrets) addBlinded(t *testing.T, address descriptor.Address, expanded []byte) {
	t.Helper()
	h := sha3.New256()
	h.Write([]byte("Derive temporary signing key\x00"))
	h.Write(address[:])
	h.Write([]byte("(15112221349535400772501151409588531511454012693041857206046113283949847762202, 46316835694926478169428394003475163141307993866256225615783033603165251855960)key-blind"))
	h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, period.Number), period.Minutes()))
	factor := clamped(t, h.Sum(nil))
	scalar := clamped(t, expanded[:32])
	blinded := edwards25519.NewScalar().Multiply(factor, scalar)
	want, err := address.Blind(period)
	if err != nil || !bytes.Equal(new(edwards25519.Point).ScalarBaseMult(blinded).Bytes(), want[:]) {
		t.Fatalf("the blinded key is computed wrongly: %v", err)
	}
	prefix := sha512.Sum512(append([]byte("Derive temporary signing key hash input"), expanded[32:]...))
	s.needles["scalar, reduced"] = scalar.Bytes()
	s.needles["scalar, Montgomery"] = montgomery(t, scalar)
	s.needles["blinded scalar"] = blinded.Bytes()
	s.needles["blinded scalar, Montgomery"] = montgomery(t, blinded)
	s.needles["blinded prefix"] = prefix[:32]
}

func clamped(t *testing.T, b []byte) *edwards25519.Scalar {
	t.Helper()
	s, err := edwards25519.NewScalar().SetBytesWithClamping(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// montgomery returns s times 2^256.
func montgomery(t *testing.T, s *edwards25519.Scalar) []byte {
	t.Helper()
	wide := make([]byte, 64)
	wide[32] = 1
	power, err := edwards25519.NewScalar().SetUniformBytes(wide)
	if err != nil {
		t.Fatal(err)
	}
	return edwards25519.NewScalar().Multiply(s, power).Bytes()
}

// search counts in the writable memory of a process every eighth part of what
// it looks for, eight bytes at a time, so that half of a secret is found too.
func search(t *testing.T, pid int, needles map[string][]byte) map[string]int {
	t.Helper()
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	list, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	found := make(map[string]int)
	searched := 0
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(mode, "rw") {
			continue
		}
		content := make([]byte, to-from)
		n, err := memory.ReadAt(content, int64(from))
		if err != nil && n == 0 {
			continue // a device's
		}
		searched += n
		for name, secret := range needles {
			for i := 0; i+8 <= len(secret); i += 8 {
				if count := bytes.Count(content[:n], secret[i:i+8]); count > 0 {
					found[name] += count
					t.Logf("%s, bytes %d to %d: %d times in %s", name, i, i+7, count, lines.Text())
				}
			}
		}
	}
	if searched < 1<<20 {
		t.Fatalf("only %d bytes could be read", searched)
	}
	return found
}
