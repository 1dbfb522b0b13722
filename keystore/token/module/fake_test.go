//go:build cgo

package module

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/miekg/pkcs11"

	"onionbalancer/keystore/token"
)

const fakePIN = "fake-4711"

// fake is a PKCS #11 module in memory. It gives its slots new numbers each time
// it is initialised, and can be told to fail.
type fake struct {
	tokens []*fakeToken
	fail   func(call string, n int) error // or nil; n counts that call, from 1
	calls  map[string]int
	bad    pkcs11.Error // what it says of data that is damaged

	ready    bool
	starts   int
	next     uint
	sessions map[pkcs11.SessionHandle]*fakeSession
}

type fakeToken struct {
	info    pkcs11.TokenInfo
	away    bool
	flags   func(mechanism uint) uint // CKF_… of a mechanism, 0 if it is unknown
	leaky   bool                      // generated keys are extractable, whatever was asked for
	strip   bool                      // derived keys lose their leading zeros
	bare    bool                      // public keys cannot be made private
	octets  bool                      // C_DeriveKey wants the point in an OCTET STRING
	objects map[pkcs11.ObjectHandle]*fakeObject
	logged  bool
	asked   []string // PINs that C_Login was given
}

type fakeObject struct {
	attributes map[uint][]byte
	key        any // []byte, *rsa.PrivateKey, *ecdh.PrivateKey, ed25519.PrivateKey
	session    pkcs11.SessionHandle
}

type fakeSession struct {
	token  *fakeToken
	found  []pkcs11.ObjectHandle
	kind   string // of the operation under way: "sign", …
	key    *fakeObject
	param  *pkcs11.Mechanism
	agreed bool // C_Login of CKU_CONTEXT_SPECIFIC came after Init
}

func newFakeToken(label, serial string) *fakeToken {
	pad := func(s string, n int) string { return s + string(bytes.Repeat([]byte{' '}, n-len(s))) }
	return &fakeToken{
		info: pkcs11.TokenInfo{
			Label: pad(label, 32), SerialNumber: pad(serial, 16),
			ManufacturerID: pad("Fakes", 32), Model: pad("F1", 16) + "\x00",
			Flags:           pkcs11.CKF_TOKEN_INITIALIZED | pkcs11.CKF_LOGIN_REQUIRED | pkcs11.CKF_USER_PIN_INITIALIZED,
			FirmwareVersion: pkcs11.Version{Major: 1, Minor: 7},
		},
		flags: func(mechanism uint) uint {
			switch mechanism {
			case pkcs11.CKM_AES_GCM, pkcs11.CKM_RSA_PKCS_OAEP:
				return pkcs11.CKF_ENCRYPT | pkcs11.CKF_DECRYPT
			case pkcs11.CKM_AES_KEY_WRAP:
				return pkcs11.CKF_WRAP | pkcs11.CKF_UNWRAP
			case pkcs11.CKM_ECDH1_DERIVE:
				return pkcs11.CKF_DERIVE
			}
			return 0
		},
		objects: map[pkcs11.ObjectHandle]*fakeObject{},
	}
}

// newFake makes a module that has one token "fake" with a key of each
// kind, labelled aes, rsa, ec and ed, and another token.
func newFake() *fake {
	f := &fake{tokens: []*fakeToken{newFakeToken("other", "2"), newFakeToken("fake", "1")}, next: 100, bad: pkcs11.CKR_ENCRYPTED_DATA_INVALID}
	f.reset()
	t := f.tokens[1]
	f.put(t, "aes", pkcs11.CKK_AES, bytes.Repeat([]byte{7}, 32), nil)
	f.put(t, "rsa", pkcs11.CKK_RSA, rsaKey, nil)
	f.put(t, "ec", pkcs11.CKK_EC, ecKey, append([]byte{4, 65}, ecKey.PublicKey().Bytes()...))
	f.put(t, "ed", ckkECEdwards, edKey, append([]byte{4, 32}, edKey.Public().(ed25519.PublicKey)...))
	return f
}

var (
	rsaKey, _   = rsa.GenerateKey(rand.Reader, 2048)
	ecKey, _    = ecdh.P256().GenerateKey(rand.Reader)
	_, edKey, _ = ed25519.GenerateKey(rand.Reader)
)

