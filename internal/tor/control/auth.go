package control

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"onionbalancer/internal/printable"
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
	lines, err := l.greet(min(cfg.DialTimeout, greeting))
	if err != nil {
		return "", err
	}
	info, err := parseProtocolInfo(lines)
	if err != nil {
		return "", err
	}
	return info.version, l.prove(info, cfg, identify(l.conn.Conn))
}

// prove takes the first way that is open: what the operator named before what
// tor names.
func (l *link) prove(info protocolInfo, cfg Config, who peer) error {
	var closed []error
	for _, m := range methods(info, cfg, who) {
		secret, err := m.secret()
		if err != nil {
			closed = append(closed, err)
			continue
		}
		if err := m.use(l, secret); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		return nil
	}
	if len(closed) > 0 {
		return errors.Join(closed...)
	}
	return advise(fmt.Errorf("tor takes %s, and none of it is set up here", printable.Text(strings.Join(info.methods, ", "))),
		"set password_file (or cookie_file), or put \"CookieAuthentication 1\" into torrc")
}

// method is one way to authenticate. Its secret is an error where the way is not
// open: a secret is not there, or must not be told to who listens.
type method struct {
	name   string
	secret func() ([]byte, error)
	use    func(l *link, secret []byte) error
}

// methods are those of tor's that we have, in the order in which to try them.
func methods(info protocolInfo, cfg Config, who peer) []method {
	var cookie, password, none []method
	if file := cmp.Or(cfg.CookieFile, info.cookieFile); file != "" {
		read := func() ([]byte, error) { return readCookie(file, cfg.CookieFile != "", who) }
		switch {
		case info.accepts("SAFECOOKIE"):
			cookie = []method{{"by safe cookie", read, (*link).safeCookie}}
		case info.accepts("COOKIE"):
			cookie = []method{{"by cookie", func() ([]byte, error) { return nil, errPlainCookie }, nil}}
		}
	}
	if cfg.PasswordFile != "" && info.accepts("HASHEDPASSWORD") {
		read := func() ([]byte, error) { return readPassword(cfg.PasswordFile, who) }
		password = []method{{"by password", read, (*link).sendPassword}}
	}
	if info.accepts("NULL") {
		none = []method{{"without a secret", func() ([]byte, error) { return nil, mayOmit(cfg, who) }, (*link).sendSecret}}
	}
	if cfg.PasswordFile != "" && cfg.CookieFile == "" {
		return slices.Concat(password, cookie, none)
	}
	return slices.Concat(cookie, password, none)
}

// errPlainCookie refuses to hand a cookie over as it is: whoever listens in
// tor's place would learn it, of any file that it names.
var errPlainCookie = advise(errors.New("it wants the cookie itself (COOKIE without SAFECOOKIE), which no tor of today does"),
	"see what listens there")

// mayOmit says why we do not go on with somebody who wants no proof from us, and
// so gave none of being tor.
func mayOmit(cfg Config, who peer) error {
	for _, set := range []struct{ key, value string }{{"cookie_file", cfg.CookieFile}, {"password_file", cfg.PasswordFile}} {
		if set.value != "" {
			return advise(fmt.Errorf("it wants no authentication, though %s is set: it may not be tor", set.key),
				"put CookieAuthentication 1 or HashedControlPassword into tor's torrc, or remove %s", set.key)
		}
	}
	if who.doubt != nil {
		return advise(fmt.Errorf("it wants no authentication, and %w", who.doubt), "put \"CookieAuthentication 1\" into tor's torrc")
	}
	return nil
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
		return advise(errors.New("what listens there does not know this cookie"),
			"is the cookie file left over from another tor, or set by cookie_file for another one?")
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
