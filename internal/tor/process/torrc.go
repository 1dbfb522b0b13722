package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"

	"onionbalancer/internal/printable"
)

// defaults are the lines that an operator may overrule.
//
// Each fetch and most visits have a circuit of their own, which is of no use afterwards.
// tor keeps it for ten minutes, and looks through all of them for each stream: thousands
// take most of its time.
const defaults = "MaxCircuitDirtiness 120\n"

// write writes torrc, and a file for tor's defaults, so that the system's tor
// configuration is not read.
func (f *files) write(cfg Config) error {
	text, err := f.render(cfg, os.Getpid())
	if err != nil {
		return fmt.Errorf("writing torrc: %w", err)
	}
	for name, content := range map[string]string{torrcFile: text, defaultsFile: defaults} {
		if err := renameio.WriteFile(name, []byte(content), 0o600, renameio.WithRoot(f.root)); err != nil {
			return fmt.Errorf("writing torrc: %w", err)
		}
	}
	return nil
}

// render makes the text of torrc.
func (f *files) render(cfg Config, owner int) (string, error) {
	lines := append([]string{
		"DataDirectory " + quote(f.path(dataDir)),
		"ControlPort unix:" + quote(f.socket),
		"CookieAuthentication 1",
		"CookieAuthFile " + quote(f.path(cookieFile)),
		"SocksPort unix:" + quote(f.socks) + " OnionTrafficOnly ExtendedErrors",
		"ClientOnly 1",
		fmt.Sprintf("__OwningControllerProcess %d", owner),
		"Log notice stdout",
		"SafeLogging 1",
		"UseMicrodescriptors 1",
		// A client fetches a consensus an hour or two after it was made, and a
		// cache within half an hour; a client that asks a cache for the first
		// time has it before us. These two have us ask the authorities within
		// minutes, so that descriptors are where such a client looks. The
		// price: the authorities, and anyone who sees our traffic, see a host that is
		// not a relay and fetches early. They learn nothing of our fetches and
		// posts, which go over circuits as ever.
		"FetchDirInfoEarly 1",
		"FetchDirInfoExtraEarly 1",
		// Without streams tor would go dormant after a day: fetches and posts
		// by the control port do not count as activity.
		"DormantTimeoutEnabled 0",
		"DormantCanceledByStartup 1",
	}, cfg.ExtraLines...)
	for _, line := range lines {
		if strings.ContainsAny(line, "\r\n\x00") || strings.HasSuffix(line, `\`) {
			return "", fmt.Errorf("line %q has a line break or ends in a backslash", line)
		}
	}
	return strings.Join(lines, "\n") + "\n", nil
}

// quote writes a path as torrc needs it if it has spaces and the like.
func quote(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`).Replace(path) + `"`
}

// maxTorrc is far above the size of any real torrc.
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
	text := fmt.Sprintf("line %d: ", e.Line)
	if e.File != "" {
		text = fmt.Sprintf("%s:%d: ", printable.Text(e.File), e.Line)
	}
	if e.Key != "" {
		text += printable.Text(e.Key) + ": "
	}
	return text + e.Err.Error()
}

// Unwrap returns the complaint.
func (e *TorrcError) Unwrap() error { return e.Err }

// ReadLines reads an operator's torrc file for [Config].ExtraLines. It reads as
// tor does, joins continued lines, and refuses options that would break what
// we rely on: every fault is a *TorrcError, all of them joined in
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

