package descriptor

import (
	"errors"
	"strings"
	"testing"
)

// TestParseAddressLineEnds: a line end in the place of a character, which the
// base32 decoder would pass over, makes no address and no panic.
func TestParseAddressLineEnds(t *testing.T) {
	const good = "zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid"
	if _, err := ParseAddress(good); err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{"\n", "\r"} {
		for i := range good {
			if _, err := ParseAddress(good[:i] + end + good[i+1:]); !errors.Is(err, ErrAddress) {
				t.Errorf("a line end at %d: %v", i, err)
			}
		}
		if _, err := ParseAddress(strings.Repeat(end, len(good))); !errors.Is(err, ErrAddress) {
			t.Errorf("line ends alone: %v", err)
		}
	}
}
