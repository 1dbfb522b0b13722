package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"onionbalancer/internal/locked"
	"onionbalancer/internal/locked/lockedtest"
)

type message struct {
	Text string `json:"text,omitempty"`
	List []byte `json:"list,omitempty"`
}

func secretOf(s string) *locked.Buffer { return locked.Copy([]byte(s)) }

func TestFrames(t *testing.T) {
	var stream bytes.Buffer
	sent := []struct {
		header message
		data   string
		secret string
	}{
		{message{Text: "a"}, "", ""},
		{message{}, "", "secret"},
		{message{Text: "c"}, "public", ""},
		{message{"b", []byte{0, 255}}, strings.Repeat("y", MaxData), strings.Repeat("x", MaxSecret)},
	}
	for _, m := range sent {
		if err := Write(&stream, m.header, []byte(m.data), secretOf(m.secret)); err != nil {
			t.Fatal(err)
		}
	}
	whole := stream.Bytes()
	if bytes.Contains(whole, []byte(`"secret"`)) || !bytes.Contains(whole, []byte("secret")) {
		t.Errorf("%q", whole)
	}
	r := iotest.OneByteReader(bytes.NewReader(whole))
	for _, want := range sent {
		var got message
		data, secret, err := Read(r, &got)
		if err != nil {
			t.Fatal(err)
		}
		if got.Text != want.header.Text || !bytes.Equal(got.List, want.header.List) {
			t.Errorf("%+v, want %+v", got, want.header)
		}
		if (data == nil) != (want.data == "") || string(data) != want.data {
			t.Errorf("wrong data behind %+v", got)
		}
		if (secret == nil) != (want.secret == "") || secret != nil && string(lockedtest.Bytes(secret)) != want.secret {
			t.Errorf("wrong secret behind %+v", got)
		}
	}
	if _, _, err := Read(r, new(message)); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	for cut := 1; cut < prefixSize+len(`{"text":"a"}`); cut++ {
		if _, _, err := Read(bytes.NewReader(whole[:cut]), new(message)); err == nil || err == io.EOF {
			t.Errorf("cut after %d bytes: %v", cut, err)
		}
	}
}

func frame(n, d, m uint32, rest string) io.Reader {
	b := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, n), d)
	return strings.NewReader(string(binary.BigEndian.AppendUint32(b, m)) + rest)
}

func TestReadRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		r    io.Reader
		want string
	}{
		"no header":        {frame(0, 0, 0, ""), "not of this protocol"},
		"long header":      {frame(MaxHeader+1, 0, 0, ""), "not of this protocol"},
		"long data":        {frame(2, MaxData+1, 0, "{}"), "not of this protocol"},
		"long secret":      {frame(2, 0, MaxSecret+1, "{}"), "not of this protocol"},
		"text":             {strings.NewReader("HTTP/1.1 400 Bad Request"), "not of this protocol"},
		"unknown field":    {frame(7, 0, 0, `{"a":1}`), "unknown field"},
		"two values":       {frame(4, 0, 0, `{}{}`), "more than one"},
		"no JSON":          {frame(4, 0, 1, `nope1`), "invalid character"},
		"cut header":       {frame(4, 0, 0, `{}`), "unexpected EOF"},
		"no data":          {frame(2, 4, 0, `{}`), "unexpected EOF"},
		"cut data":         {frame(2, 4, 4, `{}ab`), "unexpected EOF"},
		"no secret":        {frame(2, 0, 4, `{}`), "unexpected EOF"},
		"a cut secret":     {frame(2, 0, 4, `{}ab`), "unexpected EOF"},
		"broken reader":    {iotest.ErrReader(errors.New("broken")), "broken"},
		"a wrong type":     {frame(10, 0, 0, `{"text":1}`), "cannot unmarshal"},
		"an array instead": {frame(2, 0, 0, `[]`), "cannot unmarshal"},
	} {
		_, _, err := Read(test.r, new(message))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	if err := Write(io.Discard, message{}, nil, locked.New(MaxSecret+1)); err == nil {
		t.Error("a long secret is written")
	}
	if err := Write(io.Discard, message{}, make([]byte, MaxData+1), nil); err == nil {
		t.Error("long data is written")
	}
	if err := Write(io.Discard, message{Text: strings.Repeat("a", MaxHeader)}, nil, nil); err == nil {
		t.Error("a long header is written")
	}
	if err := Write(io.Discard, make(chan int), nil, nil); err == nil {
		t.Error("a channel is written")
	}
	for _, n := range []int{0, 1, 2} { // of the three writes, which one fails
		if err := Write(&failing{n}, message{}, []byte("data"), secretOf("abc")); err == nil {
			t.Errorf("no error of write %d", n)
		}
	}
}

type failing struct{ after int }

func (f *failing) Write(b []byte) (int, error) {
	if f.after--; f.after < 0 {
		return 0, errors.New("broken")
	}
	return len(b), nil
}

// FuzzRead makes sure that garbage neither panics nor takes memory, and that
// what is read is what can be written.
func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if err := Write(&b, message{"a", []byte{1}}, []byte("data"), secretOf("pin")); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte("\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00{}"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, again message
		data, secret, err := Read(bytes.NewReader(b), &m)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := Write(&out, m, data, secret); err != nil {
			t.Fatal(err)
		}
		sameData, sameSecret, err := Read(&out, &again)
		if err != nil || m.Text != again.Text || !bytes.Equal(m.List, again.List) {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
		if !bytes.Equal(data, sameData) || secret != nil && !secret.Equal(sameSecret) {
			t.Fatal("data or secret changed")
		}
	})
}
