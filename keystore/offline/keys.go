package offline

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
)

// keysFile is a manager's signing keys for one address, which never leave it.
type keysFile struct {
	header
	Address descriptor.Address `json:"address"`
	Schedule
	Keys []keyPair `json:"keys"` // by period
}

// keyPair is the signing key of one period.
type keyPair struct {
	Period uint64            `json:"period"`
	Public ed25519.PublicKey `json:"public"`
	Seed   *seed             `json:"seed,omitempty"` // nil: the key is on a token
}

// Source makes signing keys, or finds them again: a token.
type Source interface {
	SigningKey(ctx context.Context, p descriptor.Period) (crypto.Signer, error)
}

func (f *keysFile) validate() error {
	if err := f.Schedule.validate(0, 0); err != nil {
		return err
	}
	for i, k := range f.Keys {
		if err := f.Schedule.validate(k.Period, 1); err != nil {
			return err
		}
		switch {
		case i > 0 && f.Keys[i-1].Period >= k.Period:
			return fmt.Errorf("the key of period %d is out of order, or there twice", k.Period)
		case len(k.Public) != ed25519.PublicKeySize:
			return fmt.Errorf("the public key of period %d has %d bytes", k.Period, len(k.Public))
		case k.Seed != nil && !bytes.Equal(k.Seed.public(), k.Public):
			return fmt.Errorf("the halves of the key of period %d do not belong together", k.Period)
		}
	}
	return nil
}

// of returns the key of a period, nil if there is none.
func (f *keysFile) of(number uint64) *keyPair {
	i, found := slices.BinarySearchFunc(f.Keys, number, func(k keyPair, n uint64) int { return cmp.Compare(k.Period, n) })
	if !found {
		return nil
	}
	return &f.Keys[i]
}

// wipe overwrites the secrets.
func (f *keysFile) wipe() {
	if f == nil {
		return
	}
	for _, k := range f.Keys {
		if k.Seed != nil {
			k.Seed.Wipe()
		}
	}
}

// ensure makes the keys of the given periods that are not there yet, in the
// source or, if that is nil, from random bytes, and reports whether it made any.
func (f *keysFile) ensure(ctx context.Context, first uint64, count int, source Source, random io.Reader) (bool, error) {
	before := len(f.Keys)
	for number := first; number < first+uint64(count); number++ {
		if k := f.of(number); k != nil {
			if err := k.agrees(ctx, f.Schedule.Period(number), source); err != nil {
				return false, err
			}
			continue
		}
		k, err := makeKey(ctx, f.Schedule.Period(number), source, random)
		if err != nil {
			return false, fmt.Errorf("making the signing key of period %d: %w", number, err)
		}
		f.Keys = append(f.Keys, k)
		slices.SortFunc(f.Keys, func(a, b keyPair) int { return cmp.Compare(a.Period, b.Period) })
	}
	return len(f.Keys) > before, nil
}

// agrees checks that k is where the keys of source are.
func (k *keyPair) agrees(ctx context.Context, p descriptor.Period, source Source) error {
	switch {
	case source == nil && k.Seed == nil:
		return fmt.Errorf("the signing key of period %d is on a token: say on which one, as before (--signing URI, or signing in the configuration)", k.Period)
	case source == nil:
		return nil
	case k.Seed != nil:
		return fmt.Errorf("the signing key of period %d is on the disk already: use a new directory for keys on a token", k.Period)
	}
	now, err := makeKey(ctx, p, source, nil)
	if err != nil {
		return fmt.Errorf("looking for the signing key of period %d on the token: %w", k.Period, err)
	}
	if !bytes.Equal(now.Public, k.Public) {
		return fmt.Errorf("the signing key of period %d that was made before is not on this token", k.Period)
	}
	return nil
}

func makeKey(ctx context.Context, p descriptor.Period, source Source, random io.Reader) (keyPair, error) {
	if source == nil {
		seed := newSeed()
		if _, err := seed.Fill(random); err != nil {
			return keyPair{}, err
		}
		return keyPair{Period: p.Number, Public: seed.public(), Seed: seed}, nil
	}
	signer, err := source.SigningKey(ctx, p)
	if err != nil {
		return keyPair{}, err
	}
	public, ok := signer.Public().(ed25519.PublicKey)
	if !ok {
		return keyPair{}, errors.New("the token's key is no Ed25519 key")
	}
	return keyPair{Period: p.Number, Public: public}, nil
}

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
	s.Do(func(seed []byte) { copy(public, ed25519.NewKeyFromSeed(seed)[ed25519.SeedSize:]) })
	return public
}

// signer returns the key, which is on the heap as long as it is used, and erased
// when that is over.
func (s *seed) signer() (key ed25519.PrivateKey) {
	s.Do(func(seed []byte) { key = ed25519.NewKeyFromSeed(seed) })
	return key
}

// takeSeeds returns the seeds in raw, in their order, and blanks them there. What
// is not as encode writes it stays, and is refused when raw is decoded.
func takeSeeds(raw []byte) (seeds []*seed) {
	decoded := locked.New(base64.StdEncoding.DecodedLen(len(blankSeed)))
	defer decoded.Wipe()
	for _, at := range seedText.FindAllSubmatchIndex(raw, -1) {
		text := raw[at[2]:at[3]]
		var err error
		decoded.Do(func(seed []byte) { _, err = base64.StdEncoding.Strict().Decode(seed, text) })
		if err != nil {
			continue
		}
		s := newSeed()
		decoded.Use(func(decoded []byte) { s.Use(func(seed []byte) { copy(seed, decoded) }) })
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
		k.Seed.Do(func(seed []byte) { base64.StdEncoding.Encode(text, seed) })
	}
}

// encode writes f as its file has it. The caller wipes that.
func (f *keysFile) encode() (*locked.Buffer, error) {
	text, err := encode(f)
	if err != nil {
		return nil, err
	}
	raw := locked.Copy(text)
	raw.Use(f.fillSeeds)
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
