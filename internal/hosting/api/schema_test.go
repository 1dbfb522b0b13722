package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

// schema is a JSON schema, or an object of an OpenAPI description, as JSON has it.
type schema = map[string]any

// at returns the object below names, with references followed; nil if there is none.
func at(root schema, o schema, names ...string) schema {
	for _, name := range append(names, "") {
		if o == nil {
			return nil
		}
		if ref, is := o["$ref"].(string); is {
			o = at(root, root, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
		}
		if name != "" {
			o, _ = o[name].(schema)
		}
	}
	return o
}

// says are the keywords that say nothing about what is valid.
var says = []string{"description", "default"}

// validate checks a value against a schema of the subset that the description uses:
// a keyword that it does not know is an error.
func validate(root, s schema, value any) error {
	s = at(root, s)
	if s == nil {
		return fmt.Errorf("there is no schema")
	}
	for _, keyword := range slices.Sorted(maps.Keys(s)) {
		check, known := keywords[keyword]
		if !known {
			if slices.Contains(says, keyword) {
				continue
			}
			return fmt.Errorf("the keyword %q is not known", keyword)
		}
		if err := check(root, s, value); err != nil {
			return err
		}
	}
	return nil
}

// keywords check a value against a keyword of a schema. Those for another type pass.
var keywords map[string]func(root, s schema, value any) error

func init() { // for they call each other
	keywords = map[string]func(root, s schema, value any) error{
		"type": checkType, "properties": checkProperties, "required": checkRequired, "items": checkItems,
		"additionalProperties": func(schema, schema, any) error { return nil }, // with the properties
		"enum": func(_, s schema, v any) error {
			if !slices.ContainsFunc(s["enum"].([]any), func(e any) bool { return reflect.DeepEqual(e, v) }) {
				return fmt.Errorf("%v is none of %v", v, s["enum"])
			}
			return nil
		},
		"pattern": func(_, s schema, v any) error {
			if text, is := v.(string); is && !regexp.MustCompile(s["pattern"].(string)).MatchString(text) {
				return fmt.Errorf("%q does not match %s", text, s["pattern"])
			}
			return nil
		},
		"format": func(_, s schema, v any) error {
			if s["format"] != "date-time" {
				return fmt.Errorf("the format %v is not known", s["format"])
			}
			_, err := time.Parse(time.RFC3339, v.(string))
			return err
		},
		"minimum": func(_, s schema, v any) error {
			if n, is := v.(float64); is && n < s["minimum"].(float64) {
				return fmt.Errorf("%v is too small", n)
			}
			return nil
		},
		"maximum": func(_, s schema, v any) error {
			if n, is := v.(float64); is && n > s["maximum"].(float64) {
				return fmt.Errorf("%v is too large", n)
			}
			return nil
		},
	}
}

func checkType(_, s schema, v any) error {
	is := map[string]bool{}
	switch v := v.(type) {
	case string:
		is["string"] = true
	case bool:
		is["boolean"] = true
	case float64:
		is["number"], is["integer"] = true, v == math.Trunc(v)
	case []any:
		is["array"] = true
	case schema:
		is["object"] = true
	}
	if !is[s["type"].(string)] {
		return fmt.Errorf("%v is no %v", v, s["type"])
	}
	return nil
}

func checkProperties(root, s schema, v any) error {
	object, is := v.(schema)
	if !is {
		return nil
	}
	for name, value := range object {
		property, known := s["properties"].(schema)[name].(schema)
		if !known {
			if s["additionalProperties"] == false {
				return fmt.Errorf("the property %q is not described", name)
			}
			continue
		}
		if err := validate(root, property, value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func checkRequired(_, s schema, v any) error {
	object, is := v.(schema)
	if !is {
		return nil
	}
	for _, name := range s["required"].([]any) {
		if _, there := object[name.(string)]; !there {
			return fmt.Errorf("the property %q is missing", name)
		}
	}
	return nil
}

func checkItems(root, s schema, v any) error {
	list, _ := v.([]any)
	for n, item := range list {
		if err := validate(root, s["items"].(schema), item); err != nil {
			return fmt.Errorf("item %d: %w", n, err)
		}
	}
	return nil
}

// fieldsOf returns the names that JSON has for the fields of a struct, and those that are
// always there.
func fieldsOf(t reflect.Type) (all, required []string) {
	for _, f := range reflect.VisibleFields(t) {
		name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || name == "-" {
			continue
		}
		all = append(all, name)
		if option == "" {
			required = append(required, name)
		}
	}
	return all, required
}

func decoded(text []byte) (v any, err error) {
	err = json.Unmarshal(text, &v)
	return v, err
}
