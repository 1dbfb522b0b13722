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
)

type message struct {
	Text string `json:"text,omitempty"`
	Data []byte `json:"data,omitempty"`
}

func secretOf(s string) *locked.Buffer { return locked.Copy([]byte(s)) }

func TestFrames(t *testing.T) {
	var stream bytes.Buffer
	sent := []struct {
		header  message
		payload string
	}{{message{Text: "a"}, ""}, {message{}, "secret"}, {message{"b", []byte{0, 255}}, strings.Repeat("x", MaxPayload)}}
	for _, m := range sent {
		if err := Write(&stream, m.header, secretOf(m.payload)); err != nil {
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
		payload, err := Read(r, &got)
		if err != nil {
			t.Fatal(err)
		}
		if got.Text != want.header.Text || !bytes.Equal(got.Data, want.header.Data) {
			t.Errorf("%+v, want %+v", got, want.header)
		}
		if (payload == nil) != (want.payload == "") || payload != nil && string(payload.Bytes()) != want.payload {
			t.Errorf("wrong payload behind %+v", got)
		}
	}
	if _, err := Read(r, new(message)); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	for cut := 1; cut < 8+len(`{"text":"a"}`); cut++ {
		if _, err := Read(bytes.NewReader(whole[:cut]), new(message)); err == nil || err == io.EOF {
			t.Errorf("cut after %d bytes: %v", cut, err)
		}
	}
}

func frame(n, m uint32, rest string) io.Reader {
	b := binary.BigEndian.AppendUint32(nil, n)
	return strings.NewReader(string(binary.BigEndian.AppendUint32(b, m)) + rest)
}

func TestReadRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		r    io.Reader
		want string
	}{
		"no header":        {frame(0, 0, ""), "not of this protocol"},
		"long header":      {frame(MaxHeader+1, 0, ""), "not of this protocol"},
		"long payload":     {frame(2, MaxPayload+1, "{}"), "not of this protocol"},
		"text":             {strings.NewReader("HTTP/1.1 400 Bad Request"), "not of this protocol"},
		"unknown field":    {frame(7, 0, `{"a":1}`), "unknown field"},
		"two values":       {frame(4, 0, `{}{}`), "more than one"},
		"no JSON":          {frame(4, 1, `nope1`), "invalid character"},
		"cut header":       {frame(4, 0, `{}`), "unexpected EOF"},
		"no payload":       {frame(2, 4, `{}`), "unexpected EOF"},
		"a cut payload":    {frame(2, 4, `{}ab`), "unexpected EOF"},
		"broken reader":    {iotest.ErrReader(errors.New("broken")), "broken"},
		"a wrong type":     {frame(10, 0, `{"text":1}`), "cannot unmarshal"},
		"an array instead": {frame(2, 0, `[]`), "cannot unmarshal"},
	} {
		_, err := Read(test.r, new(message))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	if err := Write(io.Discard, message{}, locked.New(MaxPayload+1)); err == nil {
		t.Error("a long payload is written")
	}
	if err := Write(io.Discard, message{Text: strings.Repeat("a", MaxHeader)}, nil); err == nil {
		t.Error("a long header is written")
	}
	if err := Write(io.Discard, make(chan int), nil); err == nil {
		t.Error("a channel is written")
	}
	for _, n := range []int{0, 1} { // of the two writes, which one fails
		if err := Write(&failing{n}, message{}, secretOf("abc")); err == nil {
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
	if err := Write(&b, message{"a", []byte{1}}, secretOf("pin")); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte("\x00\x00\x00\x02\x00\x00\x00\x00{}"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, again message
		payload, err := Read(bytes.NewReader(b), &m)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := Write(&out, m, payload); err != nil {
			t.Fatal(err)
		}
		second, err := Read(&out, &again)
		if err != nil || m.Text != again.Text || !bytes.Equal(m.Data, again.Data) {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
		if payload != nil && !bytes.Equal(payload.Bytes(), second.Bytes()) {
			t.Fatal("the payload changed")
		}
	})
}
