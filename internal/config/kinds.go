package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"onionbalancer/internal/advice"
	"onionbalancer/internal/health"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/relayset"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/selection"
)

// reading is the context in which a value is read.
type reading struct {
	dir string // for relative paths
	tag reflect.StructTag
}

// kind is a kind of value.
type kind struct {
	wanted  string // "a string", if empty
	missing string // the error if it is not given, if it must be
	// read returns a value of the field's type. It fails with errType if the TOML
	// type is wrong, and repeats nothing that may be a secret.
	read func(in reading, value any) (any, error)
}

var errType = errors.New("wrong type")

const (
	aFile     = "the path of a file, as a string"
	aDuration = `a string with a unit, such as "10m"`
)

// kinds are the words of the tag "is", and the types of fields without it.
var kinds = map[string]kind{
	"bool":     {wanted: "true or false", read: readBool},
	"int":      {wanted: "a whole number", read: readInt},
	"float64":  {wanted: "a number", read: readFloat},
	"file":     {wanted: aFile, read: text(readFile)},
	"secret":   {wanted: aFile, read: text(readSecret)},
	"program":  {read: text(readProgram)},
	"interval": {wanted: aDuration, read: readInterval},
	"key": {wanted: "the path of a key file, as a string", read: text(readKey),
		missing: "it names the file of the service's identity key (\"balancer key new\" makes one)"},
	"customers": {wanted: "the path of a directory, as a string", read: text(notKey("the path of a directory of key directories", readFile)),
		missing: "it names the directory of the customers' keys (\"balancer shard new\" makes one)"},
	"sealing key": {wanted: `a PKCS #11 URI ("pkcs11:…"), as a string`, read: text(readSealingKey)},
	"shard name": {read: text(matching(shardName, "a name of a-z, A-Z, 0-9, \".\", \"_\" and \"-\" that begins with a letter or a number, with 64 characters at most")),
		missing: "it stands for the shard in commands and in the log"},
	"signing":    {wanted: `a PKCS #11 URI ("pkcs11:…"), as a string`, read: text(readSigning)},
	"client key": {wanted: aFile, read: text(notKey("the path of an .auth_private file", readSecret))},
	"directory":  {wanted: "the path of a directory, as a string", read: text(notKey("the path of a directory of .auth files", readFile))},
	"address": {wanted: "an onion address, as a string", read: text(func(_, s string) (any, error) { return readAddress(s) }),
		missing: "it is the instance's own onion address, in its tor's hostname file"},
	"control": {read: func(in reading, value any) (any, error) {
		if n, ok := value.(int64); ok {
			value = fmt.Sprint(n) // a port, if nothing else is said
		}
		return text(controlTarget)(in, value)
	}},
	"name":            {read: text(readName)},
	"check":           {read: choice("kind", string(health.TCP), string(health.HTTP), string(health.Agent), string(health.None))},
	"check address":   {wanted: "an onion address, as a string", read: text(func(_, s string) (any, error) { return readAddress(s) })},
	"check interval":  {wanted: aDuration, read: readCheckInterval},
	"http path":       {read: text(matching(httpPath, "the path of a URL, which begins with / and has no spaces"))},
	"http host":       {read: text(matching(httpHost, "the name of a host"))},
	"http status":     {read: text(matching(httpStatus, `a list of statuses such as "200", "2xx" or "200-399"`))},
	"canary":          {read: text(readCanary)},
	"text":            {read: text(func(_, s string) (any, error) { return s, nil })},
	"caa":             {read: text(readCAA)},
	"format":          {read: choice("format", FormatText, FormatJSON)},
	"strategy":        {read: readStrategy},
	"profile":         {read: choice("profile", ProfileBalanced, ProfileOrdinary)},
	"store":           {read: choice("store", StoreEtcd, StoreStandby)},
	"cluster name":    {read: text(matching(shardName, "a name of a-z, A-Z, 0-9, \".\", \"_\" and \"-\" that begins with a letter or a number, with 64 characters at most"))},
	"endpoint":        {wanted: `a URL such as "https://10.0.0.1:2379", as a string`, read: text(readEndpoint)},
	"user":            {read: text(matching(etcdUser, "the name of a user"))},
	"cluster key":     {wanted: aFile, read: text(readClusterKey)},
	"bounded":         {wanted: aDuration, read: readBounded},
	"unavailable":     {read: choice("when_unavailable", UnavailablePublish, UnavailableHold)},
	"role":            {read: choice("role", RoleActive, RoleStandby, RoleWatch)},
	"listener":        {wanted: `a string such as "127.0.0.1:9100"`, read: text(readListener)},
	"watched address": {wanted: "an onion address, as a string", read: text(func(_, s string) (any, error) { return readAddress(s) })},
	"relays":          {wanted: `a string such as "{de}" or "$FINGERPRINT"`, read: text(readRelays)},
	"level": {read: func(in reading, value any) (any, error) {
		var level slog.Level
		word, err := choice("level", "info", "debug", "warn", "error")(in, value)
		if err == nil {
			err = level.UnmarshalText([]byte(word.(string)))
		}
		return level, err
	}},
}

