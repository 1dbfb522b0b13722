package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"onionbalancer/internal/openfile"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/selection"
)

// reader fills the structs of a Config with the values of a file, as their tags
// say, and complains of what does not fit.
type reader struct {
	complaints
	dir string // of the file, for relative paths
}

// table fills the struct v with the values of the table at path, and refuses the
// keys that it has no field for.
func (r *reader) table(v reflect.Value, path string, values map[string]any) {
	var known []string
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		key := tag.Get("toml")
		if key == "" {
			continue
		}
		known = append(known, key)
		at, value := join(path, key), values[key]
		switch {
		case v.Field(i).Kind() == reflect.Struct:
			inner, ok := value.(map[string]any)
			if !ok && value != nil {
				r.add(at, "must be a table, [%s], not %s", withoutIndexes(at), typeName(value))
			}
			r.table(v.Field(i), at, inner)
		case v.Field(i).Kind() != reflect.Slice:
			r.value(v.Field(i), tag, at, value)
		case value == nil:
		case v.Field(i).Type().Elem().Kind() == reflect.Struct:
			r.tables(v.Field(i), at, value)
		default:
			r.strings(v.Field(i), tag, at, value)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(known, key) {
			r.add(join(path, key), "unknown key%s", hint(key, values[key], path, known))
		}
	}
}

// tables fills the slice v with the tables of an array.
func (r *reader) tables(v reflect.Value, path string, value any) {
	wanted := "an array of tables, [[" + withoutIndexes(path) + "]]"
	var list []any
	switch value := value.(type) {
	case []any:
		list = value
	case []map[string]any:
		for _, element := range value {
			list = append(list, element)
		}
	case map[string]any:
		r.add(path, "must be %s, with two brackets", wanted)
	default:
		r.add(path, "must be %s, not %s", wanted, typeName(value))
	}
	for i, element := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		values, ok := element.(map[string]any)
		if !ok {
			meant := ""
			text, _ := element.(string)
			if _, err := readAddress(text); err == nil {
				meant = fmt.Sprintf("; write [[%s]] and below it %s", withoutIndexes(path), write("address", text))
			}
			r.add(at, "must be %s, and holds %s%s", wanted, typeName(element), meant)
			return
		}
		v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		r.table(v.Index(i), at, values)
	}
}

// strings fills the slice v with one string or a list of them.
func (r *reader) strings(v reflect.Value, tag reflect.StructTag, path string, value any) {
	list, isList := value.([]any)
	if !isList {
		list = []any{value}
	}
	if len(list) == 0 {
		r.add(path, "is an empty list; leave the line out for the default")
	}
	for i, element := range list {
		at := path
		if isList {
			at = fmt.Sprintf("%s[%d]", path, i)
		}
		text := reflect.New(v.Type().Elem()).Elem()
		r.value(text, tag, at, element)
		v.Set(reflect.Append(v, text))
	}
}

// value sets v to a value that is no table; nil, and the default, if the key is
// not given.
func (r *reader) value(v reflect.Value, tag reflect.StructTag, path string, value any) {
	key, otherwise, wanted := tag.Get("toml"), tag.Get("default"), "a number"
	if kind, isText := kinds[tag.Get("is")]; isText {
		r.text(v, kind, otherwise, path, value)
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		wanted = "true or false"
		if b, ok := value.(bool); ok {
			v.SetBool(b)
			return
		}
	case reflect.Int:
		wanted = "a whole number"
		n, _ := strconv.ParseInt(otherwise, 10, 64)
		v.SetInt(n)
		if n, ok := value.(int64); ok {
			var least, most int64
			if _, err := fmt.Sscan(tag.Get("range"), &least, &most); err != nil || n < least || n > most {
				r.add(path, "%d is out of range, want %d to %d", n, least, most)
			}
			v.SetInt(n)
			return
		}
	case reflect.Float64:
		f, _ := strconv.ParseFloat(otherwise, 64)
		v.SetFloat(f)
		if n, ok := value.(int64); ok {
			value = float64(n)
		}
		if f, ok := value.(float64); ok {
			if !(f >= 0 && f <= math.MaxInt32) { // nor is NaN
				r.add(path, "%v is out of range, want 0 or more, at most %d", f, math.MaxInt32)
			}
			v.SetFloat(f)
			return
		}
	}
	if text, _ := value.(string); plainWord.MatchString(text) {
		r.add(path, "must be %s, not a string; write %s = %s", wanted, key, text)
	} else if value != nil {
		r.add(path, "must be %s, not %s", wanted, typeName(value))
	}
}

