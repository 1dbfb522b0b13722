package state_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

// The services of testdata/version1.
const (
	oldFirst  = "itsm3s3tvilots2h2vizjpmgvk5xdpp63nmycivzfm4jepluekqrlmad"
	oldSecond = "4e2ifol5gjtwuhi2ltznow5i5q62t2yckdxlv3xsofb4nehhlqtvoiid"
)

// oldState returns a state directory as an earlier version left it.
func oldState(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/version1")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t *testing.T, dir string) (*state.DB, string) {
	t.Helper()
	var log bytes.Buffer
	d, err := state.Open(dir, state.Options{NoSync: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d, log.String()
}

func parse(t *testing.T, label string) descriptor.Address {
	t.Helper()
	a, err := descriptor.ParseAddress(label)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestCarriesOver(t *testing.T) {
	dir := oldState(t)
	ro, err := state.OpenReadOnly(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	checkCarriedOver(t, "for reading", ro)
	if entries, err := os.ReadDir(dir); len(entries) != 1 || err != nil {
		t.Fatalf("reading changed the directory: %v, %v", entries, err)
	}
	d, log := open(t, dir)
	checkCarriedOver(t, "opened", d)
	if strings.Count(log, "\n") != 1 || !strings.Contains(log, "carried over the state of an earlier version") || !strings.Contains(log, "services=2 instances=3 periods_of_keys=1") {
		t.Errorf("the log says %s", log)
	}
	_, errOld := os.Stat(filepath.Join(dir, "services"))
	if !errors.Is(errOld, os.ErrNotExist) {
		t.Errorf("the old files are still there: %v", errOld)
	}
	for _, label := range []string{oldFirst, oldSecond} {
		for _, name := range []string{"revision-floors.json", "instance-descriptors.json", "introduction-keys.json"} {
			want, _ := os.ReadFile(filepath.Join("testdata/version1/services", label, name))
			got, err := os.ReadFile(filepath.Join(dir, "services.imported", label, name))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s is not kept: %v", name, err)
			}
		}
	}
	_ = d.Close()
	d, log = open(t, dir)
	checkCarriedOver(t, "opened again", d)
	if log != "" {
		t.Errorf("the second time, the log says %s", log)
	}
}

func checkCarriedOver(t *testing.T, what string, d *state.DB) {
	t.Helper()
	first, second := parse(t, oldFirst), parse(t, oldSecond)
	for address, want := range map[descriptor.Address]struct {
		ceilings  []uint64
		instances string // of the points published, in their order
	}{
		first:  {[]uint64{5657225749, 3268580253, 490411775}, "okr4p2 okr4p2 ugjyz5 okr4p2 szudjj szudjj ugjyz5 ugjyz5 szudjj"},
		second: {[]uint64{5664241239, 3189266121, 285145292}, "szudjj ugjyz5 ugjyz5 szudjj szudjj ugjyz5"},
	} {
		s, version, err := d.Service(address)
		if err != nil || version == 0 || len(s.Ceilings) != 3 {
			t.Fatalf("%s: service %s: %+v, %v", what, address.Short(), s, err)
		}
		for n, counter := range want.ceilings {
			if got := s.Ceilings[n]; got != (state.Ceiling{Period: 10955 + uint64(n), Minutes: 1440, Counter: counter}) {
				t.Errorf("%s: ceiling %+v, want %d", what, got, counter)
			}
		}
		if len(s.Made) != 2 || s.Made[0].Period != 10957 || s.Made[0].Revision != want.ceilings[2] || s.Made[1].Period != 10956 || s.Made[1].Revision != want.ceilings[1] {
			t.Fatalf("%s: made %+v", what, s.Made)
		}
		var names []string
		for _, p := range s.Points {
			if p.AuthKey == (state.Bytes32{}) || p.EncKey == (state.Bytes32{}) || len(p.Relay) != 40 {
				t.Errorf("%s: point %+v", what, p)
			}
			names = append(names, descriptor.Address(p.Instance).Label()[:6])
		}
		if got := strings.Join(names, " "); got != want.instances {
			t.Errorf("%s: points of %s, want %s", what, got, want.instances)
		}
	}
	instances, err := d.Instances()
	if err != nil || len(instances) != 3 {
		t.Fatalf("%s: instances %+v, %v", what, instances, err)
	}
	// szudjj was seen with a newer revision by the service that ran on, ugjyz5 with
	// the same by both.
	revisions := map[string]uint64{"szudjj": 3223316459, "ugjyz5": 3176299740, "okr4p2": 3158343760}
	renewed := map[string]string{"szudjj": "2000-01-01T03:17:36Z", "ugjyz5": "2000-01-01T02:54:20Z", "okr4p2": "2000-01-01T02:48:08Z"}
	for _, i := range instances {
		name := i.Address.Label()[:6]
		if i.Record.Revision != revisions[name] || i.Record.Renewed.Format(time.RFC3339) != renewed[name] || len(i.Record.Points) != 3 {
			t.Errorf("%s: instance %s: revision %d, renewed %s, %d points", what, name, i.Record.Revision, i.Record.Renewed, len(i.Record.Points))
		}
		if !strings.HasPrefix(string(i.Record.Raw), "hs-descriptor 3\n") {
			t.Errorf("%s: instance %s: descriptor %.40q", what, name, i.Record.Raw)
		}
		for _, p := range i.Record.Points {
			if p.FirstSeen.Format(time.RFC3339) != "2000-01-01T00:02:00Z" {
				t.Errorf("%s: instance %s: a point first seen %s", what, name, p.FirstSeen)
			}
		}
	}
	claims, version, err := d.Claims(descriptor.Period{Number: 10956, Length: 24 * time.Hour})
	if err != nil || version == 0 || len(claims.Keys) != 18 {
		t.Errorf("%s: claims of %d keys, %v", what, len(claims.Keys), err)
	}
	for key, owners := range claims.Keys {
		if len(owners) != 1 {
			t.Errorf("%s: %x belongs to %d", what, key, len(owners))
		}
	}
}

// A crash between storing what was carried over and moving the files away makes
// it happen twice. An earlier version that ran in between has newer floors.
func TestCarriesOverTwice(t *testing.T) {
	dir := oldState(t)
	d, _ := open(t, dir)
	first := parse(t, oldFirst)
	s, version, err := d.Service(first)
	if err != nil {
		t.Fatal(err)
	}
	s.Ceilings[2].Counter, s.Made[0].Revision = 1<<40, 1<<40
	if _, err := d.SwapService(t.Context(), first, version, s); err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
	if err := os.Rename(filepath.Join(dir, "services.imported"), filepath.Join(dir, "services")); err != nil {
		t.Fatal(err)
	}
	edit(t, filepath.Join(dir, "services", oldFirst, "revision-floors.json"), "3268580253", "4268580253")
	d, _ = open(t, dir)
	s, _, err = d.Service(first)
	if err != nil || s.Ceilings[0].Counter != 5657225749 || s.Ceilings[1].Counter != 4268580253 || s.Ceilings[2].Counter != 1<<40 {
		t.Errorf("ceilings %+v, %v", s.Ceilings, err)
	}
	if s.Made[0].Revision != 1<<40 || s.Made[1].Revision != 4268580253 || len(s.Made) != 2 {
		t.Errorf("made %+v", s.Made)
	}
	// The same again changes no record.
	before, _ := d.List("")
	_ = d.Close()
	if err := os.Rename(filepath.Join(dir, "services.imported"), filepath.Join(dir, "services")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "services.imported"), 0o700); err != nil {
		t.Fatal(err)
	}
	d, _ = open(t, dir)
	after, _ := d.List("")
	if len(before) != len(after) || len(before) != 6 {
		t.Fatalf("%d records, then %d", len(before), len(after))
	}
	for n := range before {
		if before[n].Version != after[n].Version {
			t.Errorf("%s was written again", before[n].Key)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "services.imported.2", oldFirst)); err != nil {
		t.Error(err)
	}
}

func edit(t *testing.T, path, old, replacement string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(raw, []byte(old)) {
		t.Fatalf("%s does not contain %s", path, old)
	}
	if err := os.WriteFile(path, bytes.Replace(raw, []byte(old), []byte(replacement), 1), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCarriesOverWhatIsNotDamaged(t *testing.T) {
	damage := map[string]func(path string) error{
		"cut":   func(path string) error { return os.Truncate(path, 100) },
		"empty": func(path string) error { return os.Truncate(path, 0) },
		"large": func(path string) error { return os.Truncate(path, 65<<20) },
		"foreign": func(path string) error {
			return os.Rename(filepath.Join(filepath.Dir(path), "../"+oldSecond, filepath.Base(path)), path)
		},
		"a directory": func(path string) error {
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
		},
	}
	for what, do := range damage {
		for _, name := range []string{"revision-floors.json", "instance-descriptors.json", "introduction-keys.json"} {
			dir := oldState(t)
			path := filepath.Join(dir, "services", oldFirst, name)
			if err := do(path); err != nil {
				t.Fatal(err)
			}
			d, log := open(t, dir)
			if !strings.Contains(log, "level=WARN") || !strings.Contains(log, path) {
				t.Errorf("%s: %s is not told: %s", what, name, log)
			}
			s, version, err := d.Service(parse(t, oldFirst))
			if err != nil {
				t.Errorf("%s, %s: %v", what, name, err)
			}
			if has := len(s.Ceilings) > 0; has != (name != "revision-floors.json") {
				t.Errorf("%s, %s: %d, ceilings %v", what, name, version, s.Ceilings)
			}
			if what == "foreign" {
				continue
			}
			if s, _, err := d.Service(parse(t, oldSecond)); err != nil || len(s.Ceilings) != 3 || len(s.Made) != 2 {
				t.Errorf("%s, %s: the other service: %+v, %v", what, name, s, err)
			}
		}
	}
}

// What a newer version wrote is refused and stays as it is.
func TestRefusesNewerFiles(t *testing.T) {
	for _, name := range []string{"revision-floors.json", "instance-descriptors.json", "introduction-keys.json"} {
		dir := oldState(t)
		path := filepath.Join(dir, "services", oldSecond, name)
		edit(t, path, `"version":1`, `"version":2`)
		_, err := state.Open(dir, state.Options{})
		if !errors.Is(err, state.ErrNewer) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "version 2, this one knows 1") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := state.OpenReadOnly(dir, slog.New(slog.DiscardHandler)); !errors.Is(err, state.ErrNewer) {
			t.Errorf("%s for reading: %v", name, err)
		}
		if entries, err := os.ReadDir(dir); len(entries) != 1 || err != nil {
			t.Errorf("%s: the directory changed: %v, %v", name, entries, err)
		}
	}
}

// Records are JSON that a person can read.
func TestRecordsAreReadable(t *testing.T) {
	d, _ := open(t, oldState(t))
	value, _, err := d.Get(state.ServiceKey(parse(t, oldFirst)))
	if err != nil {
		t.Fatal(err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, value, "", " "); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"revision_counter": 490411775`, `.onion"`, `"auth_key": "`} {
		if !strings.Contains(indented.String(), want) {
			t.Errorf("no %s in %s", want, indented.String())
		}
	}
}

// What an earlier version published replaces the record's points only if it
// published after this one.
func TestNewerPointsStay(t *testing.T) {
	for _, test := range []struct {
		what     string
		period   uint64 // of what this version made last; the earlier one's are 10956 and 10957
		revision uint64
		points   int // of the record in the end: 1 is this version's own
		made     int
	}{
		{"an older one left", 10958, 1, 1, 1},
		{"a lower counter left", 10957, 1 << 40, 1, 1},
		{"a higher counter left", 10957, 1, 9, 2},
		{"a newer one left", 10955, 1 << 40, 9, 3},
	} {
		dir := oldState(t)
		d, _ := open(t, dir)
		first := parse(t, oldFirst)
		s, version, err := d.Service(first)
		if err != nil {
			t.Fatal(err)
		}
		s.Made, s.Points = []state.Made{{Period: test.period, Minutes: 1440, Revision: test.revision}}, s.Points[:1]
		if _, err := d.SwapService(t.Context(), first, version, s); err != nil {
			t.Fatal(err)
		}
		_ = d.Close()
		if err := os.Rename(filepath.Join(dir, "services.imported"), filepath.Join(dir, "services")); err != nil {
			t.Fatal(err)
		}
		d, _ = open(t, dir)
		if s, _, err = d.Service(first); err != nil || len(s.Points) != test.points || len(s.Made) != test.made {
			t.Errorf("%s: %d points, made %+v, %v", test.what, len(s.Points), s.Made, err)
		}
	}
}
