package daemon

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/config"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/printable"
	"onionbalancer/keystore"
	"onionbalancer/keystore/offline"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/token"
)

// checkKeysPatience is the timeout for the keys of one service.
const checkKeysPatience = 90 * time.Second

// checkKeys opens every service, and tries its keys.
func (c *checker) checkKeys(ctx context.Context) {
	var addresses []descriptor.Address
	user := intendedUser(c.cfg)
	for n, s := range c.cfg.Services {
		built, err := build(c.cfg, s, user)
		what := "key " + keyName(n, s)
		if err != nil {
			if _, _, wrong := strategy(s.Strategy); wrong != nil { // not the key is at fault
				what, err = fmt.Sprintf("strategy of service %d", n+1), wrong
			}
			c.fail(what, "", err)
			continue
		}
		address := built.Keys.Custodian.Address()
		addresses = append(addresses, address)
		c.services = append(c.services, built)
		c.ok(what, "publishes %s", address)
		c.tryKeys(ctx, what, s, built)
	}
	customers := c.checkShards(ctx, user)
	if len(addresses) == len(c.cfg.Services) {
		if err := c.cfg.CheckAddresses(addresses, customers); err != nil {
			c.fail("addresses", "correct the file at the line named", err)
		}
	}
	if err := locked.Trouble(); err != nil {
		c.warn("memory", "raise the limit of locked memory: LimitMEMLOCK= in the unit, ulimit -l in a shell", "%w", err)
	}
}

// keyName is the name of a key in findings: its path, or the file that a token opens.
func keyName(n int, s config.Service) string {
	uri := uriOf(s.Key)
	switch {
	case uri == nil:
		return s.Key
	case uri.Sealed != "":
		return uri.Sealed
	}
	return fmt.Sprintf("of service %d", n+1)
}

// tryKeys uses the keys of a service as the daemon would.
func (c *checker) tryKeys(ctx context.Context, what string, s config.Service, built balance.Config) {
	ctx, cancel := context.WithTimeout(ctx, checkKeysPatience)
	defer cancel()
	if built.Keys.Form == string(keystore.FormSealed) && c.tryToken(ctx, what, uriOf(s.Key)) {
		c.tryUnsealing(ctx, what, built)
	}
	if ceremony, ok := built.Keys.Custodian.(supply); ok {
		c.trySupply(ctx, what, ceremony, built)
	}
	if s.Signing != "" {
		c.trySigning(ctx, "signing keys of "+shortName(built), uriOf(s.Signing))
	}
}

// tryUnsealing certifies a key that no one has, until a time long past: the
// certificate is worthless.
func (c *checker) tryUnsealing(ctx context.Context, what string, built balance.Config) {
	nobodys, _, err := ed25519.GenerateKey(rand.Reader)
	began := time.Now()
	if err == nil {
		// For the present period of the public network: one is as good as another.
		period := descriptor.PeriodAt(began, descriptor.DefaultPeriodLength, descriptor.DefaultRotationOffset)
		_, err = built.Keys.Custodian.Certify(ctx, period, nobodys, descriptor.Expiries{First: time.Unix(3600, 0), Count: 1})
	}
	if err != nil {
		c.fail(what, fixToken(err), err)
		return
	}
	c.ok(what, "the token unseals it and certifies, in %s", time.Since(began).Round(time.Millisecond))
}

// supply is a custodian whose certificates were made at a ceremony.
type supply interface {
	credential.Supplier
	Schedule() offline.Schedule
	Singles(from uint64) int
}

// trySupply reports how long the certificates last, and whether the signing key of
// the present period is the certified one.
func (c *checker) trySupply(ctx context.Context, what string, s supply, built balance.Config) {
	const fix = "hold a ceremony: balancer ceremony request, sign, install"
	now, schedule := time.Now(), s.Schedule()
	current := schedule.At(now)
	ahead, warning, urgent := credential.LookAhead(now, s, current, schedule.Offset())
	detail := fmt.Sprintf("%d of %d periods left, until %s; renew before %s", ahead.Periods, ahead.Horizon, utc(ahead.DarkAt), utc(ahead.RenewBy))
	if singles := s.Singles(current.Number); singles > 0 {
		detail += fmt.Sprintf("; %d of them have a single certificate, of a ceremony by an earlier version: HSDirs see its expiry stay the same, which the next ceremony ends", singles)
	}
	switch {
	case ahead.Periods == 0:
		c.fail(what, fix, errors.New(warning))
		return
	case urgent:
		c.warn(what, fix+", and soon", "%s: %s", detail, warning)
	case warning != "":
		c.warn(what, fix, "%s: %s", detail, warning)
	default:
		c.ok(what, "%s", detail)
	}
	if built.Keys.Where == signingToken {
		return // to look for the key would make one, were it not there
	}
	if err := certifies(ctx, built, current); err != nil {
		c.fail(what, fix, err)
	}
}

// certifies reports whether the signing key of p is available, and the certificate
// is for it.
func certifies(ctx context.Context, built balance.Config, p descriptor.Period) error {
	signer, err := built.Keys.Signing.SigningKey(ctx, p)
	if err != nil {
		return err
	}
	public, ok := signer.Public().(ed25519.PublicKey)
	if !ok {
		return fmt.Errorf("the signing key is a %T", signer.Public())
	}
	_, err = built.Keys.Custodian.Certify(ctx, p, public, descriptor.Expiries{})
	return err
}

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

// trialMessage is signed by a test key: no document of Tor begins like it.
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

// tellTrial reports that a test succeeded, and its results.
func (c *checker) tellTrial(what string, took, all time.Duration, shown bool) {
	detail := fmt.Sprintf("the token makes keys, signs (in %s) and destroys them; all in %s",
		took.Round(time.Millisecond), all.Round(time.Millisecond))
	if shown {
		c.warn(what, "keep it in a safe place, or use another kind of token", "%s; but it shows public keys without the PIN, so that anyone who takes it can tell which address it signed for", detail)
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
	// Also after a timeout: the key must not be left on the token.
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if gone := tok.Destroy(ending, object); gone != nil {
		err = errors.Join(err, fmt.Errorf("destroying the test key %q, which you should delete: %w", object.Label, gone))
	}
	return took, key.Shown, err
}

// fixToken says how to fix an error of a token, where the error itself
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
