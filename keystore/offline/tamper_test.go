package offline

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// wantRefused fails unless dirs refuse the bundles with these words, and stay
// as they were.
func wantRefused(t *testing.T, what string, dirs []string, bundles []*Bundle, now time.Time, words ...string) {
	t.Helper()
	before := ""
	for _, dir := range dirs {
		before += snapshot(t, dir)
	}
	_, err := Install(dirs, bundles, now)
	wantError(t, what, err, words...)
	after := ""
	for _, dir := range dirs {
		after += snapshot(t, dir)
	}
	if after != before {
		t.Errorf("%s: refused, and files changed:\n%s", what, after)
	}
}

// copyOf returns a bundle that can be changed without changing b.
func copyOf(t *testing.T, b *Bundle) *Bundle {
	t.Helper()
	raw, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseBundle(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestManInTheMiddle: somebody had the stick between offline machine and manager.
func TestManInTheMiddle(t *testing.T) {
	m := newManager(t, "front")
	good := sign(t, m.request(noon, current, 4), noon, m.key)
	evil := identity(t, "evil")
	// What an attacker can sign: the same request, by a key of its own.
	w := m.prepare(current, 4)
	w.Address = evil.Address()
	forged := sign(t, request(t, noon, current, w), noon, evil)
	stale, err := descriptor.NewCertificate(descriptor.CertHSDescSigning, [32]byte(w.Keys[0]), [32]byte{}, noon, func([]byte) ([]byte, error) { return make([]byte, 64), nil })
	if err != nil {
		t.Fatal(err)
	}
	const signature = "the signature is not by the key of this address"
	for what, test := range map[string]struct {
		edit func(b *Bundle)
		want string
	}{
		"another period": {func(b *Bundle) { b.Entries[3].Period++ }, signature},
		"two periods swapped": {func(b *Bundle) {
			b.Entries[0].Period, b.Entries[1].Period = b.Entries[1].Period, b.Entries[0].Period
			slices.Reverse(b.Entries[:2])
		}, signature},
		"two certificates swapped": {func(b *Bundle) {
			b.Entries[0].Certificate, b.Entries[1].Certificate = b.Entries[1].Certificate, b.Entries[0].Certificate
		}, signature},
		"two revision keys swapped": {func(b *Bundle) {
			b.Entries[0].RevisionKey, b.Entries[1].RevisionKey = b.Entries[1].RevisionKey, b.Entries[0].RevisionKey
		}, signature},
		"another address":        {func(b *Bundle) { b.Entries = b.Entries[:1]; b.Entries[0].Address = evil.Address() }, "none of the directories given is of that address"},
		"the attacker's own":     {func(b *Bundle) { b.Entries = forged.Entries }, "none of the directories given is of that address"},
		"the attacker's, posing": {func(b *Bundle) { b.Entries[0] = forged.Entries[0]; b.Entries[0].Address = m.key.Address() }, signature},
		"a certificate of its own": {func(b *Bundle) {
			b.Entries[0].Certificate = forged.Entries[0].Certificate
		}, signature},
		"a stale certificate":    {func(b *Bundle) { b.Entries[2].Certificate = stale.Bytes() }, signature},
		"no certificate":         {func(b *Bundle) { b.Entries[2].Certificate = nil }, signature},
		"a longer horizon":       {func(b *Bundle) { b.Entries[2].Periods = 400 }, signature},
		"a later ceremony":       {func(b *Bundle) { b.Entries[2].Made = b.Entries[2].Made.Add(time.Hour) }, signature},
		"another request":        {func(b *Bundle) { b.Entries[2].Request = "aaaa-aaaa-aaaa-aaaa-aaaa-aaaa" }, signature},
		"another network":        {func(b *Bundle) { b.OffsetSeconds = 0 }, "for a network with"},
		"shorter periods":        {func(b *Bundle) { b.Minutes = 720 }, "for a network with"},
		"an entry twice":         {func(b *Bundle) { b.Entries[1] = b.Entries[0] }, "there twice"},
		"entries out of order":   {func(b *Bundle) { slices.Reverse(b.Entries) }, "out of order"},
		"nothing":                {func(b *Bundle) { b.Entries = nil }, "0 entries"},
		"a short revision key":   {func(b *Bundle) { b.Entries[1].RevisionKey = b.Entries[1].RevisionKey[:31] }, "31 bytes"},
		"one bit of a signature": {func(b *Bundle) { b.Entries[3].Signature[40] ^= 4 }, signature},
	} {
		b := copyOf(t, good)
		test.edit(b)
		wantRefused(t, what, []string{m.dir}, []*Bundle{b}, noon, test.want)
		if raw, err := b.Encode(); err == nil {
			if parsed, err := ParseBundle(raw); err == nil {
				wantRefused(t, what+", parsed", []string{m.dir}, []*Bundle{parsed}, noon, test.want)
			}
		}
	}
	if got, err := Install([]string{m.dir}, []*Bundle{good}, noon); err != nil || got[0].New != 4 {
		t.Errorf("the good one: %+v, %v", got, err)
	}
}

// TestSignedNonsense: what the identity key signed, and is of no use all the same.
func TestSignedNonsense(t *testing.T) {
	m := newManager(t, "front")
	w := m.prepare(current, 1)
	for what, test := range map[string]struct {
		make func(blinded *descriptor.BlindedKey) (descriptor.CertType, [32]byte, time.Time)
		want string
	}{
		"another type": {func(b *descriptor.BlindedKey) (descriptor.CertType, [32]byte, time.Time) {
			return descriptor.CertIntroAuth, b.Public(), Public.LastUse(current).Add(spare)
		}, "type 09"},
		"another signer": {func(*descriptor.BlindedKey) (descriptor.CertType, [32]byte, time.Time) {
			return descriptor.CertHSDescSigning, m.key.Address(), Public.LastUse(current).Add(spare)
		}, "names another signer"},
		"a short life": {func(b *descriptor.BlindedKey) (descriptor.CertType, [32]byte, time.Time) {
			return descriptor.CertHSDescSigning, b.Public(), Public.LastUse(current).Add(3 * time.Hour)
		}, "the certificate ends at"},
		"expired": {func(b *descriptor.BlindedKey) (descriptor.CertType, [32]byte, time.Time) {
			return descriptor.CertHSDescSigning, b.Public(), Public.FirstUse(current).Add(-time.Hour)
		}, "expired"},
	} {
		e := Entry{Address: m.key.Address(), Period: current, Periods: 1, Made: noon, Request: "aaaa-aaaa-aaaa-aaaa-aaaa-aaaa"}
		blinded, err := m.key.Blind(Public.Period(current))
		if err != nil {
			t.Fatal(err)
		}
		kind, signer, expires := test.make(blinded)
		cert, err := descriptor.NewCertificate(kind, [32]byte(w.Keys[0]), signer, expires, func(msg []byte) ([]byte, error) { return blinded.Sign(msg), nil })
		if err != nil {
			t.Fatal(err)
		}
		e.Certificate, e.RevisionKey = cert.Bytes(), blinded.RevisionKey().Bytes()
		if e.Signature, err = m.key.Sign(e.message(Public)); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, what, []string{m.dir}, []*Bundle{newBundle(Public, []Entry{e})}, noon, test.want)
	}
}

// TestOtherManagers: a bundle for keys that are elsewhere, or were lost.
func TestOtherManagers(t *testing.T) {
	here, there := newManager(t, "front"), newManager(t, "front")
	b := sign(t, there.request(noon, current, 2), noon, there.key)
	here.prepare(current, 2)
	wantRefused(t, "another manager's", []string{here.dir}, []*Bundle{b}, noon, "another manager's bundle")
	fewer := newManager(t, "front")
	fewer.prepare(current, 1)
	c := sign(t, here.request(noon, current, 2), noon, here.key)
	c.Entries = c.Entries[1:]
	wantRefused(t, "a period never asked for", []string{fewer.dir}, []*Bundle{c}, noon, "has no signing key for this period")
}

// TestManyAddresses: one ceremony, and all addresses or none.
func TestManyAddresses(t *testing.T) {
	front, mail := newManager(t, "front"), newManager(t, "mail")
	r := request(t, noon, current, front.prepare(current, 3), mail.prepare(current, 3))
	_, err := r.Sign([]*descriptor.IdentityKey{front.key}, noon)
	wantError(t, "a key is missing", err, "no key was given for "+mail.key.Address().String())
	_, err = r.Sign([]*descriptor.IdentityKey{front.key, mail.key, identity(t, "evil")}, noon)
	wantError(t, "a key too many", err, "not in the request")
	_, err = r.Sign([]*descriptor.IdentityKey{front.key, mail.key, front.key}, noon)
	wantError(t, "a key twice", err, "given twice")
	wantError(t, "no key at all", r.Match(nil), "no key was given")
	b := sign(t, r, noon, mail.key, front.key)
	if addresses := b.Addresses(); len(addresses) != 2 || len(b.Of(front.key.Address())) != 3 {
		t.Errorf("a bundle for %v", addresses)
	}
	dirs := []string{front.dir, mail.dir}
	half := copyOf(t, b)
	half.Entries[5].Signature[0] ^= 1
	wantRefused(t, "one entry is bad", dirs, []*Bundle{half}, noon, "the signature")
	wantRefused(t, "one directory is not given", dirs[:1], []*Bundle{b}, noon, "none of the directories")
	wantRefused(t, "a directory that is none", append(dirs, t.TempDir()), []*Bundle{b}, noon, "no such file")
	twin := newManager(t, "front")
	twin.prepare(current, 1)
	wantRefused(t, "two directories of one address", append(dirs, twin.dir), []*Bundle{b}, noon, "both of")
	// In parts, in any order, some twice.
	parts, err := b.Split()
	if err != nil {
		t.Fatal(err)
	}
	var bundles []*Bundle
	for i := range 25 {
		part, err := ParseBundle(parts[(i*5)%18])
		if err != nil {
			t.Fatal(err)
		}
		bundles = append(bundles, part)
	}
	list, err := Install(append(dirs, dirs...), bundles, noon)
	if err != nil || len(list) != 2 || list[0].New != 3 || list[1].New != 3 || list[0].Through != current+2 || !list[1].Until.Equal(noon.Add(72*time.Hour)) {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestReplayedBundle: an old bundle takes nothing away and lies about nothing.
func TestReplayedBundle(t *testing.T) {
	m := newManager(t, "front")
	old := sign(t, m.request(noon, current, 2), noon, m.key)
	m.ceremony(noon.Add(time.Hour), current, 5)
	before := snapshot(t, m.dir)
	list, err := Install([]string{m.dir}, []*Bundle{old}, noon.Add(13*time.Hour))
	if err != nil || list[0].Kept != 2 || list[0].New+list[0].Renewed != 0 || list[0].Through != current+4 {
		t.Errorf("%+v, %v", list, err)
	}
	if snapshot(t, m.dir) != before {
		t.Error("an old bundle changed what is installed")
	}
	if _, horizon, _ := m.open().Supply(Public.Period(current)); horizon != 5 {
		t.Errorf("horizon %d", horizon)
	}
	// When its periods are over, it is refused; in part, the rest counts.
	wantRefused(t, "an old bundle", []string{m.dir}, []*Bundle{old}, noon.Add(9*24*time.Hour), "all 2 periods in it are over")
	list, err = Install([]string{m.dir}, []*Bundle{old}, noon.Add(40*time.Hour))
	if err != nil || list[0].Over != 1 || list[0].Kept != 1 {
		t.Errorf("half over: %+v, %v", list, err)
	}
	// Nor does it come back when the keys of its first period are retired.
	if err := m.open().Retire(t.Context(), []descriptor.Period{Public.Period(current + 1)}); err != nil {
		t.Fatal(err)
	}
	list, err = Install([]string{m.dir}, []*Bundle{old}, noon)
	if err != nil || list[0].Over != 1 || list[0].Kept != 1 {
		t.Errorf("retired: %+v, %v", list, err)
	}
}

// TestPowerCuts: whatever step was the last one that was done, going on from
// there, or doing it again, is fine.
func TestPowerCuts(t *testing.T) {
	m := newManager(t, "front")
	// Keys were made, and the request was not written: they are asked for again.
	first := m.prepare(current, 2)
	again := m.request(noon, current, 3)
	for i := range first.Keys {
		if !bytes.Equal(first.Keys[i], again.Services[0].Keys[i]) {
			t.Fatal("a key was replaced")
		}
	}
	// In the middle of writing keys or a bundle: what is beside them does not matter.
	for _, name := range []string{KeysFile, BundleFile} {
		if err := os.WriteFile(filepath.Join(m.dir, "."+name+"123"), []byte(`{"kind"`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := sign(t, again, noon, m.key)
	for range 2 {
		list, err := Install([]string{m.dir}, []*Bundle{b}, noon)
		if err != nil || list[0].Through != current+2 {
			t.Fatal(list, err)
		}
		if _, err := certify(t, m.open(), current+2); err != nil {
			t.Error(err)
		}
	}
	// Signed twice: the same certificates and revision keys.
	twice := sign(t, again, noon.Add(time.Hour), m.key)
	for i := range b.Entries {
		if !bytes.Equal(b.Entries[i].Certificate, twice.Entries[i].Certificate) || !bytes.Equal(b.Entries[i].RevisionKey, twice.Entries[i].RevisionKey) {
			t.Error("signing again gives another certificate")
		}
	}
	// Between two addresses of one installation: run it again.
	mail := newManager(t, "mail")
	both := sign(t, request(t, noon, current, m.prepare(current, 3), mail.prepare(current, 3)), noon.Add(time.Hour), m.key, mail.key)
	if err := os.Mkdir(filepath.Join(mail.dir, BundleFile), 0o700); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, "a file that cannot be read", []string{m.dir, mail.dir}, []*Bundle{both}, noon, "not a regular file")
	if err := os.Remove(filepath.Join(mail.dir, BundleFile)); err != nil {
		t.Fatal(err)
	}
	if list, err := Install([]string{m.dir, mail.dir}, []*Bundle{both}, noon); err != nil || list[0].Through != list[1].Through {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestTruncated: a file that was cut anywhere is no bundle.
func TestTruncated(t *testing.T) {
	raw := readGolden(t, "bundle.json")
	for n := 0; n < len(raw)-1; n += 37 {
		if _, err := ParseBundle(raw[:n]); err == nil {
			t.Errorf("%d bytes of %d are a bundle", n, len(raw))
		}
	}
}

// TestPrepareRefuses: and changes nothing.
func TestPrepareRefuses(t *testing.T) {
	m := newManager(t, "front")
	m.prepare(current, 1)
	before := snapshot(t, m.dir)
	good := Preparation{Dir: m.dir, Address: m.key.Address(), Schedule: Public, First: current, Count: 2}
	for what, test := range map[string]struct {
		edit func(*Preparation)
		want string
	}{
		"another address":  {func(p *Preparation) { p.Address = identity(t, "mail").Address() }, "another with --dir; or, if its keys are no longer needed, run: rm -r " + m.dir},
		"another network":  {func(p *Preparation) { p.Schedule = NewSchedule(time.Hour, time.Hour/2) }, "use a new directory"},
		"no periods":       {func(p *Preparation) { p.Count = 0 }, "0 periods"},
		"too many periods": {func(p *Preparation) { p.Count = MaxPeriods + 1 }, "1001 periods"},
		"no schedule":      {func(p *Preparation) { p.Schedule = Schedule{} }, "periods of 0 minutes"},
		"no randomness":    {func(p *Preparation) { p.Random = strings.NewReader("short") }, "making the signing key of period"},
		"no address":       {func(p *Preparation) { p.Dir, p.Address = filepath.Join(t.TempDir(), "new"), descriptor.Address{} }, "the address is"},
	} {
		p := good
		test.edit(&p)
		_, err := Prepare(t.Context(), p)
		wantError(t, what, err, test.want)
		if snapshot(t, m.dir) != before {
			t.Errorf("%s: files changed", what)
		}
	}
	if err := os.Chmod(m.dir, 0o750); err != nil {
		t.Fatal(err)
	}
	_, err := Prepare(t.Context(), good)
	wantError(t, "an open directory", err, "chmod 700")
}

// TestFilesArePrivate: all of them, whatever the umask.
func TestFilesArePrivate(t *testing.T) {
	m := newManager(t, "front")
	m.ceremony(noon, current, 1)
	for name, want := range map[string]os.FileMode{".": 0o700, KeysFile: 0o600, BundleFile: 0o600} {
		if info, err := os.Stat(filepath.Join(m.dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if list, err := os.ReadDir(m.dir); err != nil || len(list) != 2 {
		t.Errorf("%d files, %v", len(list), err)
	}
}

// TestNoBlindedSecret: a bundle holds neither identity nor blinded secrets.
func TestNoBlindedSecret(t *testing.T) {
	m := newManager(t, "front")
	raw, err := sign(t, m.request(noon, current, 1), noon, m.key).Encode()
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseBundle(raw)
	if err != nil {
		t.Fatal(err)
	}
	e := b.Entries[0]
	if len(e.Certificate) != 140+54*64 || len(e.RevisionKey) != 32 || len(e.Signature) != ed25519.SignatureSize {
		t.Errorf("%d, %d and %d bytes", len(e.Certificate), len(e.RevisionKey), len(e.Signature))
	}
	blinded, err := m.key.Blind(Public.Period(current))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(e.RevisionKey, blinded.RevisionKey().Bytes()) {
		t.Error("the 32 secret bytes are not the revision key")
	}
}
