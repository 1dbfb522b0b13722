package csr

import (
	"bytes"
	"crypto/ed25519"
	"encoding/asn1"
	"slices"
	"strings"
	"testing"

	"onionbalancer/descriptor"
)

// A request as encoding/asn1 knows it, written from RFC 2986 and independent of
// the package's own reader.
type (
	pkcs10 struct {
		Info      pkcs10Info
		Algorithm pkcs10Algorithm
		Signature asn1.BitString
	}
	pkcs10Info struct {
		Raw     asn1.RawContent
		Version int
		Subject asn1.RawValue
		Key     struct {
			Algorithm pkcs10Algorithm
			Public    asn1.BitString
		}
		Attributes []pkcs10Attribute `asn1:"tag:0,set"`
	}
	pkcs10Algorithm struct{ OID asn1.ObjectIdentifier }
	pkcs10Attribute struct {
		OID    asn1.ObjectIdentifier
		Values []asn1.RawValue `asn1:"set"`
	}
	pkcs10Extension struct {
		OID      asn1.ObjectIdentifier
		Critical bool `asn1:"optional"`
		Value    []byte
	}
)

// independent does what RFC 9799, section 3.2, tells an ACME server to do, and
// reads the names.
func independent(t *testing.T, der []byte, want Request) {
	t.Helper()
	var request pkcs10
	if rest, err := asn1.Unmarshal(der, &request); err != nil || len(rest) != 0 {
		t.Fatalf("not a PKCS #10 request: %v, %d bytes too many", err, len(rest))
	}
	public := request.Info.Key.Public.Bytes
	if request.Algorithm.OID.String() != "1.3.101.112" || request.Info.Key.Algorithm.OID.String() != "1.3.101.112" {
		t.Errorf("algorithms %v and %v", request.Algorithm.OID, request.Info.Key.Algorithm.OID)
	}
	if !bytes.Equal(public, want.Address[:]) {
		t.Errorf("public key %x, the address has %x", public, want.Address[:])
	}
	if !ed25519.Verify(public, request.Info.Raw, request.Signature.Bytes) {
		t.Error("the signature does not verify")
	}
	found := make(map[string]asn1.RawValue)
	for _, a := range request.Info.Attributes {
		if len(a.Values) != 1 {
			t.Errorf("attribute %v has %d values", a.OID, len(a.Values))
		}
		found[a.OID.String()] = a.Values[0]
	}
	if len(found) != 3 || len(request.Info.Attributes) != 3 {
		t.Errorf("attributes %v", found)
	}
	for oid, nonce := range map[string][]byte{"2.23.140.41": want.CANonce, "2.23.140.42": want.ApplicantNonce} {
		if v := found[oid]; v.Class != asn1.ClassUniversal || v.Tag != asn1.TagOctetString || v.IsCompound || !bytes.Equal(v.Bytes, nonce) {
			t.Errorf("attribute %s is %x, want an OCTET STRING of %x", oid, v.FullBytes, nonce)
		}
	}
	if names := altNames(t, found["1.2.840.113549.1.9.14"].FullBytes); !slices.Equal(names, want.Names) {
		t.Errorf("names %q, want %q", names, want.Names)
	}
}

// altNames reads the DNS names of an extension request with nothing else in it.
func altNames(t *testing.T, der []byte) (names []string) {
	t.Helper()
	var extensions []pkcs10Extension
	if _, err := asn1.Unmarshal(der, &extensions); err != nil {
		t.Fatal(err)
	}
	if len(extensions) != 1 || extensions[0].OID.String() != "2.5.29.17" || !extensions[0].Critical {
		t.Fatalf("extensions %v", extensions)
	}
	var general []asn1.RawValue
	if rest, err := asn1.Unmarshal(extensions[0].Value, &general); err != nil || len(rest) != 0 {
		t.Fatal(err)
	}
	for _, name := range general {
		if name.Class != asn1.ClassContextSpecific || name.Tag != 2 {
			t.Errorf("a name of kind %d", name.Tag)
		}
		names = append(names, string(name.Bytes))
	}
	return names
}

// TestVerifyBits: a request in which any bit is another is refused.
func TestVerifyBits(t *testing.T) {
	identity := newIdentity(t, 1)
	der, err := newRequest(t, identity.Address()).Sign(identity.Sign)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(der) * 8 {
		der[i/8] ^= 1 << (i % 8)
		if _, err := Verify(der, identity.Address(), caNonce); err == nil {
			t.Errorf("bit %d of byte %d may be another: %x", i%8, i/8, der)
		}
		der[i/8] ^= 1 << (i % 8)
	}
	for n := range len(der) {
		if _, err := Verify(der[:n], identity.Address(), caNonce); err == nil {
			t.Errorf("the first %d bytes are enough", n)
		}
	}
	if _, err := Verify(der, identity.Address(), caNonce); err != nil {
		t.Error(err)
	}
}

