package offline

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"

	"onionbalancer/internal/locked"
)

// seed is the secret half of a signing key, in locked memory. Package json, which
// leaves copies of all that it handles on the heap, sees none: in its place stands
// blankSeed. takeSeeds takes the seeds out of a text before it is decoded, and
// fillSeeds puts them into one that was encoded, both in locked memory.
type seed struct{ locked.Buffer }

// blankSeed is as long in a text as a seed, 32 bytes in base64.
var blankSeed = base64.StdEncoding.EncodeToString(make([]byte, ed25519.SeedSize))

// seedText finds the seeds in a text; its first group is one in base64.
var seedText = regexp.MustCompile(`"seed":\s*"([A-Za-z0-9+/]{43}=)"`)

func newSeed() *seed { return &seed{*locked.New(ed25519.SeedSize)} }

// MarshalJSON writes a blank.
func (*seed) MarshalJSON() ([]byte, error) { return []byte(`"` + blankSeed + `"`), nil }

// UnmarshalJSON reads a blank, which giveSeeds replaces.
func (*seed) UnmarshalJSON(text []byte) error {
	if string(text) != `"`+blankSeed+`"` {
		return fmt.Errorf("a secret key that is not %d bytes in base64", ed25519.SeedSize)
	}
	return nil
}

// public returns the public half.
func (s *seed) public() ed25519.PublicKey {
	public := make(ed25519.PublicKey, ed25519.PublicKeySize)
	locked.Do(func() { copy(public, ed25519.NewKeyFromSeed(s.Bytes())[ed25519.SeedSize:]) })
	return public
}

// signer returns the key, which is on the heap as long as it is used, and erased
// when that is over.
func (s *seed) signer() (key ed25519.PrivateKey) {
	locked.Do(func() { key = ed25519.NewKeyFromSeed(s.Bytes()) })
	return key
}

// takeSeeds returns the seeds in raw, in their order, and blanks them there. What
// is not as encode writes it stays, and is refused by whoever decodes raw.
func takeSeeds(raw []byte) (seeds []*seed) {
	decoded := locked.New(base64.StdEncoding.DecodedLen(len(blankSeed)))
	defer decoded.Wipe()
	for _, at := range seedText.FindAllSubmatchIndex(raw, -1) {
		text := raw[at[2]:at[3]]
		var err error
		locked.Do(func() { _, err = base64.StdEncoding.Strict().Decode(decoded.Bytes(), text) })
		if err != nil {
			continue
		}
		s := newSeed()
		copy(s.Bytes(), decoded.Bytes())
		copy(text, blankSeed)
		seeds = append(seeds, s)
	}
	return seeds
}

// giveSeeds hands out what takeSeeds took, to the keys that have blanks.
func (f *keysFile) giveSeeds(seeds []*seed) error {
	for i := range f.Keys {
		if f.Keys[i].Seed == nil {
			continue
		}
		if len(seeds) == 0 {
			return errors.New("a secret key is missing")
		}
		f.Keys[i].Seed, seeds = seeds[0], seeds[1:]
	}
	if len(seeds) > 0 {
		return errors.New("a secret key belongs to none of the keys")
	}
	return nil
}

// fillSeeds puts the seeds of f into the blanks in raw, its encoding.
func (f *keysFile) fillSeeds(raw []byte) {
	blanks := seedText.FindAllSubmatchIndex(raw, -1)
	for _, k := range f.Keys {
		if k.Seed == nil {
			continue
		}
		text := raw[blanks[0][2]:blanks[0][3]]
		blanks = blanks[1:]
		locked.Do(func() { base64.StdEncoding.Encode(text, k.Seed.Bytes()) })
	}
}

// encode writes f as its file has it. The caller wipes that.
func (f *keysFile) encode() (*locked.Buffer, error) {
	text, err := encode(f)
	if err != nil {
		return nil, err
	}
	raw := locked.Copy(text)
	f.fillSeeds(raw.Bytes())
	return raw, nil
}

// parseKeys reads a file of keys, strictly, and blanks the seeds in raw. The
// caller wipes the keys.
func parseKeys(raw []byte) (*keysFile, error) {
	seeds := takeSeeds(raw)
	var f keysFile
	err := decode(raw, kindKeys, &f)
	if err == nil {
		err = f.giveSeeds(seeds)
	}
	if err == nil {
		err = f.validate()
	}
	if err != nil {
		for _, s := range seeds {
			s.Wipe()
		}
		return nil, err
	}
	return &f, nil
}
