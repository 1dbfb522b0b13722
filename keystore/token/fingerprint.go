package token

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"sync"

	"onionbalancer/internal/locked"
)

// fingerprint recognises a PIN by a hash under a key that only this process has.
type fingerprint struct {
	sum  [sha256.Size]byte
	size int // of the PIN in bytes; 0 is none
}

var fingerprintKey = sync.OnceValue(func() []byte {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return key
})

func fingerprintOf(pin *locked.Buffer) (f fingerprint) {
	if pin == nil {
		return fingerprint{}
	}
	f.size = pin.Len()
	locked.Do(func() { f.sum = hashOf(pin.Bytes()) })
	return f
}

func hashOf(text []byte) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, fingerprintKey())
	h.Write(text)
	h.Sum(sum[:0])
	return sum
}

// within tells whether text holds the PIN, as it is or in hexadecimal with
// whatever between the digits.
func (f fingerprint) within(text []byte) (found bool) {
	if f.size == 0 {
		return false
	}
	locked.Do(func() { found = f.contained(text) || f.inHex(text) })
	return found
}

func (f fingerprint) contained(text []byte) bool {
	for ; len(text) >= f.size; text = text[1:] {
		if hashOf(text[:f.size]) == f.sum {
			return true
		}
	}
	return false
}

func (f fingerprint) inHex(text []byte) bool {
	digits := bytes.ReplaceAll(bytes.ToLower(text), []byte("0x"), nil)
	digits = slices.DeleteFunc(digits, func(c byte) bool { return (c < '0' || c > '9') && (c < 'a' || c > 'f') })
	for range 2 { // of both ways to pair the digits
		raw := make([]byte, len(digits)/2)
		if _, err := hex.Decode(raw, digits[:len(raw)*2]); err == nil && f.contained(raw) {
			return true
		}
		digits = digits[min(1, len(digits)):]
	}
	return false
}
