package descriptor

import (
	"crypto/ed25519"
	"math/big"
	"slices"
	"testing"
	"time"

	"filippo.io/edwards25519"
	"pgregory.net/rapid"
)

// groupOrder is the order of the base point.
var groupOrder = func() *big.Int {
	n, _ := new(big.Int).SetString("27742317777372353535851937790883648493", 10)
	return n.Add(n, new(big.Int).Lsh(big.NewInt(1), 252))
}()

// littleEndian writes n into 32 bytes.
func littleEndian(n *big.Int) []byte {
	b := n.FillBytes(make([]byte, 32))
	slices.Reverse(b)
	return b
}

// TestAnyScalar: a scalar of any 256 bits is the key of one address, signs for
// it, and its blinded key is the one that clients derive from the address. All
// scalars that differ by multiples of the group's order are the same key.
func TestAnyScalar(t *testing.T) {
	message := []byte("message")
	rapid.Check(t, func(t *rapid.T) {
		bits, prefix := drawBytes(t, 32, "scalar"), drawBytes(t, 32, "prefix")
		if rapid.Bool().Draw(t, "small") {
			clear(bits[4:])
		}
		prefix[0] |= 1
		slices.Reverse(bits)
		residue := new(big.Int).Mod(new(big.Int).SetBytes(bits), groupOrder)
		if residue.Sign() == 0 {
			t.Skip("zero")
		}
		scalar, err := edwards25519.NewScalar().SetCanonicalBytes(littleEndian(residue))
		if err != nil {
			t.Fatal(err)
		}
		want := Address(new(edwards25519.Point).ScalarBaseMult(scalar).Bytes())
		p := Period{Number: rapid.Uint64Range(0, 1<<32).Draw(t, "period"), Length: 24 * time.Hour}
		public, err := want.Blind(p)
		if err != nil {
			t.Fatalf("the address cannot be blinded: %v", err)
		}
		for n := new(big.Int).Set(residue); n.BitLen() <= 256; n.Add(n, groupOrder) {
			k, err := NewIdentityKey(slices.Concat(littleEndian(n), prefix))
			if err != nil {
				t.Fatal(err)
			}
			if k.Address() != want {
				t.Fatalf("%x: another address", n)
			}
			if signature, err := k.Sign(message); err != nil || !ed25519.Verify(want[:], message, signature) {
				t.Fatalf("%x: a signature that does not verify: %v", n, err)
			}
			blinded, err := k.Blind(p)
			if err != nil || blinded.Public() != public {
				t.Fatalf("%x: another blinded key than the address has: %v", n, err)
			}
			if !ed25519.Verify(public[:], message, blinded.Sign(message)) {
				t.Fatalf("%x: the blinded key's signature does not verify", n)
			}
			k.Wipe()
			blinded.Wipe()
		}
	})
}
