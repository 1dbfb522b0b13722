package state_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"onionbalancer/internal/state"
)

// filled returns the bytes of a store with many records and events, some of which
// were changed and deleted, and how many records there are.
func filled(t *testing.T) (raw []byte, records int) {
	t.Helper()
	dir := t.TempDir()
	d, _ := open(t, dir)
	var changes []state.Change
	for n := range 100 {
		changes = append(changes, state.Change{Key: state.Key(fmt.Sprintf("service/%03d", n)), Value: bytes.Repeat([]byte{byte(n)}, 100+13*n)})
	}
	versions, err := d.Swap(t.Context(), changes...)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 60 {
		c := state.Change{Key: changes[n].Key, Version: versions[n], Value: bytes.Repeat([]byte("x"), 500)}
		if n%4 == 0 {
			c.Value = nil
		}
		_, err := d.Swap(t.Context(), c)
		if err := errors.Join(err, d.AppendEvents(t.Context(), bytes.Repeat([]byte("e"), 100))); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if raw, err = os.ReadFile(filepath.Join(dir, state.File)); err != nil {
		t.Fatal(err)
	}
	return raw, 85
}

// tryDamaged opens a store of these bytes and uses it. It must be found damaged and
// put aside, or give everything that was stored.
func tryDamaged(t *testing.T, what string, raw []byte, records int) (damaged bool, salvaged int) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, state.File)
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	d, err := state.Open(dir, state.Options{NoSync: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer d.Close()
	list, err := d.List("")
	if err != nil {
		t.Fatalf("%s: listing: %v", what, err)
	}
	for range 3 {
		version := uint64(0)
		for n := range 5 {
			v, err := d.Swap(t.Context(), state.Change{Key: "new", Version: version, Value: bytes.Repeat([]byte{byte(n)}, 5000)})
			if err != nil {
				t.Fatalf("%s: storing: %v", what, err)
			}
			version = v[0]
		}
		if _, err := d.Swap(t.Context(), state.Change{Key: "new", Version: version}); err != nil {
			t.Fatalf("%s: deleting: %v", what, err)
		}
	}
	aside, _ := filepath.Glob(path + ".damaged-*")
	if len(aside) == 0 {
		if len(list) != records {
			t.Fatalf("%s: %d records of %d, and not found damaged", what, len(list), records)
		}
		return false, len(list)
	}
	if kept, err := os.ReadFile(aside[0]); err != nil || !bytes.Equal(kept, raw) {
		t.Fatalf("%s: what was put aside is not what was there: %v", what, err)
	}
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), aside[0]) {
		t.Fatalf("%s: the log says %s", what, log.String())
	}
	return true, len(list)
}

func TestCutShort(t *testing.T) {
	raw, records := filled(t)
	for _, size := range []int{1, 15, 80, 1000, 4095, 4096, 4097, 8191, 8192, 12288, 16384, 20000, 40960, len(raw) / 2} {
		if damaged, _ := tryDamaged(t, fmt.Sprint("cut to ", size), raw[:size], records); !damaged {
			t.Errorf("cut to %d bytes: not found damaged", size)
		}
	}
}

// An empty file is what a power cut leaves of one that was never synced.
func TestEmptyFile(t *testing.T) {
	if damaged, _ := tryDamaged(t, "empty", nil, 0); !damaged {
		t.Error("an empty file is no store")
	}
}

func TestFlippedBits(t *testing.T) {
	raw, records := filled(t)
	const tries = 100
	damaged, salvaged := 0, 0
	random := rand.New(rand.NewPCG(1, 2))
	for range tries {
		flipped := bytes.Clone(raw)
		bit := random.IntN(len(raw) * 8)
		flipped[bit/8] ^= 1 << (bit % 8)
		if bad, whole := tryDamaged(t, fmt.Sprintf("bit %d of byte %d", bit%8, bit/8), flipped, records); bad {
			damaged++
			salvaged += whole
		}
	}
	t.Logf("%d of %d found damaged, %d of %d records read of those on average", damaged, tries, salvaged/max(1, damaged), records)
	if damaged == 0 {
		t.Error("none was found damaged")
	}
	// In heads and elements of pages, where a bit means most.
	for page := 0; page < len(raw); page += 4096 {
		for at := page + random.IntN(6); at < page+48; at += 6 {
			flipped := bytes.Clone(raw)
			flipped[at] ^= 1 << random.IntN(8)
			tryDamaged(t, fmt.Sprintf("byte %d of page %d", at-page, page/4096), flipped, records)
		}
	}
}