// text sets v to what a string of a kind stands for.
func (r *reader) text(v reflect.Value, kind kind, otherwise, path string, value any) {
	key, wanted := withoutIndexes(path[strings.LastIndexByte(path, '.')+1:]), cmp.Or(kind.wanted, "a string")
	if otherwise != "" {
		if def, err := kind.read(r.dir, otherwise); err == nil {
			v.Set(reflect.ValueOf(def))
		}
	}
	n, isNumber := value.(int64)
	if isNumber && kind.number {
		value = fmt.Sprint(n)
	}
	switch given := value.(type) {
	case nil:
		if kind.missing != "" {
			r.add(path, "is missing; %s", kind.missing)
		}
	case string:
		result, err := kind.read(r.dir, given)
		if err != nil {
			r.add(path, "%w", err)
			return
		}
		v.Set(reflect.ValueOf(result))
	case int64, float64, bool: // only the quotes are missing, or the unit
		if isNumber && wanted == aDuration {
			r.add(path, "must be %s; write %s", wanted, write(key, fmt.Sprint(n, "s")))
			return
		}
		r.add(path, "must be %s, not %s; write %s", wanted, typeName(value), write(key, fmt.Sprint(value)))
	default:
		r.add(path, "must be %s, not %s", wanted, typeName(value))
	}
}

// kind is what a string of the file stands for.
type kind struct {
	wanted  string                           // "a string", if empty
	missing string                           // what to say when it is not there, if it must be
	number  bool                             // a number is read as its string
	read    func(dir, s string) (any, error) // errors do not repeat what may be a secret
}

const (
	aFile     = "the path of a file, as a string"
	aDuration = `a string with a unit, such as "10m"`
)

// kinds are the words of the tag "is".
var kinds = map[string]kind{
	"file":   {wanted: aFile, read: readFile},
	"secret": {wanted: aFile, read: readSecret},
	"program": {read: func(dir, s string) (any, error) {
		if strings.ContainsRune(s, filepath.Separator) {
			s = absolute(dir, s)
		}
		return s, nil
	}},
	"key": {wanted: "the path of a key file, as a string", read: readKey,
		missing: "it names the file of the service's identity key (\"balancer key new\" makes one)"},
	"signing": {wanted: `a PKCS #11 URI ("pkcs11:…"), as a string`, read: readSigning},
	"client key": {wanted: aFile, read: func(dir, s string) (any, error) {
		if looksLikeClientKey(s) {
			return nil, errors.New("must be the path of an .auth_private file, never the key itself")
		}
		return readSecret(dir, s)
	}},
	"directory": {wanted: "the path of a directory, as a string", read: func(dir, s string) (any, error) {
		if looksLikeClientKey(s) {
			return nil, errors.New("must be the path of a directory of .auth files, never a key")
		}
		return readFile(dir, s)
	}},
	"address": {wanted: "an onion address, as a string", read: func(_, s string) (any, error) { return readAddress(s) },
		missing: "it is the instance's own onion address, in its tor's hostname file"},
	"control":  {read: controlTarget, number: true},
	"interval": {wanted: aDuration, read: readInterval},
	"name":     {read: readName},
	"caa":      {read: readCAA},
	"format":   {read: choice("format", FormatText, FormatJSON)},
	"strategy": {read: choice("strategy", selection.Names()...)},
	"level": {read: func(_, s string) (any, error) {
		var level slog.Level
		word, err := choice("level", "info", "debug", "warn", "error")("", s)
		if err == nil {
			err = level.UnmarshalText([]byte(word.(string)))
		}
		return level, err
	}},
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
		return errors.New("must be the path of a file, never what is in the file")
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

// bareKey is a private key in the place of its path: 32, 64 or 96 bytes in hex or
// base64. It is never repeated.
var bareKey = regexp.MustCompile(`^(0x)?([0-9A-Fa-f]{64}|[0-9A-Fa-f]{128})$|^([A-Za-z0-9+/]{43}=|[A-Za-z0-9+/]{86}==|[A-Za-z0-9+/]{128})$`)

// clientKey is an x25519 key in base32, bare or as in an .auth_private file, in
// the place of a path.
var clientKey = regexp.MustCompile(`(^|[:/])[A-Za-z2-7]{52}$`)

func looksLikeClientKey(path string) bool { return clientKey.MatchString(path) }

func readName(_, name string) (any, error) {
	const most = 64 // characters
	if utf8.RuneCountInString(name) > most {
		return nil, fmt.Errorf("is longer than %d characters", most)
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }); i >= 0 {
		return nil, fmt.Errorf("%q contains %q; a name is one word", name, []rune(name[i:])[0])
	}
	return name, nil
}

