package sim

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha3"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"time"

	"onionbalancer/descriptor"
)

// Tampered is a Faults.Forge that changes one character of the encrypted part,
// so that the signature is wrong.
func Tampered(honest []byte) []byte {
	const begin = "-----BEGIN MESSAGE-----\n"
	b := bytes.Clone(honest)
	i := bytes.Index(b, []byte(begin))
	if i < 0 || i+len(begin) >= len(b) {
		return b
	}
	i += len(begin)
	if b[i] == 'A' {
		b[i] = 'B'
	} else {
		b[i] = 'A'
	}
	return b
}

// Raised is a Faults.Forge that raises the revision counter and leaves the
// signature as it was.
func Raised(honest []byte) []byte {
	before, after, found := bytes.Cut(honest, []byte("revision-counter "))
	number, rest, ok := bytes.Cut(after, []byte("\n"))
	counter, err := strconv.ParseUint(string(number), 10, 64)
	if !found || !ok || err != nil {
		return honest
	}
	return fmt.Appendf(nil, "%srevision-counter %d\n%s", before, counter+1000000, rest)
}

// Garbage is a Faults.Forge that hands out what is no descriptor at all.
func Garbage([]byte) []byte { return []byte("HTTP/1.0 200 OK\n\nhello\n.\n") }

// Foreign returns a Faults.Forge that hands out a descriptor whose outer
// wrapper is in order, with the highest revision counter there is, but signed
// for another service than the one asked for: all that an HSDir can do that
// does not know the service's secret.
func (n *Network) Foreign() func(honest []byte) []byte {
	seed := n.cfg.derive("foreign service")
	return func([]byte) []byte {
		now := time.Now()
		body, err := foreignDescriptor(seed[:], n.votes[len(n.votes)-1].Period(), now)
		if err != nil {
			panic("sim: making a foreign descriptor: " + err.Error())
		}
		return body
	}
}

func foreignDescriptor(seed []byte, period descriptor.Period, now time.Time) ([]byte, error) {
	key, err := descriptor.IdentityKeyFromSeed(seed)
	if err != nil {
		return nil, err
	}
	blinded, err := key.Blind(period)
	if err != nil {
		return nil, err
	}
	signer := ed25519.NewKeyFromSeed(seed)
	cert, err := certify(blinded, signer, now)
	if err != nil {
		return nil, err
	}
	return signWrapper(cert, signer, 1<<64-1, bytes.Repeat([]byte("foreign "), 1250)), nil
}

// certify signs a descriptor-signing key as tor does.
func certify(blinded *descriptor.BlindedKey, signer ed25519.PrivateKey, now time.Time) (descriptor.Certificate, error) {
	return descriptor.NewCertificate(descriptor.CertHSDescSigning, [32]byte(signer.Public().(ed25519.PublicKey)),
		blinded.Public(), descriptor.SigningCertExpiry(now),
		func(message []byte) ([]byte, error) { return blinded.Sign(message), nil })
}

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

// wrapper is the outer wrapper of a descriptor, all that an HSDir sees of it
// (rend-spec-v3, section 2.4).
type wrapper struct {
	lifetime time.Duration
	revision uint64
	blinded  descriptor.BlindedPublicKey
	expires  time.Time // of the certificate
}

const (
	defaultMaxSize  = 50000 // HSV3MaxDescriptorSize; this length itself is refused
	signaturePrefix = "Tor onion service descriptor sig v3"
)

// errWrapper is wrapped by every refusal of readWrapper.
var errWrapper = errors.New("not a descriptor")