// A whole page that is an older one, or another's, is found out: its own checksums
// are right.
func TestMisplacedPages(t *testing.T) {
	raw, records := filled(t)
	pages := len(raw) / 4096
	random := rand.New(rand.NewPCG(3, 4))
	for range 150 {
		from, to := random.IntN(pages), 2+random.IntN(pages-2)
		moved := bytes.Clone(raw)
		copy(moved[to*4096:(to+1)*4096], raw[from*4096:])
		binary.NativeEndian.PutUint64(moved[to*4096:], uint64(to))
		tryDamaged(t, fmt.Sprintf("page %d in the place of %d", from, to), moved, records)
	}
}

// A store of a newer balancer is refused and stays as it is.
func TestRefusesNewerStore(t *testing.T) {
	raw, _ := filled(t)
	dir := t.TempDir()
	path := filepath.Join(dir, state.File)
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		// As a newer one may do it: another layout of everything but its own number.
		sealed := state.SealLayout(2)
		return errors.Join(tx.Bucket([]byte("meta")).Put([]byte("layout"), sealed), tx.Bucket([]byte("records")).Put([]byte("k"), []byte("?")))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	for _, opened := range []func() (*state.DB, error){
		func() (*state.DB, error) { return state.Open(dir, state.Options{}) },
		func() (*state.DB, error) { return state.OpenReadOnly(dir, slog.New(slog.DiscardHandler)) },
	} {
		if _, err := opened(); !errors.Is(err, state.ErrNewer) || !strings.Contains(err.Error(), "its layout is 2, this one knows 1") {
			t.Errorf("%v", err)
		}
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the store changed: %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// Whatever is stored and deleted, the store is found whole when it is opened again
// and has what it should: a check that takes a whole one for damaged loses floors.
func TestWholeIsFoundWhole(t *testing.T) {
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(5, 6))
	model := make(map[state.Key]state.Entry)
	for round := range 60 {
		d, log := open(t, dir)
		list, err := d.List("")
		if err != nil || len(list) != len(model) || log != "" {
			t.Fatalf("round %d: %d records, want %d, %v, %s", round, len(list), len(model), err, log)
		}
		for _, e := range list {
			if want := model[e.Key]; e.Version != want.Version || !bytes.Equal(e.Value, want.Value) {
				t.Fatalf("round %d: %s is another", round, e.Key)
			}
		}
		emptying := round%10 > 6
		for range 30 {
			var changes []state.Change
			for range 1 + random.IntN(20) {
				key := state.Key(strings.Repeat(fmt.Sprintf("k%03d/", random.IntN(700)), 1+random.IntN(30)))
				c := state.Change{Key: key, Version: model[key].Version}
				if !emptying && random.IntN(4) > 0 {
					c.Value = make([]byte, random.IntN([]int{10, 500, 20_000}[random.IntN(3)]))
				}
				changes = append(changes, c)
			}
			if emptying {
				changes = changes[:0]
				for key, e := range model { // in no order
					if len(changes) < 200 {
						changes = append(changes, state.Change{Key: key, Version: e.Version})
					}
				}
			}
			versions, err := d.Swap(t.Context(), changes...)
			if err != nil {
				if strings.Contains(err.Error(), "changed twice") {
					continue
				}
				t.Fatal(err)
			}
			for n, c := range changes {
				if model[c.Key] = (state.Entry{Key: c.Key, Version: versions[n], Value: c.Value}); c.Value == nil {
					delete(model, c.Key)
				}
			}
			if err := d.AppendEvents(t.Context(), make([]byte, random.IntN(300))); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
