package control

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"onionbalancer/internal/printable"
)

const (
	cookieLength = 32
	nonceLength  = 32

	// The keys of safe cookie authentication (control-spec, section 3.24).
	serverHashKey = "Tor safe cookie authentication server-to-controller hash"
	clientHashKey = "Tor safe cookie authentication controller-to-server hash"
)

// authenticate asks tor for its methods, and authenticates (control-spec, sections
// 3.5, 3.21 and 3.24). It returns tor's version.
func (l *controlConn) authenticate(cfg Config) (version string, err error) {
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

// prove uses the first method available: the operator's settings before those that
// tor names.
func (l *controlConn) prove(info protocolInfo, cfg Config, who peer) error {
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

// method is one way to authenticate. Its secret is an error if it is not
// available: it does not exist, or must not be told to the listening process.
type method struct {
	name   string
	secret func() ([]byte, error)
	use    func(l *controlConn, secret []byte) error
}

// methods are the methods of tor that we support, in the order in which to try them.
func methods(info protocolInfo, cfg Config, who peer) []method {
	var cookie, password, none []method
	if file := cmp.Or(cfg.CookieFile, info.cookieFile); file != "" {
		read := func() ([]byte, error) { return readCookie(file, cfg.CookieFile != "", who) }
		switch {
		case info.accepts("SAFECOOKIE"):
			cookie = []method{{"by safe cookie", read, (*controlConn).safeCookie}}
		case info.accepts("COOKIE"):
			cookie = []method{{"by cookie", func() ([]byte, error) { return nil, errPlainCookie }, nil}}
		}
	}
	if cfg.PasswordFile != "" && info.accepts("HASHEDPASSWORD") {
		read := func() ([]byte, error) { return readPassword(cfg.PasswordFile, who) }
		password = []method{{"by password", read, (*controlConn).sendPassword}}
	}
	if info.accepts("NULL") {
		none = []method{{"without a secret", func() ([]byte, error) { return nil, mayOmit(cfg, who) }, (*controlConn).sendSecret}}
	}
	if cfg.PasswordFile != "" && cfg.CookieFile == "" {
		return slices.Concat(password, cookie, none)
	}
	return slices.Concat(cookie, password, none)
}

// errPlainCookie refuses to send a cookie in the clear: an impostor in tor's place
// would learn the contents of any file that it names.
var errPlainCookie = advise(errors.New("it wants the cookie itself (COOKIE without SAFECOOKIE), which no tor of today does"),
	"check which program listens there")

// mayOmit returns why a peer that requires no authentication, and so proved
// nothing itself, is not trusted.
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

func (l *controlConn) sendSecret(secret []byte) error {
	command := "AUTHENTICATE"
	if len(secret) > 0 {
		command += " " + hex.EncodeToString(secret)
	}
	_, err := l.send(command)
	return err
}

// safeCookie proves that we know the cookie without sending it. The other side
// must prove first that it knows it too.
func (l *controlConn) safeCookie(cookie []byte) error {
	var nonce [nonceLength]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return fmt.Errorf("making a nonce: %w", err)
	}
	r, err := l.send("AUTHCHALLENGE SAFECOOKIE " + hex.EncodeToString(nonce[:]))
	if err != nil {
		return err
	}
	serverHash, serverNonce, err := parseChallenge(r.text())
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
		return advise(errors.New("the program that listens there does not know this cookie"),
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

// greeting is the timeout for the other side to answer at all. tor's main loop,
// which answers, is seldom busy for as long as a second.
const greeting = 8 * time.Second

// controlPorts is the advice if something other than a control port listens.
const controlPorts = `set tor.control to the ControlSocket or ControlPort of tor's torrc, "unix:/run/tor/control" or "127.0.0.1:9051" as a rule`

// greet asks for tor's PROTOCOLINFO and returns its lines. An error says which service
// listens there, if it is not a control port.
func (l *controlConn) greet(patience time.Duration) ([]string, error) {
	defer func(timeout time.Duration) { l.timeout = timeout }(l.timeout)
	l.timeout = patience
	if err := l.arm(maxPlainReply); err != nil {
		return nil, err
	}
	if err := l.write("PROTOCOLINFO 1", nil); err != nil {
		return nil, l.explain(err)
	}
	var lines []string
	for {
		raw, err := l.r.ReadBytes('\n')
		if err != nil && len(lines) > 0 {
			return nil, l.explain(unexpectedEOF(err))
		}
		if err != nil && len(raw) == 0 {
			return nil, silent(err, patience)
		}
		line, bad := parseReplyLine(raw)
		switch {
		case bad == nil && line.code >= 500 && line.kind == ' ':
			return nil, refusal(line.code, line.text)
		case bad != nil || err != nil || line.code != 250:
			return nil, stranger(string(raw))
		case line.kind == ' ':
			return lines, nil
		}
		lines = append(lines, line.text)
	}
}

// silent explains that there was no answer at all.
func silent(err error, patience time.Duration) error {
	switch {
	case isTimeout(err):
		err = fmt.Errorf("the program that listens there did not answer within %v: %w", patience, err)
	case errors.Is(err, io.EOF):
		err = errors.New("the program that listens there closed the connection without an answer")
	default:
		return err
	}
	return advise(err, "is it tor's control port, and not stopped? Else %s", controlPorts)
}

// stranger guesses which service listens there, from the first bytes it sent.
func stranger(said string) error {
	line, _, _ := strings.Cut(said, "\n")
	line = strings.TrimRight(line, "\r")
	what := fmt.Sprintf("something that says \"%.60s\"", printable.Text(line))
	switch {
	case strings.Contains(line, "Tor is not an HTTP Proxy"):
		what = "tor's SOCKS port"
	case strings.HasPrefix(line, "HTTP/"):
		what = "a web server or HTTP proxy"
	case strings.HasPrefix(line, "SSH-"):
		what = "an SSH server"
	case strings.HasPrefix(line, "\x15\x03"):
		what = "a TLS server, tor's ORPort perhaps"
	}
	return advise(fmt.Errorf("no control port listens there, but %s", what), "%s", controlPorts)
}

// protocolInfo is tor's answer before authentication (control-spec, section 3.21).
type protocolInfo struct {
	methods    []string
	cookieFile string
	version    string
}

func (p protocolInfo) accepts(method string) bool { return slices.Contains(p.methods, method) }

func parseProtocolInfo(lines []string) (protocolInfo, error) {
	var info protocolInfo
	for _, line := range lines {
		keyword, rest, _ := strings.Cut(line, " ")
		switch keyword {
		case "PROTOCOLINFO":
			if rest != "1" {
				return info, fmt.Errorf("reading PROTOCOLINFO: version %q, want 1", rest)
			}
		case "AUTH":
			if err := info.parseAuth(rest); err != nil {
				return info, fmt.Errorf("reading PROTOCOLINFO: %w", err)
			}
		case "VERSION":
			if quoted, ok := strings.CutPrefix(rest, "Tor="); ok {
				text, _, err := unquote(quoted)
				if err != nil {
					return info, fmt.Errorf("reading PROTOCOLINFO: version: %w", err)
				}
				info.version, _, _ = strings.Cut(printable.Text(text), " ")
			}
		}
	}
	if len(info.methods) == 0 {
		return info, advise(errors.New("the program that listens there offers no way to authenticate"), controlPorts)
	}
	return info, nil
}

func (p *protocolInfo) parseAuth(rest string) error {
	list, rest, _ := strings.Cut(rest, " ")
	names, ok := strings.CutPrefix(list, "METHODS=")
	if !ok {
		return fmt.Errorf("AUTH line without METHODS")
	}
	p.methods = strings.Split(names, ",")
	quoted, ok := strings.CutPrefix(rest, "COOKIEFILE=")
	if !ok {
		return nil
	}
	path, _, err := unquote(quoted)
	if err != nil {
		return fmt.Errorf("path of the cookie file: %w", err)
	}
	p.cookieFile = path
	return nil
}

// unquote reads a quoted string with the escapes of C at the beginning of s,
// octal bytes among them, and returns the rest (control-spec, section
// 2.1.1).
func unquote(s string) (text, rest string, err error) {
	if s == "" || s[0] != '"' {
		return "", "", errors.New("not a quoted string")
	}
	var out []byte
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return string(out), s[i+1:], nil
		case '\\':
			b, used := unescape(s[i+1:])
			if used == 0 {
				return "", "", errors.New("quoted string ends in a backslash")
			}
			out = append(out, b)
			i += used
		default:
			out = append(out, s[i])
		}
	}
	return "", "", errors.New("quoted string does not end")
}

// unescape reads the escape after a backslash, and returns its length in bytes.
func unescape(s string) (b byte, used int) {
	if s == "" {
		return 0, 0
	}
	switch s[0] {
	case 'n':
		return '\n', 1
	case 'r':
		return '\r', 1
	case 't':
		return '\t', 1
	}
	value := 0
	for used < 3 && used < len(s) && s[used] >= '0' && s[used] <= '7' {
		value = value*8 + int(s[used]-'0')
		used++
	}
	if used > 0 {
		return byte(value), used
	}
	return s[0], 1
}
