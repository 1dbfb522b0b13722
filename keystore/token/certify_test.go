package token_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
)

// customer is a key that was sealed.
type customer struct {
	key  *descriptor.IdentityKey
	file []byte
}

// sealTogether seals n new keys by one data key.
func sealTogether(t testing.TB, tok *token.Token, o token.Object, n int) []customer {
	t.Helper()
	with, err := tok.WrappingKey(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	data, err := sealed.NewDataKey(token.Selector{Label: "t"}, with, func(m token.Method, plain *locked.Buffer) ([]byte, error) {
		return tok.Wrap(t.Context(), o, m, plain)
	}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Wipe()
	list := make([]customer, n)
	for i := range list {
		list[i].key = newIdentity(t)
		file, err := data.Seal(list[i].key, expires, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if list[i].file, err = file.Encode(); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// certify has the token certify by c, and checks what it did.
func (c customer) certify(ctx context.Context, tok *token.Token, o token.Object) error {
	signing, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	certs, revision, err := tok.Certify(ctx, o, c.file, period, signing, hours)
	if err != nil {
		return err
	}
	blinded, err := c.key.Blind(period)
	if err != nil {
		return err
	}
	defer blinded.Wipe()
	want, err := blinded.CertifyHours([32]byte(signing), hours)
	if err == nil && (certs != want || string(revision.Bytes()) != string(blinded.RevisionKey().Bytes())) {
		err = errors.New("the certificates of another")
	}
	return err
}

// occupied calls f while the token does something else, until more wait for it.
func occupied(t *testing.T, m fakeModule, tok *token.Token, f func()) {
	t.Helper()
	m.write("slow", "")
	before := m.count("keys")
	busy := make(chan error, 1)
	go func() { _, err := tok.SigningKeys(t.Context(), "none"); busy <- err }()
	for m.count("keys") == before {
		time.Sleep(time.Millisecond)
	}
	f()
	if err := <-busy; err != nil {
		t.Error(err)
	}
}

// TestCertifyTogether: a hundred who wait for a token cost it a few operations, and each gets
// its own certificates; but for one, whose file is damaged.
func TestCertifyTogether(t *testing.T) {
	defer token.Quick(time.Minute)()
	m := newFake(t)
	tokens, o := []*token.Token{open(t, m.uri()), open(t, m.uri())}, token.Object{Label: "o"}
	all := sealTogether(t, tokens[0], o, 100)
	all[77].file = append([]byte(nil), all[77].file...)
	all[77].file[len(all[77].file)-10] ^= 1
	var wg sync.WaitGroup
	occupied(t, m, tokens[0], func() {
		for i, c := range all {
			wg.Go(func() {
				err := c.certify(t.Context(), tokens[i%2], o)
				if i == 77 {
					wantCode(t, err, token.CodeDamaged, "")
				} else if err != nil {
					t.Error(err)
				}
			})
		}
	})
	wg.Wait()
	if n := m.count("unwrap"); n > 20 { // 1, 2, 4 … 64, and those that were late
		t.Errorf("%d operations of the token for %d files with one data key", n, len(all))
	}
	if m.count("load") != 1 {
		t.Error("the helper was started again")
	}
}

// TestCertifyAbsent: those who ask together learn together that the token is gone, and it is
// found again when it is back.
func TestCertifyAbsent(t *testing.T) {
	defer token.Quick(time.Minute)()
	m := newFake(t)
	tok, o := open(t, m.uri()), token.Object{Label: "o"}
	all := sealTogether(t, tok, o, 30)
	for range 7 { // by then it takes all at once
		if err := all[0].certify(t.Context(), tok, o); err != nil {
			t.Fatal(err)
		}
	}
	m.write("error-unwrap", string(token.CodeAbsent))
	before := m.count("unwrap")
	var wg sync.WaitGroup
	occupied(t, m, tok, func() {
		for _, c := range all {
			wg.Go(func() {
				if err := c.certify(t.Context(), tok, o); err != nil {
					wantCode(t, err, token.CodeAbsent, "the fake token says absent")
				}
			})
		}
	})
	wg.Wait()
	if n := m.count("unwrap") - before; n > 10 {
		t.Errorf("the token was asked %d times", n)
	}
	if err := all[0].certify(t.Context(), tok, o); err != nil {
		t.Error(err)
	}
}

// TestCertifyGivenUp: that one caller gives up does nothing to the others it is asked with;
// that all do ends the helper.
func TestCertifyGivenUp(t *testing.T) {
	defer token.Quick(time.Minute)()
	m := newFake(t)
	tok, o := open(t, m.uri()), token.Object{Label: "o"}
	all := sealTogether(t, tok, o, 8)
	for range 7 {
		if err := all[0].certify(t.Context(), tok, o); err != nil {
			t.Fatal(err)
		}
	}
	pid := token.HelperPID(tok)
	some, cancel := context.WithCancel(t.Context())
	before := m.count("unwrap")
	var wg sync.WaitGroup
	occupied(t, m, tok, func() {
		for i, c := range all {
			wg.Go(func() {
				ctx := t.Context()
				if i%2 == 0 {
					ctx = some
				}
				if err := c.certify(ctx, tok, o); err != nil && (i%2 != 0 || !errors.Is(err, context.Canceled)) {
					t.Errorf("caller %d: %v", i, err)
				}
			})
		}
	})
	for m.count("unwrap") == before {
		time.Sleep(time.Millisecond)
	}
	cancel()
	wg.Wait()
	if token.HelperPID(tok) != pid {
		t.Error("the helper was ended for one who gave up")
	}

	m.write("hang-unwrap", "")
	hangs := filepath.Join(m.dir, "hang-unwrap")
	ctx, cancelAll := context.WithCancel(t.Context())
	for _, c := range all {
		wg.Go(func() {
			if err := c.certify(ctx, tok, o); !errors.Is(err, context.Canceled) {
				t.Errorf("all gave up: %v", err)
			}
		})
	}
	for _, err := os.Stat(hangs); err == nil; _, err = os.Stat(hangs) { // it takes the file away first
		time.Sleep(time.Millisecond)
	}
	cancelAll()
	wg.Wait()
	gone(t, pid)
	if err := all[0].certify(t.Context(), tok, o); err != nil {
		t.Error(err)
	}
}

// TestCertifyCrash: a file on which a module crashes keeps the others only until they are
// asked without it.
func TestCertifyCrash(t *testing.T) {
	defer token.Quick(time.Minute)()
	m := newFake(t)
	tok, o := open(t, m.uri()), token.Object{Label: "o"}
	all := sealTogether(t, tok, o, 16)
	m.write("crash-unwrap", "")
	var wg sync.WaitGroup
	occupied(t, m, tok, func() {
		for _, c := range all {
			wg.Go(func() {
				for try := range 100 {
					err := c.certify(t.Context(), tok, o)
					if err == nil {
						return
					}
					if !errors.Is(err, &token.Error{Code: token.CodeCrashed}) || try == 99 {
						t.Errorf("try %d: %v", try, err)
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
	})
	wg.Wait()
}