// parseTorrc returns the options of a torrc file, and its errors.
func parseTorrc(text []byte) ([]option, []*TorrcError) {
	if nul := bytes.IndexByte(text, 0); nul >= 0 {
		return nil, []*TorrcError{{Line: 1 + bytes.Count(text[:nul], []byte("\n")),
			Err: errors.New("is no plain text: there is a zero byte; save the file as UTF-8")}}
	}
	// A byte-order mark, which tor would take for a part of the first key.
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

// Option is an entry of a file in tor's notation.
type Option struct {
	Line  int    // where it begins, from 1
	Key   string // with the "+" or "/" before it, if there is one
	Value string // without quotes and escapes
}

// Options reads a text in tor's notation, which a torrc and an ob_config have. The error is a
// *TorrcError without its file.
func Options(text []byte) ([]Option, error) {
	list, syntax := scanTorrc(string(bytes.TrimPrefix(text, []byte("\ufeff"))))
	if syntax != nil {
		return nil, syntax
	}
	options := make([]Option, len(list))
	for i, o := range list {
		options[i] = Option{Line: o.line, Key: o.key, Value: o.value}
		if strings.HasPrefix(o.value, `"`) {
			value, err := unquote(o.value)
			if err != nil {
				return nil, &TorrcError{Line: o.line, Key: o.key, Err: err}
			}
			options[i].Value = value
		}
	}
	return options, nil
}

// unquote is the opposite of quote. It takes C's escapes, of numbers those that tor takes:
// one to three octal digits, and two hexadecimal ones.
func unquote(quoted string) (string, error) {
	var out strings.Builder
	for s := quoted[1 : len(quoted)-1]; s != ""; {
		c := s[0]
		s = s[1:]
		if c != '\\' {
			out.WriteByte(c)
			continue
		}
		if s == "" {
			return "", errors.New("a backslash at the end of the quotes")
		}
		escape, digits, base := s[0], 0, 8
		switch plain := strings.IndexByte(`nrt"'\`, escape); {
		case plain >= 0:
			out.WriteByte("\n\r\t\"'\\"[plain])
			s = s[1:]
			continue
		case escape == 'x':
			s, digits, base = s[1:], 2, 16
		default:
			digits = min(len(s)-len(strings.TrimLeft(s, "01234567")), 3)
		}
		digits = min(digits, len(s))
		n, err := strconv.ParseUint(s[:digits], base, 8)
		if err != nil || base == 16 && digits < 2 {
			return "", fmt.Errorf("%q is no escape that tor knows", `\`+string(escape))
		}
		out.WriteByte(byte(n))
		s = s[digits:]
	}
	return out.String(), nil
}

// torrcSpace is white space for tor; carriage returns are removed before.
const torrcSpace = " \t\n\v\f"

// scanTorrc splits a torrc file into options, as tor does (its
// torrc_format.txt): a key ends at a space, a "#" or a continuation. A value
// ends with its line; in quotes it has C's escapes, and without them it may
// continue after a backslash at the end, and then over comments, with or without one.
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

// refused are the options that torrc lines of an operator may not set: those
// that we set ourselves, and those that would break what we rely on. A "*"
// at the end stands for any end.
var refused = []struct{ names, because string }{
	{"ControlPort* ControlSocket* CookieAuth* HashedControlPassword",
		"balancer rules this tor by a control socket of its own, which it shares with no program"},
	{"__*", "it is for the program that controls tor, which is balancer"},
	{"DataDirectory* CacheDirectory* KeyDirectory*", "balancer's tor keeps its files in state_dir"},
	{"RunAsDaemon", "balancer would take a tor in the background for one that ended"},
	{"User PidFile", "balancer starts this tor, as its own user, and needs no file to find it"},
	{"Log LogMessageDomains LogTimeGranularity", "balancer reads tor's log, and passes it on (all of it with level = \"debug\" in [log])"},
	{"SafeLogging", "addresses would come into balancer's log"},
	{"DisableNetwork", "tor would never connect"},
	{"Accounting*", "tor would go offline when the sum is used up"},
	{"Sandbox", "in its sandbox tor starts no transport, and the unit of balancer confines it already"},
	{"Dormant*", "tor would fall asleep, since fetches and posts of balancer wake it not"},
	{"FetchDirInfoEarly FetchDirInfoExtraEarly FetchServerDescriptors FetchUselessDescriptors UseMicrodescriptors",
		"balancer sets what this tor fetches of the network's documents"},
	{"FetchHidServDescriptors PublishHidServDescriptors", "fetching and publishing descriptors is what this tor is for"},
	{"HiddenService*", "an onion service belongs to a tor of its own"},
	{"SocksPort* DNSPort* TransPort* NATDPort* HTTPTunnelPort*", "this tor serves balancer alone and opens no port for others; run another for other programs"},
	{"ClientOnly ORPort* DirPort* DirCache ExtORPort* BridgeRelay ExitRelay AuthoritativeDirectory V3AuthoritativeDirectory BridgeAuthoritativeDir*",
		"this tor is a client; run a relay apart from it"},
	{"%include", "balancer checks the lines it gives to tor, so they must be in this file"},
}

// wholeNames are options that are the beginning of a refused one.
var wholeNames = []string{"bridge"}

// refusal says why key may not be set, or nil. As tor does, it ignores a "+"
// (append) or "/" (clear) and the case, and takes a unique prefix of an option
// for the option.
func refusal(key string) error {
	name := key
	if strings.HasPrefix(name, "+") || strings.HasPrefix(name, "/") {
		name = name[1:]
	}
	name = strings.ToLower(name)
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_%") != "" {
		return errors.New("tor has no option of that name; a line of torrc is an option and its value")
	}
	short := ""
	for _, r := range refused {
		for pattern := range strings.FieldsSeq(r.names) {
			stem, open := strings.CutSuffix(strings.ToLower(pattern), "*")
			if name == stem || open && strings.HasPrefix(name, stem) {
				return fmt.Errorf("%s; remove the line", r.because)
			}
			if short == "" && strings.HasPrefix(stem, name) {
				short = fmt.Sprintf("tor may take it for %s, which must not be here: %s; write the name in full, or remove the line",
					strings.TrimSuffix(pattern, "*"), r.because)
			}
		}
	}
	if short == "" || slices.Contains(wholeNames, name) {
		return nil
	}
	return errors.New(short)
}
