package cluster

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"onionbalancer/internal/locked/lockedtest"
	"onionbalancer/internal/state"
)

func testSealer(t testing.TB, key *Key, cluster string) *sealer {
	t.Helper()
	s, err := newSealer(key, cluster)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSeal(t *testing.T) {
	key := NewKey()
	s := testSealer(t, key, "main")
	for _, size := range []int{0, 1, 255, 256, 10_000} {
		for _, name := range []state.Key{"k", state.Key(strings.Repeat("k", 512))} {
			value := bytes.Repeat([]byte{7}, size)
			at := s.name(name)
			sealed := s.seal(at, name, value)
			if len(sealed) != sealedSize(name, value) || (len(sealed)-headerSize-16)%256 != 0 {
				t.Errorf("%d bytes are sealed in %d", size, len(sealed))
			}
			if o := s.open([]Item{{Key: at, Value: sealed}})[0]; o.err != nil || o.key != name || !bytes.Equal(o.value, value) || o.value == nil {
				t.Errorf("%d bytes: %v", size, o.err)
			}
			if again := s.seal(at, name, value); bytes.Equal(again[:headerSize], sealed[:headerSize]) {
				t.Error("the same nonce twice")
			}
		}
	}
}

// What was sealed for one name of one cluster opens nowhere else, and not if a bit is changed.
func TestOpenRefuses(t *testing.T) {
	key := NewKey()
	s := testSealer(t, key, "main")
	at := s.name("k")
	sealed := s.seal(at, "k", []byte("value"))
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 4
		want := state.ErrDamaged
		if i == 0 {
			want = state.ErrNewer
		}
		if o := s.open([]Item{{Key: at, Value: changed}})[0]; !errors.Is(o.err, want) || o.key != "" || o.value != nil {
			t.Fatalf("byte %d changed: %v", i, o.err)
		}
	}
	other := NewKey()
	for what, open := range map[string]func() opened{
		"another name":    func() opened { return s.open([]Item{{Key: s.name("l"), Value: sealed}})[0] },
		"another cluster": func() opened { return testSealer(t, key, "other").open([]Item{{Key: at, Value: sealed}})[0] },
		"another key":     func() opened { return testSealer(t, other, "main").open([]Item{{Key: at, Value: sealed}})[0] },
		"cut off":         func() opened { return s.open([]Item{{Key: at, Value: sealed[:headerSize+15]}})[0] },
		"nothing":         func() opened { return s.open([]Item{{Key: at}})[0] },
		"a layout of 0":   func() opened { return s.open([]Item{{Key: at, Value: append([]byte{0}, sealed[1:]...)}})[0] },
		"an older layout": func() opened { return s.open([]Item{{Key: at, Value: s.seal(at, "k", nil)[1:]}})[0] },
	} {
		if o := open(); !errors.Is(o.err, state.ErrDamaged) && !errors.Is(o.err, state.ErrNewer) {
			t.Errorf("%s: %v", what, o.err)
		}
	}
	// One damaged value is no one else's error.
	if all := s.open([]Item{{Key: at, Value: sealed}, {Key: at}, {Key: at, Value: sealed}}); all[0].err != nil || all[1].err == nil || all[2].err != nil {
		t.Errorf("%v", all)
	}
}

// What follows from a key must never change: it is in engines. The key is 64 bytes from 0 on.
func TestNames(t *testing.T) {
	key, err := ParseKey([]byte(keyWord + "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw"))
	if err != nil {
		t.Fatal(err)
	}
	s := testSealer(t, key, "main")
	if got, want := s.name("service/a"), "/balancer/l6iouozofo4yixw3qlazskscio/zpc3qlhrc74akjjynnr6paf3s7"; got != want {
		t.Errorf("name %s, want %s", got, want)
	}
	at := s.name("service/a")
	if o := s.open([]Item{{Key: at, Value: unhex(t, "018ab06af36465666768696a6b6c6d6e6f707172737475767778797a7b8e6bbc6636f46c4f17b48989186dac39b9d09a014e43b47c3931870d941dd1"+
		"d0fea7a045656dff4d03b6ac78342b715dedaaddfe92adee3e63a51aa7c8edde5a4ba6cac0bb91189f28faf0d933f874a86ff384f795e1df2293049f"+
		"c55149e1cd8935f714ba4fbb7ca292143c45b9f8878ecb9bad0db7d7ea3258b0e53bb40c3aa95eb656157614381af04cd8d3cba4718cc29e7e9ba707"+
		"efca047f143df59c575f2be64ee3defc04bb7c9f72319e1b06a18e78b5071132a1b1ae7cef037bd424b4386a13a4f8daeb3fb778092179d2dfbf3baa"+
		"2f2ce5bf8769e5fe4dd4e80377e6cdc64a6380ad9f469c149834fc5e80a119fff71da5563ec5651069920e818ed16c43ae5268a9adb4356bde7f37c2"+
		"97")}})[0]; o.err != nil || o.key != "service/a" || string(o.value) != "value" {
		t.Errorf("%q, %q, %v", o.key, o.value, o.err)
	}
}

// What comes out of a box is checked, though whoever sealed it had the key.
func TestUnpack(t *testing.T) {
	for _, plain := range []string{"", "\x00", "\x00\x02k\x00\x00\x00", "\x00\x01k\x00\x00\x00\x02v", "\x00\x01k\xff\xff\xff\xffv", "\x00\x01k\x00\x00\x00\x01vx", "\xff\xff"} {
		if key, value, err := unpack([]byte(plain)); !errors.Is(err, state.ErrDamaged) || key != "" || value != nil {
			t.Errorf("%q: %q, %q, %v", plain, key, value, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	key := NewKey()
	s := testSealer(f, key, "main")
	at := s.name("k")
	sealed := s.seal(at, "k", []byte("value"))
	f.Add(sealed)
	f.Add(sealed[:headerSize])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, value []byte) {
		o := s.open([]Item{{Key: at, Value: value}})[0]
		if (o.err == nil) != bytes.Equal(value, sealed) || o.err != nil && (o.key != "" || o.value != nil) {
			t.Errorf("%x opened: %q, %v", value, o.value, o.err)
		}
	})
}

// FuzzUnpack looks at boxes as if they had opened, where packing again gives the same.
func FuzzUnpack(f *testing.F) {
	f.Add([]byte("\x00\x01k\x00\x00\x00\x01v\x00\x00"))
	f.Fuzz(func(t *testing.T, plain []byte) {
		key, value, err := unpack(plain)
		if err == nil && !bytes.HasPrefix(plain, pack(nil, key, value)) {
			t.Errorf("%x is %q and %x", plain, key, value)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	two, err := NewKey().Add()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(lockedtest.Bytes(two.Text()))
	f.Add(lockedtest.Bytes(NewKey().Text()))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := ParseKey(text)
		if err == nil && strings.TrimSuffix(string(lockedtest.Bytes(key.Text())), "\n") != strings.TrimSuffix(string(text), "\n") {
			t.Errorf("%q is written differently", text)
		}
	})
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
