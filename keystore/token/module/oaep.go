//go:build cgo

package module

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // for OAEP, where collisions do not matter
	_ "crypto/sha256"

	"github.com/miekg/pkcs11"

	"onionbalancer/internal/locked"
)

// oaep is RSA-OAEP with one hash in both places, and no label, which SoftHSM
// does not take.
type oaep struct {
	hash      crypto.Hash
	mechanism uint // CKM_… of the hash
	mask      uint // CKG_… of MGF1 with the hash
}

var (
	oaepSHA256 = oaep{crypto.SHA256, pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256}
	oaepSHA1   = oaep{crypto.SHA1, pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1}
)

// wrap returns as many bytes as the modulus has. The token is only asked for
// its public key.
func (o oaep) wrap(s *session, k key, plain []byte) (wrapped []byte, err error) {
	public, err := s.public(k)
	if err != nil {
		return nil, err
	}
	locked.Do(func() {
		wrapped, err = rsa.EncryptOAEP(o.hash.New(), rand.Reader, public.(*rsa.PublicKey), plain, nil)
	})
	return wrapped, err
}

func (o oaep) unwrap(s *session, k key, wrapped []byte) (*locked.Buffer, error) {
	public, err := s.public(k)
	if err != nil {
		return nil, err
	}
	if len(wrapped) != public.(*rsa.PublicKey).Size() {
		return nil, errDamaged()
	}
	parameters := pkcs11.NewOAEPParams(o.mechanism, o.mask, pkcs11.CKZ_DATA_SPECIFIED, nil)
	return s.decrypt(k, mechanism(pkcs11.CKM_RSA_PKCS_OAEP, parameters), wrapped)
}
