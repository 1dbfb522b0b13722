package descriptor

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/edwards25519"
	"pgregory.net/rapid"
)

type addressFile struct {
	Valid []struct {
		Public  hexBytes `json:"identity_public_key"`
		Address string   `json:"onion_address"`
	} `json:"valid"`
	Checked []addressVerdict `json:"checked_by_tor"`
	More    []addressVerdict `json:"more_invalid"`
}

type addressVerdict struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Expected string `json:"expected"`
}

func TestAddressVectors(t *testing.T) {
	file := loadJSON[addressFile](t, "addresses.json")
	enough(t, "addresses", len(file.Valid), 35)
	for _, v := range file.Valid {
		a, err := ParseAddress(v.Address)
		if err != nil {
			t.Error(err)
			continue
		}
		if a != Address(v.Public.key()) || a.String() != v.Address || a.Label()+".onion" != v.Address {
			t.Errorf("%s: %x, %s", v.Address, a[:], a)
		}
		if !strings.HasPrefix(v.Address, strings.TrimSuffix(a.Short(), "…")) || len(a.Short()) > 10 {
			t.Errorf("%s: short form %s", v.Address, a.Short())
		}
		var again Address
		if text, err := a.MarshalText(); err != nil || again.UnmarshalText(text) != nil || again != a {
			t.Errorf("%s: text %s, %v", v.Address, text, err)
		}
	}
	verdicts := slices.Concat(file.Checked, file.More)
	enough(t, "odd addresses", len(verdicts), 51)
	for _, v := range verdicts {
		_, err := ParseAddress(v.Address)
		if accepted := err == nil; accepted != (v.Expected == "accept" || v.Expected == "reject-or-strip") {
			t.Errorf("%s: %q: error %v, expected %s", v.Name, v.Address, err, v.Expected)
		}
		if err != nil && !errors.Is(err, ErrAddress) {
			t.Errorf("%s: %v is no ErrAddress", v.Name, err)
		}
	}
	var a Address
	if err := a.UnmarshalText([]byte("wrong.onion")); !errors.Is(err, ErrAddress) || a != (Address{}) {
		t.Errorf("unmarshalling: %v", err)
	}
}

func TestPeriodVectors(t *testing.T) {
	file := loadJSON[struct {
		Periods []struct {
			Time   int64  `json:"unix_time"`
			Length int64  `json:"period_length_minutes"`
			Offset int64  `json:"rotation_offset_minutes"`
			Number uint64 `json:"time_period_number"`
			Start  int64  `json:"period_start_unix"`
			Next   int64  `json:"next_period_start_unix"`
		} `json:"time_periods"`
	}](t, "timeperiod.json")
	enough(t, "periods", len(file.Periods), 58)
	for _, v := range file.Periods {
		length, offset := time.Duration(v.Length)*time.Minute, time.Duration(v.Offset)*time.Minute
		p := PeriodAt(time.Unix(v.Time, 0), length, offset)
		if p.Number != v.Number || p.Length != length || p.Start(offset).Unix() != v.Start || p.End(offset).Unix() != v.Next {
			t.Errorf("%d: %s, from %v to %v, want %d", v.Time, p, p.Start(offset), p.End(offset), v.Number)
		}
		if p.Next().Previous() != p {
			t.Errorf("%s: the next one's previous is %s", p, p.Next().Previous())
		}
	}
	if p := PeriodAt(time.Unix(0, 0), 0, time.Hour); p != (Period{0, DefaultPeriodLength}) || p.Previous() != p {
		t.Errorf("before the first period: %s", p)
	}
}

// TestParseAddressLineEnds: a line end in the place of a character, which the
// base32 decoder would pass over, makes no address and no panic.
func TestParseAddressLineEnds(t *testing.T) {
	const good = "zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid"
	if _, err := ParseAddress(good); err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{"\n", "\r"} {
		for i := range good {
			if _, err := ParseAddress(good[:i] + end + good[i+1:]); !errors.Is(err, ErrAddress) {
				t.Errorf("a line end at %d: %v", i, err)
			}
		}
		if _, err := ParseAddress(strings.Repeat(end, len(good))); !errors.Is(err, ErrAddress) {
			t.Errorf("line ends alone: %v", err)
		}
	}
}

