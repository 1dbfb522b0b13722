package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"onionbalancer/internal/printable"
)

// maxTorrc is far above what any torrc needs.
const maxTorrc = 1 << 20 // 1 MiB

// option is an entry of a torrc file, "KEY VALUE".
type option struct {
	line  int    // where it begins, from 1
	key   string // with the "+" or "/" before it, if there is one
	value string // as in one line: in quotes with their escapes, or plain
}

// String writes the option in one line that tor reads as this option.
func (o option) String() string {
	return strings.TrimRight(o.key+" "+o.value, " ")
}

// TorrcError is one complaint about a torrc file.
type TorrcError struct {
	File string
	Line int
	Key  string // "" if no option can be blamed
	Err  error
}

// Error writes file:line: option: complaint.
func (e *TorrcError) Error() string {
	text := fmt.Sprintf("%s:%d: ", printable.Text(e.File), e.Line)
	if e.Key != "" {
		text += printable.Text(e.Key) + ": "
	}
	return text + e.Err.Error()
}

// Unwrap returns the complaint.
func (e *TorrcError) Unwrap() error { return e.Err }

// ReadLines reads an operator's torrc file for [Config].ExtraLines. It reads as
// tor does, joins continued lines, and refuses the options that would take
// away what we rely on: every complaint is a *TorrcError, all of them joined in
// the order of their lines.
func ReadLines(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the torrc lines: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTorrc+1))
	if err == nil && len(text) > maxTorrc {
		err = fmt.Errorf("%q is larger than %d bytes", path, maxTorrc)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the torrc lines: %w", err)
	}
	list, problems := parseTorrc(text)
	var errs []error
	for _, problem := range problems {
		problem.File = path
		errs = append(errs, problem)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	lines := make([]string, len(list))
	for i, o := range list {
		lines[i] = o.String()
	}
	return lines, nil
}

// parseTorrc returns the options of a torrc file, and what is wrong with them.
func parseTorrc(text []byte) ([]option, []*TorrcError) {
	if nul := bytes.IndexByte(text, 0); nul >= 0 {
		return nil, []*TorrcError{{Line: 1 + bytes.Count(text[:nul], []byte("\n")),
			Err: errors.New("is no plain text: there is a zero byte; save the file as UTF-8")}}
	}
	// An editor's mark, which tor would take for a part of the first key.
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	list, syntax := scanTorrc(string(text))
	var problems []*TorrcError
	for _, o := range list {
		if err := refusal(o.key); err != nil {
			problems = append(problems, &TorrcError{Line: o.line, Key: o.key, Err: err})
		}
	}
	if syntax != nil {
		problems = append(problems, syntax)
	}
	return list, problems
}

// torrcSpace is what tor takes for space; carriage returns are gone by then.
const torrcSpace = " \t\n\v\f"

// scanTorrc tells the options of a torrc file apart, as tor does (its
// torrc_format.txt): a key ends at a space, a "#" or a continuation. A value
// ends with its line; in quotes it has C's escapes, and without them it may go
// on after a backslash at the end, and then over comments, with or without one.
func scanTorrc(text string) ([]option, *TorrcError) {
	text = strings.ReplaceAll(text, "\r", "") // tor drops them all
	var list []option
	rest := text
	for {
		rest = strings.TrimLeft(rest, torrcSpace)
		switch {
		case rest == "":
			return list, nil
		case rest[0] == '#':
			_, rest, _ = strings.Cut(rest, "\n")
			continue
		}
		o := option{line: 1 + strings.Count(text[:len(text)-len(rest)], "\n")}
		o.key, rest = cutKey(rest)
		rest = strings.TrimLeft(rest, " \t")
		var err error
		if strings.HasPrefix(rest, `"`) {
			o.value, rest, err = cutQuoted(rest)
		} else {
			o.value, rest = cutPlain(rest)
			if o.value != strings.TrimLeft(o.value, torrcSpace+`"`) || strings.HasSuffix(o.value, `\`) {
				o.value = quote(o.value) // in one line, it would be read otherwise
			}
		}
		if err != nil {
			return list, &TorrcError{Line: o.line, Key: o.key, Err: err}
		}
		list = append(list, o)
	}
}

func cutKey(s string) (key, rest string) {
	end := 0
	for end < len(s) && !strings.ContainsRune(torrcSpace+"#", rune(s[end])) && !strings.HasPrefix(s[end:], "\\\n") {
		end++
	}
	return s[:end], s[end:]
}

// cutQuoted takes a value in quotes, which it keeps.
func cutQuoted(s string) (value, rest string, err error) {
	end := 1
	for end < len(s) && s[end] != '"' && s[end] != '\n' {
		if s[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(s) || s[end] != '"' {
		return "", "", errors.New(`the quotes are not closed in their line; add the second "`)
	}
	value, rest = s[:end+1], strings.TrimLeft(s[end+1:], " \t")
	if rest != "" && rest[0] != '#' && rest[0] != '\n' {
		return "", "", errors.New("something follows the value in quotes; put the quotes around all of it, or around nothing")
	}
	return value, rest, nil
}

// cutPlain takes a value without quotes, continued or not.
func cutPlain(s string) (value, rest string) {
	var out strings.Builder
	continued := false
	for i := 0; ; {
		switch {
		case i >= len(s) || s[i] == '\n' || s[i] == '#' && !continued:
			return strings.TrimRight(out.String(), torrcSpace), s[i:]
		case strings.HasPrefix(s[i:], "\\\n"):
			continued = true
			i += 2
		case s[i] == '#':
			comment, _, _ := strings.Cut(s[i:], "\n")
			i = min(i+len(comment)+1, len(s))
		default:
			out.WriteByte(s[i])
			i++
		}
	}
}
