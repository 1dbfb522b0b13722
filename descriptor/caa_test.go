package descriptor

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParseCAA(t *testing.T) {
	for text, want := range map[string]CAA{
		`0 issue ca.example`: {0, "issue", "ca.example"},
		`128 issue "ca.example;validationmethods=onion-csr-01"`: {128, "issue", "ca.example;validationmethods=onion-csr-01"},
		`  0   issue   "a  b" `:                                 {0, "issue", "a  b"},
		`0 iodef ""`:                                            {0, "iodef", ""},
		`255 ISSUE ;`:                                           {255, "ISSUE", ";"},
		`0 issue "\"\\\a"`:                                      {0, "issue", `"\a`},
		`0 issue a\ b`:                                          {0, "issue", "a b"},
	} {
		if got, err := ParseCAA(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		``, `0`, `0 issue`, `0 issue `, `issue ca.example`, `256 issue a`, `-1 issue a`, `00 issue a`, `0 is-sue a`, `0 issue a b`, `0 issue "a`, `0 issue a"`,
		`0 issue "a"b`, `0 issue "a" b`, `0 issue "a\`, `0 issue \032`, "0 issue \u00e9", "0 issue a\tb", "0 issue \"a\x00\"", "0\tissue a",
	} {
		if got, err := ParseCAA(text); err == nil {
			t.Errorf("%q reads as %+v", text, got)
		}
	}
}

// TestEncodeCAA: the records stand where the proposal has them, and the first
// layer says that they are critical, once, if they are to be.
func TestEncodeCAA(t *testing.T) {
	s := newTestService(t, 1)
	c := torContents(testPoints(t, 1, seeded(1)))
	c.SingleOnion, c.CAA = true, []CAA{{128, "issue", "ca.example;validationmethods=onion-csr-01"}, {0, "iodef", "mailto:a@example"}}
	raw, err := s.encoder(t).Encode(c, 1, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	want := "create2-formats 2\nsingle-onion-service\n" +
		"caa 128 issue \"ca.example;validationmethods=onion-csr-01\"\ncaa 0 iodef \"mailto:a@example\"\nflow-control 1-2 31\nintroduction-point "
	if text := openForTest(t, raw, s.keys); !bytes.HasPrefix(text, []byte(want)) {
		t.Errorf("second layer %.200q, want %q", text, want)
	}
	plain := openFirstForTest(t, raw, s.keys)
	c.CAACritical = true
	other, err := s.encoder(t).Encode(c, 1, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	critical := openFirstForTest(t, other, s.keys)
	if strings.Contains(plain, "caa-critical") || strings.Count(critical, "\ncaa-critical\nencrypted\n") != 1 || len(raw) != len(other) {
		t.Errorf("first layers %q and %q", plain, critical)
	}
}

// openFirstForTest decrypts the first layer.
func openFirstForTest(t *testing.T, raw []byte, keys PeriodKeys) string {
	t.Helper()
	o, err := parseOuter(raw)
	if err != nil {
		t.Fatal(err)
	}
	text, err := layerSecret{keys: &keys, revision: o.revision, constant: firstConstant}.open(o.blob)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDecodeCAA: as for clients, no CAA line is a fault.
func TestDecodeCAA(t *testing.T) {
	l, err := parseSecond([]byte("create2-formats 2\ncaa 0 issue\ncaa 0 issue a b\ncaa\ncaa 0 issue a\n-----BEGIN X-----\nAAAA\n-----END X-----\n" +
		"caa 0 issue ca.example\n" + strings.Repeat("caa 0 issue \"\"\n", 40)))
	if err != nil {
		t.Fatal(err)
	}
	if want := append([]CAA{{0, "issue", "ca.example"}}, slices.Repeat([]CAA{{0, "issue", ""}}, maxWords-1)...); !reflect.DeepEqual(l.contents.CAA, want) {
		t.Errorf("records %+v", l.contents.CAA)
	}
	first := renderFirst(&firstLayer{clients: make([]AuthClient, 1), caaCritical: true, blob: []byte("blob")})
	first = bytes.Replace(first, []byte("caa-critical\n"), []byte("caa-critical\ncaa-critical x\n"), 1)
	if f, err := parseFirst(first); err != nil || !f.caaCritical {
		t.Errorf("caa-critical twice: %+v, %v", f, err)
	}
}

// TestEncodeGolden pins the bytes of descriptors without CAA records.
func TestEncodeGolden(t *testing.T) {
	s := newTestService(t, 1)
	for _, test := range []struct {
		clients []AuthorizedClient
		want    string
	}{
		{nil, "352368dd38345cbbf4a364afe351f75314b90233267b2696c0e2cadd1bb10729"},
		{[]AuthorizedClient{{testX25519(t, seeded(3))}}, "368c2c2e1dc554286c09bef99d5b72f4cc47ee4e02b3d8e6ba3c53c54599fb62"},
	} {
		c := torContents(testPoints(t, 3, seeded(1)))
		c.Clients = test.clients
		raw, err := s.encoder(t).Encode(c, 7, seeded(2))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != test.want {
			t.Errorf("%d clients: other bytes, SHA-256 %x", len(test.clients), sum)
		}
	}
}

// TestEncodeClientsOrder: the same clients in another order, or one of them
// twice, leave the entries as they are; another list makes all of them again.
func TestEncodeClientsOrder(t *testing.T) {
	s := newTestService(t, 1)
	e, c := s.encoder(t), torContents(testPoints(t, 1, seeded(1)))
	clients := []AuthorizedClient{{testX25519(t, seeded(1))}, {testX25519(t, seeded(2))}, {testX25519(t, seeded(3))}}
	entries := func(list ...AuthorizedClient) string {
		c.Clients = list
		raw, err := e.Encode(c, 1, seeded(4))
		if err != nil {
			t.Fatal(err)
		}
		text, _, _ := strings.Cut(openFirstForTest(t, raw, s.keys), kwEncrypted)
		return text
	}
	before := entries(clients...)
	slices.Reverse(clients)
	if entries(append(clients, clients[0])...) != before {
		t.Error("another order made other entries")
	}
	if entries(clients[1:]...) == before {
		t.Error("another list kept the entries")
	}
}
