package config

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/BurntSushi/toml"

	"onionbalancer/internal/printable"
)

// maxSyntaxErrors is how many faults of syntax are looked for.
const maxSyntaxErrors = 20

// syntaxErrors lists what keeps text from being TOML, one fault for each line.
// The parser stops at the first, so it is asked again with that line put right,
// or left out.
func syntaxErrors(text, path string) error {
	bad := &complaints{file: path}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		// The parser finds these in the line after.
		if m := tableLine.FindStringSubmatch(line); m != nil && len(m[1]) != len(m[3]) {
			lines[i] = "[" + m[2] + "]"
			if strings.HasPrefix(m[2], "service") {
				lines[i] = "[" + lines[i] + "]"
			}
			bad.list = append(bad.list, &Error{File: path, Line: i + 1, Err: fmt.Errorf("the brackets do not fit together: write %s", lines[i])})
		}
	}
	for len(bad.list) < maxSyntaxErrors {
		parse := toml.ParseError{}
		_, err := toml.Decode(strings.Join(lines, "\n"), new(map[string]any))
		if err == nil {
			break
		}
		if !errors.As(err, &parse) || parse.Position.Line < 1 || parse.Position.Line > len(lines) {
			bad.list = append(bad.list, &Error{File: path, Err: errors.New(printable.Text(err.Error()))})
			break
		}
		line := strings.TrimRight(lines[parse.Position.Line-1], "\r")
		reason, mended := mendLine(line)
		complaint := errors.New(printable.Text(cmp.Or(reason, parse.Message)))
		if mended != "" {
			complaint = fmt.Errorf("%w: write %s", complaint, mended)
		}
		bad.list = append(bad.list, &Error{File: path, Line: parse.Position.Line, Err: complaint})
		if mended == line || mended == "" && !aloneInLine.MatchString(line) {
			break // what follows may be a part of it
		}
		lines[parse.Position.Line-1] = mended
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

// mendLine says what is wrong with a line that is no TOML and how it is
// written; "" for what it does not know, and for what may be a secret.
func mendLine(line string) (reason, mended string) {
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
	if secretWord.MatchString(m[1]) || bareKey.MatchString(value) || looksLikeClientKey(value) || strings.Contains(value, "-----BEGIN") {
		return reason, ""
	}
	mended = m[1] + strings.TrimPrefix(write("k", value), "k")
	if plainWord.MatchString(value) && !strings.ContainsAny(raw, quotes) {
		mended = m[1] + " = " + value
	}
	if _, err := toml.Decode(mended, new(map[string]any)); err != nil {
		return "", "" // not even the key is one
	}
	return reason, mended
}
