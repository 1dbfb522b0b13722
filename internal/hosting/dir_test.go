package hosting

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"onionbalancer/descriptor"
	"onionbalancer/internal/strictmodes"
	"onionbalancer/keystore"
)

// newDir makes the directory of a shard.
func newDir(t *testing.T) *Dir {
	t.Helper()
	d, err := MakeDir(filepath.Join(t.TempDir(), "s1"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// newKey makes the nth pending key.
func (d *Dir) newKey(t *testing.T, n byte) descriptor.Address {
	t.Helper()
	a, err := d.NewKey(bytes.NewReader(bytes.Repeat([]byte{n}, 64)))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// tree lists what is below the directory, but what is in the directories of keys.
func (d *Dir) tree(t *testing.T) (list []string) {
	t.Helper()
	err := filepath.WalkDir(d.path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == d.path {
			return err
		}
		sub, _ := filepath.Rel(d.path, path)
		if hasKey(path) {
			list = append(list, sub)
			return fs.SkipDir
		}
		if !entry.IsDir() {
			list = append(list, sub)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestDirMoves(t *testing.T) {
	d := newDir(t)
	a, b := d.newKey(t, 1), d.newKey(t, 2)
	if pending, err := d.Pending(); err != nil || !slices.Equal(pending, sorted(a, b)) {
		t.Fatalf("pending: %v, %v", pending, err)
	}
	spare := func(a descriptor.Address) string { return sparesDir + "/" + a.Label() }
	removed := func(a descriptor.Address) string { return removedDir + "/" + a.Label() }
	for _, step := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"install", func() error { _, _, err := d.Install(); return err }, []string{spare(a), spare(b)}},
		{"take", func() error { return d.Take(a, "shop") }, []string{spare(b), "shop"}},
		{"retire", func() error { return d.Retire("shop", a) }, []string{removed(a), spare(b)}},
		{"restore", func() error { return d.Restore(a, "shop-2") }, []string{spare(b), "shop-2"}},
		{"retire again", func() error { return d.Retire("shop-2", a) }, []string{removed(a), spare(b)}},
		{"erase", func() error { return d.Erase(a) }, []string{spare(b)}},
	} {
		for range 2 { // the second time, as after a kill
			if err := step.do(); err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
			slices.Sort(step.want)
			if got := d.tree(t); !slices.Equal(got, step.want) {
				t.Fatalf("%s: %q, want %q", step.name, got, step.want)
			}
		}
	}
}

func sorted(list ...descriptor.Address) []descriptor.Address {
	slices.SortFunc(list, func(a, b descriptor.Address) int { return strings.Compare(a.Label(), b.Label()) })
	return list
}

// TestDirKilled puts what a process left that was killed between two steps, and does the same
// again.
func TestDirKilled(t *testing.T) {
	for name, left := range map[string]func(d *Dir, a descriptor.Address) error{
		"nothing done": func(*Dir, descriptor.Address) error { return nil },
		"no directory of spares": func(d *Dir, _ descriptor.Address) error {
			return os.RemoveAll(filepath.Join(d.path, sparesDir))
		},
		"directory of spares made": func(d *Dir, _ descriptor.Address) error {
			return os.MkdirAll(filepath.Join(d.path, sparesDir), privateDir)
		},
		"one of two installed": func(d *Dir, a descriptor.Address) error {
			return errors.Join(os.MkdirAll(filepath.Join(d.path, sparesDir), privateDir),
				os.Rename(filepath.Join(d.path, pendingDir, a.Label()), filepath.Join(d.path, sparesDir, a.Label())))
		},
		"installed and taken": func(d *Dir, a descriptor.Address) error {
			return os.Rename(filepath.Join(d.path, pendingDir, a.Label()), filepath.Join(d.path, "shop"))
		},
		"a key half made": func(d *Dir, _ descriptor.Address) error {
			making := filepath.Join(d.path, pendingDir, makingDir)
			return errors.Join(os.Mkdir(making, privateDir), os.WriteFile(filepath.Join(making, torKey), []byte("=="), privateFile))
		},
	} {
		d := newDir(t)
		a, b := d.newKey(t, 1), d.newKey(t, 2)
		if err := left(d, a); err != nil {
			t.Fatal(err)
		}
		_, _, err := d.Install()
		c := d.newKey(t, 3)
		if err := errors.Join(err, d.Take(a, "shop"), d.Retire("shop", a), d.Restore(a, "shop")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want := []string{pendingDir + "/" + c.Label(), sparesDir + "/" + b.Label(), "shop"}
		if got := d.tree(t); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestDirRefusals: no key is ever overwritten or lost.
func TestDirRefusals(t *testing.T) {
	d := newDir(t)
	a, b := d.newKey(t, 1), d.newKey(t, 2)
	if _, _, err := d.Install(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Take(a, "shop"), os.Mkdir(filepath.Join(d.path, "empty"), privateDir)); err != nil {
		t.Fatal(err)
	}
	before := d.tree(t)
	unknown := descriptor.Address{}
	for _, test := range []struct {
		name string
		do   func() error
		want error
	}{
		{"a name that is taken", func() error { return d.Take(b, "shop") }, ErrTaken},
		{"a name that an empty directory has", func() error { return d.Take(b, "empty") }, ErrTaken},
		{"a name that leads elsewhere", func() error { return d.Take(b, "..") }, ErrName},
		{"an empty name", func() error { return d.Take(b, "") }, ErrName},
		{"a name with a dot first", func() error { return d.Take(b, ".spares") }, ErrName},
		{"no such spare", func() error { return d.Take(unknown, "other") }, fs.ErrNotExist},
		{"no such customer", func() error { return d.Retire("other", b) }, fs.ErrNotExist},
		{"not removed", func() error { return d.Restore(b, "other") }, fs.ErrNotExist},
	} {
		if err := test.do(); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		if got := d.tree(t); !slices.Equal(got, before) {
			t.Errorf("%s: changed %q to %q", test.name, before, got)
		}
	}
	if err := errors.Join(os.CopyFS(filepath.Join(d.path, sparesDir, a.Label()), os.DirFS(filepath.Join(d.path, "shop")))); err != nil {
		t.Fatal(err)
	}
	if err := d.Take(a, "shop"); err == nil || !strings.Contains(err.Error(), `it is in ".spares/`) {
		t.Errorf("a key at two places: %v", err)
	}
}

// TestDirForeign: what is not ours stays, and is told of.
func TestDirForeign(t *testing.T) {
	d := newDir(t)
	d.newKey(t, 1)
	key := filepath.Join(t.TempDir(), "key")
	for _, dir := range []string{"lost+found", ".snapshot", "b.example", "backup", "two words", pendingDir + "/not-a-label", key} {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(d.path, dir)
		}
		if err := os.MkdirAll(dir, privateDir); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"b.example/" + sealedKey, "two words/" + torKey, "notes", ".hidden"} {
		if err := os.WriteFile(filepath.Join(d.path, file), nil, privateFile); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(key, filepath.Join(d.path, "link")); err != nil {
		t.Fatal(err)
	}
	names, strange, err := d.Customers()
	if err != nil || !slices.Equal(names, []string{"b.example"}) {
		t.Errorf("customers %q, %v", names, err)
	}
	said := errors.Join(strange...).Error()
	for entry, why := range map[string]string{"backup": "no key", "two words": "no name for a customer", "notes": "not a directory", "link": "a symbolic link"} {
		if !strings.Contains(said, filepath.Join(d.path, entry)+" is not a customer's: ") || !strings.Contains(said, why) {
			t.Errorf("of %s it is not said that it is %s:\n%s", entry, why, said)
		}
	}
	if len(strange) != 4 {
		t.Errorf("said of %d:\n%s", len(strange), said)
	}
	if pending, err := d.Pending(); err != nil || len(pending) != 1 {
		t.Errorf("pending: %v, %v", pending, err)
	}
}

func TestDirOpen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, privateFile); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{file: "not a directory", file + "2": "no such file"} {
		if _, err := OpenDir(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	d := newDir(t)
	d.newKey(t, 1)
	for sub, mode := range map[string]fs.FileMode{"": 0o770, pendingDir: 0o777} {
		path := filepath.Join(d.path, sub)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		user := strictmodes.User{UID: os.Geteuid()}
		if err := d.CheckModes(user); err == nil || !strings.Contains(err.Error(), "chmod go-w "+path) {
			t.Errorf("%q: %v", sub, err)
		}
		if err := errors.Join(os.Chmod(path, privateDir), d.CheckModes(user)); err != nil {
			t.Errorf("%q: %v", sub, err)
		}
	}
}

// TestBring: a key that was brought is its customer's when the replicas know it.
func TestBring(t *testing.T) {
	d, from := newDir(t), filepath.Join(t.TempDir(), "shop")
	fresh, err := keystore.New(bytes.NewReader(bytes.Repeat([]byte{7}, 64)))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fresh.WriteTor(from), os.Mkdir(filepath.Join(from, "authorized_clients"), privateDir)); err != nil {
		t.Fatal(err)
	}
	before := files(t, from)
	if err := d.Bring(from, fresh.Address(), "shop"); err != nil {
		t.Fatal(err)
	}
	if err := d.Bring(from, fresh.Address(), "shop"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("brought again: %v", err)
	}
	if err := d.Bring(from, descriptor.Address{}, "../shop"); !errors.Is(err, ErrName) {
		t.Errorf("a bad name: %v", err)
	}
	spare := d.newKey(t, 1)
	spares, customers, err := d.Install()
	if err != nil || !slices.Equal(spares, []descriptor.Address{spare}) || !slices.Equal(customers, []string{"shop"}) {
		t.Errorf("installed %v and %q, %v", spares, customers, err)
	}
	after := files(t, filepath.Join(d.path, "shop"))
	delete(after, customerFile)
	if !maps.Equal(after, before) || !maps.Equal(files(t, from), before) {
		t.Error("the copy differs, or the source has changed")
	}
	if a, err := d.Address("shop"); err != nil || a != fresh.Address() {
		t.Errorf("the key is of %v, %v", a, err)
	}
	// One whose name is taken stays pending.
	other := d.newKey(t, 2)
	if err := os.WriteFile(filepath.Join(d.path, pendingDir, other.Label(), customerFile), []byte("shop"), privateFile); err != nil {
		t.Fatal(err)
	}
	if _, customers, err := d.Install(); !errors.Is(err, ErrTaken) || len(customers) > 0 {
		t.Errorf("installed %q, %v", customers, err)
	}
	if pending, err := d.Pending(); err != nil || !slices.Equal(pending, []descriptor.Address{other}) {
		t.Errorf("pending %v, %v", pending, err)
	}
}

// files returns the contents of the files of a directory.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, entry := range entries {
		if !entry.IsDir() {
			content, err := os.ReadFile(filepath.Join(dir, entry.Name()))
			if err != nil {
				t.Fatal(err)
			}
			all[entry.Name()] = string(content)
		}
	}
	return all
}

func TestReference(t *testing.T) {
	d := newDir(t)
	plain := filepath.Join(pendingDir, d.newKey(t, 1).Label())
	sealed := filepath.Join(d.path, "sealed")
	if err := errors.Join(os.Mkdir(sealed, privateDir), os.WriteFile(filepath.Join(sealed, sealedKey), []byte("{}"), privateFile)); err != nil {
		t.Fatal(err)
	}
	const token = "pkcs11:token=hsm;object=seal?module-path=/m.so"
	for _, test := range []struct{ sub, token, want string }{
		{plain, "", filepath.Join(d.path, plain)},
		{plain, token, filepath.Join(d.path, plain)},
		{"sealed", token, token + "&x-sealed=" + filepath.Join(sealed, sealedKey)},
		{"sealed", "", `it is sealed, and the shard has no token`},
	} {
		got, err := d.Reference(test.sub, test.token)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, test.want) {
			t.Errorf("%s with token %q: %s, want %s", test.sub, test.token, got, test.want)
		}
	}
	key, err := keystore.Open(filepath.Join(d.path, plain))
	if err != nil {
		t.Fatal(err)
	}
	if a, err := d.Address(plain); err != nil || a != key.Address() {
		t.Errorf("address %v, %v", a, err)
	}
	if a, err := d.Address("sealed"); err == nil {
		t.Errorf("a bad file: %v", a)
	}
}

// TestDirLocked: two processes do not make keys at once.
func TestDirLocked(t *testing.T) {
	d := newDir(t)
	unlock, err := d.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.NewKey(bytes.NewReader(make([]byte, 64))); err == nil || !strings.Contains(err.Error(), "another balancer") {
		t.Errorf("while it is locked: %v", err)
	}
	unlock()
	d.newKey(t, 1)
	if unix.Access(filepath.Join(d.path, pendingDir, makingDir), unix.F_OK) == nil {
		t.Error("something is left of making a key")
	}
}
