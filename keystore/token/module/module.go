//go:build cgo

package module

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/miekg/pkcs11"

	"onionbalancer/keystore/token"
)

// Module is a PKCS #11 library in this process.
type Module struct {
	path  string
	calls api

	mu     sync.Mutex // held over every use of calls
	ready  bool       // C_Initialize was called
	epoch  int        // how many times; a session of an earlier epoch is dead
	closed bool
}

// Load loads and initialises the library at path, of which a process uses one. A
// library that is not there, cannot be loaded or does not start is CodeAbsent.
func Load(path string) (*Module, error) {
	if err := look(path); err != nil {
		return nil, err
	}
	m := &Module{path: path}
	var err error
	onThread(func() {
		library := pkcs11.New(path)
		if library == nil {
			err = token.Errorf(token.CodeAbsent, "loading the PKCS #11 module %s: it is no PKCS #11 library for this machine, or it needs another library that is missing: see ldd %s", path, path)
			return
		}
		m.calls = library
		err = m.start()
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Close ends the use of the library. Tokens that were opened must not be used any
// more.
func (m *Module) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	onThread(m.stop)
}

// start initialises the library if it is not. The caller holds m.mu.
func (m *Module) start() error {
	if m.ready {
		return nil
	}
	err := m.calls.Initialize()
	if errors.Is(err, pkcs11.Error(pkcs11.CKR_CANT_LOCK)) || errors.Is(err, pkcs11.Error(pkcs11.CKR_NEED_TO_CREATE_THREADS)) {
		err = m.calls.Initialize(pkcs11.InitializeWithFlags(0)) // m.mu makes up for it
	}
	if err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return token.Errorf(token.CodeAbsent, "starting the PKCS #11 module %s: %v: see its configuration, and whether this user may read it", m.path, failed("C_Initialize", err))
	}
	m.ready = true
	m.epoch++
	return nil
}

func (m *Module) stop() {
	if m.ready {
		_ = m.calls.Finalize() // an error shows when it is started again
		m.ready = false
	}
}

// restart makes the library look again for slots and tokens, for SoftHSM and
// others never see one that was taken away and put back. Every session ends.
func (m *Module) restart() error {
	m.stop()
	return m.start()
}

// look finds out why there is no library at path, in words better than dlopen's.
// A path without a slash is dlopen's own business.
func look(path string) error {
	if path == "" {
		return token.Errorf(token.CodeMisuse, "no PKCS #11 module is named: add module-path=…%s", usual())
	}
	if !strings.Contains(path, "/") {
		return nil
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return token.Errorf(token.CodeAbsent, "there is no PKCS #11 module at %s%s", path, usual())
	case err != nil:
		return token.Errorf(token.CodeAbsent, "looking for the PKCS #11 module: %v", err)
	case info.IsDir():
		return token.Errorf(token.CodeAbsent, "%s is a directory, not a PKCS #11 module%s", path, usual())
	}
	return nil
}

// places are patterns of where distributions and vendors put their modules.
var places = []string{
	"/usr/lib/softhsm/libsofthsm2.so",
	"/usr/lib*/*/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so",
	"/usr/lib/*/libykcs11.so",
	"/usr/lib*/libykcs11.so",
	"/usr/lib/*/opensc-pkcs11.so",
	"/usr/lib64/pkcs11/opensc-pkcs11.so",
	"/usr/lib/*/pkcs11/yubihsm_pkcs11.so",
	"/opt/nfast/toolkits/pkcs11/libcknfast.so",
	"/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
	"/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",
	"/usr/lib/*/p11-kit-proxy.so",
	"/usr/lib64/p11-kit-proxy.so",
}

// usual returns a hint of the modules on this machine.
func usual() string {
	var found []string
	for _, pattern := range places {
		paths, _ := filepath.Glob(pattern) // the patterns are good
		found = append(found, paths...)
	}
	if len(found) == 0 {
		return "; none is in the usual places, such as " + places[0] + " (Debian's softhsm2) or /usr/lib/x86_64-linux-gnu/libykcs11.so (ykcs11)"
	}
	return "; on this machine are " + strings.Join(found, ", ")
}

// api is the used part of PKCS #11 2.40 and 3.0: the functions C_… of these names.
type api interface {
	Initialize(...pkcs11.InitializeOption) error
	Finalize() error
	GetInfo() (pkcs11.Info, error)
	GetSlotList(tokenPresent bool) ([]uint, error)
	GetTokenInfo(slot uint) (pkcs11.TokenInfo, error)
	GetMechanismInfo(slot uint, m []*pkcs11.Mechanism) (pkcs11.MechanismInfo, error)
	OpenSession(slot, flags uint) (pkcs11.SessionHandle, error)
	CloseSession(pkcs11.SessionHandle) error
	Login(s pkcs11.SessionHandle, user uint, pin string) error

	FindObjectsInit(pkcs11.SessionHandle, []*pkcs11.Attribute) error
	FindObjects(s pkcs11.SessionHandle, most int) ([]pkcs11.ObjectHandle, bool, error)
	FindObjectsFinal(pkcs11.SessionHandle) error
	GetAttributeValue(pkcs11.SessionHandle, pkcs11.ObjectHandle, []*pkcs11.Attribute) ([]*pkcs11.Attribute, error)
	CreateObject(pkcs11.SessionHandle, []*pkcs11.Attribute) (pkcs11.ObjectHandle, error)
	DestroyObject(pkcs11.SessionHandle, pkcs11.ObjectHandle) error
	GenerateKeyPair(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, public, private []*pkcs11.Attribute) (pkcs11.ObjectHandle, pkcs11.ObjectHandle, error)

	EncryptInit(pkcs11.SessionHandle, []*pkcs11.Mechanism, pkcs11.ObjectHandle) error
	Encrypt(s pkcs11.SessionHandle, plain []byte) ([]byte, error)
	DecryptInit(pkcs11.SessionHandle, []*pkcs11.Mechanism, pkcs11.ObjectHandle) error
	Decrypt(s pkcs11.SessionHandle, cipher []byte) ([]byte, error)
	SignInit(pkcs11.SessionHandle, []*pkcs11.Mechanism, pkcs11.ObjectHandle) error
	Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error)
	WrapKey(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, wrapping, key pkcs11.ObjectHandle) ([]byte, error)
	UnwrapKey(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, key pkcs11.ObjectHandle, wrapped []byte, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error)
	DeriveKey(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, base pkcs11.ObjectHandle, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error)
}

