package balance

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// testAddress returns a valid address, another one for every n.
func testAddress(t testing.TB, n byte) descriptor.Address {
	t.Helper()
	return testIdentity(t, n).Address()
}

func testIdentity(t testing.TB, n byte) *descriptor.IdentityKey {
	t.Helper()
	seed := make([]byte, 32)
	seed[0] = n
	key, err := descriptor.IdentityKeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestStoreRoundTrip(t *testing.T) {
	dir, a := Dir(t.TempDir()), testAddress(t, 1)
	if floors, err := dir.LoadFloors(a); floors != nil || err != nil {
		t.Fatalf("floors never saved: %v, %v", floors, err)
	}
	floors := []Floor{{Period: 7, Minutes: 1440, Revision: 9}, {Period: 8, Minutes: 1440, Revision: 1}}
	held := []Held{{Instance: testAddress(t, 2), Period: 7, Minutes: 1440, Renewed: time.Unix(5, 0).UTC(), Raw: []byte("hs-descriptor 3\n")}}
	if err := errors.Join(dir.SaveFloors(a, floors), dir.SaveHeld(a, held)); err != nil {
		t.Fatal(err)
	}
	gotFloors, err := dir.LoadFloors(a)
	if err != nil || !reflect.DeepEqual(gotFloors, floors) {
		t.Errorf("floors = %v, %v", gotFloors, err)
	}
	gotHeld, err := dir.LoadHeld(a)
	if err != nil || !reflect.DeepEqual(gotHeld, held) {
		t.Errorf("held = %v, %v", gotHeld, err)
	}
	info, err := os.Stat(dir.path(a, floorsFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v", info.Mode(), err)
	}
	if other, err := dir.LoadFloors(testAddress(t, 3)); other != nil || err != nil {
		t.Errorf("another service's floors = %v, %v", other, err)
	}
}

func TestStoreDamagedFileIsPutAside(t *testing.T) {
	a := testAddress(t, 1)
	for name, text := range map[string]string{
		"cut":     `{"version":1,"entries":[{"per`,
		"version": `{"version":99,"service":"` + a.String() + `","entries":[]}`,
		"foreign": `{"version":1,"service":"` + testAddress(t, 2).String() + `","entries":[]}`,
		"nothing": ``,
	} {
		dir := Dir(t.TempDir())
		path := dir.path(a, floorsFile)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		_, err := dir.LoadFloors(a)
		if err == nil || !strings.Contains(err.Error(), "put aside as revision-floors.json.damaged") {
			t.Errorf("%s: %v", name, err)
		}
		if kept, err := os.ReadFile(path + ".damaged"); err != nil || string(kept) != text {
			t.Errorf("%s: damaged file not kept: %q, %v", name, kept, err)
		}
		if floors, err := dir.LoadFloors(a); floors != nil || err != nil {
			t.Errorf("%s: second load: %v, %v", name, floors, err)
		}
	}
}

// A full disk is played by a limit on the size of files, a real error of a real
// write; the old file must survive it.
//
// The limit holds for the whole process, whose testing package writes to a file
// of its own, so that a child does it.
func TestStoreFullDiskKeepsTheOldFile(t *testing.T) {
	if os.Getenv("BALANCE_TEST_FULL_DISK") == "" {
		child := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
		child.Env = append(os.Environ(), "BALANCE_TEST_FULL_DISK=1")
		if out, err := child.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	dir, a := Dir(t.TempDir()), testAddress(t, 1)
	old := []Held{{Instance: a, Raw: []byte("old")}}
	if err := dir.SaveHeld(a, old); err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	small := limit
	small.Cur = 1024
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
		t.Fatal(err)
	}
	err := dir.SaveHeld(a, []Held{{Instance: a, Raw: make([]byte, 100000)}})
	if restore := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); restore != nil {
		t.Fatal(restore)
	}
	if !errors.Is(err, syscall.EFBIG) {
		t.Fatalf("saving to a full disk: %v", err)
	}
	got, err := dir.LoadHeld(a)
	if err != nil || !reflect.DeepEqual(got, old) {
		t.Fatalf("after a failed save: %v, %v; want the old file", got, err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(dir.path(a, heldFile))); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestStoreUnwritableDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := Dir(file).SaveFloors(testAddress(t, 1), nil)
	if !errors.Is(err, syscall.ENOTDIR) {
		t.Fatalf("saving below a file: %v", err)
	}
}

// memoryStore fails while it is broken.
type memoryStore struct {
	mu     sync.Mutex
	floors map[descriptor.Address][]Floor
	held   map[descriptor.Address][]Held
	claims map[descriptor.Address][]Claim
	broken error
}

func newMemoryStore() *memoryStore {
	return &memoryStore{floors: map[descriptor.Address][]Floor{}, held: map[descriptor.Address][]Held{}, claims: map[descriptor.Address][]Claim{}}
}

func (m *memoryStore) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = err
}

func (m *memoryStore) LoadFloors(a descriptor.Address) ([]Floor, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.floors[a], m.broken
}

func (m *memoryStore) LoadHeld(a descriptor.Address) ([]Held, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held[a], m.broken
}

func (m *memoryStore) LoadClaims(a descriptor.Address) ([]Claim, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.claims[a], m.broken
}

func (m *memoryStore) SaveClaims(a descriptor.Address, c []Claim) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken == nil {
		m.claims[a] = slices.Clone(c)
	}
	return m.broken
}

