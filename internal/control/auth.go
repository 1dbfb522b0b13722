package control

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

const (
	cookieLength = 32
	nonceLength  = 32

	// The keys of safe cookie authentication (control-spec, section 3.24).
	serverHashKey = "Tor safe cookie authentication server-to-controller hash"
	clientHashKey = "Tor safe cookie authentication controller-to-server hash"
)

// authenticate asks tor what it takes, and gives it (control-spec, sections
// 3.5, 3.21 and 3.24). It returns tor's version.
func (l *link) authenticate(cfg Config) (version string, err error) {
	response, err := l.send("PROTOCOLINFO 1")
	if err != nil {
		return "", err
	}
	info, err := parseProtocolInfo(response.Data)
	if err != nil {
		return "", err
	}
	return info.version, l.prove(info, cfg)
}

// prove picks the first method of ours that tor takes and whose secret can be
// read: what the operator named before what tor names.
func (l *link) prove(info protocolInfo, cfg Config) error {
	if info.accepts("NULL") {
		return l.sendSecret(nil)
	}
	var unreadable []error
	for _, m := range methods(info, cfg) {
		secret, err := m.read()
		if err != nil {
			unreadable = append(unreadable, err)
			continue
		}
		if err := m.use(l, secret); err != nil {
			return fmt.Errorf("by %s: %w", m.name, err)
		}
		return nil
	}
	if len(unreadable) > 0 {
		return errors.Join(unreadable...)
	}
	return fmt.Errorf("tor takes %s, and none of it is set up here: set password_file (or cookie_file), "+
		"or put \"CookieAuthentication 1\" into torrc", strings.Join(info.methods, ", "))
}

type method struct {
	name string
	read func() ([]byte, error)
	use  func(l *link, secret []byte) error
}

func methods(info protocolInfo, cfg Config) []method {
	var cookie, password []method
	cookieFile := cfg.CookieFile
	if cookieFile == "" {
		cookieFile = info.cookieFile
	}
	readCookie := func() ([]byte, error) { return readCookie(cookieFile) }
	switch {
	case cookieFile == "":
	case info.accepts("SAFECOOKIE"):
		cookie = []method{{"safe cookie", readCookie, (*link).safeCookie}}
	case info.accepts("COOKIE"):
		cookie = []method{{"cookie", readCookie, (*link).sendSecret}}
	}
	if cfg.PasswordFile != "" && info.accepts("HASHEDPASSWORD") {
		read := func() ([]byte, error) { return readPassword(cfg.PasswordFile) }
		password = []method{{"password", read, (*link).sendSecret}}
	}
	if cfg.PasswordFile != "" && cfg.CookieFile == "" {
		return slices.Concat(password, cookie)
	}
	return slices.Concat(cookie, password)
}

func (l *link) sendSecret(secret []byte) error {
	command := "AUTHENTICATE"
	if len(secret) > 0 {
		command += " " + hex.EncodeToString(secret)
	}
	_, err := l.send(command)
	return err
}

// safeCookie proves that we know the cookie without sending it to whoever
// listens in tor's place, who must prove the same first.
func (l *link) safeCookie(cookie []byte) error {
	var nonce [nonceLength]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return fmt.Errorf("making a nonce: %w", err)
	}
	response, err := l.send("AUTHCHALLENGE SAFECOOKIE " + hex.EncodeToString(nonce[:]))
	if err != nil {
		return err
	}
	serverHash, serverNonce, err := parseChallenge(response.Reply)
	if err != nil {
		return err
	}
	sum := func(key string) []byte {
		m := hmac.New(sha256.New, []byte(key))
		m.Write(cookie)
		m.Write(nonce[:])
		m.Write(serverNonce)
		return m.Sum(nil)
	}
	if !hmac.Equal(serverHash, sum(serverHashKey)) {
		return errors.New("tor does not know this cookie: is the cookie file left over from another tor?")
	}
	return l.sendSecret(sum(clientHashKey))
}

func parseChallenge(reply string) (hash, nonce []byte, err error) {
	words := strings.Fields(reply)
	if len(words) < 3 || words[0] != "AUTHCHALLENGE" {
		return nil, nil, fmt.Errorf("malformed answer to AUTHCHALLENGE")
	}
	for _, word := range words[1:] {
		if v, ok := strings.CutPrefix(word, "SERVERHASH="); ok {
			hash, err = hex.DecodeString(v)
		} else if v, ok := strings.CutPrefix(word, "SERVERNONCE="); ok {
			nonce, err = hex.DecodeString(v)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("malformed answer to AUTHCHALLENGE: %w", err)
		}
	}
	if len(hash) != sha256.Size || len(nonce) != nonceLength {
		return nil, nil, errors.New("malformed answer to AUTHCHALLENGE: wrong length")
	}
	return hash, nonce, nil
}

func readCookie(path string) ([]byte, error) {
	cookie, err := readSmall(path)
	if err != nil {
		return nil, explainCookie(err)
	}
	if len(cookie) != cookieLength {
		return nil, fmt.Errorf("reading tor's cookie: %s has %d bytes, want %d", path, len(cookie), cookieLength)
	}
	return cookie, nil
}

// explainCookie adds how to mend it.
func explainCookie(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("reading tor's cookie: %w: add balancer's user to the group that may read it "+
			"(Debian: adduser USER debian-tor; in torrc: CookieAuthFileGroupReadable 1), "+
			"or set password_file", err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("reading tor's cookie: %w: if tor runs elsewhere or in a container, "+
			"set cookie_file to where the file is seen from here, or set password_file", err)
	}
	return fmt.Errorf("reading tor's cookie: %w", err)
}

func readPassword(path string) ([]byte, error) {
	text, err := readSmall(path)
	if err != nil {
		return nil, fmt.Errorf("reading password_file: %w", err)
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return nil, fmt.Errorf("reading password_file: the first line of %s is empty", path)
	}
	return line, nil
}

// readSmall reads at most a few kilobytes: a path that tor named, or a typing
// mistake, may lead anywhere.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 4096))
}