// readWrapper reads and verifies what a directory reads and verifies: the
// lines in their order, the certificate by the blinded key, valid at now, and
// the signature over the whole.
func readWrapper(body []byte, now time.Time, maxSize int) (wrapper, error) {
	var w wrapper
	refuse := func(what string) (wrapper, error) { return wrapper{}, fmt.Errorf("%w: %s", errWrapper, what) }
	if len(body) >= maxSize {
		return refuse("too large")
	}
	rest, ok := bytes.CutPrefix(body, []byte("hs-descriptor 3\n"))
	if !ok {
		return refuse("its first line")
	}
	lifetime, rest, err := numberLine(rest, "descriptor-lifetime ")
	if err != nil || lifetime > 720 {
		return refuse("its lifetime")
	}
	w.lifetime = time.Duration(lifetime) * time.Minute
	block, rest := objectLine(rest, "descriptor-signing-key-cert\n", "ED25519 CERT")
	if block == nil {
		return refuse("its certificate")
	}
	cert, err := descriptor.ParseCertificate(block)
	if err != nil || cert.Type() != descriptor.CertHSDescSigning {
		return refuse("its certificate")
	}
	signer, ok := cert.SigningKey()
	if !ok || cert.Verify(signer, now) != nil {
		return refuse("its certificate's signature or expiry")
	}
	w.blinded, w.expires = signer, cert.Expires()
	if w.revision, rest, err = numberLine(rest, "revision-counter "); err != nil {
		return refuse("its revision counter")
	}
	if block, rest = objectLine(rest, "superencrypted\n", "MESSAGE"); block == nil {
		return refuse("its encrypted part")
	}
	line, ok := bytes.CutPrefix(bytes.TrimSuffix(rest, []byte("\n")), []byte("signature "))
	signature, err := unpadded.DecodeString(string(line))
	if !ok || err != nil {
		return refuse("its signature line")
	}
	key := cert.Key()
	signed := append([]byte(signaturePrefix), body[:len(body)-len(rest)]...)
	if !ed25519.Verify(key[:], signed, signature) {
		return refuse("its signature")
	}
	return w, nil
}

// numberLine reads a line of keyword and number.
func numberLine(text []byte, keyword string) (uint64, []byte, error) {
	rest, ok := bytes.CutPrefix(text, []byte(keyword))
	line, rest, found := bytes.Cut(rest, []byte("\n"))
	if !ok || !found {
		return 0, nil, errWrapper
	}
	number, err := strconv.ParseUint(string(line), 10, 64)
	return number, rest, err
}

// objectLine reads a keyword line and the object after it; nil if it is not
// there. It is no pem.Decode, which takes long under the race detector.
func objectLine(text []byte, keyword, label string) (object, rest []byte) {
	text, ok := bytes.CutPrefix(text, []byte(keyword+"-----BEGIN "+label+"-----\n"))
	text, rest, found := bytes.Cut(text, []byte("\n-----END "+label+"-----\n"))
	if !ok || !found {
		return nil, nil
	}
	object, err := base64.StdEncoding.AppendDecode(nil, text)
	if err != nil {
		return nil, nil
	}
	return object, rest
}

// signWrapper writes an outer wrapper around any bytes.
func signWrapper(cert descriptor.Certificate, signer ed25519.PrivateKey, revision uint64, superencrypted []byte) []byte {
	var b bytes.Buffer
	b.WriteString("hs-descriptor 3\ndescriptor-lifetime 180\ndescriptor-signing-key-cert\n")
	writeObject(&b, "ED25519 CERT", cert.Bytes())
	fmt.Fprintf(&b, "revision-counter %d\nsuperencrypted\n", revision)
	writeObject(&b, "MESSAGE", superencrypted)
	signature := ed25519.Sign(signer, append([]byte(signaturePrefix), b.Bytes()...))
	fmt.Fprintf(&b, "signature %s\n", unpadded.EncodeToString(signature))
	return b.Bytes()
}

func writeObject(b *bytes.Buffer, label string, data []byte) {
	text := base64.StdEncoding.EncodeToString(data)
	fmt.Fprintf(b, "-----BEGIN %s-----\n", label)
	for ; len(text) > 64; text = text[64:] {
		b.WriteString(text[:64] + "\n")
	}
	fmt.Fprintf(b, "%s\n-----END %s-----\n", text, label)
}