func (m *memoryStore) SaveFloors(a descriptor.Address, f []Floor) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken == nil {
		m.floors[a] = slices.Clone(f)
	}
	return m.broken
}

func (m *memoryStore) SaveHeld(a descriptor.Address, h []Held) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken == nil {
		m.held[a] = slices.Clone(h)
	}
	return m.broken
}

// Revision counters never repeat nor go back, through steps of the clock either
// way, restarts, and a store that fails.
func TestRevisionsOnlyRise(t *testing.T) {
	identity, store := testIdentity(t, 1), newMemoryStore()
	random := rand.New(rand.NewPCG(1, 2))
	start := time.Unix(1_800_000_000, 0)
	last := map[uint64]uint64{}
	var r *revisions
	now := start.Add(time.Hour)
	for step := range 300 {
		if r == nil || random.IntN(10) == 0 {
			var err error
			if r, err = newRevisions(identity.Address(), store); err != nil {
				t.Fatal(err)
			}
		}
		// An hour either way, now and then a week.
		now = now.Add(time.Duration(random.IntN(7200)-3600) * time.Second)
		if random.IntN(20) == 0 {
			now = start.Add(time.Duration(random.IntN(14*86400)-7*86400) * time.Second)
		}
		p := descriptor.Period{Number: 20000 + uint64(random.IntN(2)), Length: 24 * time.Hour}
		blinded, err := identity.Blind(p)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.next(blinded.RevisionKey(), p, start, now)
		if err != nil {
			t.Fatal(err)
		}
		if got <= last[p.Number] {
			t.Fatalf("step %d: revision %d after %d", step, got, last[p.Number])
		}
		last[p.Number] = got
	}
	// As tor's own while the clock behaves.
	fresh := &revisions{service: identity.Address(), store: newMemoryStore()}
	p := descriptor.Period{Number: 20002, Length: 24 * time.Hour}
	blinded, _ := identity.Blind(p)
	got, err := fresh.next(blinded.RevisionKey(), p, start, start.Add(36*time.Hour))
	want, wantErr := blinded.RevisionKey().RevisionCounter(start, start.Add(36*time.Hour))
	if err != nil || wantErr != nil || got != want {
		t.Fatalf("revision = %d, %v; tor's is %d, %v", got, err, want, wantErr)
	}
}

func TestRevisionsWithABrokenStore(t *testing.T) {
	identity, store := testIdentity(t, 1), newMemoryStore()
	full := errors.New("no space left on device")
	store.fail(full)
	r, err := newRevisions(identity.Address(), store)
	if !errors.Is(err, full) {
		t.Fatalf("loading: %v", err)
	}
	p := descriptor.Period{Number: 20000, Length: 24 * time.Hour}
	blinded, _ := identity.Blind(p)
	start := time.Unix(1_800_000_000, 0)
	first, err := r.next(blinded.RevisionKey(), p, start, start.Add(time.Hour))
	if first == 0 || !errors.Is(err, full) {
		t.Fatalf("next = %d, %v", first, err)
	}
	second, err := r.next(blinded.RevisionKey(), p, start, start)
	if second <= first || !errors.Is(err, full) {
		t.Fatalf("next = %d after %d, %v", second, first, err)
	}
}

func TestRevisionsForgetOldPeriods(t *testing.T) {
	identity, store := testIdentity(t, 1), newMemoryStore()
	r, _ := newRevisions(identity.Address(), store)
	start := time.Unix(1_800_000_000, 0)
	for n := range uint64(20) {
		p := descriptor.Period{Number: 20000 + n, Length: 24 * time.Hour}
		blinded, _ := identity.Blind(p)
		if _, err := r.next(blinded.RevisionKey(), p, start, start.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(store.floors[identity.Address()]); got != floorPeriods+1 {
		t.Fatalf("%d floors kept, want %d", got, floorPeriods+1)
	}
}
