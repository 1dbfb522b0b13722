//go:build cgo

package module

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"onionbalancer/keystore/token"
)

// failure is a PKCS #11 function that returned something other than CKR_OK.
type failure struct {
	call string // as in C_Sign
	rv   pkcs11.Error
}

// failed makes an error of the result of a function of api; nil of nil.
func failed(call string, err error) error {
	if err == nil {
		return nil
	}
	if rv, ok := errors.AsType[pkcs11.Error](err); ok {
		return &failure{call, rv}
	}
	return fmt.Errorf("%s: %w", call, err)
}

func (f *failure) Error() string { return f.call + " says " + name(f.rv) }

// name returns a return value's name.
func name(rv pkcs11.Error) string {
	if parts := strings.SplitN(rv.Error(), ": ", 3); len(parts) == 3 && parts[2] != "" {
		return parts[2]
	}
	switch rv {
	case ckrAEADDecryptFailed:
		return "CKR_AEAD_DECRYPT_FAILED"
	case ckrCurveNotSupported:
		return "CKR_CURVE_NOT_SUPPORTED"
	case ckrActionProhibited:
		return "CKR_ACTION_PROHIBITED"
	}
	return fmt.Sprintf("0x%08X (not in PKCS #11: see the module's manual)", uint(rv))
}

// rvOf returns the return value behind err, if it is a failure.
func rvOf(err error) (pkcs11.Error, bool) {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.rv, true
	}
	return 0, false
}

// stale reports whether err means that a session, a login or a handle is stale:
// a new session may help.
func stale(err error) bool {
	switch rv, _ := rvOf(err); rv {
	case pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED,
		pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_OBJECT_HANDLE_INVALID,
		pkcs11.CKR_KEY_HANDLE_INVALID, pkcs11.CKR_OPERATION_ACTIVE,
		pkcs11.CKR_OPERATION_NOT_INITIALIZED:
		return true
	}
	return false
}

// gone reports whether err means that a token or a device is gone, or a module
// that lost its state: a restart of the module may help.
func gone(err error) bool {
	switch rv, _ := rvOf(err); rv {
	case pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT,
		pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_SLOT_ID_INVALID,
		pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED:
		return true
	}
	return false
}

// vague says that err may mean anything. Modules say so of a token that is gone
// as well as of data that is damaged; SoftHSM does both.
func vague(err error) bool {
	switch rv, _ := rvOf(err); rv {
	case pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED:
		return true
	}
	return false
}

// damaged reports whether err is about the wrapped data.
func damaged(err error) bool {
	switch rv, _ := rvOf(err); rv {
	case pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE,
		pkcs11.CKR_WRAPPED_KEY_INVALID, pkcs11.CKR_WRAPPED_KEY_LEN_RANGE,
		pkcs11.CKR_DATA_INVALID, pkcs11.CKR_DATA_LEN_RANGE, ckrAEADDecryptFailed:
		return true
	}
	return false
}

// codeOf returns the code of a return value, and advice for an operator.
func codeOf(rv pkcs11.Error) (code token.Code, advice string) {
	switch rv {
	case pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT,
		pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_SLOT_ID_INVALID, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED,
		pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED:
		return token.CodeAbsent, "put the token back, or see to its device or service"
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE:
		return token.CodePIN, "put the right PIN where it is read from; this one is not tried again"
	case pkcs11.CKR_PIN_LOCKED:
		return token.CodeLocked, "unlock the PIN with the vendor's tool"
	case pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_USER_PIN_NOT_INITIALIZED:
		return token.CodeLocked, "set a new PIN with the vendor's tool"
	case pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_MECHANISM_PARAM_INVALID, pkcs11.CKR_FUNCTION_NOT_SUPPORTED,
		pkcs11.CKR_DOMAIN_PARAMS_INVALID, ckrCurveNotSupported:
		return token.CodeUnsupported, "the token cannot do this; see its mechanisms with pkcs11-tool --list-mechanisms"
	case pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, pkcs11.CKR_KEY_TYPE_INCONSISTENT, pkcs11.CKR_KEY_SIZE_RANGE,
		pkcs11.CKR_KEY_UNEXTRACTABLE, ckrActionProhibited:
		return token.CodeUnsupported, "the key is not made for this"
	case pkcs11.CKR_TOKEN_WRITE_PROTECTED, pkcs11.CKR_SESSION_READ_ONLY:
		return token.CodeUnsupported, "the token cannot be written to"
	case pkcs11.CKR_DEVICE_MEMORY:
		return token.CodeFailed, "the token is full; destroy keys that are no longer used"
	case pkcs11.CKR_SESSION_COUNT:
		return token.CodeFailed, "other programs hold all its sessions"
	}
	return token.CodeFailed, ""
}

// explain makes the *token.Error of an error while doing something.
func explain(doing string, err error) error {
	if cause, ok := errors.AsType[*token.Error](err); ok {
		return token.Errorf(cause.Code, "%s: %s", doing, cause.Text)
	}
	rv, ok := rvOf(err)
	if !ok {
		return token.Errorf(token.CodeFailed, "%s: %v", doing, err)
	}
	code, advice := codeOf(rv)
	if advice != "" {
		advice = ": " + advice
	}
	return token.Errorf(code, "%s: %v%s", doing, err, advice)
}

// hasCode reports whether err is a *token.Error of one of these codes.
func hasCode(err error, codes ...token.Code) bool {
	e, ok := errors.AsType[*token.Error](err)
	for _, code := range codes {
		if ok && e.Code == code {
			return true
		}
	}
	return false
}
