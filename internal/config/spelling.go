package config

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"unicode"

	"github.com/BurntSushi/toml"

	"onionbalancer/descriptor"
)

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

// addressLabel cuts the 56 characters, or what stands for them, out of a URL, a
// subdomain, or an address with a port, quotes or spaces. onion tells whether
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

// hostPort tells whether s is a host and the number of a port.
func hostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	n, numberErr := strconv.ParseUint(port, 10, 16)
	odd := strings.IndexFunc(host, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/*@\"'", r) })
	return err == nil && host != "" && host != "tcp" && odd < 0 && numberErr == nil && n > 0
}

// controlMeant rewrites what people write for a control port.
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
