package descriptor

import (
	"runtime"
	"strings"
	"testing"
)

// allocated returns how many bytes f allocates in all.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestAllocationBounds parses texts that are made to cost memory. Whatever
// they are, what is allocated is a small multiple of what came in.
func TestAllocationBounds(t *testing.T) {
	const size = 30000
	fill := func(s string) string { return strings.Repeat(s, size/len(s)) }
	wrap := func(s string) string { return "create2-formats 2\n" + s }
	parse := map[string]func(string){
		"outer":  func(s string) { _, _ = parseOuter([]byte("hs-descriptor 3\n" + s)) },
		"first":  func(s string) { _, _ = parseFirst([]byte("desc-auth-type x25519\n" + s)) },
		"second": func(s string) { _, _ = parseSecond([]byte(wrap(s))) },
		"cert":   func(s string) { _, _ = ParseCertificate([]byte(s)) },
		"client": func(s string) { _, _ = ParseClientKey([]byte(s)) },
		"whole":  func(s string) { _, _ = new(Decoder).Decode([]byte(s), PeriodKeys{}, nil, testNow) },
	}
	for _, text := range map[string]string{
		"points":       fill("introduction-point A\n"),
		"empty points": fill("introduction-point \n"),
		"specifiers":   fill("introduction-point /wAAAAAAAAAAAA\n"),
		"clients":      fill("auth-client AAAAAAAAAAA AAAAAAAAAAAAAAAAAAAAAA AAAAAAAAAAAAAAAAAAAAAA\n"),
		"pow-params":   fill("pow-params x\n"),
		"formats":      "create2-formats " + fill("2 ") + "\n",
		"auth types":   "intro-auth-required " + fill("x ") + "\n",
		"empty lines":  fill("\n"),
		"short lines":  fill("a\n"),
		"one line":     fill("a"),
		"blanks":       fill(" "),
		"objects":      fill("a\n-----BEGIN X-----\nAAAA\n-----END X-----\n"),
		"no end":       "a\n-----BEGIN X-----\n" + fill("AAAA\n"),
		"opt":          fill("opt "),
		"colons":       fill(":"),
	} {
		for parser, f := range parse {
			if got := allocated(func() { f(text) }); got > 16*size {
				t.Errorf("%s as %s: %d bytes allocated for %d", text[:min(20, len(text))], parser, got, len(text))
			}
		}
	}
}

// TestSizeFirst checks that what is too large is not even looked at.
func TestSizeFirst(t *testing.T) {
	raw := make([]byte, 64<<20)
	var d Decoder
	if got := allocated(func() {
		if _, err := d.Decode(raw, PeriodKeys{}, nil, testNow); err == nil {
			t.Error("accepted")
		}
	}); got > 1<<16 {
		t.Errorf("%d bytes allocated", got)
	}
}
