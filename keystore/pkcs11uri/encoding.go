package pkcs11uri

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// What stands for itself in a value, beside letters and digits (RFC 7512,
// section 2.3: unreserved, pk11-res-avail, and one more each).
const (
	plain      = "-._~" + ":[]@!$'()*+,="
	pathExtra  = plain + "&"
	queryExtra = plain + "/?|"
)

// decode undoes percent encoding and refuses what should have been encoded.
func decode(s, extra string) ([]byte, error) {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '%':
			if len(s)-i < 3 {
				return nil, errors.New("cut short after %")
			}
			b, err := hex.DecodeString(s[i+1 : i+3])
			if err != nil {
				return nil, errors.New("two hexadecimal digits must follow %; % itself is written %25")
			}
			out = append(out, b[0])
			i += 2
		case alphanumeric(c) || strings.IndexByte(extra, c) >= 0:
			out = append(out, c)
		case c == ' ':
			return nil, errors.New("a space is written %20")
		default:
			return nil, fmt.Errorf("the byte at position %d must be written as %% and two hexadecimal digits", i+1)
		}
	}
	return out, nil
}

// encode is the opposite of decode. What is plain is kept, so that paths stay
// readable.
func encode(s, extra string) string {
	var out strings.Builder
	for _, c := range []byte(s) {
		if alphanumeric(c) || strings.IndexByte(extra, c) >= 0 {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// String writes u as Parse reads it, attributes in a fixed order. It holds no
// secret.
func (u *URI) String() string {
	var path, query []string
	add := func(to *[]string, name, value, extra string) {
		if value != "" {
			*to = append(*to, name+"="+encode(value, extra))
		}
	}
	add(&path, "token", u.Label, pathExtra)
	add(&path, "manufacturer", u.Manufacturer, pathExtra)
	add(&path, "model", u.Model, pathExtra)
	add(&path, "serial", u.Serial, pathExtra)
	add(&path, "object", u.Object, pathExtra)
	if len(u.ID) > 0 {
		var id strings.Builder
		for _, c := range u.ID { // all of it, as RFC 7512, section 2.3, advises
			fmt.Fprintf(&id, "%%%02X", c)
		}
		path = append(path, "id="+id.String())
	}
	add(&path, "type", u.Type, pathExtra)
	add(&query, "module-path", u.ModulePath, queryExtra)
	add(&query, "pin-source", u.PINSource, queryExtra)
	add(&query, "x-sealed", u.Sealed, queryExtra)
	s := Scheme + strings.Join(path, ";")
	if len(query) > 0 {
		s += "?" + strings.Join(query, "&")
	}
	return s
}
