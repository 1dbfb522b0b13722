package descriptor

import (
	"bytes"
	"encoding/base64"
	mathrand "math/rand/v2"
	"testing"
)

// TestLines compares with the standard library, at every length around those of
// whole lines.
func TestLines(t *testing.T) {
	random := seeded(1)
	for n := range 5 * lineBytes {
		raw := make([]byte, n)
		_, _ = random.Read(raw)
		var want []byte
		for text := base64.StdEncoding.EncodeToString(raw); text != ""; text = text[min(lineWidth, len(text)):] {
			want = append(append(want, text[:min(lineWidth, len(text))]...), '\n')
		}
		got := appendLines([]byte("before"), raw)
		if !bytes.Equal(got, append([]byte("before"), want...)) || linesLength(n) != len(want) {
			t.Fatalf("%d bytes: %q, want %q", n, got, want)
		}
		if back, err := decodeBase64(want); err != nil || !bytes.Equal(back, raw) {
			t.Fatalf("%d bytes: read %x, %v", n, back, err)
		}
	}
}

// TestOddLines spoils lines in one place, and compares what is read by tables
// with what is read line by line.
func TestOddLines(t *testing.T) {
	rng, good := mathrand.New(mathrand.NewPCG(1, 2)), 0
	for range 20000 {
		raw := make([]byte, 1+rng.IntN(4*lineBytes))
		for i := range raw {
			raw[i] = byte(rng.Uint32())
		}
		lines := appendLines(nil, raw)
		const odd = "=\n\r A/-\x00\xff"
		at := rng.IntN(len(lines))
		switch c := odd[rng.IntN(len(odd))]; rng.IntN(3) {
		case 0:
			lines[at] = c
		case 1:
			lines = append(lines[:at], lines[at+1:]...)
		case 2:
			lines = append(lines[:at:at], append([]byte{c}, lines[at:]...)...)
		}
		want := make([]byte, len(lines))
		n, wantErr := decodeOddLines(want, lines)
		got, err := decodeBase64(lines)
		if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want[:n]) {
			t.Fatalf("%q: %x, %v, want %x, %v", lines, got, err, want[:n], wantErr)
		}
		if err == nil {
			good++
		}
	}
	if good < 1000 || good > 19000 {
		t.Errorf("%d of 20000 were right, which says little", good)
	}
}
