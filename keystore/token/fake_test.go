package token_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"onionbalancer/internal/locked"
	"onionbalancer/internal/locked/lockedtest"
	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/helper"
)

// The variables that make the helper of a test something else.
const (
	envFake    = "TOKEN_TEST_FAKE"
	envGarbage = "TOKEN_TEST_GARBAGE"
)

// fake is a module in a directory, which is its path. Every call writes a line
// with its name and the helper's process into the file log. A file FAULT-CALL
// there makes the next CALL misbehave: FAULT is say, crash, fault, exit, hang, garbage, panic
// or error, with a code in the file. A file slow makes all take 30 ms.
type fake struct{ dir string }

func loadFake(path string) (helper.Module, error) {
	f := &fake{path}
	return f, f.call("load")
}

func (f *fake) call(name string) error {
	log, err := os.OpenFile(filepath.Join(f.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Fprintf(log, "%s %d\n", name, os.Getpid())
	if _, err := os.Stat(filepath.Join(f.dir, "slow")); err == nil {
		time.Sleep(30 * time.Millisecond)
	}
	faults, err := filepath.Glob(filepath.Join(f.dir, "*-"+name))
	if err != nil || len(faults) == 0 {
		return err
	}
	text, err := os.ReadFile(faults[0])
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(text, []byte("always")) {
		if err := os.Remove(faults[0]); err != nil {
			return err
		}
	}
	fault, _, _ := strings.Cut(filepath.Base(faults[0]), "-")
	return misbehave(fault, strings.TrimSpace(strings.TrimPrefix(string(text), "always")))
}

func misbehave(fault, text string) error {
	switch fault {
	case "crash":
		_ = unix.Kill(os.Getpid(), syscall.SIGKILL)
		time.Sleep(time.Hour)
	case "fault":
		_ = unix.Kill(os.Getpid(), syscall.SIGSEGV) // as C does
		time.Sleep(time.Hour)
	case "say":
		fmt.Println("a driver says hello")
	case "exit":
		fmt.Println("the module says that it ends with PIN right-1234")
		os.Exit(3)
	case "hang":
		time.Sleep(time.Hour)
	case "garbage":
		for fd := 3; fd < 20; fd++ {
			if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil {
				_, _ = unix.Write(fd, []byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			}
		}
		time.Sleep(time.Hour)
	case "panic":
		panic("a secret: right-1234")
	case "error":
		return token.Errorf(token.Code(text), "the fake token says %s", text)
	}
	return nil
}

// garbageHelper answers the first request with the file that the variable names.
func garbageHelper() error {
	answer, err := os.ReadFile(os.Getenv(envGarbage))
	if err != nil {
		return err
	}
	if _, err := unix.Read(token.HelperDescriptor, make([]byte, 4096)); err != nil {
		return err
	}
	_, err = unix.Write(token.HelperDescriptor, answer)
	time.Sleep(time.Minute)
	return err
}

func (f *fake) Close() {}

func (f *fake) Open(_ token.Selector, pin *locked.Buffer, inDoubt bool) (helper.HSM, error) {
	if inDoubt {
		if err := f.call("doubt"); err != nil {
			return nil, err
		}
	}
	if err := f.call("open"); err != nil {
		return nil, err
	}
	want, err := os.ReadFile(filepath.Join(f.dir, "right"))
	if errors.Is(err, os.ErrNotExist) && pin == nil {
		return &fakeToken{fake: f}, nil
	}
	if err != nil {
		return nil, err
	}
	if pin == nil || !bytes.Equal(want, lockedtest.Bytes(pin)) {
		return nil, token.Errorf(token.CodePIN, "the PIN is wrong")
	}
	return &fakeToken{fake: f}, nil
}

// fakeToken wraps by a fixed AES key, and keeps signing keys in files.
type fakeToken struct{ *fake }

// situation is what the fake tells of its process, as firmware.
type situation struct {
	Args     []string
	Env      []string
	Dumpable int
	Core     uint64
	Group    int
	PID      int
	Files    []string
}

func (f *fakeToken) Info() (token.Info, error) {
	if err := f.call("info"); err != nil {
		return token.Info{}, err
	}
	now := situation{Args: os.Args, Env: os.Environ(), Group: unix.Getpgrp(), PID: os.Getpid()}
	now.Dumpable, _ = unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil {
		return token.Info{}, err
	}
	now.Core = core.Max
	for fd := range 64 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			name, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			now.Files = append(now.Files, fmt.Sprint(fd, " ", name))
		}
	}
	text, err := json.Marshal(now)
	return token.Info{Selector: token.Selector{Label: "fake"}, Firmware: string(text)}, err
}

func (f *fakeToken) WrappingKey(o token.Object) (token.WrappingKey, error) {
	return token.WrappingKey{Object: o, Methods: []token.Method{token.MethodAESGCM}}, f.call("wrapping-key")
}

func (f *fakeToken) aead() cipher.AEAD {
	block, err := aes.NewCipher([]byte("the key of the fake, of 32 bytes"))
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func (f *fakeToken) Wrap(_ token.Object, _ token.Method, plain []byte) ([]byte, error) {
	return f.aead().Seal(nil, make([]byte, 12), plain, nil), f.call("wrap")
}

func (f *fakeToken) Unwrap(_ token.Object, _ token.Method, wrapped []byte) (*locked.Buffer, error) {
	if err := f.call("unwrap"); err != nil {
		return nil, err
	}
	plain, err := f.aead().Open(nil, make([]byte, 12), wrapped, nil)
	if err != nil {
		return nil, token.Errorf(token.CodeDamaged, "%v", err)
	}
	return locked.Copy(plain), nil
}

func (f *fakeToken) path(o token.Object) string {
	return filepath.Join(f.dir, "key "+o.Label+" "+hex.EncodeToString(o.ID))
}

func (f *fakeToken) Generate(o token.Object) (token.SigningKey, error) {
	if err := f.call("generate"); err != nil {
		return token.SigningKey{}, err
	}
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return token.SigningKey{}, err
	}
	return token.SigningKey{Object: o, Public: public}, os.WriteFile(f.path(o), key, 0o600)
}

func (f *fakeToken) SigningKeys(prefix string) ([]token.SigningKey, error) {
	if err := f.call("keys"); err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(f.dir, "key "+prefix+"*"))
	if err != nil {
		return nil, err
	}
	var keys []token.SigningKey
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(filepath.Base(path), "key ")
		i := strings.LastIndex(name, " ")
		id, err := hex.DecodeString(name[i+1:])
		if err != nil {
			return nil, err
		}
		keys = append(keys, token.SigningKey{Object: token.Object{Label: name[:i], ID: id}, Public: ed25519.PrivateKey(raw).Public().(ed25519.PublicKey)})
	}
	return keys, nil
}

func (f *fakeToken) Sign(o token.Object, message []byte) ([]byte, error) {
	if err := f.call("sign"); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(f.path(o))
	if err != nil {
		return nil, token.Errorf(token.CodeNoKey, "no such key")
	}
	return ed25519.Sign(ed25519.PrivateKey(raw), message), nil
}

func (f *fakeToken) Destroy(o token.Object) error {
	if err := f.call("destroy"); err != nil {
		return err
	}
	return os.Remove(f.path(o))
}

func (f *fakeToken) Close() error { return errors.Join(f.call("close"), f.call("closed")) }
