package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/BurntSushi/toml"
	"go.yaml.in/yaml/v3"

	"onionbalancer/descriptor"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
)

// This file recognises common mistakes: other things in the place of a configuration or
// a value, and says what to write instead.

// torrcLine is a line as only a torrc or an ob_config has it.
var torrcLine = regexp.MustCompile(`(?mi)^\s*(HiddenService\w+|MasterOnionAddress|SocksPort|ControlPort|ControlSocket|UseBridges|Bridge|ClientTransportPlugin)[ \t]+\S`)

// foreign recognises a file that is not a configuration at all, and says what it
// is and what to do; nil if it may be one.
func foreign(data []byte, path string) *Error {
	text := strings.TrimSpace(strings.TrimPrefix(string(data), "\ufeff"))
	switch {
	case utf16(data):
		return fault(path, 0, "is UTF-16 text; run: iconv -f UTF-16 -t UTF-8 %s > %s", shell.Quote(path), shell.Quote(path+".utf8"))
	case strings.HasPrefix(text, "== ed25519v1-"), strings.HasPrefix(text, "-----BEGIN"):
		return fault(path, 0, "is a key, and no configuration; name it in one: %s", write("key", path))
	case strings.HasPrefix(text, "{"), strings.HasPrefix(text, "[{"):
		return fault(path, 0, "is JSON; the configuration is TOML, as doc/balancer.example.toml shows it")
	}
	if _, err := descriptor.ParseAddress(text); err == nil {
		return fault(path, 0, "is a hostname file, and no configuration; its address goes into one: %s", write("address", text))
	}
	return nil
}

// utf16 recognises UTF-16, by its mark or by the zero bytes of its first letters.
func utf16(data []byte) bool {
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		return true
	}
	return len(data) >= 4 && (data[0] != 0 && data[1] == 0 && data[3] == 0 || data[0] == 0 && data[1] != 0 && data[2] == 0)
}

// otherFormat recognises the configurations of other programs in text that is not
// TOML; nil if it knows none.
func otherFormat(data []byte, path string) *Error {
	if converted := fromOnionBalance(data, filepath.Dir(path)); converted != "" {
		other := fault(path, 0, "is OnionBalance's, in YAML; balancer's is TOML. This prints the same as TOML: balancer check --offline --config %s", shell.Quote(path))
		other.Instead = converted
		return other
	}
	if torrcLine.Match(data) {
		return fault(path, 0, "is a file of tor's; balancer's configuration is TOML, as doc/balancer.example.toml shows it")
	}
	return nil
}

// onionBalance is the part of config.yaml of OnionBalance 0.2 that we use.
type onionBalance struct {
	Services []struct {
		Key       string
		Instances []struct{ Name, Address string }
	}
}

// fromOnionBalance converts OnionBalance's config.yaml, in the directory dir, to
// a configuration of ours; "" if it is none.
func fromOnionBalance(data []byte, dir string) string {
	var from onionBalance
	if err := yaml.Unmarshal(data, &from); err != nil || len(from.Services) == 0 {
		return ""
	}
	var out strings.Builder
	out.WriteString(write("state_dir", "/var/lib/balancer") + "\n")
	for _, s := range from.Services {
		key := s.Key
		if key != "" && !filepath.IsAbs(key) {
			key = filepath.Join(dir, key)
		}
		fmt.Fprintf(&out, "\n[[service]]\n%s\n", write("key", key))
		for _, i := range s.Instances {
			out.WriteString("\n  [[service.instance]]\n")
			if i.Name != "" {
				fmt.Fprintf(&out, "  %s\n", write("name", i.Name))
			}
			address := i.Address
			if a, err := descriptor.ParseAddress(address); err == nil {
				address = a.String()
			}
			fmt.Fprintf(&out, "  %s\n", write("address", address))
		}
	}
	return out.String()
}

// write is the line that sets key to value, for people to paste.
func write(key string, value any) string {
	text, err := toml.Marshal(map[string]any{key: value})
	if err != nil {
		return fmt.Sprintf("%s = %v", key, value)
	}
	return strings.TrimSpace(string(text))
}

