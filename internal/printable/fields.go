package printable

import "reflect"

// Fields replaces every string in what pointer points at, however deep in
// exported fields, slices, maps and pointers, by Text of it: for what came from
// elsewhere as a whole and is about to be shown.
func Fields(pointer any) { fields(reflect.ValueOf(pointer)) }

func fields(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if v.CanSet() {
			v.SetString(Text(v.String()))
		}
	case reflect.Pointer:
		fields(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			fields(v.Field(i))
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			fields(v.Index(i))
		}
	case reflect.Map:
		mapped(v)
	}
}

// mapped does it for the keys and values of a map, which cannot be set in place.
func mapped(v reflect.Value) {
	if !v.CanSet() || v.IsNil() {
		return
	}
	fresh := reflect.MakeMapWithSize(v.Type(), v.Len())
	for key, value := range v.Seq2() {
		fresh.SetMapIndex(escaped(key), escaped(value))
	}
	v.Set(fresh)
}

func escaped(v reflect.Value) reflect.Value {
	copied := reflect.New(v.Type()).Elem()
	copied.Set(v)
	fields(copied)
	return copied
}
