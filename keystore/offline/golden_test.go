package offline

import (
	"bytes"
	"flag"
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
	if err != nil || len(parts) != 6 {
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
	const count = 100
	first := uint64(endOfTime/1440 - count)
	b := sign(t, m.request(noon, first, count), noon, m.key)
	parts, err := b.Split()
	if err != nil {
		t.Fatal(err)
	}
	var entries []Entry
	for _, part := range parts {
		if len(part) >= MaxPart {
			t.Fatalf("a part of %d bytes", len(part))
		}
		one, err := ParseBundle(part)
		if err != nil || len(one.Entries) != 1 {
			t.Fatal(one, err)
		}
		entries = append(entries, one.Entries...)
	}
	t.Logf("parts of %d bytes", len(parts[0]))
	whole, err := newBundle(b.Schedule, entries).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if want, err := b.Encode(); err != nil || !bytes.Equal(whole, want) {
		t.Errorf("the parts do not make the whole: %v", err)
	}
}
