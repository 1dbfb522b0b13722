package descriptor

import (
	"bytes"
	"crypto/ecdh"
	"encoding/base64"
	"errors"
	mathrand "math/rand/v2"
	"runtime"
	"strings"
	"testing"
)

func TestLayerVectors(t *testing.T) {
	file := loadJSON[struct {
		Vectors []struct {
			Blinded       hexBytes `json:"blinded_public_key"`
			Cookie        hexBytes `json:"descriptor_cookie"`
			Subcredential hexBytes `json:"subcredential"`
			Revision      uint64   `json:"revision_counter"`
			Constant      string   `json:"string_constant"`
			Salt          hexBytes `json:"salt"`
			Plaintext     hexBytes `json:"plaintext"`
			Blob          hexBytes `json:"blob"`
		} `json:"vectors"`
	}](t, "layer_crypto.json")
	enough(t, "layers", len(file.Vectors), 4)
	for i, v := range file.Vectors {
		keys := PeriodKeys{Blinded: BlindedPublicKey(v.Blinded.key()), Subcredential: Subcredential(v.Subcredential.key())}
		secret := layerSecret{keys: &keys, cookie: v.Cookie, revision: v.Revision, constant: v.Constant}
		sealed := append(append(bytes.Clone(v.Salt), v.Plaintext...), make([]byte, macSize)...)
		if err := secret.seal(sealed); err != nil || !bytes.Equal(sealed, v.Blob) {
			t.Errorf("%d: sealed %x, %v", i, sealed, err)
		}
		unpadded, _, _ := bytes.Cut(v.Plaintext, []byte{0})
		if text, err := secret.open(bytes.Clone(v.Blob)); err != nil || !bytes.Equal(text, unpadded) {
			t.Errorf("%d: opened %x, %v", i, text, err)
		}
		for j := range v.Blob {
			spoiled := bytes.Clone(v.Blob)
			spoiled[j] ^= 4
			if _, err := secret.open(spoiled); !errors.Is(err, errMAC) {
				t.Fatalf("%d: byte %d changed: %v", i, j, err)
			}
		}
	}
}

// TestSealLikeTor encrypts tor's own plaintext with its salts: the ciphertext
// is the same, byte for byte, padding included.
func TestSealLikeTor(t *testing.T) {
	for _, v := range loadCorpus(t).Descriptors {
		o, err := parseOuter(v.raw(t))
		if err != nil {
			t.Fatal(err)
		}
		keys := v.keys(t)
		if len(o.blob) != v.Expected.BlobLength || v.Expected.Padded%padMultiple != 0 {
			t.Errorf("%s: first layer of %d bytes", v.File, len(o.blob))
		}
		salt, want := bytes.Clone(o.blob[:saltSize]), bytes.Clone(o.blob)
		first := plain(t, v.Expected.FirstFile)
		padded := make([]byte, saltSize+v.Expected.Padded+macSize)
		copy(padded[copy(padded, salt):], first)
		if err := (layerSecret{keys: &keys, revision: o.revision, constant: firstConstant}).seal(padded); err != nil || !bytes.Equal(padded, want) {
			t.Errorf("%s: the first layer is encrypted otherwise (%v)", v.File, err)
		}
		f, err := parseFirst(first)
		if err != nil {
			t.Fatal(err)
		}
		var cookie []byte
		if len(v.Clients) > 0 {
			cookie = v.Clients[0].Cookie
		}
		second := append(append(bytes.Clone(f.blob[:saltSize]), plain(t, v.Expected.SecondFile)...), make([]byte, macSize)...)
		if err := (layerSecret{keys: &keys, cookie: cookie, revision: o.revision, constant: secondConstant}).seal(second); err != nil || !bytes.Equal(second, f.blob) {
			t.Errorf("%s: the second layer is encrypted otherwise (%v)", v.File, err)
		}
	}
}

