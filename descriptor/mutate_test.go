package descriptor

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// sealText signs and encrypts a second layer that Encode would never write.
func sealText(t testing.TB, s testService, text []byte, revision uint64) []byte {
	t.Helper()
	e := s.encoder(t)
	auth, err := e.authFor(nil, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	room := &layerRoom{second: append(append(make([]byte, saltSize), text...), make([]byte, macSize)...)}
	if err := (layerSecret{keys: &s.keys, revision: revision, constant: secondConstant}).seal(room.second); err != nil {
		t.Fatal(err)
	}
	if err := e.sealFirst(room, auth, false, revision, seeded(2)); err != nil {
		t.Fatal(err)
	}
	raw, err := e.signWhole(room.first, revision, e.signWith(nil), seeded(3))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// checkSealed decodes a sealed text and holds Decode to what it promises.
func checkSealed(t testing.TB, s testService, text []byte) *Descriptor {
	t.Helper()
	d, err := new(Decoder).Decode(sealText(t, s, text, 9), s.keys, nil, testNow)
	if err != nil {
		if p := (*ParseError)(nil); !errors.As(err, &p) {
			t.Errorf("%v is no parse error", err)
		}
		return nil
	}
	if len(d.IntroductionPoints) > MaxIntroductionPoints || len(d.Dropped) > maxDropped {
		t.Errorf("%d points, %d dropped", len(d.IntroductionPoints), len(d.Dropped))
	}
	again := d.Contents
	again.IntroductionPoints = slices.DeleteFunc(slices.Clone(again.IntroductionPoints), func(p IntroductionPoint) bool { return p.Legacy })
	if len(again.IntroAuthRequired) > 0 && again.IntroAuthRequired[0] != introAuthWord {
		return d // which tor would refuse
	}
	raw, err := s.encoder(t).Encode(&again, 10, seeded(3))
	if errors.Is(err, ErrTooLarge) {
		return d
	}
	if err != nil {
		t.Fatalf("what was accepted cannot be published: %v\n%s", err, text)
	}
	d2, err := new(Decoder).Decode(raw, s.keys, nil, testNow)
	if err != nil {
		t.Fatalf("what was encoded is refused: %v", err)
	}
	if len(d2.IntroductionPoints) != len(again.IntroductionPoints) {
		t.Errorf("%d points, encoded %d", len(d2.IntroductionPoints), len(again.IntroductionPoints))
	}
	return d
}

// TestMutateLines damages the second layer line by line and byte by byte. The
// decoder may accept or refuse, but what it accepts it stands for.
func TestMutateLines(t *testing.T) {
	s := newTestService(t, 1)
	raw, err := s.encoder(t).Encode(torContents(testPoints(t, 2, seeded(1))), 9, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	text := openForTest(t, raw, s.keys)
	lines := bytes.SplitAfter(text, []byte("\n"))
	rng := rand.New(rand.NewPCG(3, 4))
	whole, damaged, refused := 0, 0, 0
	count := func(mutant []byte) {
		switch d := checkSealed(t, s, mutant); {
		case d == nil:
			refused++
		case len(d.IntroductionPoints) < 2:
			damaged++
		default:
			whole++
		}
	}
	for i := range lines {
		without := bytes.Join(slices.Delete(slices.Clone(lines), i, i+1), nil)
		twice := bytes.Join(slices.Insert(slices.Clone(lines), i, lines[i]), nil)
		swapped := slices.Clone(lines)
		j := rng.IntN(len(lines))
		swapped[i], swapped[j] = swapped[j], swapped[i]
		for _, mutant := range [][]byte{without, twice, bytes.Join(swapped, nil)} {
			if len(mutant) > 0 {
				count(mutant)
			}
		}
	}
	for range 400 {
		mutant := bytes.Clone(text)
		mutant[rng.IntN(len(mutant))] ^= 1 << rng.IntN(8)
		count(mutant)
	}
	if whole == 0 || damaged < 100 || refused < 50 {
		t.Errorf("%d mutants accepted whole, %d with points dropped, %d refused: the mutations do not reach what they should", whole, damaged, refused)
	}
}

// TestMutateRaw changes single bits of what came over the wire: the signature
// covers all of it.
func TestMutateRaw(t *testing.T) {
	s := newTestService(t, 1)
	raw, err := s.encoder(t).Encode(torContents(testPoints(t, 2, seeded(1))), 9, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for i := 0; i < len(raw)-1; i += 1 + rng.IntN(9) { // the last newline may as well be missing
		mutant := bytes.Clone(raw)
		mutant[i] ^= 1 << rng.IntN(8)
		if _, err := new(Decoder).Decode(mutant, s.keys, nil, testNow); err == nil {
			t.Errorf("byte %d changed from %q to %q: accepted", i, raw[i], mutant[i])
		}
	}
	for i := 0; i < len(raw)-1; i += 97 {
		if _, err := new(Decoder).Decode(raw[:i], s.keys, nil, testNow); err == nil {
			t.Errorf("cut to %d bytes: accepted", i)
		}
	}
}
