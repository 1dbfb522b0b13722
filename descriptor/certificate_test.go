package descriptor

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestCertificateVectors(t *testing.T) {
	file := loadJSON[struct {
		Certificates []struct {
			Name   string     `json:"name"`
			Raw    hexBytes   `json:"certificate"`
			Expect string     `json:"expect"`
			Fields certVector `json:"fields"`
			EncKey hexBytes   `json:"x25519_enc_key"`
			Signer hexBytes   `json:"descriptor_signing_key"`
		} `json:"certificates"`
	}](t, "certs.json")
	enough(t, "certificates", len(file.Certificates), 46)
	for _, v := range file.Certificates {
		t.Run(v.Name, func(t *testing.T) {
			c, err := ParseCertificate(v.Raw)
			if strings.HasPrefix(v.Expect, "reject") {
				if err == nil {
					t.Fatalf("accepted, want: %s", v.Expect)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(c.Bytes(), v.Raw) {
				t.Error("other bytes")
			}
			checkCertificate(t, c, v.Fields)
			if v.EncKey != nil && !isEdwardsOf(c.Key(), v.EncKey.key()) {
				t.Error("not the Ed25519 form of the enc-key")
			}
			if v.EncKey != nil && edwardsFromX25519(v.EncKey.key()) != c.Key() {
				t.Error("another Ed25519 form of the enc-key")
			}
			if v.Signer != nil {
				if err := c.Verify(v.Signer.key(), c.Expires()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func checkCertificate(t *testing.T, c Certificate, want certVector) {
	t.Helper()
	if byte(c.Type()) != want.Type || c.Expires().Unix() != want.Hours*3600 || c.KeyType() != want.KeyType || c.Key() != want.Key.key() {
		t.Errorf("type %02X, expires %v, key type %d, key %x", byte(c.Type()), c.Expires(), c.KeyType(), c.Key())
	}
	signer, named := c.SigningKey()
	if named != (want.SigningKey != nil) || named && signer != want.SigningKey.key() {
		t.Errorf("signing key %x", signer)
	}
	if !bytes.Equal(c.Signature(), want.Signature) {
		t.Errorf("signature %x", c.Signature())
	}
	exts := c.Extensions()
	if len(exts) != len(want.Extensions) {
		t.Fatalf("%d extensions, want %d", len(exts), len(want.Extensions))
	}
	for i, w := range want.Extensions {
		if exts[i].Type != w.Type || exts[i].Flags != w.Flags || !bytes.Equal(exts[i].Data, w.Data) {
			t.Errorf("extension %d: %v", i, exts[i])
		}
	}
	if want.Valid == nil {
		return
	}
	// A key of another type is refused even under a right signature.
	valid := *want.Valid && want.KeyType == certKeyEd25519
	if err := c.Verify(signer, c.Expires()); (err == nil) != valid {
		t.Errorf("verifying: %v", err)
	}
	if valid && c.Verify(signer, c.Expires().Add(time.Second)) == nil {
		t.Error("valid after its expiry")
	}
}

func TestSigningCertExpiry(t *testing.T) {
	whole := time.Date(2026, 11, 20, 6, 0, 0, 0, time.UTC)
	for _, c := range []struct{ now, want time.Time }{
		{whole, whole.Add(54 * time.Hour)},
		{whole.Add(time.Second), whole.Add(55 * time.Hour)},
		{whole.Add(59 * time.Minute), whole.Add(55 * time.Hour)},
	} {
		if got := SigningCertExpiry(c.now); !got.Equal(c.want) {
			t.Errorf("made at %v: expires at %v, want %v", c.now, got, c.want)
		}
	}
}
