package descriptor

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// CAA is a record of certification authority authorization as a caa line has it
// (proposal 343, in the form of RFC 8659, section 4.1.1).
type CAA struct {
	Flags uint8  // 128: an authority that does not know the tag must not issue
	Tag   string // ASCII letters and digits, at most 255: "issue", "iodef"
	Value string // printable ASCII, unquoted: "ca.example;validationmethods=onion-csr-01"
}

// maxTag is the length that one octet counts in DNS.
const maxTag = 255

// ParseCAA reads the arguments of a caa line, which are those of a CAA record in
// a zone file: flags, tag and a value, quoted if there are blanks in it.
func ParseCAA(text string) (CAA, error) {
	flags, rest, _ := strings.Cut(strings.Trim(text, " "), " ")
	tag, value, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
	n, err := parseNumber([]byte(flags), 255)
	if err != nil {
		return CAA{}, fmt.Errorf("reading a CAA record: flags: %w", err)
	}
	r := CAA{Flags: uint8(n), Tag: tag}
	if r.Value, err = unquoteCAA(strings.TrimLeft(value, " ")); err == nil {
		err = r.check()
	}
	if err != nil {
		return CAA{}, fmt.Errorf("reading a CAA record: %w", err)
	}
	return r, nil
}

// unquoteCAA reads a word or a quoted string. A backslash takes the meaning from
// the character after it.
func unquoteCAA(text string) (string, error) {
	inner, quoted := strings.CutPrefix(text, `"`)
	if text == "" {
		return "", errors.New("no value")
	}
	var b strings.Builder
	for i := 0; i < len(inner); i++ {
		switch c := inner[i]; {
		case c == '\\' && i+1 < len(inner) && (inner[i+1] < '0' || inner[i+1] > '9'):
			i++
			b.WriteByte(inner[i])
		case c == '\\':
			return "", errors.New("a backslash before nothing or a digit")
		case quoted && c == '"' && i+1 == len(inner):
			return b.String(), nil
		case c == '"' || c == ' ' && !quoted:
			return "", fmt.Errorf("%q within the value", c)
		default:
			b.WriteByte(c)
		}
	}
	if quoted {
		return "", errors.New("no quote ends the value")
	}
	return b.String(), nil
}

var escapeCAA = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// String returns the arguments of the caa line.
func (r CAA) String() string {
	return strconv.Itoa(int(r.Flags)) + " " + r.Tag + ` "` + escapeCAA.Replace(r.Value) + `"`
}

// CAAText returns records as the lines of a descriptor, without the end of the last.
func CAAText(records []CAA) string {
	lines := make([]string, len(records))
	for n, r := range records {
		lines[n] = kwCAA + " " + r.String()
	}
	return strings.Join(lines, "\n")
}

func (r CAA) check() error {
	if r.Tag == "" || len(r.Tag) > maxTag || strings.ContainsFunc(r.Tag, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
	}) {
		return fmt.Errorf("tag %q is not of letters and digits", r.Tag)
	}
	for i := range len(r.Value) {
		if c := r.Value[i]; c < ' ' || c > '~' {
			return errors.New("a value that is not printable ASCII")
		}
	}
	return nil
}

func (c *Contents) checkCAA() error {
	if len(c.CAA) > maxWords {
		return errTooMany
	}
	for _, r := range c.CAA {
		if err := r.check(); err != nil {
			return err
		}
	}
	return nil
}
