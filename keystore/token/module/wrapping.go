//go:build cgo

package module

import (
	"crypto/rand"
	"crypto/rsa"
	"strings"

	"github.com/miekg/pkcs11"

	"onionbalancer/internal/locked"
	"onionbalancer/keystore/token"
)

// secretSize is the size of the wrapped secret: a data key.
const secretSize = 32

// method implements one Method. wrap takes 32 bytes; unwrap returns them.
type method struct {
	name   token.Method
	wrap   func(s *session, k key, plain []byte) ([]byte, error)
	unwrap func(s *session, k key, wrapped []byte) (*locked.Buffer, error)
}

// methods are the methods of a type of key, in token's order of preference.
var methods = map[uint][]method{
	pkcs11.CKK_AES: {
		{token.MethodAESGCM, wrapGCM, unwrapGCM},
		{token.MethodAESKeyWrap, wrapRFC3394, unwrapRFC3394},
	},
	pkcs11.CKK_RSA: {
		{token.MethodOAEPSHA256, oaepSHA256.wrap, oaepSHA256.unwrap},
		{token.MethodOAEPSHA1, oaepSHA1.wrap, oaepSHA1.unwrap},
	},
	pkcs11.CKK_EC: {
		{token.MethodECDHP256, wrapECDH, unwrapECDH},
	},
}

// wrappingKey finds the AES, RSA or EC key that o means.
func (s *session) wrappingKey(o token.Object) (key, error) {
	return s.key(o, pkcs11.CKK_AES, pkcs11.CKK_RSA, pkcs11.CKK_EC)
}

// method returns how k does the method of that name.
func (k key) method(name token.Method) (method, error) {
	for _, m := range methods[k.kind] {
		if m.name == name {
			return m, nil
		}
	}
	return method{}, token.Errorf(token.CodeUnsupported, "method %q is not for %s keys", name, kindName(k.kind))
}

// WrappingKey finds a key that can wrap, refuses it if it could leave the token,
// and tests it with a random value: tokens claim more than they can do.
func (t *Token) WrappingKey(o token.Object) (found token.WrappingKey, err error) {
	broken := map[token.Method]bool{}
	err = t.do("looking at "+describe(o)+" on", func(s *session) error {
		found = token.WrappingKey{}
		k, err := s.wrappingKey(o)
		if err != nil {
			return err
		}
		if err := s.fit(k); err != nil {
			return err
		}
		found.Object = k.object
		var reasons []string
		for _, m := range methods[k.kind] {
			err := s.try(m, k)
			switch {
			case err == nil:
				found.Methods = append(found.Methods, m.name)
			case fatal(err):
				return err
			case vague(err) && !broken[m.name]:
				broken[m.name] = true // once more, with a new session
				return err
			default:
				reasons = append(reasons, string(m.name)+": "+err.Error())
			}
		}
		if len(found.Methods) > 0 {
			return nil
		}
		return token.Errorf(token.CodeUnsupported, "this %s key can wrap in no way: %s", kindName(k.kind), strings.Join(reasons, "; "))
	})
	return found, err
}

// fatal says that err is about the token, not about one method.
func fatal(err error) bool {
	return stale(err) || gone(err) ||
		hasCode(err, token.CodePIN, token.CodeFinalTry, token.CodeLocked) || pinTrouble(err)
}

// pinTrouble says that a key that requires the PIN at every use refused it.
func pinTrouble(err error) bool {
	rv, ok := rvOf(err)
	code, _ := codeOf(rv)
	return ok && (code == token.CodePIN || code == token.CodeLocked)
}

// fit refuses keys that could leave the token and keys that are too short.
func (s *session) fit(k key) error {
	if err := s.guarded(k); err != nil {
		return err
	}
	if k.kind == pkcs11.CKK_AES {
		return nil // of which no size is too short
	}
	public, err := s.public(k) // an EC key of no other curve than P-256
	if err != nil {
		return err
	}
	if public, ok := public.(*rsa.PublicKey); ok && public.N.BitLen() < 2048 {
		return token.Errorf(token.CodeUnsupported, "an RSA key of %d bits is too short: %s", public.N.BitLen(), recipe(k.kind))
	}
	return nil
}

// try wraps and unwraps a random value.
func (s *session) try(m method, k key) error {
	secret := locked.New(secretSize)
	defer secret.Wipe()
	var wrapped []byte
	var err error
	secret.Use(func(secret []byte) {
		rand.Read(secret)
		wrapped, err = m.wrap(s, k, secret)
	})
	if err != nil {
		return err
	}
	again, err := m.unwrap(s, k, wrapped)
	if err != nil {
		return err
	}
	defer again.Wipe()
	if !secret.Equal(again) {
		return token.Errorf(token.CodeFailed, "unwrapping did not return the wrapped secret")
	}
	return nil
}

// Wrap wraps 32 bytes with the key that o means.
func (t *Token) Wrap(o token.Object, name token.Method, plain []byte) (wrapped []byte, err error) {
	if len(plain) != secretSize {
		return nil, token.Errorf(token.CodeMisuse, "wrapping: a data key has %d bytes, not %d", secretSize, len(plain))
	}
	err = t.do("wrapping with "+describe(o)+" on", func(s *session) error {
		k, err := s.wrappingKey(o)
		if err != nil {
			return err
		}
		m, err := k.method(name)
		if err != nil {
			return err
		}
		if err := s.fit(k); err != nil {
			return err
		}
		wrapped, err = m.wrap(s, k, plain)
		return err
	})
	return wrapped, err
}

// Unwrap unwraps what Wrap returned, 32 bytes.
func (t *Token) Unwrap(o token.Object, name token.Method, wrapped []byte) (plain *locked.Buffer, err error) {
	err = t.do("unwrapping with "+describe(o)+" on", func(s *session) error {
		k, err := s.wrappingKey(o)
		if err != nil {
			return err
		}
		m, err := k.method(name)
		if err != nil {
			return err
		}
		plain, err = m.unwrap(s, k, wrapped)
		if vague(err) && s.try(m, k) == nil { // tokens say anything of bad data; this one is well
			plain, err = m.unwrap(s, k, wrapped)
			if vague(err) {
				return errDamaged()
			}
		}
		if damaged(err) {
			return errDamaged()
		}
		return err
	})
	return plain, err
}

func errDamaged() error {
	return token.Errorf(token.CodeDamaged, "the wrapped key was damaged, or wrapped with another key")
}
