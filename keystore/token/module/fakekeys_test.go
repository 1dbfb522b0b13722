//go:build cgo

package module

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"maps"
	"reflect"
	"slices"

	"github.com/miekg/pkcs11"
)

func (f *fake) FindObjectsInit(handle pkcs11.SessionHandle, template []*pkcs11.Attribute) error {
	s, err := f.in("C_FindObjectsInit", handle)
	if err != nil {
		return err
	}
	s.found = nil
	for _, h := range slices.Sorted(maps.Keys(s.token.objects)) {
		if o := s.token.objects[h]; o.visible(s.token) && o.has(template) {
			s.found = append(s.found, h)
		}
	}
	return nil
}

// visible: private and secret keys, and what was made private, show after login
// only.
func (o *fakeObject) visible(t *fakeToken) bool {
	return t.logged || o.key == nil && !yes(o.attributes[pkcs11.CKA_PRIVATE]) || t.info.Flags&pkcs11.CKF_LOGIN_REQUIRED == 0
}

func (o *fakeObject) has(template []*pkcs11.Attribute) bool {
	return !slices.ContainsFunc(template, func(a *pkcs11.Attribute) bool { return !bytes.Equal(o.attributes[a.Type], a.Value) })
}

// FindObjects gives one at a time, to see whether anyone asks for the rest.
func (f *fake) FindObjects(handle pkcs11.SessionHandle, _ int) ([]pkcs11.ObjectHandle, bool, error) {
	s, err := f.in("C_FindObjects", handle)
	if err != nil || len(s.found) == 0 {
		return nil, false, err
	}
	one := s.found[:1]
	s.found = s.found[1:]
	return one, false, nil
}

func (f *fake) FindObjectsFinal(handle pkcs11.SessionHandle) error {
	_, err := f.in("C_FindObjectsFinal", handle)
	return err
}

// object is in, for a call with an object.
func (f *fake) object(call string, handle pkcs11.SessionHandle, object pkcs11.ObjectHandle) (*fakeSession, *fakeObject, error) {
	s, err := f.in(call, handle)
	if err != nil {
		return nil, nil, err
	}
	o := s.token.objects[object]
	switch {
	case o == nil:
		return nil, nil, pkcs11.Error(pkcs11.CKR_OBJECT_HANDLE_INVALID)
	case !o.visible(s.token):
		return nil, nil, pkcs11.Error(pkcs11.CKR_USER_NOT_LOGGED_IN)
	}
	return s, o, nil
}

func (f *fake) GetAttributeValue(handle pkcs11.SessionHandle, object pkcs11.ObjectHandle, want []*pkcs11.Attribute) ([]*pkcs11.Attribute, error) {
	_, o, err := f.object("C_GetAttributeValue", handle, object)
	if err != nil {
		return nil, err
	}
	value, ok := o.attributes[want[0].Type]
	if !ok {
		return nil, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)
	}
	return []*pkcs11.Attribute{attr(want[0].Type, bytes.Clone(value))}, nil
}

// create makes a session object or a token object of a template.
func (f *fake) create(s *fakeSession, handle pkcs11.SessionHandle, template []*pkcs11.Attribute, more map[uint][]byte) pkcs11.ObjectHandle {
	o := &fakeObject{attributes: map[uint][]byte{}, session: handle}
	for _, a := range template {
		o.attributes[a.Type] = bytes.Clone(a.Value)
	}
	maps.Copy(o.attributes, more)
	if yes(o.attributes[pkcs11.CKA_TOKEN]) {
		o.session = 0
	}
	h := pkcs11.ObjectHandle(f.handle())
	s.token.objects[h] = o
	return h
}

func (f *fake) CreateObject(handle pkcs11.SessionHandle, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	s, err := f.in("C_CreateObject", handle)
	if err != nil {
		return 0, err
	}
	return f.create(s, handle, template, nil), nil
}

func (f *fake) DestroyObject(handle pkcs11.SessionHandle, object pkcs11.ObjectHandle) error {
	s, _, err := f.object("C_DestroyObject", handle, object)
	if err == nil {
		delete(s.token.objects, object)
	}
	return err
}

