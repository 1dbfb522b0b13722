package descriptor

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestEncodeFresh checks that uploads share no salt and keep the rest.
func TestEncodeFresh(t *testing.T) {
	s := newTestService(t, 1)
	e, contents := s.encoder(t), torContents(testPoints(t, 3, seeded(1)))
	var layers [2]*firstLayer
	var raws [2][]byte
	for i := range raws {
		var err error
		if raws[i], err = e.Encode(contents, 5, rand.Reader); err != nil {
			t.Fatal(err)
		}
		o, err := parseOuter(raws[i])
		if err != nil {
			t.Fatal(err)
		}
		if layers[i], err = o.openFirst(&s.keys); err != nil {
			t.Fatal(err)
		}
	}
	a, b := layers[0], layers[1]
	if bytes.Equal(a.blob[:saltSize], b.blob[:saltSize]) || bytes.Equal(raws[0], raws[1]) {
		t.Error("the same salt twice")
	}
	if a.ephemeral != b.ephemeral || !slices.Equal(a.clients, b.clients) {
		t.Error("the entries of clients changed from upload to upload, which tor's do not")
	}
}

// countingSigner counts signatures, as a slow token would be paid by them.
type countingSigner struct {
	ed25519.PrivateKey
	mu    sync.Mutex
	count int
	spoil bool
	fail  error
}

func (c *countingSigner) Sign(r io.Reader, m []byte, o crypto.SignerOpts) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	sig, err := c.PrivateKey.Sign(r, m, o)
	if c.spoil {
		sig[3] ^= 1
	}
	return sig, errors.Join(err, c.fail)
}

func TestEncodeSignsOnce(t *testing.T) {
	s := newTestService(t, 1)
	signer := &countingSigner{PrivateKey: s.signing}
	e, err := NewEncoder(s.keys, s.cert, signer)
	if err != nil {
		t.Fatal(err)
	}
	points := testPoints(t, 21, seeded(1))
	encode := func(points []IntroductionPoint, want int) {
		t.Helper()
		before := signer.count
		if _, err := e.Encode(torContents(points), 5, rand.Reader); err != nil {
			t.Fatal(err)
		}
		if got := signer.count - before; got != want {
			t.Errorf("%d signatures, want %d", got, want)
		}
	}
	encode(points[:20], 41)
	encode(points[:20], 1)
	encode(points[1:21], 3)
	renewed := slices.Clone(points[:20])
	renewed[4].Expires = renewed[4].Expires.Add(time.Hour)
	before := signer.count
	if err := e.Check(torContents(points[:20]), 6, rand.Reader); err != nil || signer.count != before {
		t.Errorf("checking: %v, %d signatures", err, signer.count-before)
	}
	encode(renewed, 3)
	encode(points[:20], 1) // the certificates of before are kept

	signer.spoil = true
	if _, err := e.Encode(torContents(nil), 5, rand.Reader); err == nil {
		t.Error("a wrong signature was published")
	}
	signer.spoil, signer.fail = false, errors.New("token gone")
	if _, err := e.Encode(torContents(nil), 5, rand.Reader); !errors.Is(err, signer.fail) {
		t.Errorf("error %v, want the signer's", err)
	}
}

func TestEncodeConcurrently(t *testing.T) {
	s := newTestService(t, 1)
	e, points := s.encoder(t), testPoints(t, 4, seeded(1))
	var d Decoder
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			raw, err := e.Encode(torContents(points[i%4:]), uint64(i), rand.Reader)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := d.Decode(raw, s.keys, nil, testNow); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