// TestVerifyRefuses gives Verify requests that are signed well and say what
// they must not.
func TestVerifyRefuses(t *testing.T) {
	identity := newIdentity(t, 1)
	address := identity.Address()
	other := newIdentity(t, 2)
	good := newRequest(t, address)
	der, err := good.Sign(identity.Sign)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Verify(der, other.Address(), caNonce)
	wantError(t, "for another address", err, address.Short(), other.Address().Short())
	_, err = Verify(der, address, []byte("another value"))
	wantError(t, "another nonce of the CA", err, "another nonce")

	octets := func(b string) asn1.RawValue { return asn1.RawValue{Tag: asn1.TagOctetString, Bytes: []byte(b)} }
	for name, c := range map[string]struct {
		spoil func(*pkcs10Info)
		says  string
	}{
		"version 2":            {func(i *pkcs10Info) { i.Version = 1 }, "version"},
		"a subject":            {func(i *pkcs10Info) { i.Subject = asn1.RawValue{FullBytes: []byte("\x30\x02\x31\x00")} }, "subject"},
		"a P-256 key":          {func(i *pkcs10Info) { i.Key.Algorithm.OID = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1} }, "not of Ed25519"},
		"a key of 31 bytes":    {func(i *pkcs10Info) { i.Key.Public.Bytes, i.Key.Public.BitLength = address[:31], 31*8 }, "32 bytes"},
		"a key of 255 bits":    {func(i *pkcs10Info) { i.Key.Public.BitLength = 255 }, "32 bytes"},
		"no attributes":        {func(i *pkcs10Info) { i.Attributes = nil }, "not in the form"},
		"no CA nonce":          {func(i *pkcs10Info) { remove(i, "2.23.140.41") }, "CA's nonce"},
		"no applicant's nonce": {func(i *pkcs10Info) { remove(i, "2.23.140.42") }, "applicant's nonce"},
		"no names":             {func(i *pkcs10Info) { remove(i, "1.2.840.113549.1.9.14") }, "0 names"},
		"two CA nonces":        {func(i *pkcs10Info) { i.Attributes = append(i.Attributes, i.Attributes[0]) }, "twice"},
		"a CA nonce of two values": {func(i *pkcs10Info) {
			a := attribute(i, "2.23.140.41")
			a.Values = append(a.Values, octets("a second value"))
		}, "2.23.140.41"},
		"a CA nonce without a value": {func(i *pkcs10Info) { attribute(i, "2.23.140.41").Values = nil }, "2.23.140.41"},
		"a CA nonce that is text": {func(i *pkcs10Info) {
			attribute(i, "2.23.140.41").Values[0] = asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: caNonce}
		}, "2.23.140.41"},
		"a CA nonce in two wrappings": {func(i *pkcs10Info) {
			attribute(i, "2.23.140.41").Values[0] = asn1.RawValue{Tag: asn1.TagOctetString, IsCompound: true, Bytes: caNonce}
		}, "2.23.140.41"},
		"a short applicant's nonce": {func(i *pkcs10Info) { attribute(i, "2.23.140.42").Values[0] = octets("7 bytes") }, "applicant's nonce"},
		"an empty CA nonce":         {func(i *pkcs10Info) { attribute(i, "2.23.140.41").Values[0] = octets("") }, "CA's nonce"},
		"a challenge password": {func(i *pkcs10Info) {
			i.Attributes = append(i.Attributes, pkcs10Attribute{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}, []asn1.RawValue{octets("xyzzy")}})
		}, "unknown"},
		"a name of another service": {func(i *pkcs10Info) {
			v := &attribute(i, "1.2.840.113549.1.9.14").Values[0]
			v.FullBytes = bytes.Replace(v.FullBytes, []byte(address.String()), []byte(other.Address().String()), 1)
		}, "does not end in the address"},
		"another extension": {func(i *pkcs10Info) {
			v := &attribute(i, "1.2.840.113549.1.9.14").Values[0]
			v.FullBytes = bytes.Replace(v.FullBytes, []byte("\x06\x03\x55\x1d\x11"), []byte("\x06\x03\x55\x1d\x13"), 1)
		}, "1.2.840.113549.1.9.14"},
	} {
		var whole pkcs10
		if _, err := asn1.Unmarshal(bytes.Clone(der), &whole); err != nil {
			t.Fatal(err)
		}
		c.spoil(&whole.Info)
		_, err = Verify(sign(t, identity, whole), address, caNonce)
		wantError(t, name, err, "checking a certificate request", c.says)
	}
}

// TestVerifyOrder: encoding/asn1 sorts attributes as DER wants; the other order
// is refused, for of each request there is one encoding.
func TestVerifyOrder(t *testing.T) {
	identity := newIdentity(t, 1)
	r := newRequest(t, identity.Address())
	message, err := r.message()
	if err != nil {
		t.Fatal(err)
	}
	attributes, err := r.attributes()
	if err != nil {
		t.Fatal(err)
	}
	swapped := slices.Concat(attributes[1], attributes[0], attributes[2])
	spoiled := bytes.Replace(message, slices.Concat(attributes...), swapped, 1)
	signature, err := identity.Sign(spoiled)
	if err != nil {
		t.Fatal(err)
	}
	der, err := encode(spoiled, signature)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Verify(der, identity.Address(), caNonce)
	wantError(t, "another order", err, "not in the form")
}

// attribute finds one of i's attributes.
func attribute(i *pkcs10Info, oid string) *pkcs10Attribute {
	n := slices.IndexFunc(i.Attributes, func(a pkcs10Attribute) bool { return a.OID.String() == oid })
	return &i.Attributes[n]
}

func remove(i *pkcs10Info, oid string) {
	i.Attributes = slices.DeleteFunc(i.Attributes, func(a pkcs10Attribute) bool { return a.OID.String() == oid })
}

// sign encodes whole again, signed.
func sign(t *testing.T, identity *descriptor.IdentityKey, whole pkcs10) []byte {
	t.Helper()
	whole.Info.Raw = nil
	message, err := asn1.Marshal(whole.Info)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := identity.Sign(message)
	if err != nil {
		t.Fatal(err)
	}
	whole.Info.Raw, whole.Signature.Bytes = message, signature
	der, err := asn1.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(der), string(message)) {
		t.Fatal("what is signed is not in the request")
	}
	return der
}