// GenerateKeyPair knows the curve by its name only.
func (f *fake) GenerateKeyPair(handle pkcs11.SessionHandle, _ []*pkcs11.Mechanism, public, private []*pkcs11.Attribute) (pkcs11.ObjectHandle, pkcs11.ObjectHandle, error) {
	s, err := f.in("C_GenerateKeyPair", handle)
	if err != nil {
		return 0, 0, err
	}
	if !slices.ContainsFunc(public, func(a *pkcs11.Attribute) bool { return bytes.Equal(a.Value, curves[1]) }) {
		return 0, 0, pkcs11.Error(ckrCurveNotSupported)
	}
	if s.token.bare && slices.ContainsFunc(public, func(a *pkcs11.Attribute) bool { return a.Type == pkcs11.CKA_PRIVATE && yes(a.Value) }) {
		return 0, 0, pkcs11.Error(pkcs11.CKR_TEMPLATE_INCONSISTENT)
	}
	point, key, _ := ed25519.GenerateKey(rand.Reader)
	kind := ulong(ckkECEdwards)
	h1 := f.create(s, handle, public, map[uint][]byte{pkcs11.CKA_EC_POINT: point, pkcs11.CKA_KEY_TYPE: kind, pkcs11.CKA_CLASS: ulong(pkcs11.CKO_PUBLIC_KEY)})
	h2 := f.create(s, handle, private, map[uint][]byte{pkcs11.CKA_KEY_TYPE: kind, pkcs11.CKA_CLASS: ulong(pkcs11.CKO_PRIVATE_KEY)})
	s.token.objects[h2].key = key
	if s.token.leaky {
		s.token.objects[h2].attributes[pkcs11.CKA_EXTRACTABLE] = []byte{1}
	}
	return h1, h2, nil
}

// begin is C_…Init.
func (f *fake) begin(call, kind string, handle pkcs11.SessionHandle, m []*pkcs11.Mechanism, object pkcs11.ObjectHandle) error {
	s, o, err := f.object(call, handle, object)
	if err != nil {
		return err
	}
	if s.kind != "" {
		return pkcs11.Error(pkcs11.CKR_OPERATION_ACTIVE)
	}
	s.kind, s.key, s.param, s.agreed = kind, o, m[0], false
	return nil
}

// finish is what follows C_…Init: it returns the key and the mechanism.
func (f *fake) finish(call, kind string, handle pkcs11.SessionHandle) (any, *pkcs11.Mechanism, error) {
	s, err := f.in(call, handle)
	if err != nil {
		if s := f.sessions[handle]; s != nil {
			s.kind = ""
		}
		return nil, nil, err
	}
	if s.kind != kind {
		return nil, nil, pkcs11.Error(pkcs11.CKR_OPERATION_NOT_INITIALIZED)
	}
	s.kind = ""
	if yes(s.key.attributes[pkcs11.CKA_ALWAYS_AUTHENTICATE]) && !s.agreed {
		return nil, nil, pkcs11.Error(pkcs11.CKR_USER_NOT_LOGGED_IN)
	}
	return s.key.key, s.param, nil
}

func (f *fake) SignInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, o pkcs11.ObjectHandle) error {
	return f.begin("C_SignInit", "sign", s, m, o)
}

func (f *fake) Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error) {
	key, _, err := f.finish("C_Sign", "sign", s)
	if err != nil {
		return nil, err
	}
	return ed25519.Sign(key.(ed25519.PrivateKey), message), nil
}

func (f *fake) EncryptInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, o pkcs11.ObjectHandle) error {
	return f.begin("C_EncryptInit", "encrypt", s, m, o)
}

func (f *fake) Encrypt(s pkcs11.SessionHandle, plain []byte) ([]byte, error) {
	key, m, err := f.finish("C_Encrypt", "encrypt", s)
	if err != nil {
		return nil, err
	}
	return gcm(key).Seal(nil, parameter(m, "iv"), plain, parameter(m, "aad")), nil
}