// blindedFromExpanded takes a blinded secret key as the vectors give it.
func blindedFromExpanded(t testing.TB, expanded []byte) *BlindedKey {
	t.Helper()
	scalar := uniformScalar(append(slices.Clone(expanded[:32]), make([]byte, 32)...))
	secret := signingSecret{scalar: *scalar, prefix: [32]byte(expanded[32:])}
	public := BlindedPublicKey(new(edwards25519.Point).ScalarBaseMult(scalar).Bytes())
	return &BlindedKey{secret: guard(&secret), public: public}
}

// secretOf returns a copy of a blinded secret.
func secretOf(b *BlindedKey) (secret signingSecret) {
	b.secret.use(func(kept *signingSecret) { secret = *kept })
	return secret
}

// expandedOf returns a blinded secret as the vectors have it.
func expandedOf(b *BlindedKey) []byte {
	secret := secretOf(b)
	return append(secret.scalar.Bytes(), secret.prefix[:]...)
}

type blindingFile struct {
	Services []struct {
		Public        hexBytes `json:"identity_public_key"`
		Secret        hexBytes `json:"identity_secret_key_expanded"`
		Number        uint64   `json:"time_period_number"`
		Minutes       int64    `json:"time_period_length_minutes"`
		Blinded       hexBytes `json:"blinded_public_key"`
		BlindedSecret hexBytes `json:"blinded_secret_key"`
		Subcredential hexBytes `json:"subcredential"`
		RevisionKey   hexBytes `json:"revision_counter_key"`
		Message       hexBytes `json:"message"`
		Signature     hexBytes `json:"signature_by_blinded_key"`
	} `json:"onion_service"`
	Validation []struct {
		Public hexBytes `json:"public_key"`
		Valid  bool     `json:"valid"`
	} `json:"public_key_validation"`
	Generic []struct {
		Seed          hexBytes `json:"seed"`
		Public        hexBytes `json:"public_key"`
		Secret        hexBytes `json:"expanded_secret_key"`
		X25519        hexBytes `json:"x25519_public_key_of_scalar"`
		Sign          byte     `json:"ed25519_sign_bit_from_x25519"`
		Factor        hexBytes `json:"blinding_parameter_unclamped"`
		BlindedSecret hexBytes `json:"blinded_secret_key"`
		Blinded       hexBytes `json:"blinded_public_key"`
	} `json:"generic"`
	Maps []struct {
		X25519  hexBytes `json:"x25519_public_key"`
		Ed25519 hexBytes `json:"ed25519_public_key"`
		Sign0   hexBytes `json:"ed25519_public_key_sign_bit_0"`
	} `json:"x25519_to_ed25519"`
}

func TestBlindingVectors(t *testing.T) {
	file := loadJSON[blindingFile](t, "blinding.json")
	enough(t, "blinded services", len(file.Services), 17)
	secrets := 0
	for _, v := range file.Services {
		period := Period{Number: v.Number, Length: time.Duration(v.Minutes) * time.Minute}
		keys, err := Address(v.Public.key()).Keys(period)
		if err != nil {
			t.Fatal(err)
		}
		if want := (PeriodKeys{Address(v.Public.key()), period, BlindedPublicKey(v.Blinded.key()), Subcredential(v.Subcredential.key())}); keys != want {
			t.Errorf("%x in %s: %+v", v.Public, period, keys)
		}
		if v.Secret == nil {
			continue
		}
		secrets++
		identity, err := NewIdentityKey(v.Secret)
		if err != nil {
			t.Fatal(err)
		}
		b, err := identity.Blind(period)
		if err != nil {
			t.Fatal(err)
		}
		if identity.Address() != keys.Address || b.Public() != keys.Blinded {
			t.Errorf("%x: other public keys from the secret", v.Public)
		}
		if !bytes.Equal(expandedOf(b), v.BlindedSecret) || !bytes.Equal(b.RevisionKey().Bytes(), v.RevisionKey) {
			t.Errorf("%x: other blinded secret key", v.Public)
		}
		if sig := b.Sign(v.Message); v.Signature != nil && !bytes.Equal(sig, v.Signature) || !ed25519.Verify(ed25519.PublicKey(v.Blinded), v.Message, sig) {
			t.Errorf("%x: signature %x", v.Public, sig)
		}
	}
	enough(t, "blinded secret keys", secrets, 5)
}