// text reads a string.
func text(read func(dir, s string) (any, error)) func(reading, any) (any, error) {
	return func(in reading, value any) (any, error) {
		if s, ok := value.(string); ok {
			return read(in.dir, s)
		}
		return nil, errType
	}
}

// choice reads one of a few words.
func choice(key string, words ...string) func(reading, any) (any, error) {
	return text(func(_, s string) (any, error) {
		if slices.Contains(words, s) {
			return s, nil
		}
		return nil, fmt.Errorf("unknown %s %q, want one of \"%s\"%s", key, s, strings.Join(words, `", "`), didYouMean(s, words))
	})
}

// readStrategy reads the name of a strategy, or "exec:" and the path of a program.
func readStrategy(in reading, value any) (any, error) {
	s, _ := value.(string)
	path, is := advice.Program(s)
	word, rest, spaced := strings.Cut(s, " ")
	switch {
	case spaced && strings.TrimSuffix(word, ":") == strings.TrimSuffix(advice.Prefix, ":"):
		return nil, fmt.Errorf("%q has a space: a program is named as in \"%s%s\"", s, advice.Prefix, strings.TrimSpace(rest))
	case !is:
		return choice("strategy", append(selection.Names(), advice.Prefix+"/PATH/OF/PROGRAM")...)(in, value)
	case !filepath.IsAbs(path):
		return nil, fmt.Errorf("%q is no absolute path: a program is named as in \"%s/usr/local/bin/program\", and gets no arguments", path, advice.Prefix)
	}
	return advice.Prefix + filepath.Clean(path), pathProblem(path)
}

// readRelays reads one entry of a set of relays.
func readRelays(_, s string) (any, error) {
	p, err := relayset.Parse(s)
	return p.String(), err
}

func readBool(_ reading, value any) (any, error) {
	if b, ok := value.(bool); ok {
		return b, nil
	}
	return nil, errType
}

func readInt(in reading, value any) (any, error) {
	n, ok := value.(int64)
	if !ok {
		return nil, errType
	}
	var least, most int64
	if _, err := fmt.Sscan(in.tag.Get("range"), &least, &most); err != nil || n < least || n > most {
		return nil, fmt.Errorf("%d is out of range, want %d to %d", n, least, most)
	}
	return int(n), nil
}

func readFloat(_ reading, value any) (any, error) {
	f, ok := value.(float64)
	if n, whole := value.(int64); whole {
		f, ok = float64(n), true
	}
	switch {
	case !ok:
		return nil, errType
	case f >= 0 && f <= math.MaxInt32: // so it is not NaN
		return f, nil
	}
	return nil, fmt.Errorf("%v is out of range, want 0 or more, at most %d", f, math.MaxInt32)
}

// MaxFetchInterval is the longest FetchInterval. tor renews the descriptor of an
// instance 60 to 120 minutes after the last one, and HSDirs drop one after 180: a
// dead instance's descriptor is late, and still there to be found late, for an hour.
const MaxFetchInterval = time.Hour

