package onioncaa

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// TestExample: the example of RFC 9799, section 6.4.2, verifies, without the padding
// that it has and ACME does not.
func TestExample(t *testing.T) {
	address, err := descriptor.ParseAddress("5anebu2glyc235wbbop3m2ukzlaptpkq333vdtdvcjpigyb7x2i2m2qd.onion")
	if err != nil {
		t.Fatal(err)
	}
	var records []descriptor.CAA
	for _, text := range []string{`128 issue "test.acmeforonions.org; validationmethods=onion-csr-01"`, `0 iodef "mailto:example@example.com"`} {
		record, err := descriptor.ParseCAA(text)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, record)
	}
	text := descriptor.CAAText(records)
	s := Set{CAA: &text, Expiry: 1697210719, Signature: "u_iP6JZ4JZBrzQUKH6lSrWejjRfeQmkTuehc0_FaaTNPAV0RVxpUz9r44DRdy6kgy0ofnx18KIhMrP7N1wpxAA"}
	if err := s.Verify(address); err != nil {
		t.Error(err)
	}
	for _, bad := range []Set{
		{&text, s.Expiry + 1, s.Signature}, {nil, s.Expiry, s.Signature}, {&text, s.Expiry, s.Signature[1:]}, {&text, s.Expiry, ""}, {&s.Signature, s.Expiry, s.Signature},
	} {
		if bad.Verify(address) == nil {
			t.Errorf("%+v verifies", bad)
		}
	}
	// The same message is made again.
	_, err = Sign(address, records, time.Unix(1697210719, 999), time.Unix(1697210719-60, 0), func(message []byte) ([]byte, error) {
		return base64.RawURLEncoding.DecodeString(s.Signature)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestSign(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	address, now := descriptor.Address(public), time.Unix(1_900_000_000, 0)
	sign := func(m []byte) ([]byte, error) { return ed25519.Sign(private, m), nil }
	s, err := Sign(address, nil, now.Add(MaxLife), now, sign)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := base64.RawURLEncoding.DecodeString(s.Signature)
	if err != nil || !ed25519.Verify(public, []byte("onion-caa|1900028800|"), signature) {
		t.Errorf("no records: %v, %+v", err, s)
	}
	if out, err := json.Marshal(s); err != nil || !strings.HasPrefix(string(out), `{"caa":null,"expiry":1900028800,"signature":"`) {
		t.Errorf("%s, %v", out, err)
	}
	record := descriptor.CAA{Tag: "issue", Value: "ca.example"}
	trouble := errors.New("no token")
	for want, err := range map[string]error{
		"at most 8h0m0s":    second(Sign(address, nil, now.Add(MaxLife+time.Second), now, sign)),
		"expired":           second(Sign(address, nil, now, now, sign)),
		"more than 32":      second(Sign(address, make([]descriptor.CAA, 33), now.Add(1), now, sign)),
		"letters":           second(Sign(address, []descriptor.CAA{{Value: "x"}}, now.Add(1), now, sign)),
		"no token":          second(Sign(address, []descriptor.CAA{record}, now.Add(1), now, func([]byte) ([]byte, error) { return nil, trouble })),
		"not by the key of": second(Sign(address, []descriptor.CAA{record}, now.Add(1), now, func([]byte) ([]byte, error) { return signature, nil })),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func second(_ Set, err error) error { return err }
