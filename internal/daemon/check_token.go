package daemon

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"onionbalancer/internal/printable"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/token"
)

// tryToken finds the token and logs in, and reports whether that went well.
func (c *checker) tryToken(ctx context.Context, what string, uri *pkcs11uri.URI) bool {
	return c.withToken(what, uri, func(tok *token.Token) error {
		info, err := tok.Info(ctx)
		if err == nil {
			c.ok(what, "token %q, serial %s, by %s; module %s", info.Label, printable.Text(info.Serial), printable.Text(info.Manufacturer), printable.Text(info.Module))
		}
		return err
	})
}

// withToken tries something with a token, and reports whether it went well.
func (c *checker) withToken(what string, uri *pkcs11uri.URI, try func(*token.Token) error) bool {
	tok, err := token.Open(uri)
	if err != nil {
		c.fail(what, "correct the URI", err)
		return false
	}
	defer tok.Close()
	if err := try(tok); err != nil {
		c.fail(what, fixToken(err), err)
		return false
	}
	return true
}

// trialMessage is what a trial key signs: nothing of Tor's begins like it.
const trialMessage = "balancer check: a trial signature"

// trySigning makes a key on the token, signs, and destroys the key again.
func (c *checker) trySigning(ctx context.Context, what string, uri *pkcs11uri.URI) {
	c.withToken(what, uri, func(tok *token.Token) error {
		began := time.Now()
		took, shown, err := trial(ctx, tok)
		if err == nil {
			c.tellTrial(what, took, time.Since(began), shown)
		}
		return err
	})
}

// tellTrial tells that a trial went well, and what it showed.
func (c *checker) tellTrial(what string, took, all time.Duration, shown bool) {
	detail := fmt.Sprintf("the token makes keys, signs (in %s) and destroys them; all in %s",
		took.Round(time.Millisecond), all.Round(time.Millisecond))
	if shown {
		c.warn(what, "keep it where nobody takes it, or use another kind of token", "%s; but it shows public keys without the PIN, so that anyone who takes it can tell which address it signed for", detail)
		return
	}
	c.ok(what, "%s", detail)
}

// trial returns how long the signature took, and whether the token shows the
// public key without its PIN.
func trial(ctx context.Context, tok *token.Token) (took time.Duration, shown bool, err error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return 0, false, err
	}
	object := token.Object{Label: "balancer check " + fmt.Sprintf("%x", id[:4]), ID: id}
	key, err := tok.Generate(ctx, object)
	if err != nil {
		return 0, false, err
	}
	began := time.Now()
	signature, err := tok.Sign(ctx, object, []byte(trialMessage))
	took = time.Since(began)
	if err == nil && !ed25519.Verify(key.Public, []byte(trialMessage), signature) {
		err = errors.New("the token returned a wrong signature")
	}
	// Also if time is up: the key shall not be left behind.
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if gone := tok.Destroy(ending, object); gone != nil {
		err = errors.Join(err, fmt.Errorf("destroying the trial key %q, which you should delete: %w", object.Label, gone))
	}
	return took, key.Shown, err
}

// fixToken says what to do about an error of a token, where the error itself
// does not.
func fixToken(err error) string {
	var of *token.Error
	if !errors.As(err, &of) {
		return ""
	}
	switch of.Code {
	case token.CodeAbsent:
		return "is the token plugged in, and module-path right? \"pkcs11-tool --module MODULE --list-token-slots\" shows what there is"
	case token.CodePIN:
		return "put the right PIN where pin-source says; do not try often, or the token locks"
	case token.CodeFinalTry, token.CodeLocked:
		return "log in once with the right PIN by the vendor's tool, or unlock the token with its SO PIN"
	case token.CodeNoKey:
		return "compare object and id with \"pkcs11-tool --module MODULE --login --list-objects\""
	case token.CodeDamaged:
		return "was it sealed by another key? \"balancer key rewrap\" makes one for another token; else take the backup"
	case token.CodeCrashed:
		return "the module crashed or hung: try again, and see the vendor's release notes"
	}
	return ""
}
