package csr

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

const (
	minNonce = 8   // bytes: 64 bits, if they are random
	maxNonce = 256 // bytes; far above what CAs give
	ownNonce = 16  // bytes of the nonces made here
)

// ACMENonce reads the nonce of an onion-csr-01 challenge, base64 with padding
// (RFC 9799, section 3.2). The URL alphabet and missing padding are understood
// as well; no text means two things.
func ACMENonce(text string) ([]byte, error) {
	encoding := base64.RawStdEncoding
	if strings.ContainsAny(text, "-_") {
		encoding = base64.RawURLEncoding
	}
	bare := text
	if len(text)%4 == 0 {
		bare = strings.TrimSuffix(strings.TrimSuffix(text, "="), "=")
	}
	// The decoder passes over line ends.
	if strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("nonce %q: not base64: a line end within it", text)
	}
	nonce, err := encoding.Strict().DecodeString(bare)
	if err != nil {
		return nil, fmt.Errorf("nonce %q: not base64: %w", text, err)
	}
	return nonce, nonceError(fmt.Sprintf("nonce %q", text), nonce)
}

// TextNonce takes a CA's random value that is text, character by character.
func TextNonce(text string) ([]byte, error) {
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("CA nonce %q: there are spaces or control characters in it, was it copied well?", text)
	}
	return []byte(text), nonceError(fmt.Sprintf("CA nonce %q", text), []byte(text))
}

// HexNonce reads a CA's random value from its hexadecimal notation, which may
// have colons between the bytes.
func HexNonce(text string) ([]byte, error) {
	nonce, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil {
		return nil, fmt.Errorf("CA nonce %q: not hexadecimal: %w", text, err)
	}
	return nonce, nonceError(fmt.Sprintf("CA nonce %q", text), nonce)
}

func nonceError(name string, nonce []byte) error {
	if err := checkNonce(nonce); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func checkNonce(nonce []byte) error {
	switch {
	case len(nonce) < minNonce:
		return fmt.Errorf("%d bytes, which cannot hold the 64 random bits that are required", len(nonce))
	case len(nonce) > maxNonce:
		return fmt.Errorf("%d bytes, want at most %d", len(nonce), maxNonce)
	}
	return nil
}
