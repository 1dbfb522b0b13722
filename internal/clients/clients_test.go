package clients

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"onionbalancer/descriptor"
)

// client makes one whose key is told apart by n.
func client(n int) Client {
	return Client{fmt.Sprintf("c%03d", n), descriptor.AuthorizedClient{PublicKey: [32]byte{byte(n), byte(n>>8) + 2}}}
}

func write(t *testing.T, dir, file, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func names(list []Client) string {
	var all []string
	for _, c := range list {
		all = append(all, c.Name)
	}
	return strings.Join(all, " ")
}

// TestRead: files are tor's, and one that is broken is named.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read(dir); !errors.Is(err, ErrNone) {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := Read(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	good := client(1).Key.String()
	write(t, dir, "alice.auth", good)
	write(t, dir, "bob.auth", " "+strings.ReplaceAll(client(2).Key.String(), ":", " : ")+"\n\n")
	for _, ignored := range []string{"alice.auth~", ".auth", "readme", "carol.AUTH"} {
		write(t, dir, ignored, "x")
	}
	list, err := Read(dir)
	if err != nil || names(list) != "alice bob" || list[0].Key != client(1).Key || list[1].Key != client(2).Key {
		t.Fatalf("%+v, %v", list, err)
	}
	for text, want := range map[string]string{
		"":                 "want ",
		good + "\n" + good: "want ",
		"# " + good:        "want ",
		"descriptor:ed25519:" + good[len("descriptor:x25519:"):]:           "want ",
		strings.Repeat("a", 5000):                                          "want ",
		"descriptor:x25519:" + strings.Repeat("A", 52):                     "",
		"a4mnoi57zvf7lxotwtwipgbdphcc2jc26e5ksepubhhzvwewpv7unjid:" + good: "is a secret",
	} {
		write(t, dir, "mallory.auth", text)
		list, err := Read(dir)
		if err == nil || !strings.Contains(err.Error(), "mallory.auth") || !strings.Contains(err.Error(), want) || names(list) != "alice bob" {
			t.Errorf("%.30q: %s, %v", text, names(list), err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "dir.auth"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), "and 1 other files") {
		t.Errorf("two broken files: %v", err)
	}
}

// TestWatch: a change is read once it has settled, and what cannot be read is read
// until it can.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	w := NewWatch(dir)
	look := func(when, want string, failed bool) {
		t.Helper()
		list, changed, err := w.Look()
		if got := names(list); changed != (want != "-") || changed && got != want || (err != nil) != failed {
			t.Errorf("%s: %q, changed %v, %v; want %q", when, got, changed, err, want)
		}
	}
	write(t, dir, "alice.auth", client(1).Key.String())
	look("the first look", "-", false)
	look("the second", "alice", false)
	look("no change", "-", false)
	write(t, dir, "bob.auth", client(2).Key.String())
	look("one more", "-", false)
	write(t, dir, "carol.auth", client(3).Key.String())
	look("two more", "-", false)
	look("settled", "alice bob carol", false)
	write(t, dir, "bob.auth", client(4).Key.String()+"\n\n")
	look("another key", "-", false)
	look("another key, settled", "alice bob carol", false)
	write(t, dir, "readme", "x")
	look("a file of another kind", "-", false)
	for _, name := range []string{"alice", "bob", "carol"} {
		if err := Remove(dir, name); err != nil {
			t.Fatal(err)
		}
	}
	look("emptied", "-", false)
	look("emptied, settled", "", true)
	look("emptied, still", "", true)
	write(t, dir, "alice.auth", "x")
	look("broken", "-", false)
	look("broken, settled", "", true)
	look("broken, still", "", true)
	write(t, dir, "alice.auth", client(1).Key.String())
	look("good again", "-", false)
	look("good again, settled", "alice", false)
	look("good again, no change", "-", false)
}

// TestWatchFollowsLinks: a volume of Kubernetes changes files behind a link.
func TestWatchFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	for n, sub := range []string{"..1", "..2"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, sub), "alice.auth", client(n).Key.String())
	}
	data := filepath.Join(dir, "..data")
	if err := errors.Join(os.Symlink("..1", data), os.Symlink("..data/alice.auth", filepath.Join(dir, "alice.auth"))); err != nil {
		t.Fatal(err)
	}
	before := stampOf(dir)
	if err := errors.Join(os.Remove(data), os.Symlink("..2", data)); err != nil {
		t.Fatal(err)
	}
	if stampOf(dir) == before {
		t.Error("the other file was not noticed")
	}
}

// TestCheckRoom: those without room are named, and are the new ones.
func TestCheckRoom(t *testing.T) {
	most := new(descriptor.Contents).MaxClients(0)
	var list []Client
	for n := range most + 2 {
		list = append(list, client(n))
	}
	if err := CheckRoom(list[:most], nil, nil); err != nil || most < 300 {
		t.Errorf("%d clients: %v", most, err)
	}
	inForce := Keys(list[2:])
	err := CheckRoom(list, nil, inForce)
	if err == nil || !strings.HasSuffix(err.Error(), "there is no room for c000, c001") || !strings.Contains(err.Error(), fmt.Sprint("at most ", most)) {
		t.Errorf("%d clients: %v", len(list), err)
	}
	if err := CheckRoom(append(list[:most:most], Client{"again", list[0].Key}), nil, nil); err != nil {
		t.Errorf("a key that is there twice: %v", err)
	}
	if err := CheckRoom(nil, slices.Repeat([]descriptor.CAA{{Tag: "issue"}}, 33), nil); err == nil || !strings.Contains(err.Error(), "caa") {
		t.Errorf("too many CAA records: %v", err)
	}
}

func TestNames(t *testing.T) {
	var list []Client
	for n := range maxNames + 2 {
		list = append(list, client(n))
	}
	if got := Names(list); got != "c000, c001, c002, c003, c004, c005, c006, c007 and 2 more" {
		t.Error(got)
	}
	if got := Names(nil); got != "" {
		t.Error(got)
	}
}

// TestAddRemove: a file is written whole, for its owner alone, and only where there is
// none.
func TestAddRemove(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "clients")
	alice := Client{"alice", client(1).Key}
	if err := Add(dir, alice); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(Path(dir, "alice"))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	if err := Add(dir, Client{"alice", client(2).Key}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("alice again: %v", err)
	}
	if list, err := Read(dir); err != nil || len(list) != 1 || list[0] != alice {
		t.Errorf("%+v, %v", list, err)
	}
	for _, name := range []string{"", ".alice", "-alice", "a/b", "..", "a b", "a\nb", "é", strings.Repeat("a", 65)} {
		if err := Add(dir, Client{name, client(3).Key}); err == nil {
			t.Errorf("%q can be added", name)
		}
	}
	for _, name := range []string{"bob", "../clients/alice", ""} {
		if err := Remove(dir, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("removing %q: %v", name, err)
		}
	}
	if err := Remove(dir, "alice"); err != nil {
		t.Error(err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
		t.Errorf("left are %v, %v", files, err)
	}
}
