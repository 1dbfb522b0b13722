package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// reader fills the structs of a Config with the values of a file, as their tags
// say, and reports values that do not fit.
type reader struct {
	complaints
	dir   string          // of the file, for relative paths
	given map[string]bool // the paths of all known keys that have a value
}

// table fills the struct v with the values of the table at path, and refuses the
// keys that it has no field for.
func (r *reader) table(v reflect.Value, path string, values map[string]any) {
	for _, field := range reflect.VisibleFields(v.Type()) {
		if key := field.Tag.Get("toml"); key != "" {
			r.field(v.FieldByIndex(field.Index), field.Tag, join(path, key), values[key])
		}
	}
	known := keys(v.Type())
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(known, key) {
			r.add(join(path, key), "unknown key%s", hint(path, key, values[key], known))
		}
	}
}

// keys lists the keys of a table.
func keys(table reflect.Type) (list []string) {
	for _, field := range reflect.VisibleFields(table) {
		if key := field.Tag.Get("toml"); key != "" {
			list = append(list, key)
		}
	}
	return list
}

// field sets v, a field of a table, to the value of its key; nil if it is not given.
func (r *reader) field(v reflect.Value, tag reflect.StructTag, path string, value any) {
	r.given[path] = value != nil
	switch {
	case v.Kind() == reflect.Struct:
		values, ok := value.(map[string]any)
		if !ok && value != nil {
			r.add(path, "must be a table, [%s], not %s", path, typeName(value))
		}
		r.table(v, path, values)
	case v.Kind() != reflect.Slice:
		r.value(v, tag, path, value)
	case value == nil:
	case v.Type().Elem().Kind() == reflect.Struct:
		r.tables(v, path, value)
	default:
		r.values(v, tag, path, value)
	}
}

// tables fills the slice v with the tables of an array.
func (r *reader) tables(v reflect.Value, path string, value any) {
	heading, list := withoutIndexes(path), reflect.ValueOf(value)
	wanted := "must be an array of tables, [[" + heading + "]], "
	if list.Kind() == reflect.Map {
		r.add(path, "%swith two brackets", wanted)
		return
	}
	if list.Kind() != reflect.Slice {
		r.add(path, "%snot %s", wanted, typeName(value))
		return
	}
	for i := range list.Len() {
		at, element := fmt.Sprintf("%s[%d]", path, i), list.Index(i).Interface()
		values, ok := element.(map[string]any)
		if !ok {
			text, _ := element.(string)
			meant := ""
			if _, err := readAddress(text); err == nil {
				meant = fmt.Sprintf("; write [[%s]] and below it %s", heading, write("address", text))
			}
			r.add(at, "%sand holds %s%s", wanted, typeName(element), meant)
			return
		}
		r.table(grow(v), at, values)
	}
}

// values fills the slice v with one value or a list of them.
func (r *reader) values(v reflect.Value, tag reflect.StructTag, path string, value any) {
	list, isList := value.([]any)
	switch {
	case !isList:
		r.value(grow(v), tag, path, value)
	case len(list) == 0:
		r.add(path, "is an empty list; leave the line out for the default")
	}
	for i, element := range list {
		r.value(grow(v), tag, fmt.Sprintf("%s[%d]", path, i), element)
	}
}

// grow appends a zero element to the slice v, and returns it.
func grow(v reflect.Value) reflect.Value {
	v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
	return v.Index(v.Len() - 1)
}

// value sets v to the value, unless that is a table, and to the default if
// that cannot be used, or is nil, since the key is not given.
func (r *reader) value(v reflect.Value, tag reflect.StructTag, path string, value any) {
	kind := kinds[cmp.Or(tag.Get("is"), v.Kind().String())]
	set := func(value any) error {
		result, err := kind.read(reading{r.dir, tag}, value)
		if err == nil {
			v.Set(reflect.ValueOf(result))
		}
		return err
	}
	if text := tag.Get("default"); text != "" {
		var otherwise any = text
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			otherwise = n
		} else if text == "true" {
			otherwise = true
		}
		_ = set(otherwise) // a default that is wrong fails the tests
	}
	if value == nil {
		if kind.missing != "" {
			r.add(path, "is missing; %s", kind.missing)
		}
		return
	}
	err := set(value)
	if errors.Is(err, errType) {
		err = fmt.Errorf("must be %s, not %s%s", cmp.Or(kind.wanted, "a string"), typeName(value), unquoted(tag, value))
	}
	if err != nil {
		r.add(path, "%w", err)
	}
}