// readAddress reads an onion address, and knows the other things that are
// written in its place.
func readAddress(s string) (descriptor.Address, error) {
	a, err := descriptor.ParseAddress(s)
	if err == nil {
		return a, nil
	}
	label, onion := addressLabel(s)
	if meant, err := descriptor.ParseAddress(label); err == nil {
		return a, fmt.Errorf("%q is not just an onion address; write %s", s, write("address", meant.String()))
	}
	typed := strings.NewReplacer("0", "o", "1", "l", "8", "b").Replace(label)
	if meant, err := descriptor.ParseAddress(typed); err == nil {
		return a, fmt.Errorf("%q has a 0, 1 or 8, and no onion address has one; write %s", s, write("address", meant.String()))
	}
	switch {
	case len(label) == 16 && onion:
		return a, fmt.Errorf("%q is a version 2 onion address, which Tor has given up; give the backend a new HiddenServiceDir, "+
			"and write the address of 56 characters in its hostname file", s)
	case !onion && strings.ContainsAny(s, ".:/"):
		return a, fmt.Errorf("%q is no onion address; write the one in the hostname file of the backend's tor, address = \"….onion\"", s)
	}
	return a, fmt.Errorf("%w (it is in the hostname file of the backend's tor)", err)
}

// addressLabel extracts the 56 characters of an address from a URL, a
// subdomain, or an address with a port, quotes or spaces. onion reports whether
// ".onion" followed.
func addressLabel(s string) (label string, onion bool) {
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || r > unicode.MaxASCII || strings.ContainsRune("\"'<>`", r) {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
	if _, rest, ok := strings.Cut(s, "://"); ok {
		s = rest
	}
	s, _, _ = strings.Cut(s, "/")
	s = s[strings.LastIndexByte(s, '@')+1:]
	s, _, _ = strings.Cut(s, ":")
	s, onion = strings.CutSuffix(strings.TrimRight(s, ".,;"), ".onion")
	return s[strings.LastIndexByte(s, '.')+1:], onion
}

// hostPort reports whether s is a host and the number of a port.
func hostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	n, numberErr := strconv.ParseUint(port, 10, 16)
	odd := strings.IndexFunc(host, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/*@\"'", r) })
	return err == nil && host != "" && host != "tcp" && odd < 0 && numberErr == nil && n > 0
}

// controlMeant corrects common ways to write a control port.
func controlMeant(s string) string {
	const usualPort = "9051"
	s = strings.Trim(s, " \t\"'")
	scheme, rest, url := strings.Cut(s, "://")
	switch scheme = strings.ToLower(scheme); {
	case url && (scheme == "unix" || scheme == "file"):
		return "unix:/" + strings.TrimLeft(rest, "/")
	case url:
		s = rest
	case strings.HasPrefix(strings.ToLower(s), "tcp:"):
		s = s[len("tcp:"):]
	}
	words := strings.Fields(s)
	if len(words) == 2 && strings.HasPrefix(strings.ToLower(words[0]), "control") {
		words = words[1:] // a line of a torrc
	}
	s = strings.Join(words, ":")
	if strings.HasPrefix(s, "/") {
		return "unix:" + s
	}
	s, _, _ = strings.Cut(s, "/")
	if _, err := strconv.ParseUint(s, 10, 16); err == nil {
		return "127.0.0.1:" + s
	}
	host, port := s, usualPort
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i+1:]
	}
	if host == "" || host == "*" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

// controlTarget checks "unix:/path" or "host:port", and makes the path absolute.
func controlTarget(dir, s string) (any, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if problem := pathProblem(path); problem != nil {
			return nil, fmt.Errorf("the path after \"unix:\" %w", problem)
		}
		if path = absolute(dir, path); len(path) > maxSocketPath {
			return nil, fmt.Errorf("the path of the socket has %d bytes, and the kernel takes %d: name it by a shorter one, through a symbolic link for instance",
				len(path), maxSocketPath)
		}
		return "unix:" + path, nil
	}
	if hostPort(s) {
		return s, nil
	}
	meant := controlMeant(s)
	if path, ok := strings.CutPrefix(meant, "unix:"); ok && pathProblem(path) == nil || hostPort(meant) {
		return nil, fmt.Errorf("%q is not how a control port is written; write %s", s, write("control", meant))
	}
	return nil, fmt.Errorf("%q is no control port, want \"unix:/path/of/socket\" or \"host:port\", the port from 1 to 65535", s)
}

const maxSocketPath = 107 // bytes

// maxSyntaxErrors is how many faults of syntax are looked for.
const maxSyntaxErrors = 20

// syntaxErrors lists the syntax errors of a TOML text, one for each line.
// The parser stops at the first, so it is called again with that line corrected,
// or left out.
func syntaxErrors(text, path string) error {
	bad := &complaints{file: path}
	say := func(line int, format string, args ...any) {
		bad.list = append(bad.list, fault(path, line, format, args...))
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		// The parser finds these in the line after.
		if m := tableLine.FindStringSubmatch(line); m != nil && len(m[1]) != len(m[3]) {
			lines[i] = "[" + m[2] + "]"
			if strings.HasPrefix(m[2], "service") || strings.HasPrefix(m[2], "shard") {
				lines[i] = "[" + lines[i] + "]"
			}
			say(i+1, "the brackets do not fit together: write %s", lines[i])
		}
	}
	for len(bad.list) < maxSyntaxErrors {
		parse := toml.ParseError{}
		_, err := toml.Decode(strings.Join(lines, "\n"), new(map[string]any))
		if err == nil {
			break
		}
		if !errors.As(err, &parse) || parse.Position.Line < 1 || parse.Position.Line > len(lines) {
			say(0, "%s", printable.Text(err.Error()))
			break
		}
		line := strings.TrimRight(lines[parse.Position.Line-1], "\r")
		reason, fixed := fixLine(line)
		reason = printable.Text(cmp.Or(reason, parse.Message))
		if fixed != "" {
			reason += ": write " + fixed
		}
		say(parse.Position.Line, "%s", reason)
		if fixed == line || fixed == "" && !aloneInLine.MatchString(line) {
			break // the rest may be a part of it
		}
		lines[parse.Position.Line-1] = fixed
	}
	return bad.err()
}

var (
	// aloneInLine is a key with a value that does not go on in the next line.
	aloneInLine = regexp.MustCompile(`^\s*[\w.-]+\s*=[^\[{]*$`)

	tableLine = regexp.MustCompile(`^\s*(\[+)\s*([\w.-]+)\s*(\]+)\s*(#.*)?$`)
	valueLine = regexp.MustCompile(`^\s*([\w.-]+)(\s*[=:]\s*|\s+)(.*?)\s*$`)
	// secretWord is a key whose value is perhaps a secret, and not its file.
	secretWord = regexp.MustCompile(`(?i)^[\w.-]*(pass|pin|secret|cookie)[^_]*$`)
	plainWord  = regexp.MustCompile(`^(true|false|[0-9]+(\.[0-9]+)?)$`)
)

// fixLine says what is wrong with a line that is not TOML and how to write
// it; "" for unknown mistakes, and for a line that may have a secret.
func fixLine(line string) (reason, fixed string) {
	m := valueLine.FindStringSubmatch(line)
	if _, err := toml.Decode(line, new(map[string]any)); m == nil || err == nil {
		return "", "" // it is the lines around it that make it wrong
	}
	const quotes = "\"'`“”„‟‘’‚‛«»"
	raw, _, _ := strings.Cut(m[3], " #")
	value := strings.Trim(raw, " \t,;"+quotes)
	switch {
	case value == "" && strings.Contains(m[2], "="):
		return "the key has no value; give it one, or leave the line out", ""
	case value == "" || strings.ContainsAny(value, `"'[]{}`):
		return "", ""
	case !strings.Contains(m[2], "="):
		reason = `key and value are joined by "="`
	case strings.ContainsAny(raw, "“”„‟‘’‚‛«»`"):
		reason = `the quotes must be plain ones, "`
	case strings.ContainsAny(raw, `"'`):
		reason = "the quotes are not closed, or something follows them"
	default:
		reason = "the value must be in quotes"
	}
	if secretWord.MatchString(m[1]) || bareKey.MatchString(value) || clientKey.MatchString(value) || strings.Contains(value, "-----BEGIN") {
		return reason, ""
	}
	fixed = m[1] + strings.TrimPrefix(write("k", value), "k")
	if plainWord.MatchString(value) && !strings.ContainsAny(raw, quotes) {
		fixed = m[1] + " = " + value
	}
	if _, err := toml.Decode(fixed, new(map[string]any)); err != nil {
		return "", "" // not even the key is one
	}
	return reason, fixed
}
