package descriptor

import (
	"bytes"
	"encoding/base64"
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
