package helper

import (
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
)

// masking is a token that wraps by a mask, until something happens.
type masking struct {
	nothingHSM
	calls   int
	happens map[int]func() error // at which call of Unwrap
}

func (m *masking) Unwrap(_ token.Object, _ token.Method, wrapped []byte) (*locked.Buffer, error) {
	m.calls++
	if f := m.happens[m.calls]; f != nil {
		return nil, f()
	}
	for i := range wrapped {
		wrapped[i] ^= 0x5a
	}
	return locked.Copy(wrapped), nil
}

func mask(_ token.Method, plain *locked.Buffer) (wrapped []byte, err error) {
	plain.Use(func(plain []byte) {
		for _, b := range plain {
			wrapped = append(wrapped, b^0x5a)
		}
	})
	return wrapped, nil
}

// TestCertifyMany asks for certificates by files of three data keys: what happens to one
// data key does nothing to the files of another, unless the token is gone.
func TestCertifyMany(t *testing.T) {
	const groups = "aabca" // of files with the same data key, each by a letter
	for _, test := range []struct {
		name    string
		happens map[int]func() error
		failing string // these groups
		code    token.Code
		calls   int
	}{
		{"in order", nil, "", "", 3},
		{"damaged", map[int]func() error{2: func() error { return token.Errorf(token.CodeDamaged, "damaged") }}, "b", token.CodeDamaged, 3},
		{"a panic", map[int]func() error{2: func() error { panic("seven") }}, "b", token.CodeFailed, 3},
		{"pulled out", map[int]func() error{2: func() error { return token.Errorf(token.CodeAbsent, "gone") }}, "bc", token.CodeAbsent, 2},
		{"never there", map[int]func() error{1: func() error { return token.Errorf(token.CodeAbsent, "gone") }}, "abc", token.CodeAbsent, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			hsm := &masking{nothingHSM: nothingHSM{nothing: new(nothing)}, happens: test.happens}
			signing := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
			request := token.Request{Op: token.OpCertify}
			var addresses []descriptor.Address
			dataKeys := map[rune]*sealed.DataKey{}
			for _, group := range groups {
				if dataKeys[group] == nil {
					var err error
					with := token.WrappingKey{Object: token.Object{Label: "o"}, Methods: []token.Method{token.MethodAESGCM}}
					if dataKeys[group], err = sealed.NewDataKey(token.Selector{}, with, mask, rand.Reader); err != nil {
						t.Fatal(err)
					}
				}
				address, file := sealNew(t, dataKeys[group])
				addresses = append(addresses, address)
				request.Certify = append(request.Certify, token.Order{
					Size: len(file), Period: testPeriod, Signing: signing, Expiries: descriptor.Expiries{First: testPeriod.End(0), Count: 3},
				})
				request.Data = append(request.Data, file...)
			}
			response, secret := (&server{hsm: hsm}).answer(request, nil)
			if response.Error != nil || len(response.Certified) != len(groups) || hsm.calls != test.calls {
				t.Fatalf("%d calls of the token, want %d; %+v", hsm.calls, test.calls, response)
			}
			good, data := 0, response.Data
			for i, c := range response.Certified {
				if strings.ContainsRune(test.failing, rune(groups[i])) {
					if c.Error == nil || c.Error.Code != test.code || c.Size != 0 || strings.Contains(c.Error.Text, "seven") {
						t.Errorf("file %d: %+v, want an error of %q", i, c, test.code)
					}
					continue
				}
				if c.Error != nil {
					t.Errorf("file %d: %v", i, c.Error)
					continue
				}
				good++
				certs, err := descriptor.ParseHourly(data[:c.Size])
				data = data[c.Size:]
				blinded, blindErr := addresses[i].Blind(testPeriod)
				if err != nil || blindErr != nil || certs.Verify(blinded, certs.Expires()) != nil {
					t.Errorf("file %d: not its certificates; %v", i, err)
				}
			}
			if len(data) > 0 || (secret != nil) != (good > 0) || good > 0 && secret.Len() != good*token.RevisionSize {
				t.Errorf("%d bytes of certificates left, %d good ones, secret %v", len(data), good, secret)
			}
		})
	}
}

var testPeriod = descriptor.Period{Number: 20777, Length: 24 * time.Hour}

// sealNew seals a new key.
func sealNew(t *testing.T, by *sealed.DataKey) (descriptor.Address, []byte) {
	t.Helper()
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed)
	key, err := descriptor.IdentityKeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	file, err := by.Seal(key, time.Unix(1750000000, 0), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := file.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return key.Address(), raw
}
