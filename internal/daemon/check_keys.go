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
	"onionbalancer/keystore"
	"onionbalancer/keystore/offline"
)

// checkKeysPatience is how long the keys of one service may take.
const checkKeysPatience = 90 * time.Second

// checkKeys opens every service, and tries its keys.
func (c *checker) checkKeys(ctx context.Context) {
	var addresses []descriptor.Address
	user := intendedUser(c.cfg)
	for n, s := range c.cfg.Services {
		built, err := build(c.cfg, s, user)
		what := "key " + keyName(n, s)
		if err != nil {
			c.fail(what, "", err)
			continue
		}
		address := built.Keys.Custodian.Address()
		addresses = append(addresses, address)
		c.services = append(c.services, built)
		c.ok(what, "publishes %s", address)
		c.tryKeys(ctx, what, s, built)
	}
	if len(addresses) == len(c.cfg.Services) {
		if err := c.cfg.CheckAddresses(addresses); err != nil {
			c.fail("addresses", "correct the file at the line named", err)
		}
	}
	if err := locked.Trouble(); err != nil {
		c.warn("memory", "raise the limit of locked memory: LimitMEMLOCK= in the unit, ulimit -l in a shell", "%w", err)
	}
}

// keyName is what findings call a key: its path, or the file that a token opens.
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

// tryUnsealing has a key certified that nobody has, until a time long past: the
// certificate is worth nothing to anybody.
func (c *checker) tryUnsealing(ctx context.Context, what string, built balance.Config) {
	nobodys, _, err := ed25519.GenerateKey(rand.Reader)
	began := time.Now()
	if err == nil {
		// For the present period of the public network: one is as good as another.
		period := descriptor.PeriodAt(began, descriptor.DefaultPeriodLength, descriptor.DefaultRotationOffset)
		_, err = built.Keys.Custodian.Certify(ctx, period, nobodys, time.Unix(3600, 0))
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
}

// trySupply says how long the certificates last, and whether the signing key of
// the present period is the one that was certified.
func (c *checker) trySupply(ctx context.Context, what string, s supply, built balance.Config) {
	const fix = "hold a ceremony: balancer ceremony request, sign, install"
	now, schedule := time.Now(), s.Schedule()
	current := schedule.At(now)
	ahead, warning, urgent := credential.LookAhead(now, s, current, schedule.Offset())
	detail := fmt.Sprintf("%d of %d periods left, until %s; renew before %s", ahead.Periods, ahead.Horizon, utc(ahead.DarkAt), utc(ahead.RenewBy))
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

// certifies reports whether the signing key of p can be had, and the certificate
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
	_, err = built.Keys.Custodian.Certify(ctx, p, public, time.Now())
	return err
}
