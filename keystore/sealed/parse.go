package sealed

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"onionbalancer/descriptor"
	"onionbalancer/keystore/token"
)

// Is tells from its content whether a file is meant to be a sealed key, of this
// version or another, whole or damaged.
func Is(raw []byte) bool {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	return bytes.HasPrefix(raw, []byte("{")) && bytes.Contains(raw[:min(len(raw), 200)], []byte(`"`+format+`"`))
}

// Parse reads a sealed key. Errors are of token.CodeDamaged, or of
// token.CodeUnsupported for a version or method that is not known.
func Parse(raw []byte) (*File, error) {
	f, code, err := parse(raw)
	if err != nil {
		return nil, token.Errorf(code, "reading sealed key: %v", err)
	}
	return f, nil
}

func parse(raw []byte) (*File, token.Code, error) {
	t, code, err := decode(raw)
	if err != nil {
		return nil, code, err
	}
	f := &File{method: t.Method, token: t.Token, salt: t.Salt, wrapped: t.Wrapped, seal: t.Seal}
	if f.address, err = descriptor.ParseAddress(t.Address); err != nil {
		return nil, token.CodeDamaged, err
	}
	f.object.Label = t.Object.Label
	if f.object.ID, err = hex.DecodeString(t.Object.ID); err != nil {
		return nil, token.CodeDamaged, fmt.Errorf("the object's id is not hexadecimal")
	}
	if f.created, err = time.Parse(time.RFC3339, t.Created); err != nil {
		return nil, token.CodeDamaged, errors.New("the time of sealing is damaged")
	}
	if !known(f.method) {
		return nil, token.CodeUnsupported, fmt.Errorf("it was sealed by the method %q, which this balancer does not know", f.method)
	}
	// What was written otherwise, be it by white space only, is not what was
	// sealed: fields given twice, in other letters or notations, or left out.
	again, err := f.Encode()
	if err != nil {
		return nil, token.CodeDamaged, err
	}
	if !bytes.Equal(raw, again) {
		return nil, token.CodeDamaged, errors.New("the file is not byte for byte as it was written; was it edited, or were its line ends converted? Restore it from a backup")
	}
	return f, "", nil
}

// decode reads the JSON of a version that is known.
func decode(raw []byte) (t *text, code token.Code, err error) {
	if len(raw) > MaxSize {
		return nil, token.CodeDamaged, fmt.Errorf("%d bytes are too many for a sealed key", len(raw))
	}
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, token.CodeDamaged, fmt.Errorf("not JSON, or cut short (%w); restore it from a backup", err)
	}
	switch {
	case head.Format != format:
		return nil, token.CodeDamaged, fmt.Errorf("no sealed key: the format is %.40q, want %q", head.Format, format)
	case head.Version > version:
		return nil, token.CodeUnsupported, fmt.Errorf("it is of version %d of the format, and this balancer knows up to %d: a newer balancer is needed", head.Version, version)
	case head.Version < 1:
		return nil, token.CodeDamaged, fmt.Errorf("there is no version %d of the format", head.Version)
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	t = new(text)
	if err := decoder.Decode(t); err != nil {
		return nil, token.CodeDamaged, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, token.CodeDamaged, errors.New("there is something behind the end")
	}
	return t, "", nil
}

func known(m token.Method) bool {
	switch m {
	case token.MethodAESGCM, token.MethodAESKeyWrap, token.MethodOAEPSHA256, token.MethodOAEPSHA1, token.MethodECDHP256:
		return true
	}
	return false
}

// check refuses what cannot be written or is of a wrong size.
func (f *File) check() error {
	switch {
	case !known(f.method):
		return fmt.Errorf("the method %q is not known", f.method)
	case len(f.salt) != saltSize:
		return fmt.Errorf("a salt of %d bytes, want %d", len(f.salt), saltSize)
	case len(f.wrapped) == 0 || len(f.wrapped) > maxWrapped:
		return fmt.Errorf("a wrapped data key of %d bytes, want 1 to %d", len(f.wrapped), maxWrapped)
	case len(f.seal) != sealSize:
		return fmt.Errorf("a sealed identity key of %d bytes, want %d", len(f.seal), sealSize)
	case f.object.Label == "" && len(f.object.ID) == 0:
		return errors.New("no key on the token is named, neither by label nor by id")
	case f.created.Nanosecond() != 0 || f.created.Year() < 2000 || f.created.Year() > 9999:
		return errors.New("a time of sealing that cannot be")
	}
	for _, name := range []string{f.token.Label, f.token.Serial, f.token.Manufacturer, f.token.Model, f.object.Label, string(f.object.ID)} {
		if len(name) > maxNameBytes {
			return fmt.Errorf("a name or an id of %d bytes, want at most %d", len(name), maxNameBytes)
		}
	}
	for _, name := range []string{f.token.Label, f.token.Serial, f.token.Manufacturer, f.token.Model, f.object.Label} {
		if !utf8.ValidString(name) {
			return fmt.Errorf("a name that is not UTF-8: %q", name)
		}
	}
	return f.address.Validate()
}
