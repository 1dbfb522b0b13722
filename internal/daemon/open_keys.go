package daemon

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"time"

	"onionbalancer/internal/credential"
	"onionbalancer/internal/strictmodes"
	"onionbalancer/keystore"
	"onionbalancer/keystore/token"
)

// openedKeys are the keys of one customer, or why they are not there.
type openedKeys struct {
	keys credential.Keys
	err  error
}

// sayOpening is how often the log tells how many keys are open so far.
const sayOpening = 3 * time.Second

// sayOpened is of how many keys at once everybody may hear that they were opened.
const sayOpened = 20

// openMany opens the keys that refs name, ten thousand of them in seconds, if no one but
// root and this user can change them, and returns what became of each, in their order. It
// logs how far it is, and at the end how many there are and how long it took.
func openMany(ctx context.Context, refs []string, stateDir string, log *slog.Logger) []openedKeys {
	began := time.Now()
	said := began
	user := strictmodes.Current().Remembering()
	opened := make([]openedKeys, len(refs))
	failed := 0
	all := keystore.OpenAll(ctx, refs, func(done int) {
		if now := time.Now(); now.Sub(said) >= sayOpening {
			said = now
			log.Info("opening keys", "done", done, "of", len(refs))
		}
	})
	for i, o := range all {
		opened[i].keys, opened[i].err = completed(o, refs[i], stateDir, user)
		if opened[i].err != nil {
			failed++
		}
	}
	if len(refs) > 0 {
		level := slog.LevelInfo
		if len(refs) < sayOpened {
			level = slog.LevelDebug
		}
		log.Log(ctx, level, "keys opened", "keys", len(refs)-failed, "failed", failed, "took", time.Since(began).Round(time.Millisecond))
	}
	return opened
}

// completed returns the keys of a customer.
func completed(o keystore.Opened, ref, stateDir string, user strictmodes.User) (credential.Keys, error) {
	if o.Err != nil {
		return credential.Keys{}, o.Err
	}
	if err := checkCustodian(user, o.Custodian); err != nil {
		return credential.Keys{}, errors.Join(err, o.Custodian.Close())
	}
	keys, err := keysOf(o.Custodian, ref, "", stateDir)
	keys.Gate = gateOf(ref)
	return keys, err
}

// gateOf bounds how many customers' keys certify at once: on disk as many as there are
// processors for, by a token two batches of its helper, of which one is being carried out.
func gateOf(ref string) credential.Gate {
	uri := uriOf(ref)
	if uri == nil {
		return credential.Gate{Name: "disk", Places: int64(runtime.GOMAXPROCS(0))}
	}
	uri.Sealed, uri.Object, uri.ID = "", "", nil
	return credential.Gate{Name: uri.String(), Places: 2 * token.MaxBatch}
}
