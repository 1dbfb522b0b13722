package control

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"onionbalancer/internal/printable"
)

// protocolInfo is what tor says before authentication (control-spec, section
// 3.21). bine's reader of it gives up on all methods when the cookie's path
// has a character that tor writes in octal.
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
		return info, advise(errors.New("what listens there names no way to authenticate"), controlPorts)
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
// octal bytes among them, and returns what follows it (control-spec, section
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

// unescape reads what follows a backslash, and says how many bytes that is.
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
