package sim

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/sha3"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"

	"onionbalancer/descriptor"
)

// The encoder under test refuses to write an introduction point with a legacy
// key, and rightly so; real services have had them. So this file opens both
// layers of a finished descriptor, adds what makes its first point a legacy
// one, and seals them again (rend-spec-v3, sections 2.5.1 to 2.5.3).

var errLayer = errors.New("sim: a layer does not open")

const (
	saltSize = 16
	macSize  = 32
	firstPad = 10000
)

// What goes into the keys of the first and of the second layer.
var outer, inner = []byte("hsdir-superencrypted-data"), []byte("hsdir-encrypted-data")

// legacy returns body with its first introduction point made a legacy one.
// The descriptor must not need client authorization.
func (d *published) legacy(body []byte, keys descriptor.PeriodKeys, revision uint64) ([]byte, error) {
	_, object, _ := bytes.Cut(body, []byte("superencrypted\n"))
	block, _ := pem.Decode(object)
	if block == nil {
		return nil, errLayer
	}
	first, err := openLayer(block.Bytes, keys, revision, outer)
	if err != nil {
		return nil, err
	}
	head, object, _ := bytes.Cut(bytes.TrimRight(first, "\x00"), []byte("\nencrypted\n"))
	sealed, _ := pem.Decode(append(bytes.Clone(object), '\n'))
	if sealed == nil {
		return nil, errLayer
	}
	second, err := openLayer(sealed.Bytes, keys, revision, inner)
	if err != nil {
		return nil, err
	}
	text := sealLayer(addLegacyKey(second, d.instance), sealed.Bytes[:saltSize], keys, revision, inner)
	var b bytes.Buffer
	b.Write(head)
	b.WriteString("\nencrypted\n")
	writeObject(&b, "MESSAGE", text)
	padded := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	padded = append(padded, make([]byte, (firstPad-len(padded)%firstPad)%firstPad)...)
	return signWrapper(d.cert, d.signer, revision, sealLayer(padded, block.Bytes[:saltSize], keys, revision, outer)), nil
}

// addLegacyKey adds the two lines after the first point's enc-key-cert.
func addLegacyKey(text []byte, i *Instance) []byte {
	const end = "-----END ED25519 CERT-----\n"
	at := bytes.Index(text, []byte("enc-key-cert\n"))
	at += bytes.Index(text[at:], []byte(end)) + len(end)
	cfg := &i.net.cfg
	var modulus []byte
	for part := byte(0); part < 4; part++ {
		piece := cfg.derive("legacy key", []byte(i.cfg.Name), []byte{part})
		modulus = append(modulus, piece[:]...)
	}
	modulus[0] |= 0x80
	key := x509.MarshalPKCS1PublicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537})
	var b bytes.Buffer
	b.Write(text[:at])
	b.WriteString("legacy-key\n")
	writeObject(&b, "RSA PUBLIC KEY", key)
	b.WriteString("legacy-key-cert\n")
	writeObject(&b, "CROSSCERT", append(modulus, key...)[:165])
	b.Write(text[at:])
	return b.Bytes()
}

// layerKeys derives the stream and the MAC of a layer from its salt.
func layerKeys(salt []byte, keys descriptor.PeriodKeys, revision uint64, constant []byte) (cipher.Stream, *sha3.SHA3) {
	kdf := sha3.NewSHAKE256()
	for _, part := range [][]byte{keys.Blinded[:], keys.Subcredential[:], int8Bytes(revision), salt, constant} {
		_, _ = kdf.Write(part) // never fails
	}
	var derived [80]byte
	_, _ = kdf.Read(derived[:]) // never fails
	block, err := aes.NewCipher(derived[:32])
	if err != nil {
		panic("sim: 32 bytes are an AES key: " + err.Error())
	}
	mac := sha3.New256()
	for _, part := range [][]byte{int8Bytes(32), derived[48:], int8Bytes(saltSize), salt} {
		_, _ = mac.Write(part) // never fails
	}
	return cipher.NewCTR(block, derived[32:48]), mac
}

func openLayer(blob []byte, keys descriptor.PeriodKeys, revision uint64, constant []byte) ([]byte, error) {
	if len(blob) < saltSize+macSize {
		return nil, errLayer
	}
	stream, mac := layerKeys(blob[:saltSize], keys, revision, constant)
	text := bytes.Clone(blob[saltSize : len(blob)-macSize])
	_, _ = mac.Write(text) // never fails
	if !bytes.Equal(mac.Sum(nil), blob[len(blob)-macSize:]) {
		return nil, errLayer
	}
	stream.XORKeyStream(text, text)
	return text, nil
}

func sealLayer(text, salt []byte, keys descriptor.PeriodKeys, revision uint64, constant []byte) []byte {
	stream, mac := layerKeys(salt, keys, revision, constant)
	sealed := bytes.Clone(text)
	stream.XORKeyStream(sealed, sealed)
	_, _ = mac.Write(sealed) // never fails
	return mac.Sum(append(bytes.Clone(salt), sealed...))
}
