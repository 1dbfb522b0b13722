package offline

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files again")

// golden compares got with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s has changed: documents of earlier versions are lying on sticks", path)
	}
}

// TestGolden: the same keys at the same time give the same documents for ever,
// and what was written once can be read.
func TestGolden(t *testing.T) {
	var wanted []Wanted
	for _, name := range []string{"front", "mail"} {
		dir := filepath.Join(t.TempDir(), name)
		w, err := Prepare(t.Context(), Preparation{
			Dir: dir, Address: identity(t, name).Address(), Schedule: Public,
			First: current, Count: 3, Random: randomness(name),
		})
		if err != nil {
			t.Fatal(err)
		}
		wanted = append(wanted, w)
		if name == "front" {
			raw, err := os.ReadFile(filepath.Join(dir, KeysFile))
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "keys.json", raw)
			if _, err := parseKeys(raw); err != nil {
				t.Error(err)
			}
		}
	}
	r := request(t, noon.Add(90*time.Minute), current, wanted...)
	raw, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "request.json", raw)
	name, err := r.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "fingerprint", []byte(name+"\n"))
	b := sign(t, r, noon.Add(20*time.Hour), identity(t, "front"), identity(t, "mail"))
	if raw, err = b.Encode(); err != nil {
		t.Fatal(err)
	}
	golden(t, "bundle.json", raw)
	parts, err := b.Split()
	if err != nil || len(parts) != 18 {
		t.Fatal(len(parts), err)
	}
	golden(t, "part.json", parts[0])
	for i := range b.Entries {
		if _, err := b.Entries[i].Verify(b.Schedule); err != nil {
			t.Error(err)
		}
	}
}

// TestParts: a QR code holds one, whatever the numbers in it, and together they
// are the bundle.
func TestParts(t *testing.T) {
	m := newManager(t, "front")
	const count = 20
	first := uint64(endOfTime/1440 - count)
	b := sign(t, m.request(noon, first, count), noon, m.key)
	parts, err := b.Split()
	if err != nil {
		t.Fatal(err)
	}
	var pieces []*Bundle
	for _, part := range parts {
		if len(part) >= MaxPart {
			t.Fatalf("a part of %d bytes", len(part))
		}
		one, err := ParseBundle(part)
		if err != nil || len(one.Entries) != 1 {
			t.Fatal(one, err)
		}
		pieces = append(pieces, one)
	}
	if len(parts) != 3*count {
		t.Errorf("%d parts for %d periods", len(parts), count)
	}
	t.Logf("parts of %d bytes", len(parts[0]))
	rand.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
	joined, err := joinBundles(append(pieces, pieces[:7]...))
	if err != nil {
		t.Fatal(err)
	}
	var entries []Entry
	for _, one := range joined {
		entries = append(entries, one.Entries...)
	}
	whole, err := newBundle(b.Schedule, entries).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if want, err := b.Encode(); err != nil || !bytes.Equal(whole, want) {
		t.Errorf("the parts do not make the whole: %v", err)
	}
}

// TestEarlierVersion: a bundle of before there were certificates of every hour is
// installed and used, with its one for all hours; beside it one of today is, and what is
// written then is of the later version.
func TestEarlierVersion(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "front")
	m := &manager{t: t, key: identity(t, "front"), dir: dir}
	if _, err := Prepare(t.Context(), Preparation{Dir: dir, Address: m.key.Address(), Schedule: Public, First: current, Count: 3, Random: randomness("front")}); err != nil {
		t.Fatal(err)
	}
	all, err := ParseBundle(readGolden(t, "bundle-1.json"))
	if err != nil {
		t.Fatal(err)
	}
	old := newBundle(Public, all.Of(m.key.Address()))
	if _, err := Install([]string{dir}, []*Bundle{old}, noon); err != nil {
		t.Fatal(err)
	}
	c := m.open()
	for number := current; number < current+3; number++ {
		certs, err := certify(t, c, number)
		if want := Public.LastUse(number).Add(spare); err != nil || certs.Count() != 1 || !certs.At(Public.LastUse(number)).Expires().Equal(want) {
			t.Errorf("%d certificates until %s, want one until %s: %v", certs.Count(), certs.Expires(), want, err)
		}
	}
	installed := func() *Bundle {
		raw, err := os.ReadFile(filepath.Join(dir, BundleFile))
		if err != nil {
			t.Fatal(err)
		}
		b, err := ParseBundle(raw)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if got := installed().Version; got != version {
		t.Errorf("version %d of certificates of the first", got)
	}
	if n := c.Singles(current + 1); n != 2 {
		t.Errorf("%d single certificates from the second on, want 2", n)
	}
	m.ceremony(noon.Add(24*time.Hour), current+1, 1)
	if got := installed().Version; got != versionHourly {
		t.Errorf("version %d with hourly certificates", got)
	}
	if n := m.open().Singles(current); n != 2 {
		t.Errorf("%d single certificates beside a new one, want 2", n)
	}
	for number, want := range map[uint64]int{current: 1, current + 1: 55, current + 2: 1} {
		if certs, err := certify(t, c, number); err != nil || certs.Count() != want {
			t.Errorf("period %d: %d certificates, want %d: %v", number, certs.Count(), want, err)
		}
	}
}

// TestPiecesRefused: pieces that are not a whole entry.
func TestPiecesRefused(t *testing.T) {
	m := newManager(t, "front")
	b := sign(t, m.request(noon, current, 2), noon, m.key)
	pieces := func() (list []*Bundle) {
		for _, e := range b.Pieces() {
			list = append(list, newBundle(Public, []Entry{e}))
		}
		return list
	}
	edit := func(n int, change func(*Entry)) []*Bundle {
		list := pieces()
		change(&list[n].Entries[0])
		return list
	}
	for what, test := range map[string]struct {
		bundles []*Bundle
		want    string
	}{
		"one is missing":           {append(pieces()[:1], pieces()[2:]...), "part 2 of 3 is missing"},
		"one alone":                {pieces()[5:], "part 1 of 3 is missing"},
		"of another number":        {edit(1, func(e *Entry) { e.Piece.Number = 4 }), "part 4 of 3"},
		"of none":                  {edit(1, func(e *Entry) { e.Piece.Of = -1 }), "part 2 of -1"},
		"of far too many":          {edit(1, func(e *Entry) { e.Piece.Of = 1 << 40 }), "part 2 of 1099511627776"},
		"said to be whole":         {edit(1, func(e *Entry) { e.Piece = Piece{} }), "is missing"},
		"in place of another":      {edit(1, func(e *Entry) { e.Certificate = b.Pieces()[0].Certificate }), "the signature is not by"},
		"of another period":        {edit(1, func(e *Entry) { e.Period++ }), "is missing"},
		"with another's signature": {edit(1, func(e *Entry) { e.Signature = b.Entries[1].Signature }), "is missing"},
		"changed":                  {edit(2, func(e *Entry) { e.Certificate = append([]byte{1}, e.Certificate[1:]...) }), "the signature is not by"},
	} {
		wantRefused(t, what, []string{m.dir}, test.bundles, noon, test.want)
	}
	one := b.Pieces()[1]
	_, err := one.Verify(Public)
	wantError(t, "alone", err, "this is part 2 of 3")
	if list, err := Install([]string{m.dir}, pieces(), noon); err != nil || list[0].New != 2 {
		t.Errorf("all of them: %+v, %v", list, err)
	}
}