func readInterval(in reading, value any) (any, error) {
	if n, ok := value.(int64); ok {
		return nil, fmt.Errorf("must be %s; write %s", aDuration, write(in.tag.Get("toml"), fmt.Sprint(n, "s")))
	}
	s, ok := value.(string)
	d, err := time.ParseDuration(s)
	switch {
	case !ok:
		return nil, errType
	case s == "":
		return time.Duration(0), nil
	case err != nil:
		return nil, fmt.Errorf("%q is no duration, want %s", s, aDuration)
	case d < time.Second:
		return nil, fmt.Errorf("%q is too short, want at least %q", s, time.Second)
	case d > MaxFetchInterval:
		return nil, fmt.Errorf("%q is too long, want at most \"1h\": a live tor renews its descriptor within 2h, and HSDirs keep a dead one's for 3h, "+
			"so a longer interval cannot tell them apart", s)
	}
	return d, nil
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

func pathProblem(s string) error {
	switch {
	case s == "":
		return errors.New("is empty; leave the line out for the default")
	case strings.ContainsAny(s, "\x00\n"):
		return errors.New("must be the path of a file, never its contents")
	}
	return nil
}

func readFile(dir, s string) (any, error) { return absolute(dir, s), pathProblem(s) }

// readSecret takes a credential of systemd's, too, which is resolved when it is
// opened.
func readSecret(dir, s string) (any, error) {
	if is, err := openfile.IsCredential(s); is {
		return s, err
	}
	return readFile(dir, s)
}

func readProgram(dir, s string) (any, error) {
	if strings.ContainsRune(s, filepath.Separator) {
		return absolute(dir, s), nil
	}
	return s, nil // in PATH
}

// A key in the place of its path is never repeated: an identity key of 32, 64 or
// 96 bytes in hex or base64, or the x25519 key of a client in base32, bare or as
// in an .auth_private file.
var (
	bareKey   = regexp.MustCompile(`^(0x)?([0-9A-Fa-f]{64}|[0-9A-Fa-f]{128})$|^([A-Za-z0-9+/]{43}=|[A-Za-z0-9+/]{86}==|[A-Za-z0-9+/]{128})$`)
	clientKey = regexp.MustCompile(`(^|[:/])[A-Za-z2-7]{52}$`)
)

func notKey(wanted string, read func(dir, s string) (any, error)) func(dir, s string) (any, error) {
	return func(dir, s string) (any, error) {
		if clientKey.MatchString(s) {
			return nil, errors.New("must be " + wanted + ", never the key itself")
		}
		return read(dir, s)
	}
}

func readKey(dir, s string) (any, error) {
	switch {
	case strings.Contains(s, "-----BEGIN"), bareKey.MatchString(s):
		return nil, errors.New("must be the path of a key file, never the key itself")
	case strings.HasSuffix(strings.TrimRight(s, "/"), ".onion"):
		return nil, fmt.Errorf("%q is an onion address; name the file of its private key, hs_ed25519_secret_key or the directory that it is in", s)
	case pkcs11uri.Is(s):
		u, err := readURI(dir, s)
		return u.String(), err
	}
	return readSecret(dir, s)
}

func readSigning(dir, s string) (any, error) {
	if !pkcs11uri.Is(s) {
		return nil, errors.New("must be a PKCS #11 URI that names a token (\"pkcs11:…\"); leave it out to keep the keys in memory")
	}
	u, err := readURI(dir, s)
	if err == nil && (u.Object != "" || len(u.ID) > 0 || u.Sealed != "") {
		err = errors.New("names a token and no key on it, since balancer makes keys of its own there: leave out object, id and x-sealed")
	}
	return u.String(), err
}

// shardName is what a shard may be called: it is a part of paths and of URLs.
var shardName = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$`)

func readSealingKey(dir, s string) (any, error) {
	if !pkcs11uri.Is(s) {
		return nil, errors.New("must be a PKCS #11 URI that names the key which seals the customers' keys (\"pkcs11:…\"); leave it out for keys on disk")
	}
	u, err := readURI(dir, s)
	if err == nil && u.Sealed != "" {
		err = errors.New("names the key that seals all customers' keys, and no sealed file: leave out x-sealed")
	}
	return u.String(), err
}

// readURI reads a PKCS #11 URI, the paths in it relative to dir.
func readURI(dir, s string) (*pkcs11uri.URI, error) {
	u, err := pkcs11uri.Parse(s)
	if err == nil && u.ModulePath == "" {
		err = errors.New("module-path is missing: it names the library that comes with the token")
	}
	if err != nil {
		return new(pkcs11uri.URI), err
	}
	return u.Resolve(dir), nil
}

func readName(_, name string) (any, error) {
	const most = 64 // characters
	if utf8.RuneCountInString(name) > most {
		return nil, fmt.Errorf("is longer than %d characters", most)
	}
	for _, r := range name {
		if !unicode.IsGraphic(r) || unicode.IsSpace(r) {
			return nil, fmt.Errorf("%q contains %q; a name is one word", name, r)
		}
	}
	return name, nil
}

// caaRecord is a CAA record (RFC 8659, section 4.1.1) as a descriptor has it.
var caaRecord = regexp.MustCompile(`^([01]?[0-9]?[0-9]|2[0-4][0-9]|25[0-5]) [0-9A-Za-z]+ ("[ !#-~]*"|[!#-~]+)$`)

func readCAA(_, s string) (any, error) {
	if !caaRecord.MatchString(s) {
		return nil, fmt.Errorf("%q is no CAA record: want flags from 0 to 255, a tag, and a value, joined by single spaces, "+
			`the value in double quotes if it has spaces, such as '128 issue "ca.example"'`, s)
	}
	return s, nil
}
