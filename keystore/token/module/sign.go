//go:build cgo

package module

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
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

// sign signs, and verifies the token's signature: a faulty signature must not be
// published, since it can betray the key.
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

// consent logs in again if the key requires that for each use. It is called right
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

// Destroy removes both halves of an Ed25519 key pair. It is not an error if there
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

// curves are the two ways to say Ed25519 in CKA_EC_PARAMS: its object identifier
// (RFC 8410), and its name, which PKCS #11 3.0 has beside it. Tokens know one or both.
var curves = [][]byte{
	{0x06, 0x03, 0x2b, 0x65, 0x70},
	append([]byte{0x13, 0x0c}, "edwards25519"...),
}

// Generate makes an Ed25519 key pair in the token, whose private half cannot
// leave it, and tries it out. Label and ID must both be given; a pair that has
// both already is an error, and half a pair is replaced.
func (t *Token) Generate(o token.Object) (made token.SigningKey, err error) {
	if o.Label == "" || len(o.ID) == 0 {
		return made, token.Errorf(token.CodeMisuse, "making a key: it needs both a label and an ID")
	}
	name := fullName(o)
	err = t.do("making "+describe(o)+" on", func(s *session) error {
		if err := s.vacate(o, t.begun[name]); err != nil {
			return err
		}
		t.begun[name] = true
		p, err := s.generate(o)
		if err != nil {
			return err
		}
		delete(t.begun, name)
		made = token.SigningKey{Object: o, Public: p.public, Shown: p.shown}
		return nil
	})
	return made, err
}

// vacate makes room for a key: it removes half a pair, or a whole one if it is
// from an attempt of ours.
func (s *session) vacate(o token.Object, ours bool) error {
	private, public, err := s.halves(o)
	if err != nil {
		return err
	}
	for _, handle := range private {
		_, err := s.half(key{handle: handle, kind: ckkECEdwards, object: o})
		if err == nil && !ours {
			return token.Errorf(token.CodeMisuse, "there is such a key already")
		}
		if err != nil && !hasCode(err, token.CodeNoKey) {
			return err
		}
	}
	return s.destroy(append(private, public...))
}

// generate makes the pair and checks it. If a check fails, it is destroyed. The
// public half is hidden until login if the token allows it, since it is in
// the descriptors that everybody who knows the address can fetch.
func (s *session) generate(o token.Object) (*pair, error) {
	var public, private pkcs11.ObjectHandle
	var err error
	for _, way := range []struct {
		curve  []byte
		hidden bool
	}{{curves[0], true}, {curves[1], true}, {curves[0], false}, {curves[1], false}} {
		public, private, err = s.calls.GenerateKeyPair(s.handle, mechanism(ckmECEdwardsKeyPairGen, nil),
			append(template(o),
				attr(pkcs11.CKA_EC_PARAMS, way.curve),
				attr(pkcs11.CKA_TOKEN, true),
				attr(pkcs11.CKA_PRIVATE, way.hidden),
				attr(pkcs11.CKA_VERIFY, true)),
			append(template(o),
				attr(pkcs11.CKA_TOKEN, true),
				attr(pkcs11.CKA_PRIVATE, true),
				attr(pkcs11.CKA_SENSITIVE, true),
				attr(pkcs11.CKA_EXTRACTABLE, false),
				attr(pkcs11.CKA_SIGN, true)))
		err = failed("C_GenerateKeyPair", err)
		if err == nil || stale(err) || gone(err) || is(err, pkcs11.CKR_MECHANISM_INVALID) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	p, err := s.approve(key{handle: private, kind: ckkECEdwards, object: o})
	if err == nil {
		var hidden []byte
		hidden, err = s.attribute(public, pkcs11.CKA_PRIVATE)
		p.shown = !yes(hidden)
	}
	if err != nil {
		_ = s.destroy([]pkcs11.ObjectHandle{private, public}) // or the next attempt does
		return nil, err
	}
	return p, nil
}

// approve checks that a new key cannot leave the token and has the right attributes,
// and signs.
func (s *session) approve(k key) (*pair, error) {
	if err := s.guarded(k); err != nil {
		return nil, err
	}
	p, err := s.half(k)
	if err != nil {
		return nil, err
	}
	challenge := make([]byte, 32)
	rand.Read(challenge)
	if _, err := s.sign(p, fmt.Appendf(nil, "balancer self-test %x", challenge)); err != nil {
		return nil, err
	}
	return p, nil
}

// guarded refuses a private or secret key that could leave the token.
func (s *session) guarded(k key) error {
	sensitive, err := s.attribute(k.handle, pkcs11.CKA_SENSITIVE)
	if err != nil {
		return err
	}
	extractable, err := s.attribute(k.handle, pkcs11.CKA_EXTRACTABLE)
	if err != nil {
		return err
	}
	if yes(sensitive) && no(extractable) {
		return nil
	}
	say := func(value []byte) string {
		switch {
		case yes(value):
			return "true"
		case no(value):
			return "false"
		}
		return "untold"
	}
	return token.Errorf(token.CodeExposed, "the key could leave the token (CKA_SENSITIVE is %s, CKA_EXTRACTABLE is %s), which would make it no safer than a file: %s",
		say(sensitive), say(extractable), recipe(k.kind))
}

// recipe says how to make a key of this kind that stays on the token.
func recipe(kind uint) string {
	options := map[uint]string{
		pkcs11.CKK_AES: "--keygen --key-type AES:32 --sensitive",
		pkcs11.CKK_RSA: "--keypairgen --key-type rsa:3072 --usage-decrypt",
		pkcs11.CKK_EC:  "--keypairgen --key-type EC:prime256v1 --usage-derive",
		ckkECEdwards:   "--keypairgen --key-type EC:edwards25519 --usage-sign",
	}[kind]
	return "make another with pkcs11-tool --login " + options + " --label LABEL --id ID, without --extractable"
}