// unquoted gives the line that is meant if it is only quotes that are missing or
// too many.
func unquoted(tag reflect.StructTag, value any) string {
	key, isText := tag.Get("toml"), tag.Get("is") != ""
	switch value := value.(type) {
	case int64, float64, bool:
		if isText {
			return "; write " + write(key, fmt.Sprint(value))
		}
	case string:
		if !isText && plainWord.MatchString(value) {
			return "; write " + key + " = " + value
		}
	}
	return ""
}

// typeName names a TOML value's type as an operator would.
func typeName(value any) string {
	return cmp.Or(map[string]string{
		"string": "a string", "int64": "a whole number", "float64": "a number with a fraction", "bool": "true or false",
		"time.Time": "a date", "map[string]interface {}": "a table",
	}[fmt.Sprintf("%T", value)], "an array")
}

// hint suggests the intended key for an unknown one in the table at path, whose keys are known.
func hint(path, key string, value any, known []string) string {
	if kind := reflect.TypeOf(value).Kind(); kind == reflect.Map || kind == reflect.Slice {
		switch strings.TrimSuffix(normal(key), "s") {
		case "service":
			return "; write [[service]]"
		case "shard":
			return "; write [[shard]]"
		case "instance":
			return "; write [[service.instance]]" + orOf("[[shard.instance]]", path)
		}
	}
	// TOML's trap: a key belongs to the last table before it.
	for _, table := range tables {
		if slices.Contains(keys(table.of), key) {
			return "; it belongs " + table.where + orOf(table.or, path)
		}
	}
	return cmp.Or(didYouMean(key, known), "; known here are "+strings.Join(known, ", "))
}

// orOf says what may be meant as well, unless the complaint is about a service.
func orOf(other, path string) string {
	if other == "" || strings.HasPrefix(path, "service") {
		return ""
	}
	return " or " + other
}

// tables says where the keys of each struct stand, and where else if it is in a shard, too.
var tables = []struct {
	of        reflect.Type
	where, or string
}{
	{reflect.TypeFor[Config](), "at the top of the file, before the first [table]", ""},
	{reflect.TypeFor[Tor](), "under [tor]", ""},
	{reflect.TypeFor[Log](), "under [log]", ""},
	{reflect.TypeFor[Check](), "under [check]", ""},
	{reflect.TypeFor[Balancing](), "under [[service]]", "[[shard]]"},
	{reflect.TypeFor[Service](), "under [[service]]", ""},
	{reflect.TypeFor[Shard](), "under [[shard]]", ""},
	{reflect.TypeFor[Points](), "under [service.points]", "[shard.points]"},
	{reflect.TypeFor[Instance](), "under [[service.instance]]", "[[shard.instance]]"},
	{reflect.TypeFor[Cluster](), "under [cluster]", ""},
	{reflect.TypeFor[Standby](), "under [cluster.standby]", ""},
}

// didYouMean suggests the known word nearest to s, if one is near enough to be
// a typing error.
func didYouMean(s string, known []string) string {
	for edits := range min(max(len(s)/3, 1), 3) + 1 {
		for _, word := range known {
			a, b := normal(s), normal(word)
			if len(a) >= 3 && strings.HasPrefix(b, a) || len(b) >= 3 && strings.HasPrefix(a, b) || within(edits, a, b) {
				return fmt.Sprintf("; did you mean %q?", word)
			}
		}
	}
	return ""
}

func normal(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "_")) }

// within reports whether this many insertions, deletions or replacements of bytes
// turn a into b. Its time is exponential in their number.
func within(edits int, a, b string) bool {
	for a != "" && b != "" && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	if a == "" || b == "" {
		return len(a)+len(b) <= edits
	}
	return edits > 0 && (within(edits-1, a[1:], b) || within(edits-1, a, b[1:]) || within(edits-1, a[1:], b[1:]))
}
