//go:build cgo

package module

import (
	"crypto/rand"
	"fmt"

	"github.com/miekg/pkcs11"

	"onionbalancer/keystore/token"
)

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

// generate makes the pair and checks it. What does not pass is destroyed. The
// public half is hidden until login where the token lets it be, for it stands in
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

// approve checks that a new key cannot leave the token, is what was asked for,
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
