//go:build cgo

package module

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"github.com/miekg/pkcs11"

	"onionbalancer/internal/locked"
	"onionbalancer/keystore/token"
)

// refusals remembers the PINs that a token refused, by a keyed hash.
type refusals struct {
	salt [32]byte
	mu   sync.Mutex
	seen map[mark]bool
}

// mark is the hash of a PIN and the token that it is for.
type mark [sha256.Size]byte

func (r *refusals) mark(where token.Selector, pin *locked.Buffer) (sum mark) {
	locked.Do(func() {
		h := hmac.New(sha256.New, r.salt[:])
		fmt.Fprintf(h, "%q", where)
		h.Write(pin.Bytes())
		h.Sum(sum[:0])
	})
	return sum
}

func (r *refusals) add(marks ...mark) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen = map[mark]bool{}
	}
	for _, m := range marks {
		r.seen[m] = true
	}
}

func (r *refusals) has(m mark) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[m]
}

// errRefused is for a PIN that is not tried again.
func errRefused() error {
	return token.Errorf(token.CodePIN, "the token refused this PIN before, and it is not tried again: put the right PIN where it is read from")
}

// authenticate logs in to the session's token, as CKU_USER or for one use of a
// key as CKU_CONTEXT_SPECIFIC. It asks first how the token's PIN is doing.
func (t *Token) authenticate(s *session, user uint) error {
	info, err := t.module.calls.GetTokenInfo(s.slot.number)
	if err != nil {
		return failed("C_GetTokenInfo", err)
	}
	here := t.module.refused.mark(s.slot.selector(), t.pin)
	if err := t.mayTry(info.Flags, here); err != nil {
		return err
	}
	pin := t.pin.Bytes()
	// The string is the locked memory itself. Package pkcs11 copies it to C
	// memory for the call and frees that without wiping it: the allocator has
	// to overwrite what is freed (glibc.malloc.perturb).
	err = t.module.calls.Login(s.handle, user, unsafe.String(unsafe.SliceData(pin), len(pin)))
	runtime.KeepAlive(t.pin)
	if err == nil || user == pkcs11.CKU_USER && is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN) {
		t.doubt, t.old = false, false
		return nil
	}
	switch code, _ := codeOf(rv(err)); {
	case code == token.CodePIN:
		t.module.refused.add(t.mark, here)
	case code != token.CodeAbsent && code != token.CodeLocked:
		t.doubt = true // the token may have looked at the PIN, or not
	}
	return failed("C_Login", err)
}

// mayTry refuses to log in where a wrong PIN would do harm.
func (t *Token) mayTry(flags uint, here mark) error {
	has := func(flag uint) bool { return flags&flag != 0 }
	switch {
	case t.module.refused.has(here):
		return errRefused()
	case has(pkcs11.CKF_USER_PIN_LOCKED):
		return token.Errorf(token.CodeLocked, "the token's PIN is locked after too many wrong ones: unlock it with the vendor's tool")
	case has(pkcs11.CKF_USER_PIN_FINAL_TRY):
		return token.Errorf(token.CodeFinalTry, "one more wrong PIN would lock the token, so that none is tried: log in once by hand with the right one (pkcs11-tool --login --list-objects), which resets the count")
	case !has(pkcs11.CKF_USER_PIN_INITIALIZED) && !has(pkcs11.CKF_PROTECTED_AUTHENTICATION_PATH):
		return token.Errorf(token.CodeLocked, "no user PIN was set on the token: set one with the vendor's tool (pkcs11-tool --init-pin)")
	case t.pin.Len() == 0 && !has(pkcs11.CKF_PROTECTED_AUTHENTICATION_PATH):
		return token.Errorf(token.CodePIN, "the token wants a PIN, and none is given: add pin-source=")
	case t.old && has(pkcs11.CKF_USER_PIN_COUNT_LOW):
		return token.Errorf(token.CodeFinalTry, "the token counts a wrong PIN, which may have been this one, so that it is not tried: give another; if it is right, run this once with --try-pin (balancer check, key or ceremony), or log in once by hand (pkcs11-tool --login --list-objects), which resets the count")
	case t.doubt && has(pkcs11.CKF_USER_PIN_COUNT_LOW):
		t.module.refused.add(t.mark, here)
		return token.Errorf(token.CodePIN, "the last login failed without a reason, and the token counts a wrong PIN since: this one is not tried again")
	}
	return nil
}

func rv(err error) pkcs11.Error {
	rv, _ := rvOf(failed("", err))
	return rv
}

func is(err error, want pkcs11.Error) bool { return rv(err) == want }
