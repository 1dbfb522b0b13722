package descriptor

import (
	"bytes"
	"crypto/ed25519"
	"testing"

	"pgregory.net/rapid"
)

// TestAllSigned: the judgement is that of ed25519.Verify on each.
func TestAllSigned(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, 32))
	public := [32]byte(key.Public().(ed25519.PublicKey))
	rapid.Check(t, func(t *rapid.T) {
		var list []signed
		for range rapid.IntRange(0, 12).Draw(t, "signatures") {
			message := rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, "message")
			list = append(list, signed{message, ed25519.Sign(key, message)})
		}
		for range rapid.IntRange(0, 2).Draw(t, "changes") {
			if len(list) > 0 {
				one := rapid.SampledFrom(list).Draw(t, "changed")
				one.signature[rapid.IntRange(0, 63).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			}
		}
		want := true
		for _, one := range list {
			want = want && ed25519.Verify(public[:], one.message, one.signature)
		}
		if got := allSigned(public, list); got != want {
			t.Fatalf("%v, want %v", got, want)
		}
	})
	message := []byte("a message")
	good := signed{message, ed25519.Sign(key, message)}
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{4}, 32))
	zero := signed{message, make([]byte, 64)}
	zero.signature[0] = 1 // R is the neutral point, s is 0
	// Two wrong ones that cancel each other out in a sum without weights.
	first, second := signed{message, bytes.Clone(good.signature)}, signed{message, bytes.Clone(good.signature)}
	first.signature[32]++
	second.signature[32]--
	for what, list := range map[string][]signed{
		"another's":         {good, {message, ed25519.Sign(other, message)}},
		"another message":   {good, {[]byte("another"), good.signature}},
		"zeros":             {good, zero},
		"two that cancel":   {first, second},
		"swapped":           {{[]byte("a"), ed25519.Sign(key, []byte("b"))}, {[]byte("b"), ed25519.Sign(key, []byte("a"))}},
		"s above the order": {good, {message, append(bytes.Clone(good.signature[:63]), 0xff)}},
	} {
		if allSigned(public, list) {
			t.Errorf("%s: accepted", what)
		}
	}
	if allSigned([32]byte{2}, nil) {
		t.Error("a key that is no point: accepted")
	}
}
