package offline

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
)

// TestCustodian: before the first bundle, with one, and after its end.
func TestCustodian(t *testing.T) {
	m := newManager(t, "front")
	r := m.request(noon, current, 3)
	c := m.open()
	if c.Address() != m.key.Address() || c.Dir() != m.dir || c.Schedule() != Public {
		t.Errorf("opened as %s", c)
	}
	_, err := certify(t, c, current)
	wantError(t, "before a bundle", err, "no certificates are installed", "balancer ceremony sign", "balancer ceremony install")
	if _, horizon, ok := c.Supply(Public.Period(current)); ok || horizon != 0 {
		t.Error("a supply before there is any")
	}
	// It notices by itself that something was installed.
	if _, err := Install([]string{m.dir}, []*Bundle{sign(t, r, noon, m.key)}, noon); err != nil {
		t.Fatal(err)
	}
	for number := current; number < current+3; number++ {
		cert, err := certify(t, c, number)
		if err != nil {
			t.Fatal(err)
		}
		p := Public.Period(number)
		keys, err := c.Address().Keys(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := cert.Verify([32]byte(keys.Blinded), Public.LastUse(number)); err != nil || !cert.First().Expires().Equal(Public.Expiries(number).First) || !cert.Expires().Equal(Public.Expiries(number).Last()) {
			t.Errorf("certificate until %s: %v", cert.Expires(), err)
		}
		// What an identity key here would give.
		blinded, err := m.key.Blind(p)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.RevisionKey(t.Context(), p); err != nil || string(got.Bytes()) != string(blinded.RevisionKey().Bytes()) {
			t.Errorf("another revision key than tor's: %v", err)
		}
		signer, err := c.SigningKey(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := descriptor.NewHourlyEncoder(keys, cert, signer); err != nil {
			t.Error(err)
		}
		if last, horizon, ok := c.Supply(p); !ok || horizon != 3 || last.Number != current+2 || last.Length != p.Length {
			t.Errorf("supply of %d from %d: %s, %d", number, current, last, horizon)
		}
	}
	_, err = certify(t, c, current+3)
	wantError(t, "after the end", err, "ended with period 20779, at 2026-11-23 12:00 UTC", "balancer ceremony request --dir "+m.dir)
	if temporary := (interface{ Temporary() bool })(nil); !errors.As(err, &temporary) || !temporary.Temporary() {
		t.Errorf("%v is not said to be temporary", err)
	}
	if !errors.Is(err, ErrEnded) {
		t.Errorf("%v is not ErrEnded", err)
	}
	if _, horizon, ok := c.Supply(Public.Period(current + 3)); ok || horizon != 3 {
		t.Errorf("supply after the end: %v, horizon %d", ok, horizon)
	}
	_, err = c.RevisionKey(t.Context(), Public.Period(current-1))
	wantError(t, "before the beginning", err, "begin with period 20777")
	_, err = c.RevisionKey(t.Context(), descriptor.Period{Number: current, Length: time.Hour})
	wantError(t, "another network", err, "the network's periods last 1h0m0s")
	other, _, _ := ed25519.GenerateKey(nil)
	_, err = c.Certify(t.Context(), Public.Period(current), other, descriptor.Expiries{})
	wantError(t, "another signing key", err, "is for signing key", "run a ceremony")
	_, err = c.Certify(t.Context(), Public.Period(current), nil, descriptor.Expiries{})
	wantError(t, "no signing key", err, "is for signing key")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Certify(ended, Public.Period(current), other, descriptor.Expiries{}); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = c.RevisionKey(t.Context(), Public.Period(current))
	wantError(t, "closed", err, "closed")
	wantError(t, "closed", c.Retire(t.Context(), []descriptor.Period{Public.Period(current)}), "closed")
}

// TestShortCeremony: a ceremony for two periods within a supply for thirty puts
// off no warning, be they in the middle of it or at its end.
func TestShortCeremony(t *testing.T) {
	for _, first := range []uint64{current, current + 3, current + 8} {
		m := newManager(t, "front")
		m.ceremony(noon, current, 8)
		m.ceremony(noon.Add(time.Hour), first, 2)
		want := max(current+7, first+1)
		if last, horizon, ok := m.open().Supply(Public.Period(current)); !ok || horizon != 8 || last.Number != want {
			t.Errorf("two from %d: supply until %s, horizon %d", first, last, horizon)
		}
	}
	// The other way round, the long one counts at once.
	m := newManager(t, "front")
	m.ceremony(noon, current, 2)
	m.ceremony(noon.Add(time.Hour), current+1, 8)
	if last, horizon, ok := m.open().Supply(Public.Period(current)); !ok || horizon != 8 || last.Number != current+8 {
		t.Errorf("supply until %s, horizon %d", last, horizon)
	}
}

// TestGap: the supply ends where a period is missing.
func TestGap(t *testing.T) {
	m := newManager(t, "front")
	m.ceremony(noon, current, 3)
	got := m.ceremony(noon.Add(13*time.Hour), current+4, 2)
	if got.Through != current+2 || len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "no certificate for period 20780, from 2026-11-23 12:00 UTC on") {
		t.Errorf("installed with a gap: %+v", got)
	}
	c := m.open()
	if last, horizon, ok := c.Supply(Public.Period(current)); !ok || last.Number != current+2 || horizon != 3 {
		t.Errorf("supply until %s, horizon %d", last, horizon)
	}
	if last, _, ok := c.Supply(Public.Period(current + 4)); !ok || last.Number != current+5 {
		t.Errorf("supply after the gap until %s", last)
	}
	_, err := certify(t, c, current+3)
	wantError(t, "in the gap", err, "leave this one out")
	if w := m.prepare(current, 1); w.CertifiedThrough != current+2 {
		t.Errorf("certified through %d", w.CertifiedThrough)
	}
}

// TestRetire: keys and certificates of the past go, those of the present and of
// the future stay, and the last bundle tells until when it was.
func TestRetire(t *testing.T) {
	m := newManager(t, "front")
	m.ceremony(noon, current, 4)
	c := m.open()
	keys := filepath.Join(m.dir, KeysFile)
	old, err := os.Open(keys)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	size, _ := old.Stat()
	inUse := []descriptor.Period{Public.Period(current + 2), Public.Period(current + 1)}
	if err := c.Retire(t.Context(), inUse); err != nil {
		t.Fatal(err)
	}
	before := make([]byte, size.Size())
	if _, err := old.ReadAt(before, 0); err != nil || strings.Trim(string(before), "\x00") != "" {
		t.Errorf("the old keys were not overwritten: %v", err)
	}
	_, err = certify(t, c, current)
	wantError(t, "the retired period", err, "begin with period 20778")
	for number := current + 1; number < current+4; number++ {
		if _, err := certify(t, c, number); err != nil {
			t.Error(err)
		}
	}
	now := snapshot(t, m.dir)
	for _, periods := range [][]descriptor.Period{nil, inUse, {Public.Period(current)}, {{Number: current + 3, Length: time.Hour}}} {
		if err := c.Retire(t.Context(), periods); err != nil || snapshot(t, m.dir) != now {
			t.Errorf("retiring all but %v changed something: %v", periods, err)
		}
	}
	if err := c.Retire(t.Context(), []descriptor.Period{Public.Period(current + 9)}); err != nil {
		t.Fatal(err)
	}
	_, err = certify(t, c, current+9)
	wantError(t, "the end", err, "ended with period 20780")
	if f, err := load(m.dir); err != nil || len(f.keys.Keys) != 0 {
		t.Errorf("%d keys are left, %v", len(f.keys.Keys), err)
	}
}

// TestDamagedWhileRunning: what was used stays in use, and errors tell.
func TestDamagedWhileRunning(t *testing.T) {
	m := newManager(t, "front")
	m.ceremony(noon, current, 2)
	c := m.open()
	path := filepath.Join(m.dir, BundleFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p := Public.Period(current)
	if _, err := c.RevisionKey(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, good[:len(good)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.RevisionKey(t.Context(), p); err != nil {
		t.Errorf("what was used is lost: %v", err)
	}
	_, err = c.RevisionKey(t.Context(), p.Next())
	wantError(t, "what was not used yet", err, BundleFile, "damaged")
	if last, _, ok := c.Supply(p); !ok || last != p.Next() {
		t.Errorf("supply until %s", last)
	}
	_, err = c.RevisionKey(t.Context(), Public.Period(current+2))
	wantError(t, "a damaged file", err, "ended with period", BundleFile, "damaged")
	if _, err := Open(m.dir); err == nil {
		t.Error("a damaged directory opens")
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = c.RevisionKey(t.Context(), Public.Period(current+2))
	if err == nil || strings.Contains(err.Error(), "damaged") {
		t.Errorf("fixed: %v", err)
	}
}

// TestOpenRefuses: directories of which something is wrong.
func TestOpenRefuses(t *testing.T) {
	for what, test := range map[string]struct {
		harm func(m *manager, keys, bundle string) error
		want string
	}{
		"readable by others": {func(_ *manager, keys, _ string) error { return os.Chmod(keys, 0o644) }, "chmod 600"},
		"no keys":            {func(_ *manager, keys, _ string) error { return os.Remove(keys) }, "no such file"},
		"a pipe for a file":  {func(_ *manager, keys, _ string) error { return errors.Join(os.Remove(keys), os.Mkdir(keys, 0o700)) }, "not a regular file"},
		"an empty file":      {func(_ *manager, keys, _ string) error { return os.WriteFile(keys, nil, 0o600) }, "empty"},
		"a bundle for keys":  {func(_ *manager, keys, bundle string) error { return os.Rename(bundle, keys) }, "want a"},
		"another's bundle": {func(m *manager, _, bundle string) error {
			other := newManager(m.t, "mail")
			other.ceremony(noon, current, 2)
			return os.Rename(filepath.Join(other.dir, BundleFile), bundle)
		}, "another address"},
	} {
		m := newManager(t, "front")
		m.ceremony(noon, current, 2)
		if err := test.harm(m, filepath.Join(m.dir, KeysFile), filepath.Join(m.dir, BundleFile)); err != nil {
			t.Fatal(err)
		}
		_, err := Open(m.dir)
		wantError(t, what, err, test.want)
	}
	if Is(t.TempDir()) || Is("/nowhere") {
		t.Error("any directory will do")
	}
	if m := newManager(t, "front"); m.prepare(current, 1).Address != m.key.Address() || !Is(m.dir) {
		t.Error("a prepared directory is none")
	}
}

// tokenKeys is a token in memory.
type tokenKeys struct {
	keys map[descriptor.Period]ed25519.PrivateKey
	err  error
}

func (k *tokenKeys) SigningKey(_ context.Context, p descriptor.Period) (crypto.Signer, error) {
	if k.err != nil {
		return nil, k.err
	}
	if k.keys[p] == nil {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		k.keys[p] = key
	}
	return k.keys[p], nil
}

// TestKeysOnToken: only public halves are on the disk, keys are not made twice,
// and what does not fit together is told.
func TestKeysOnToken(t *testing.T) {
	m := newManager(t, "front")
	token := &tokenKeys{keys: map[descriptor.Period]ed25519.PrivateKey{}}
	p := Preparation{Dir: m.dir, Address: m.key.Address(), Schedule: Public, First: current, Count: 2, Source: token}
	first, err := Prepare(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if all := snapshot(t, m.dir); strings.Contains(all, "seed") {
		t.Errorf("a secret on the disk: %s", all)
	}
	if _, err := Install([]string{m.dir}, []*Bundle{sign(t, request(t, noon, current, first), noon, m.key)}, noon); err != nil {
		t.Fatal(err)
	}
	c := m.open()
	signer, err := token.SigningKey(t.Context(), Public.Period(current))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Certify(t.Context(), Public.Period(current), signer.Public().(ed25519.PublicKey), descriptor.Expiries{}); err != nil {
		t.Error(err)
	}
	if last, _, ok := c.Supply(Public.Period(current)); !ok || last.Number != current+1 {
		t.Errorf("supply until %s", last)
	}
	_, err = c.SigningKey(t.Context(), Public.Period(current))
	wantError(t, "a token's key from the disk", err, "on a token", "signing =")
	p.Count = 3
	again, err := Prepare(t.Context(), p)
	if err != nil || len(token.keys) != 3 || string(again.Keys[0]) != string(first.Keys[0]) || again.CertifiedThrough != current+1 {
		t.Errorf("asked again: %d keys on the token, %v", len(token.keys), err)
	}
	without := p
	without.Source = nil
	_, err = Prepare(t.Context(), without)
	wantError(t, "without the token", err, "on a token")
	token.err = errors.New("the token is gone")
	_, err = Prepare(t.Context(), p)
	wantError(t, "with a token that is gone", err, "the token is gone")
	p.Source = &tokenKeys{keys: map[descriptor.Period]ed25519.PrivateKey{}}
	_, err = Prepare(t.Context(), p)
	wantError(t, "another token", err, "not on this token")
	disk := newManager(t, "mail")
	disk.prepare(current, 1)
	_, err = Prepare(t.Context(), Preparation{Dir: disk.dir, Schedule: Public, First: current, Count: 1, Source: token})
	wantError(t, "a token for keys on the disk", err, "on the disk already")
}

// TestDiskHangs: Supply and Schedule answer while a disk does not, everything else
// returns when its context ends, and all is well when the disk is back.
func TestDiskHangs(t *testing.T) {
	m := newManager(t, "front")
	m.ceremony(noon, current, 3)
	synctest.Test(t, func(t *testing.T) {
		c, p := m.open(), Public.Period(current)
		signer, err := c.SigningKey(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		back := make(chan struct{})
		var calls sync.WaitGroup
		calls.Go(func() {
			_, err := withFiles(ctx, c, func(*view) (none struct{}, err error) { <-back; return })
			wantError(t, "the call that hangs", err, "deadline exceeded")
		})
		synctest.Wait()
		for what, call := range map[string]func() error{
			"Certify": func() error {
				_, err := c.Certify(ctx, p, signer.Public().(ed25519.PublicKey), descriptor.Expiries{})
				return err
			},
			"RevisionKey": func() error { _, err := c.RevisionKey(ctx, p); return err },
			"SigningKey":  func() error { _, err := c.SigningKey(ctx, p); return err },
			"Retire":      func() error { return c.Retire(ctx, []descriptor.Period{p}) },
			"Refresh":     func() error { return c.Refresh(ctx) },
		} {
			calls.Go(func() { wantError(t, what, call(), "waiting for the files", "deadline exceeded") })
		}
		synctest.Wait()
		if last, _, ok := c.Supply(p); !ok || last.Number != current+2 || c.Schedule() != Public {
			t.Errorf("supply until %s, %v", last, ok)
		}
		calls.Wait()
		close(back)
		if _, err := certify(t, c, current); err != nil {
			t.Error(err)
		}
	})
}

// TestRefresh: Supply tells of what was installed after Refresh, which says what
// is wrong with the files.
func TestRefresh(t *testing.T) {
	m := newManager(t, "front")
	m.ceremony(noon, current, 2)
	c := m.open()
	until := func() uint64 {
		last, _, _ := c.Supply(Public.Period(current))
		return last.Number
	}
	m.ceremony(noon.Add(time.Hour), current, 5)
	if until() != current+1 {
		t.Error("Supply read the files")
	}
	if err := c.Refresh(t.Context()); err != nil || until() != current+4 {
		t.Errorf("after Refresh: until %d, %v", until(), err)
	}
	if err := os.WriteFile(filepath.Join(m.dir, BundleFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, "a damaged file", c.Refresh(t.Context()), BundleFile, "damaged")
	if until() != current+4 {
		t.Errorf("a damaged file: until %d", until())
	}
}

func TestConcurrentUse(t *testing.T) {
	m := newManager(t, "front")
	m.ceremony(noon, current, 20)
	c := m.open()
	var group sync.WaitGroup
	for i := range uint64(8) {
		group.Go(func() {
			if _, err := certify(t, c, current+10+i); err != nil {
				t.Error(err)
			}
			// Another one may be at it just now.
			_ = c.Retire(t.Context(), []descriptor.Period{Public.Period(current + i)})
			if last, _, ok := c.Supply(Public.Period(current + 10)); !ok || last.Number != current+19 {
				t.Errorf("supply until %s", last)
			}
		})
	}
	group.Go(func() { m.prepare(current+5, 20) })
	group.Wait()
	for number := current + 10; number < current+20; number++ {
		if _, err := certify(t, c, number); err != nil {
			t.Error(err)
		}
	}
}