// caaLine is a CAA record (RFC 8659, section 4.1.1) as a descriptor has it.
var caaLine = regexp.MustCompile(`^([01]?[0-9]?[0-9]|2[0-4][0-9]|25[0-5]) [0-9A-Za-z]+ ("[ !#-~]*"|[!#-~]+)$`)

func readCAA(_, s string) (any, error) {
	if !caaLine.MatchString(s) {
		return nil, fmt.Errorf("%q is no CAA record: want flags from 0 to 255, a tag, and a value, joined by single spaces, the value in double quotes "+
			`if it has spaces, such as '128 issue "ca.example"'`, s)
	}
	return s, nil
}

// MaxFetchInterval is the longest FetchInterval. tor renews the descriptor of an
// instance 60 to 120 minutes after the last one, and HSDirs forget one after 180
// minutes: between the two there is an hour to notice that an instance is dead.
const MaxFetchInterval = time.Hour

func readInterval(_, s string) (any, error) {
	d, err := time.ParseDuration(s)
	switch {
	case s == "":
		return time.Duration(0), nil
	case err != nil:
		return nil, fmt.Errorf("%q is no duration, want %s", s, aDuration)
	case d < time.Second:
		return nil, fmt.Errorf("%q is too short, want at least %q", s, time.Second)
	case d > MaxFetchInterval:
		return nil, fmt.Errorf("%q is too long, want at most \"1h\": a live tor renews its descriptor within 2h, and HSDirs keep that of a dead one for 3h, "+
			"so whoever looks less often than once in the hour between cannot tell them apart", s)
	}
	return d, nil
}

func choice(key string, words ...string) func(string, string) (any, error) {
	return func(_, s string) (any, error) {
		if slices.Contains(words, s) {
			return s, nil
		}
		return nil, fmt.Errorf("unknown %s %q, want one of %s%s", key, s, `"`+strings.Join(words, `", "`)+`"`, didYouMean(s, words))
	}
}

// hint says what may be meant by an unknown key of the table at path.
func hint(key string, value any, path string, known []string) string {
	switch value.(type) {
	case map[string]any, []map[string]any, []any:
		switch strings.TrimSuffix(normal(key), "s") {
		case "service":
			return "; write [[service]]"
		case "instance":
			return "; write [[service.instance]]"
		}
	}
	// TOML's trap: a key belongs to the last table before it.
	if home := home(reflect.TypeFor[Config](), "", key); home != "" && home != title(path) {
		return "; it belongs " + home
	}
	return cmp.Or(didYouMean(key, known), "; known here are "+strings.Join(known, ", "))
}

// home says where key stands, in the tables of t, or is "".
func home(t reflect.Type, path, key string) (found string) {
	for i := range t.NumField() {
		of, name := t.Field(i).Type, t.Field(i).Tag.Get("toml")
		switch {
		case name == key:
			return title(path)
		case name == "" || found != "":
		case of.Kind() == reflect.Struct:
			found = home(of, join(path, name), key)
		case of.Kind() == reflect.Slice && of.Elem().Kind() == reflect.Struct:
			found = home(of.Elem(), join(path, name)+"[0]", key)
		}
	}
	return found
}

// title says where the keys of the table at path stand.
func title(path string) string {
	switch whole := withoutIndexes(path); {
	case path == "":
		return "at the top of the file, before the first [table]"
	case strings.HasSuffix(path, "]"):
		return "under [[" + whole + "]]"
	default:
		return "under [" + whole + "]"
	}
}

// typeName names a TOML value's type as an operator would.
func typeName(value any) string {
	switch value.(type) {
	case string:
		return "a string"
	case int64:
		return "a whole number"
	case float64:
		return "a number with a fraction"
	case bool:
		return "true or false"
	case time.Time:
		return "a date"
	case map[string]any:
		return "a table"
	case []any, []map[string]any:
		return "an array"
	}
	return fmt.Sprintf("a %T", value)
}

// didYouMean suggests the known word nearest to s, if one is near enough to be
// a slip of the keyboard.
func didYouMean(s string, known []string) string {
	best, distance := "", 1+max(len(s)/3, 1)
	for _, word := range known {
		short, long := normal(s), normal(word)
		if len(short) > len(long) {
			short, long = long, short
		}
		d := editDistance(short, long)
		if len(short) >= 3 && strings.HasPrefix(long, short) {
			d = -1
		}
		if d < distance {
			best, distance = fmt.Sprintf("; did you mean %q?", word), d
		}
	}
	return best
}

func normal(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "_")) }

// editDistance counts the insertions, deletions and replacements of bytes that
// turn a into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
