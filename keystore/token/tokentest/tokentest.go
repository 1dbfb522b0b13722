// Package tokentest makes SoftHSM tokens for tests, each in a directory of its
// own, with keys made by OpenSC's pkcs11-tool as an operator would make them.
//
// It runs programs and loads no module. SoftHSM reads SOFTHSM2_CONF when it is
// initialised: a process that has a module loaded must finalise it before it
// sees the token of the next test.
package tokentest

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// modules are the places where distributions put SoftHSM.
var modules = []string{
	"/usr/lib/softhsm/libsofthsm2.so", // Debian, Ubuntu
	"/usr/lib64/pkcs11/libsofthsm2.so",
	"/usr/lib64/softhsm/libsofthsm2.so",
	"/usr/local/lib/softhsm/libsofthsm2.so",
}

// Token is a SoftHSM token with a user PIN.
type Token struct {
	Module  string // path of SoftHSM's library
	Conf    string // path of SoftHSM's configuration: SOFTHSM2_CONF
	Dir     string // the directory of its tokens, of which each is a directory
	Label   string
	PIN     string
	SOPIN   string
	PINFile string // a file with the PIN and a newline, mode 0600
}

// New makes a token, and points SOFTHSM2_CONF at it until t ends. It fails t
// when SoftHSM or OpenSC is not installed.
func New(t testing.TB) *Token {
	t.Helper()
	k := NewApart(t)
	t.Setenv(confVariable, k.Conf)
	return k
}

// confVariable names SoftHSM's configuration file, and so the tokens it has.
const confVariable = "SOFTHSM2_CONF"

// NewApart is New for a parallel test, which cannot change the environment: only
// processes with Env in theirs see the token.
func NewApart(t testing.TB) *Token {
	t.Helper()
	dir := t.TempDir()
	k := &Token{
		Module:  module(t),
		Conf:    filepath.Join(dir, "softhsm2.conf"),
		Dir:     filepath.Join(dir, "tokens"),
		PINFile: filepath.Join(dir, "pin"),
		PIN:     "sesame-4711",
		SOPIN:   "superintendent",
	}
	if err := os.Mkdir(k.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, k.Conf, fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", k.Dir))
	write(t, k.PINFile, k.PIN+"\n")
	return k.Another(t, "balancer-test")
}

// Env is what the environment of a process has to say for it to see k.
func (k *Token) Env() string { return confVariable + "=" + k.Conf }

// Another makes one more token beside k, with a label of its own and k's PIN.
func (k *Token) Another(t testing.TB, label string) *Token {
	t.Helper()
	run(t, k.env(), "softhsm2-util", "--init-token", "--free",
		"--label", label, "--pin", k.PIN, "--so-pin", k.SOPIN)
	other := *k
	other.Label = label
	return &other
}

// URI returns the RFC 7512 reference of the object on k that has this label; of
// k itself if label is empty.
func (k *Token) URI(label string) string {
	object := ""
	if label != "" {
		object = ";object=" + url.PathEscape(label)
	}
	return fmt.Sprintf("pkcs11:token=%s%s?module-path=%s&pin-source=file:%s",
		url.PathEscape(k.Label), object, k.Module, k.PINFile)
}

// Tool runs pkcs11-tool on k, logged in, and returns what it printed.
func (k *Token) Tool(t testing.TB, args ...string) string {
	t.Helper()
	args = append([]string{"--module", k.Module, "--token-label", k.Label,
		"--login", "--pin", "env:TOKENTEST_PIN"}, args...)
	return run(t, k.env(), "pkcs11-tool", args...)
}

// Shown returns what pkcs11-tool tells of the objects on k without logging in.
func (k *Token) Shown(t testing.TB) string {
	t.Helper()
	return run(t, k.env(), "pkcs11-tool", "--module", k.Module, "--token-label", k.Label, "--list-objects")
}

// Kind is a kind of key that pkcs11-tool can make.
type Kind string

// The kinds, by what tells pkcs11-tool to make one that cannot leave the token.
const (
	AES     Kind = "--keygen --key-type AES:32 --sensitive"
	RSA     Kind = "--keypairgen --key-type rsa:2048 --usage-decrypt"
	P256    Kind = "--keypairgen --key-type EC:prime256v1 --usage-derive"
	Ed25519 Kind = "--keypairgen --key-type EC:edwards25519 --usage-sign"
)

// Make makes a key with this label and CKA_ID (in hexadecimal) on k.
func (k *Token) Make(t testing.TB, kind Kind, label, id string) {
	t.Helper()
	k.Tool(t, append(strings.Fields(string(kind)), "--label", label, "--id", id)...)
}

// Remove takes all tokens out of k's directory, as if pulled out of the machine.
func (k *Token) Remove(t testing.TB) {
	t.Helper()
	rename(t, k.Dir, k.Dir+".away")
	if err := os.Mkdir(k.Dir, 0o700); err != nil { // SoftHSM does not start without
		t.Fatal(err)
	}
}

// Insert puts the tokens back that Remove took away.
func (k *Token) Insert(t testing.TB) {
	t.Helper()
	if err := os.Remove(k.Dir); err != nil {
		t.Fatal(err)
	}
	rename(t, k.Dir+".away", k.Dir)
}

// Warned tells whether k counts a wrong PIN since the last right one.
func (k *Token) Warned(t testing.TB) bool {
	t.Helper()
	return strings.Contains(k.slot(t), "user PIN count low")
}

// slot returns what pkcs11-tool tells of k without logging in, empty if it does
// not see k.
func (k *Token) slot(t testing.TB) string {
	t.Helper()
	listing := run(t, k.env(), "pkcs11-tool", "--module", k.Module, "--list-token-slots")
	for slot := range strings.SplitSeq(listing, "\nSlot ") {
		if strings.Contains(slot, "token label        : "+k.Label+"\n") {
			return slot
		}
	}
	return ""
}

func (k *Token) env() []string {
	return append(os.Environ(), k.Env(), "TOKENTEST_PIN="+k.PIN)
}

func module(t testing.TB) string {
	t.Helper()
	for _, path := range modules {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatalf("SoftHSM is not installed, in none of %s: apt-get install softhsm2 opensc", strings.Join(modules, ", "))
	return ""
}

func run(t testing.TB, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("running %s (apt-get install softhsm2 opensc): %v\n%s", name, err, out)
	}
	return string(out)
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}
