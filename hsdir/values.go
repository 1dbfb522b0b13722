package hsdir

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"time"
)

func parseTime(text []byte) (time.Time, error) {
	text = bytes.TrimSpace(text)
	if len(text) != len(dirTimeLayout) {
		return time.Time{}, fmt.Errorf("%s is not a time, want %q", quote(text), dirTimeLayout)
	}
	t, err := time.Parse(dirTimeLayout, string(text))
	if err != nil {
		return time.Time{}, fmt.Errorf("%s is not a time, want %q", quote(text), dirTimeLayout)
	}
	return t, nil
}

// parseSharedRandom reads the number of reveals and the value. A value that
// cannot be decoded counts as missing, as it does for tor, so that everybody
// falls back on the same disaster value; a wrong number of words does not.
func parseSharedRandom(text []byte) (*[32]byte, error) {
	reveals, rest := word(text)
	value, rest := word(rest)
	if extra, _ := word(rest); len(value) == 0 || len(extra) > 0 {
		return nil, fmt.Errorf("%s is not a number of reveals and a value", quote(text))
	}
	var srv [32]byte
	if !isNumber(reveals) || decodeBase64(srv[:], value) != nil {
		return nil, nil
	}
	return &srv, nil
}

func isNumber(text []byte) bool {
	for _, c := range text {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(text) > 0
}

// upperHex writes a fingerprint as tor does.
func upperHex(fingerprint []byte) string {
	return string(bytes.ToUpper([]byte(hex.EncodeToString(fingerprint))))
}
