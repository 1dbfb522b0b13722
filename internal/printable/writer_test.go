package printable

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestWriter(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "",
		"web1\tgrößer █\n":                   "web1\tgrößer █\n",
		"a\x1b[2J\rb":                        `a\u001b[2J\u000db`,
		"\u009b2J\x7f\u202egnp":              `\u009b2J\u007f\u202egnp`,
		"tag \U000e0041, bytes \xff\xe2\x80": `tag \udb40\udc41, bytes \xff\xe2\x80`,
		"\ufffd":                             "\ufffd",
	} {
		var out bytes.Buffer
		if n, err := Writer(&out).Write([]byte(in)); n != len(in) || err != nil || out.String() != want {
			t.Errorf("%q became %q, want %q (%d, %v)", in, out.String(), want, n, err)
		}
	}
	if _, err := Writer(failing{}).Write([]byte("x")); err == nil {
		t.Error("an error is lost")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no") }

// TestWriterTotal: whatever is written, nothing gets through that is not
// printable, and JSON means the same.
func TestWriterTotal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var out bytes.Buffer
		fmt.Fprintf(Writer(&out), "%s", rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		text := rapid.String().Draw(t, "text")
		whole, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		var doc bytes.Buffer
		fmt.Fprintf(Writer(&doc), "%s", whole)
		var back string
		if err := json.Unmarshal(doc.Bytes(), &back); err != nil || back != text {
			t.Fatalf("%q came back as %q, %v", text, back, err)
		}
		for _, shown := range []string{out.String(), doc.String()} {
			if !utf8.ValidString(shown) {
				t.Fatalf("no UTF-8: %q", shown)
			}
			for _, r := range shown {
				if !strconv.IsPrint(r) && r != '\n' && r != '\t' {
					t.Fatalf("%q got through", r)
				}
			}
		}
	})
}

func TestFields(t *testing.T) {
	type leaf struct {
		Name   string
		hidden string
	}
	v := struct {
		Leaf  leaf
		List  []*leaf
		Some  *string
		None  *string
		Names map[string][]string
		Any   error
		N     int
	}{
		Leaf: leaf{"a\nb", "\x1b"}, List: []*leaf{{Name: "\x1b"}}, Some: new(string),
		Names: map[string][]string{"\u202e": {"x\ty"}},
	}
	*v.Some = "\u009b"
	Fields(&v)
	if v.Leaf.Name != `a\nb` || v.List[0].Name != `\x1b` || *v.Some != `\u009b` || v.Names[`\u202e`][0] != `x\ty` || v.Leaf.hidden != "\x1b" {
		t.Errorf("%+v, %q", v, *v.Some)
	}
}