func (f *fake) reset() {
	f.calls = map[string]int{}
	f.sessions = map[pkcs11.SessionHandle]*fakeSession{}
}

func ulong(n uint) []byte { return binary.NativeEndian.AppendUint64(nil, uint64(n)) }

// put puts a key on a token, with its label as its ID, and a public half with
// point if there is one.
func (f *fake) put(t *fakeToken, label string, kind uint, key any, point []byte) *fakeObject {
	class := uint(pkcs11.CKO_PRIVATE_KEY)
	if kind == pkcs11.CKK_AES {
		class = pkcs11.CKO_SECRET_KEY
	}
	attributes := func(class uint) map[uint][]byte {
		return map[uint][]byte{
			pkcs11.CKA_LABEL: []byte(label), pkcs11.CKA_ID: []byte(label),
			pkcs11.CKA_KEY_TYPE: ulong(kind), pkcs11.CKA_CLASS: ulong(class),
		}
	}
	private := &fakeObject{attributes: attributes(class), key: key}
	for _, usage := range []uint{pkcs11.CKA_SENSITIVE, pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT,
		pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE, pkcs11.CKA_SIGN} {
		private.attributes[usage] = []byte{1}
	}
	private.attributes[pkcs11.CKA_EXTRACTABLE] = []byte{0}
	if key, ok := key.(*rsa.PrivateKey); ok {
		private.attributes[pkcs11.CKA_MODULUS] = key.N.Bytes()
		private.attributes[pkcs11.CKA_PUBLIC_EXPONENT] = []byte{1, 0, 1}
	}
	t.objects[pkcs11.ObjectHandle(f.handle())] = private
	if point != nil {
		public := &fakeObject{attributes: attributes(pkcs11.CKO_PUBLIC_KEY)}
		public.attributes[pkcs11.CKA_EC_POINT] = point
		t.objects[pkcs11.ObjectHandle(f.handle())] = public
	}
	return private
}

func (f *fake) handle() uint { f.next++; return f.next }

// find returns the object of a class and a label.
func (t *fakeToken) find(class uint, label string) *fakeObject {
	for _, o := range t.objects {
		if bytes.Equal(o.attributes[pkcs11.CKA_CLASS], ulong(class)) && string(o.attributes[pkcs11.CKA_LABEL]) == label {
			return o
		}
	}
	return nil
}

// enter counts a call, and fails it if it is to fail.
func (f *fake) enter(call string) error {
	f.calls[call]++
	if f.fail != nil {
		if err := f.fail(call, f.calls[call]); err != nil {
			return err
		}
	}
	if !f.ready && call != "C_Initialize" {
		return pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED)
	}
	return nil
}

// in is enter for a call with a session. A failure that tells of a dead session
// or token kills all of them.
func (f *fake) in(call string, handle pkcs11.SessionHandle) (*fakeSession, error) {
	err := f.enter(call)
	s := f.sessions[handle]
	switch {
	case err != nil:
		if code, _ := codeOf(rv(err)); code == token.CodeAbsent || is(err, pkcs11.CKR_USER_NOT_LOGGED_IN) {
			f.hangUp()
		}
		return nil, err
	case s == nil:
		return nil, pkcs11.Error(pkcs11.CKR_SESSION_HANDLE_INVALID)
	case s.token.away:
		return nil, pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED)
	}
	return s, nil
}

// hangUp ends all sessions, and their objects with them.
func (f *fake) hangUp() {
	for handle := range f.sessions {
		f.end(handle)
	}
}

func (f *fake) end(handle pkcs11.SessionHandle) {
	t := f.sessions[handle].token
	delete(f.sessions, handle)
	t.logged = slices.ContainsFunc(slices.Collect(maps.Values(f.sessions)), func(s *fakeSession) bool { return s.token == t })
	maps.DeleteFunc(t.objects, func(_ pkcs11.ObjectHandle, o *fakeObject) bool { return o.session == handle })
}

// transients counts the session objects on all tokens.
func (f *fake) transients() (n int) {
	for _, t := range f.tokens {
		for _, o := range t.objects {
			if o.session != 0 {
				n++
			}
		}
	}
	return n
}