func TestPublicKeyValidation(t *testing.T) {
	file := loadJSON[blindingFile](t, "blinding.json")
	enough(t, "public keys", len(file.Validation), 5)
	for _, v := range file.Validation {
		a := Address(v.Public.key())
		if err := a.Validate(); (err == nil) != v.Valid {
			t.Errorf("%x: %v", v.Public, err)
		}
		if _, err := a.Keys(Period{1, time.Hour}); (err == nil) != v.Valid {
			t.Errorf("%x: keys: %v", v.Public, err)
		}
	}
}

func TestExpandVectors(t *testing.T) {
	file := loadJSON[blindingFile](t, "blinding.json")
	enough(t, "seeds", len(file.Generic), 11)
	for _, v := range file.Generic {
		k, err := IdentityKeyFromSeed(v.Seed)
		if err != nil {
			t.Fatal(err)
		}
		if k.Address() != Address(v.Public.key()) || !bytes.Equal(k.Expanded(), v.Secret) {
			t.Errorf("%x: other keys", v.Seed)
		}
		h, err := edwards25519.NewScalar().SetBytesWithClamping(v.Factor)
		if err != nil {
			t.Fatal(err)
		}
		b := k.blindBy(h)
		if b.public != BlindedPublicKey(v.Blinded.key()) || !bytes.Equal(expandedOf(b), v.BlindedSecret) {
			t.Errorf("%x: other blinded keys", v.Seed)
		}
		if v.X25519 == nil {
			continue
		}
		if ed := edwardsFromX25519(v.X25519.key()); ed[31]|v.Sign<<7 != v.Public[31] || !isEdwardsOf(v.Public.key(), v.X25519.key()) {
			t.Errorf("%x: Ed25519 form %x, want %x", v.X25519, ed, v.Public)
		}
	}
}

func TestEdwardsForm(t *testing.T) {
	file := loadJSON[blindingFile](t, "blinding.json")
	enough(t, "x25519 keys", len(file.Maps), 6)
	for _, v := range file.Maps {
		if got := edwardsFromX25519(v.X25519.key()); got != v.Sign0.key() {
			t.Errorf("%x: %x, want %x", v.X25519, got, v.Sign0)
		}
		if !isEdwardsOf(v.Ed25519.key(), v.X25519.key()) || !isEdwardsOf(v.Sign0.key(), v.X25519.key()) {
			t.Errorf("%x: not found to be its own form", v.X25519)
		}
		other := v.X25519.key()
		other[0] ^= 1
		if isEdwardsOf(v.Sign0.key(), other) {
			t.Errorf("%x: the form of another key", other)
		}
	}
}

// TestLowOrder checks the list against X25519 itself, which refuses to make a
// secret with exactly these keys.
func TestLowOrder(t *testing.T) {
	secret, err := newX25519(seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range lowOrderU {
		for _, top := range []byte{0, 0x80} {
			key := u
			key[31] |= top
			public, err := ecdh.X25519().NewPublicKey(key[:])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := secret.ECDH(public); err == nil {
				t.Errorf("%x is not of low order", key)
			}
			if checkX25519(key) == nil {
				t.Errorf("%x passes", key)
			}
		}
	}
	if err := checkX25519([32]byte{9}); err != nil {
		t.Errorf("the base point: %v", err)
	}
	for _, s := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
		"0200000000000000000000000000000000000000000000000000000000000000",
	} {
		var key [32]byte
		if _, err := fmt.Sscanf(s, "%x", (*hexScan)(&key)); err != nil {
			t.Fatal(err)
		}
		if checkEd25519(key) == nil {
			t.Errorf("%s passes", s)
		}
	}
	if err := checkEd25519([32]byte(edwards25519.NewGeneratorPoint().Bytes())); err != nil {
		t.Errorf("the base point: %v", err)
	}
}