func TestClientAuthVectors(t *testing.T) {
	file := loadJSON[struct {
		Entries []struct {
			Subcredential   hexBytes `json:"subcredential"`
			EphemeralSecret hexBytes `json:"ephemeral_secret_key"`
			Ephemeral       hexBytes `json:"ephemeral_public_key"`
			ClientPublic    hexBytes `json:"client_public_key"`
			ClientSecret    hexBytes `json:"client_secret_key"`
			Cookie          hexBytes `json:"descriptor_cookie"`
			IV              hexBytes `json:"iv"`
			ID              hexBytes `json:"client_id"`
			Encrypted       hexBytes `json:"encrypted_cookie"`
			Line            string   `json:"auth_client_line"`
		} `json:"entries"`
	}](t, "client_auth.json")
	enough(t, "client entries", len(file.Entries), 6)
	for i, v := range file.Entries {
		secret, err := ecdh.X25519().NewPrivateKey(v.EphemeralSecret)
		if err != nil {
			t.Fatal(err)
		}
		sub := Subcredential(v.Subcredential.key())
		entry := AuthClient{}
		// The IV is the second thing taken from the source, after an ID that is replaced.
		random := bytes.NewReader(append(append(make([]byte, 8), v.IV...), make([]byte, 16)...))
		if err := entry.fill(sub, secret, []AuthorizedClient{{v.ClientPublic.key()}}, 0, v.Cookie, random); err != nil {
			t.Fatal(err)
		}
		want := AuthClient{[8]byte(v.ID), [16]byte(v.IV), [16]byte(v.Encrypted)}
		if entry != want {
			t.Errorf("%d: entry %x, want %x", i, entry, want)
		}
		text := appendAuth(nil, v.Ephemeral.key(), []AuthClient{entry})
		if !strings.HasSuffix(string(text), "\n"+v.Line+"\n") {
			t.Errorf("%d: line %s, want %s", i, text, v.Line)
		}
		if !strings.Contains(string(text), "\ndesc-auth-ephemeral-key "+base64.StdEncoding.EncodeToString(v.Ephemeral)+"\n") {
			t.Errorf("%d: ephemeral key in %s", i, text)
		}
		if v.ClientSecret == nil {
			continue
		}
		client, err := ecdh.X25519().NewPrivateKey(v.ClientSecret)
		if err != nil {
			t.Fatal(err)
		}
		if cookie := newClientKey(client).cookieFor(sub, v.Ephemeral.key(), []AuthClient{{}, entry}); !bytes.Equal(cookie, v.Cookie) {
			t.Errorf("%d: cookie %x", i, cookie)
		}
	}
}

func TestClientKeyTexts(t *testing.T) {
	file := loadJSON[struct {
		Files []struct {
			Address string   `json:"onion_address"`
			Secret  hexBytes `json:"x25519_secret_key"`
			Public  hexBytes `json:"x25519_public_key"`
			Auth    string   `json:"auth_file"`
			Private string   `json:"auth_private_file"`
		} `json:"files"`
		Texts []struct {
			Text   string `json:"text"`
			Expect string `json:"expect"`
		} `json:"client_key_texts"`
	}](t, "client_auth.json")
	enough(t, "key files", len(file.Files), 12)
	for _, v := range file.Files {
		k, err := ParseClientKey([]byte(v.Private))
		if err != nil {
			t.Fatal(err)
		}
		bare, err := ParseClientKey([]byte(strings.ToLower(v.Private[strings.LastIndex(v.Private, ":")+1:])))
		if err != nil {
			t.Fatal(err)
		}
		if a, ok := k.Address(); !ok || a.String() != v.Address {
			t.Errorf("for %s, %v, want %s", a.Short(), ok, v.Address)
		}
		if _, ok := bare.Address(); ok || !bare.Equal(k) || !bytes.Equal(k.secret().Bytes(), v.Secret) {
			t.Errorf("%s: other secret", v.Address)
		}
		c, err := ParseAuthorizedClient([]byte(v.Auth))
		if err != nil || c != k.Client() || c.PublicKey != v.Public.key() {
			t.Errorf("%s: client %x, %v", v.Address, c.PublicKey, err)
		}
	}
	enough(t, "key texts", len(file.Texts), 10)
	for _, v := range file.Texts {
		_, err := ParseClientKey([]byte(v.Text))
		if (err == nil) != (v.Expect == "accept") {
			t.Errorf("%q: %v, expected %s", v.Text, err, v.Expect)
		}
		if _, publicErr := ParseAuthorizedClient([]byte(v.Text)); (publicErr == nil) != (err == nil) {
			t.Errorf("%q as a public key: %v", v.Text, publicErr)
		}
	}
	if _, err := ParseAuthorizedClient([]byte("descriptor:x25519:" + strings.Repeat("A", 52))); err == nil {
		t.Error("a public key of zeros authorizes everybody")
	}
}

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
		"caa":          fill("caa 0 a b\n"),
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