func (f *fake) slot(number uint) *fakeToken {
	if i := int(number) - 1000*f.starts; i >= 0 && i < len(f.tokens) && !f.tokens[i].away {
		return f.tokens[i]
	}
	return nil
}

func (f *fake) Initialize(...pkcs11.InitializeOption) error {
	if err := f.enter("C_Initialize"); err != nil {
		return err
	}
	if f.ready {
		return pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)
	}
	f.ready = true
	f.starts++
	return nil
}

func (f *fake) Finalize() error {
	if err := f.enter("C_Finalize"); err != nil {
		return err
	}
	f.hangUp()
	f.ready = false
	return nil
}

func (f *fake) GetInfo() (pkcs11.Info, error) {
	return pkcs11.Info{LibraryDescription: "Fake library", LibraryVersion: pkcs11.Version{Major: 3}}, f.enter("C_GetInfo")
}

func (f *fake) GetSlotList(bool) (slots []uint, err error) {
	if err := f.enter("C_GetSlotList"); err != nil {
		return nil, err
	}
	for i := range f.tokens {
		if number := uint(1000*f.starts + i); f.slot(number) != nil {
			slots = append(slots, number)
		}
	}
	return slots, nil
}

func (f *fake) GetTokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	if err := f.enter("C_GetTokenInfo"); err != nil {
		return pkcs11.TokenInfo{}, err
	}
	if t := f.slot(slot); t != nil {
		return t.info, nil
	}
	return pkcs11.TokenInfo{}, pkcs11.Error(pkcs11.CKR_TOKEN_NOT_PRESENT)
}

func (f *fake) GetMechanismInfo(slot uint, m []*pkcs11.Mechanism) (pkcs11.MechanismInfo, error) {
	if err := f.enter("C_GetMechanismInfo"); err != nil {
		return pkcs11.MechanismInfo{}, err
	}
	if flags := f.slot(slot).flags(m[0].Mechanism); flags != 0 {
		return pkcs11.MechanismInfo{Flags: flags}, nil
	}
	return pkcs11.MechanismInfo{}, pkcs11.Error(pkcs11.CKR_MECHANISM_INVALID)
}

func (f *fake) OpenSession(slot, flags uint) (pkcs11.SessionHandle, error) {
	if err := f.enter("C_OpenSession"); err != nil {
		return 0, err
	}
	t := f.slot(slot)
	if t == nil {
		return 0, pkcs11.Error(pkcs11.CKR_TOKEN_NOT_PRESENT)
	}
	if t.info.Flags&pkcs11.CKF_WRITE_PROTECTED != 0 && flags&pkcs11.CKF_RW_SESSION != 0 {
		return 0, pkcs11.Error(pkcs11.CKR_TOKEN_WRITE_PROTECTED)
	}
	handle := pkcs11.SessionHandle(f.handle())
	f.sessions[handle] = &fakeSession{token: t}
	return handle, nil
}

func (f *fake) CloseSession(handle pkcs11.SessionHandle) error {
	if _, err := f.in("C_CloseSession", handle); err != nil {
		return err
	}
	f.end(handle)
	return nil
}

func (f *fake) Login(handle pkcs11.SessionHandle, user uint, pin string) error {
	if t := f.sessions[handle]; t != nil {
		t.token.asked = append(t.token.asked, string(bytes.Clone([]byte(pin))))
	}
	s, err := f.in("C_Login", handle)
	if err != nil {
		return err
	}
	typed := s.token.info.Flags&pkcs11.CKF_PROTECTED_AUTHENTICATION_PATH != 0 && pin == ""
	switch {
	case pin != fakePIN && !typed:
		s.token.info.Flags |= pkcs11.CKF_USER_PIN_COUNT_LOW
		return pkcs11.Error(pkcs11.CKR_PIN_INCORRECT)
	case user == pkcs11.CKU_CONTEXT_SPECIFIC && s.kind == "":
		return pkcs11.Error(pkcs11.CKR_OPERATION_NOT_INITIALIZED)
	case user == pkcs11.CKU_CONTEXT_SPECIFIC:
		s.agreed = true
	case s.token.logged:
		return pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)
	}
	s.token.logged = true
	return nil
}
