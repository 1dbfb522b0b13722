//go:build cgo

package module

import (
	"crypto/ed25519"
	"strings"

	"github.com/miekg/pkcs11"

	"onionbalancer/keystore/token"
)

// pair is an Ed25519 key pair.
type pair struct {
	key
	public ed25519.PublicKey
	shown  bool // public is, without login; known of a new pair alone
}

// Sign signs with an Ed25519 private key (CKM_EDDSA, which is Ed25519 of RFC
// 8032 for these keys) and returns 64 bytes, verified.
func (t *Token) Sign(o token.Object, message []byte) (signature []byte, err error) {
	err = t.do("signing with "+describe(o)+" on", func(s *session) error {
		p, err := s.pair(o)
		if err == nil {
			signature, err = s.sign(p, message)
		}
		return err
	})
	return signature, err
}

// pair finds a key pair, and remembers it as long as the session lasts.
func (s *session) pair(o token.Object) (*pair, error) {
	name := fullName(o)
	if p := s.pairs[name]; p != nil {
		return p, nil
	}
	k, err := s.key(o, ckkECEdwards)
	if err != nil {
		return nil, err
	}
	p, err := s.half(k)
	if err != nil {
		return nil, err
	}
	s.pairs[name] = p
	return p, nil
}

// fullName is a key of maps.
func fullName(o token.Object) string { return o.Label + "\x00" + string(o.ID) }

// half finds the other half of a private key.
func (s *session) half(k key) (*pair, error) {
	public, err := s.public(k)
	if err != nil {
		return nil, err
	}
	return &pair{key: k, public: public.(ed25519.PublicKey)}, nil // public returns what fits k.kind
}

// sign signs, and verifies what the token made: a token that errs must not have
// its signatures go out, for a wrong one can betray the key.
func (s *session) sign(p *pair, message []byte) ([]byte, error) {
	if err := s.calls.SignInit(s.handle, mechanism(ckmEdDSA, nil), p.handle); err != nil {
		return nil, failed("C_SignInit", err)
	}
	if err := s.consent(p.handle); err != nil {
		return nil, err
	}
	signature, err := s.calls.Sign(s.handle, message)
	if err != nil {
		return nil, failed("C_Sign", err)
	}
	if !ed25519.Verify(p.public, message, signature) {
		return nil, token.Errorf(token.CodeFailed, "the token's signature is not that of its public key %x: the halves do not belong together, or the token errs", p.public)
	}
	return signature, nil
}

// consent logs in once more if the key wants that for each use. It comes right
// after the operation's Init.
func (s *session) consent(handle pkcs11.ObjectHandle) error {
	special, known := s.special[handle]
	if !known {
		value, err := s.attribute(handle, pkcs11.CKA_ALWAYS_AUTHENTICATE)
		if err != nil {
			return err
		}
		special = yes(value)
		s.special[handle] = special
	}
	if !special {
		return nil
	}
	return s.login(s)
}

// SigningKeys lists the Ed25519 key pairs whose label begins with labelPrefix.
// Private keys without a public half are left out, and those of other curves.
func (t *Token) SigningKeys(labelPrefix string) (found []token.SigningKey, err error) {
	err = t.do("listing the signing keys on", func(s *session) error {
		found = nil
		keys, err := s.keys(pkcs11.CKO_PRIVATE_KEY, attr(pkcs11.CKA_KEY_TYPE, ckkECEdwards))
		if err != nil {
			return err
		}
		for _, k := range keys {
			if !strings.HasPrefix(k.object.Label, labelPrefix) {
				continue
			}
			p, err := s.half(k)
			if hasCode(err, token.CodeNoKey, token.CodeUnsupported) {
				continue
			}
			if err != nil {
				return err
			}
			found = append(found, token.SigningKey{Object: k.object, Public: p.public})
		}
		return nil
	})
	return found, err
}

// Destroy removes both halves of an Ed25519 key pair. It is no error if there
// is none.
func (t *Token) Destroy(o token.Object) error {
	return t.do("destroying "+describe(o)+" on", func(s *session) error {
		if o.Label == "" && len(o.ID) == 0 {
			return token.Errorf(token.CodeMisuse, "no key is named: add object= or id=")
		}
		private, public, err := s.halves(o)
		if err != nil {
			return err
		}
		if len(private) > 1 && (o.Label == "" || len(o.ID) == 0) {
			return token.Errorf(token.CodeNoKey, "there is more than one such key: name both object= and id=")
		}
		return s.destroy(append(private, public...))
	})
}

// halves finds the private and the public keys of Ed25519 that o means.
func (s *session) halves(o token.Object) (private, public []pkcs11.ObjectHandle, err error) {
	having := append(template(o), attr(pkcs11.CKA_KEY_TYPE, ckkECEdwards))
	private, err = s.objects(append(having, attr(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY))...)
	if err != nil {
		return nil, nil, err
	}
	public, err = s.objects(append(having, attr(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY))...)
	return private, public, err
}

// destroy destroys objects, all that it can.
func (s *session) destroy(handles []pkcs11.ObjectHandle) error {
	clear(s.pairs)
	clear(s.special)
	var first error
	for _, handle := range handles {
		if err := s.calls.DestroyObject(s.handle, handle); err != nil && first == nil {
			first = failed("C_DestroyObject", err)
		}
	}
	return first
}
