package tell

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha3"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"onionbalancer/descriptor"
)

// Sizes in bytes of what surrounds the ciphertext of a layer (rend-spec-v3, section
// 2.5.3).
const (
	saltSize = 16
	macSize  = 32
)

// The constants that part the keys of the two layers.
const (
	firstConstant  = "hsdir-superencrypted-data"
	secondConstant = "hsdir-encrypted-data"
)

// layers are the three texts of a descriptor, character for character. Where one held
// an encrypted object, it has the line "…" instead.
type layers struct {
	outer, first, second  string
	padding               []byte // after the first layer's text
	firstSalt, secondSalt [saltSize]byte
	revision              uint64
}

const encrypted = "…\n" // stands for the lines of an encrypted object

// openLayers opens a descriptor that needs no client key.
func openLayers(body []byte, keys descriptor.PeriodKeys) (l layers, err error) {
	outer, blob, err := cutMessage(string(body), "superencrypted\n")
	if err != nil {
		return l, fmt.Errorf("reading the outer layer: %w", err)
	}
	_, after, _ := strings.Cut(outer, "\nrevision-counter ")
	number, _, _ := strings.Cut(after, "\n")
	if l.revision, err = strconv.ParseUint(number, 10, 64); err != nil {
		return l, fmt.Errorf("reading the outer layer: %w", err)
	}
	text, err := openLayer(blob, keys, l.revision, firstConstant)
	if err != nil {
		return l, fmt.Errorf("opening the first layer: %w", err)
	}
	end := bytes.IndexByte(text, 0)
	if end < 0 {
		end = len(text)
	}
	l.padding = text[end:]
	first, inner, err := cutMessage(string(text[:end]), "encrypted\n")
	if err != nil {
		return l, fmt.Errorf("reading the first layer: %w", err)
	}
	text, err = openLayer(inner, keys, l.revision, secondConstant)
	if err != nil {
		return l, fmt.Errorf("opening the second layer: %w", err)
	}
	l.outer, l.first, l.second = outer, first, string(text)
	l.firstSalt, l.secondSalt = [saltSize]byte(blob), [saltSize]byte(inner)
	return l, nil
}

// seal is the inverse of openLayers.
func (l *layers) seal(keys descriptor.PeriodKeys) []byte {
	second := sealLayer(l.secondSalt, []byte(l.second), keys, l.revision, secondConstant)
	first := append([]byte(pasteMessage(l.first, second)), l.padding...)
	return []byte(pasteMessage(l.outer, sealLayer(l.firstSalt, first, keys, l.revision, firstConstant)))
}

const (
	beginMessage = "-----BEGIN MESSAGE-----\n"
	endMessage   = "-----END MESSAGE-----"
	lineLength   = 64 // of base64
)

// cutMessage takes the encrypted object that follows a keyword out of a text.
func cutMessage(text, keyword string) (rest string, blob []byte, err error) {
	before, after, found := strings.Cut(text, "\n"+keyword+beginMessage)
	object, after, ended := strings.Cut(after, endMessage)
	if !found || !ended {
		return "", nil, errors.New("no encrypted object")
	}
	rest = before + "\n" + keyword + beginMessage + encrypted + endMessage + after
	blob, err = base64.StdEncoding.DecodeString(object)
	if err == nil && pasteMessage(rest, blob) != text {
		err = errors.New("the encrypted object's lines are not as tor's")
	}
	if err == nil && len(blob) < saltSize+macSize {
		err = errors.New("the encrypted object is too short")
	}
	return rest, blob, err
}

// pasteMessage is the inverse of cutMessage.
func pasteMessage(text string, blob []byte) string {
	var object strings.Builder
	for line := base64.StdEncoding.EncodeToString(blob); len(line) > 0; {
		n := min(lineLength, len(line))
		object.WriteString(line[:n] + "\n")
		line = line[n:]
	}
	return strings.Replace(text, encrypted, object.String(), 1)
}

// layerKeys derives the cipher and the keyed MAC of a layer.
func layerKeys(salt []byte, keys descriptor.PeriodKeys, revision uint64, constant string) (cipher.Stream, *sha3.SHA3) {
	int8 := func(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
	kdf := sha3.NewSHAKE256()
	for _, part := range [][]byte{keys.Blinded[:], keys.Subcredential[:], binary.BigEndian.AppendUint64(nil, revision), salt, []byte(constant)} {
		_, _ = kdf.Write(part) // never fails
	}
	var derived [32 + aes.BlockSize + macSize]byte
	_, _ = kdf.Read(derived[:]) // never fails
	block, err := aes.NewCipher(derived[:32])
	if err != nil {
		panic("tell: 32 bytes are an AES key: " + err.Error())
	}
	mac := sha3.New256()
	for _, part := range [][]byte{int8(macSize), derived[32+aes.BlockSize:], int8(saltSize), salt} {
		_, _ = mac.Write(part) // never fails
	}
	return cipher.NewCTR(block, derived[32:32+aes.BlockSize]), mac
}

func openLayer(blob []byte, keys descriptor.PeriodKeys, revision uint64, constant string) ([]byte, error) {
	stream, mac := layerKeys(blob[:saltSize], keys, revision, constant)
	text := bytes.Clone(blob[saltSize : len(blob)-macSize])
	_, _ = mac.Write(text) // never fails
	if !bytes.Equal(mac.Sum(nil), blob[len(blob)-macSize:]) {
		return nil, errors.New("wrong MAC")
	}
	stream.XORKeyStream(text, text)
	return text, nil
}

func sealLayer(salt [saltSize]byte, text []byte, keys descriptor.PeriodKeys, revision uint64, constant string) []byte {
	stream, mac := layerKeys(salt[:], keys, revision, constant)
	stream.XORKeyStream(text, text)
	_, _ = mac.Write(text) // never fails
	return mac.Sum(append(salt[:], text...))
}