// PKCS #11 3.0, which came after the constants of package pkcs11.
const (
	ckkECEdwards           = 0x40
	ckmECEdwardsKeyPairGen = 0x1055
	ckmEdDSA               = 0x1057
	ckrAEADDecryptFailed   = 0x42
	ckrCurveNotSupported   = 0x140
	ckrActionProhibited    = 0x1b
	ckaPublicKeyInfo       = 0x129
)

// attr is one attribute of a template.
func attr(kind uint, value any) *pkcs11.Attribute { return pkcs11.NewAttribute(kind, value) }

// mechanism is a mechanism as package pkcs11 takes it.
func mechanism(kind uint, parameter any) []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(kind, parameter)}
}

// work is for the one thread of this process that calls modules.
var work = sync.OnceValue(func() chan<- func() {
	functions := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range functions {
			f()
		}
	}()
	return functions
})

// onThread calls f on that thread, of which modules see no other, for some are
// careless about threads. It panics if f does. f does not call onThread.
//
// Besides, runtime/secret does not hold there, whatever the caller: Go 1.26
// crashes when C is called inside of secret.Do, which erases registers that the
// call is about to need (golang.org/issue/78999). What f keeps secret it has to
// keep in locked memory, or give to locked.Do itself.
func onThread(f func()) {
	done := make(chan any)
	work() <- func() {
		defer func() { done <- recover() }()
		f()
	}
	if panicked := <-done; panicked != nil {
		panic(panicked)
	}
}