type hexScan [32]byte

func (h *hexScan) Scan(state fmt.ScanState, _ rune) error {
	token, err := state.Token(true, nil)
	if err != nil {
		return err
	}
	var b hexBytes
	err = b.UnmarshalText(token)
	copy(h[:], b)
	return err
}

func TestIdentityKeyRefuses(t *testing.T) {
	order, err := hex.DecodeString("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
	if err != nil {
		t.Fatal(err)
	}
	half := bytes.Repeat([]byte{1}, 32)
	for want, expanded := range map[string][]byte{
		"scalar is zero": slices.Concat(make([]byte, 32), half),
		"is zero":        slices.Concat(order, half),
		"nonces":         slices.Concat(half, make([]byte, 32)),
	} {
		if _, err := NewIdentityKey(expanded); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%x: %v, want %q", expanded, err, want)
		}
	}
	for _, n := range []int{0, 63, 65} {
		if _, err := NewIdentityKey(make([]byte, n)); err == nil {
			t.Errorf("an expanded key of %d bytes", n)
		}
	}
	if _, err := IdentityKeyFromSeed(make([]byte, 31)); err == nil {
		t.Error("a seed of 31 bytes")
	}
	if _, err := NewRevisionKey(make([]byte, 31)); err == nil {
		t.Error("a revision key of 31 bytes")
	}
}

// TestSecretsDoNotPrint tries the ways by which keys end up in logs.
func TestSecretsDoNotPrint(t *testing.T) {
	identity, err := IdentityKeyFromSeed(bytes.Repeat([]byte{0xab}, 32))
	if err != nil {
		t.Fatal(err)
	}
	blinded, err := identity.Blind(Period{1, time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	client, err := ParseClientKey([]byte("OM7TGIVRYMY6PFX6GAC6ATRTA5U6WW6U7A4ZNHQDI6OVL52XVV2Q"))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []any{identity, blinded, blinded.RevisionKey(), client, *identity, *client} {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			if got := fmt.Sprintf(format, secret); got != "[secret]" {
				t.Errorf("%T as %s: %s", secret, format, got)
			}
		}
		if out, err := json.Marshal(secret); err == nil {
			t.Errorf("%T marshals: %s", secret, out)
		}
	}
	// fmt calls no methods on what stands in fields that are not exported.
	hidden := struct {
		identity *IdentityKey
		blinded  *BlindedKey
		value    IdentityKey
		revision RevisionKey
		client   *ClientKey
	}{identity, blinded, *identity, blinded.RevisionKey(), client}
	var texts string
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q", "%p"} {
		texts += fmt.Sprintf(format, hidden) + fmt.Sprintf(format, &hidden) + fmt.Sprintf(format, blinded.RevisionKey())
	}
	for what, bytes := range map[string][]byte{
		"identity": identity.Expanded(), "revision key": blinded.RevisionKey().Bytes(),
		"scalar": expandedOf(blinded)[:32], "prefix": expandedOf(blinded)[32:], "client key": client.secret().Bytes(),
	} {
		for _, form := range []string{"%v", "%x", "%#v"} {
			if shown := strings.Trim(fmt.Sprintf(form, bytes[:8]), "[]{}byte "); strings.Contains(texts, shown) {
				t.Errorf("the %s is shown as %s", what, shown)
			}
		}
	}
	identity.Wipe()
	blinded.Wipe()
	if !bytes.Equal(identity.Expanded(), make([]byte, 64)) || secretOf(blinded) != (signingSecret{}) {
		t.Error("a secret outlived Wipe")
	}
}

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
