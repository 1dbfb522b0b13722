package sealed

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/locked/lockedtest"
	"onionbalancer/keystore/token"
)

// anyToken unwraps to the right data key whatever it is given, so that only the
// seal itself can refuse.
func anyToken(token.Method, []byte) (*locked.Buffer, error) {
	dataKey := locked.New(dataKeySize)
	_, err := dataKey.Fill(new(counter))
	return dataKey, err
}

// TestEveryByte changes every byte of a file in several ways, drops it and
// doubles it. Nothing but the file as it was written may open.
func TestEveryByte(t *testing.T) {
	raw := encode(t, sealFixed(t))
	refused := func(what string, changed []byte) {
		t.Helper()
		f, err := Parse(changed)
		if err != nil {
			return
		}
		if _, err := f.Open(anyToken); !isCode(err, token.CodeDamaged) {
			t.Errorf("%s: %v\n%s", what, err, changed)
		}
	}
	for i := range raw {
		for _, flip := range []byte{0x01, 0x02, 0x10, 0x20, 0x80} {
			changed := bytes.Clone(raw)
			changed[i] ^= flip
			refused("a byte changed", changed)
		}
		refused("a byte left out", append(bytes.Clone(raw[:i]), raw[i+1:]...))
		refused("a byte twice", append(bytes.Clone(raw[:i+1]), raw[i:]...))
		refused("cut short", raw[:i])
	}
	refused("something behind", append(bytes.Clone(raw), '\n'))
	refused("line ends", bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n")))
	if f, err := Parse(raw); err != nil {
		t.Error(err)
	} else if _, err := f.Open(anyToken); err != nil {
		t.Error(err)
	}
}

// TestEveryField changes each item by itself in a file that is well-formed.
func TestEveryField(t *testing.T) {
	other, err := descriptor.IdentityKeyFromSeed(bytes.Repeat([]byte{8}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*File){
		"address":      func(f *File) { f.address = other.Address() },
		"method":       func(f *File) { f.method = token.MethodAESKeyWrap },
		"label":        func(f *File) { f.token.Label = "front desl" },
		"serial":       func(f *File) { f.token.Serial = "" },
		"manufacturer": func(f *File) { f.token.Manufacturer += "x" },
		"model":        func(f *File) { f.token.Model = "x" },
		"moved":        func(f *File) { f.token.Label += f.token.Serial; f.token.Serial = "" },
		"object":       func(f *File) { f.object.Label = "seal" },
		"id":           func(f *File) { f.object.ID = []byte{1} },
		"created":      func(f *File) { f.created = f.created.Add(time.Second) },
		"salt":         func(f *File) { f.salt[31] ^= 1 },
		"data key":     func(f *File) { f.wrapped[0] ^= 1 },
		"identity key": func(f *File) { f.seal[0] ^= 1 },
	} {
		f := sealFixed(t)
		change(f)
		f, err := Parse(encode(t, f))
		if err != nil {
			t.Errorf("%s: does not parse: %v", name, err)
			continue
		}
		if _, err := f.Open(anyToken); !isCode(err, token.CodeDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOtherAddress opens a file whose every part is sound, but which was made
// for another address than its key's.
func TestOtherAddress(t *testing.T) {
	f := sealFixed(t)
	other, err := descriptor.IdentityKeyFromSeed(bytes.Repeat([]byte{8}, 32))
	if err != nil {
		t.Fatal(err)
	}
	f.address = other.Address()
	dataKey, err := anyToken("", nil)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := f.aead(lockedtest.Bytes(dataKey))
	if err != nil {
		t.Fatal(err)
	}
	f.seal = aead.Seal(nil, make([]byte, aead.NonceSize()), identity(t).Expanded(), f.header())
	if _, err := f.Open(anyToken); !isCode(err, token.CodeDamaged) || !strings.Contains(err.Error(), "another address") {
		t.Errorf("opens: %v", err)
	}
}

// TestUnwrapWrong has the token return a key of another size or value.
func TestUnwrapWrong(t *testing.T) {
	for _, size := range []int{0, 16, 31, 32, 33} {
		_, err := sealFixed(t).Open(func(token.Method, []byte) (*locked.Buffer, error) { return locked.New(size), nil })
		if !isCode(err, token.CodeDamaged) {
			t.Errorf("a data key of %d zeros: %v", size, err)
		}
	}
}

// TestParseErrors looks at the words of what is refused.
func TestParseErrors(t *testing.T) {
	good := string(encode(t, sealFixed(t)))
	replace := func(old, new string) string {
		t.Helper()
		if !strings.Contains(good, old) {
			t.Fatalf("the file has no %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, c := range map[string]struct {
		raw, want string
		code      token.Code
	}{
		"empty":         {"", "not JSON", token.CodeDamaged},
		"cut":           {good[:100], "cut short", token.CodeDamaged},
		"list":          {"[]", "not JSON", token.CodeDamaged},
		"other format":  {replace(format, "something else"), "no sealed key", token.CodeDamaged},
		"newer":         {replace(`"version": 1`, `"version": 2, "more": true`), "newer balancer", token.CodeUnsupported},
		"older":         {replace(`"version": 1`, `"version": 0`), "no version 0", token.CodeDamaged},
		"unknown field": {replace(`"version": 1`, `"version": 1, "more": true`), `unknown field "more"`, token.CodeDamaged},
		"twice":         {replace(`"version": 1`, `"version": 1, "version": 1`), "byte for byte", token.CodeDamaged},
		"letters":       {replace(`"salt"`, `"Salt"`), "byte for byte", token.CodeDamaged},
		"white space":   {replace(`"version": 1`, `"version":  1`), "byte for byte", token.CodeDamaged},
		"behind":        {good + "{}", "after top-level", token.CodeDamaged},
		"method":        {replace(`"aes-gcm"`, `"aes-siv"`), `"aes-siv"`, token.CodeUnsupported},
		"address":       {replace(`.onion"`, `.orion"`), "address", token.CodeDamaged},
		"id":            {replace(`"01ab"`, `"01a"`), "not hexadecimal", token.CodeDamaged},
		"upper-case id": {replace(`"01ab"`, `"01AB"`), "byte for byte", token.CodeDamaged},
		"created":       {replace(`"2026-`, `"in 2026-`), "time of sealing", token.CodeDamaged},
		"zone":          {replace(`11:00:00Z`, `12:00:00+01:00`), "byte for byte", token.CodeDamaged},
		"salt":          {replace(`"salt": "`, `"salt": "AAAA`), "salt of 35 bytes", token.CodeDamaged},
		"seal":          {replace(`"identity_key": "`, `"identity_key": "AAAA`), "key of 83 bytes", token.CodeDamaged},
		"base64":        {replace(`"identity_key": "`, `"identity_key": "*`), "base64", token.CodeDamaged},
		"huge":          {good + strings.Repeat(" ", MaxSize), "too many", token.CodeDamaged},
	} {
		_, err := Parse([]byte(c.raw))
		if !isCode(err, c.code) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q of code %q", name, err, c.want, c.code)
		}
	}
	if !Is([]byte(good)) || !Is([]byte(good[:60])) || Is([]byte("== ed25519v1-secret")) || Is(nil) {
		t.Error("sealed files are not told from others")
	}
}

// FuzzParse makes sure that nothing crashes, and that what parses is written
// again byte for byte.
func FuzzParse(f *testing.F) {
	raw := encode(f, sealFixed(f))
	f.Add(raw)
	f.Add([]byte("{}"))
	f.Add(raw[:len(raw)/2])
	f.Fuzz(func(t *testing.T, raw []byte) {
		file, err := Parse(raw)
		if err != nil {
			return
		}
		if again := encode(t, file); !bytes.Equal(raw, again) {
			t.Errorf("read\n%s\nwrote\n%s", raw, again)
		}
	})
}