func (f *fake) DecryptInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, o pkcs11.ObjectHandle) error {
	return f.begin("C_DecryptInit", "decrypt", s, m, o)
}

func (f *fake) Decrypt(s pkcs11.SessionHandle, box []byte) (plain []byte, err error) {
	key, m, err := f.finish("C_Decrypt", "decrypt", s)
	if err != nil {
		return nil, err
	}
	if private, ok := key.(*rsa.PrivateKey); ok {
		hash := map[uint64]crypto.Hash{pkcs11.CKM_SHA256: crypto.SHA256, pkcs11.CKM_SHA_1: crypto.SHA1}[inside(m).FieldByName("HashAlg").Uint()]
		plain, err = rsa.DecryptOAEP(hash.New(), nil, private, box, nil)
	} else {
		plain, err = gcm(key).Open(nil, parameter(m, "iv"), box, parameter(m, "aad"))
	}
	if err != nil {
		return nil, f.bad
	}
	return plain, nil
}

// WrapKey and UnwrapKey make no RFC 3394 of it, but something as long.
func (f *fake) WrapKey(handle pkcs11.SessionHandle, _ []*pkcs11.Mechanism, wrapping, object pkcs11.ObjectHandle) ([]byte, error) {
	s, key, err := f.object("C_WrapKey", handle, wrapping)
	if err != nil {
		return nil, err
	}
	value := s.token.objects[object].attributes[pkcs11.CKA_VALUE]
	stream := cipher.NewCTR(block(key.key), make([]byte, 16))
	sum := sha256.Sum256(value)
	wrapped := append(bytes.Clone(value), sum[:8]...)
	stream.XORKeyStream(wrapped, wrapped)
	return wrapped, nil
}

func (f *fake) UnwrapKey(handle pkcs11.SessionHandle, _ []*pkcs11.Mechanism, wrapping pkcs11.ObjectHandle, wrapped []byte, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	s, key, err := f.object("C_UnwrapKey", handle, wrapping)
	if err != nil {
		return 0, err
	}
	value := make([]byte, len(wrapped))
	cipher.NewCTR(block(key.key), make([]byte, 16)).XORKeyStream(value, wrapped)
	n := len(value) - 8
	if sum := sha256.Sum256(value[:n]); !bytes.Equal(value[n:], sum[:8]) {
		return 0, f.bad
	}
	return f.create(s, handle, template, map[uint][]byte{pkcs11.CKA_VALUE: value[:n]}), nil
}

func (f *fake) DeriveKey(handle pkcs11.SessionHandle, m []*pkcs11.Mechanism, base pkcs11.ObjectHandle, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	s, key, err := f.object("C_DeriveKey", handle, base)
	if err != nil {
		return 0, err
	}
	point := inside(m[0]).FieldByName("PublicKeyData").Bytes()
	if s.token.octets {
		if len(point) != 67 {
			return 0, pkcs11.Error(pkcs11.CKR_MECHANISM_PARAM_INVALID)
		}
		point = point[2:]
	}
	theirs, err := ecdh.P256().NewPublicKey(point)
	if err != nil {
		return 0, pkcs11.Error(pkcs11.CKR_MECHANISM_PARAM_INVALID)
	}
	value, _ := key.key.(*ecdh.PrivateKey).ECDH(theirs)
	if s.token.strip {
		value = bytes.TrimLeft(value, "\x00")
	}
	return f.create(s, handle, template, map[uint][]byte{pkcs11.CKA_VALUE: value}), nil
}

func block(key any) cipher.Block {
	b, err := aes.NewCipher(key.([]byte))
	if err != nil {
		panic(err)
	}
	return b
}

func gcm(key any) cipher.AEAD {
	g, err := cipher.NewGCM(block(key))
	if err != nil {
		panic(err)
	}
	return g
}

// inside returns the parameters in a mechanism, which package pkcs11 hides.
func inside(m *pkcs11.Mechanism) reflect.Value {
	return reflect.ValueOf(m).Elem().FieldByName("generator").Elem().Elem()
}

func parameter(m *pkcs11.Mechanism, name string) []byte { return inside(m).FieldByName(name).Bytes() }
