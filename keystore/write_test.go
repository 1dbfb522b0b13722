package keystore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked/lockedtest"
)

func TestWriteTor(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	fresh := newKey(t)
	if err := fresh.WriteTor(dir); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{".": 0o700, torSecretFile: 0o600, torPublicFile: 0o600, torHostnameFile: 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v, want mode %04o", name, info, err, mode)
		}
	}
	files := readDir(t, dir)
	if files[torHostnameFile] != fresh.Address().String()+"\n" || len(files) != 3 {
		t.Errorf("%d files, hostname %q", len(files), files[torHostnameFile])
	}
	key, err := Open(dir)
	if err != nil || key.Address() != fresh.Address() {
		t.Errorf("opened again: %v, %v", key, err)
	}
}

// TestNeverOverwrites: whichever of the files is there, whatever it is, it
// stays as it is, and no other is written.
func TestNeverOverwrites(t *testing.T) {
	for _, name := range []string{torSecretFile, torPublicFile, torHostnameFile} {
		dir := writeDir(t, map[string][]byte{name: []byte("mine")})
		err := newKey(t).WriteTor(dir)
		if !errors.Is(err, os.ErrExist) {
			t.Errorf("%s: %v", name, err)
		}
		if files := readDir(t, dir); len(files) != 1 || files[name] != "mine" {
			t.Errorf("%s: the directory holds %q", name, files)
		}
	}
	// A link to nowhere would have the key written elsewhere.
	dir := writeDir(t, nil)
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Symlink(elsewhere, filepath.Join(dir, torSecretFile)); err != nil {
		t.Fatal(err)
	}
	if err := newKey(t).WriteTor(dir); !errors.Is(err, os.ErrExist) {
		t.Errorf("a dangling link: %v", err)
	}
	if _, err := os.Lstat(elsewhere); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("written through a link: %v", err)
	}
}

func TestWriteRefuses(t *testing.T) {
	dir := writeDir(t, nil)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	wantError(t, "an open directory", newKey(t).WriteTor(dir), "chmod 700 "+dir)
	path := filepath.Join(writeDir(t, map[string][]byte{"file": nil, "f": {}}), "f")
	wantError(t, "a file in its place", newKey(t).WriteTor(path), "not a directory")
	_, err := New(bytes.NewReader(make([]byte, 31)))
	wantError(t, "too little randomness", err, "making a key")
	_, err = New(iotest.ErrReader(errors.New("no entropy")))
	wantError(t, "no randomness", err, "no entropy")
}

// TestHalfWritten: when a later file cannot be written, the earlier ones go.
func TestHalfWritten(t *testing.T) {
	dir := writeDir(t, nil)
	err := writeNew([]file{
		{filepath.Join(dir, "first"), []byte("x")},
		{filepath.Join(dir, "absent", "second"), []byte("x")},
	})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if files := readDir(t, dir); len(files) != 0 {
		t.Errorf("left behind: %q", files)
	}
}

func TestWritePEM(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "front.pem")
	fresh := newKey(t)
	if err := fresh.WritePEM(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	key, err := OpenDisk(path)
	if err != nil || key.Address() != fresh.Address() || key.Form() != FormPEM {
		t.Errorf("opened again: %v, %v", key, err)
	}
	if err := newKey(t).WritePEM(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("overwriting: %v", err)
	}
}

// TestWipedAfterUse: neither the identity nor the blinded secret outlives the
// one use they were read for.
func TestWipedAfterUse(t *testing.T) {
	disk := newDisk(t)
	var identity *descriptor.IdentityKey
	var blinded *descriptor.BlindedKey
	var before descriptor.RevisionKey
	err := withIdentity(disk.path, func(k *descriptor.IdentityKey, _ Form) error {
		identity = k
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = disk.withBlinded(period, func(b *descriptor.BlindedKey) error {
		blinded, before = b, b.RevisionKey()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Trim(string(identity.Expanded()), "\x00") != "" {
		t.Error("the identity secret is still there")
	}
	if bytes.Equal(blinded.RevisionKey().Bytes(), before.Bytes()) {
		t.Error("the blinded secret is still there")
	}
}

func TestWipe(t *testing.T) {
	fresh := newKey(t)
	seed, key := fresh.seed, fresh.key
	fresh.Wipe()
	if !bytes.Equal(lockedtest.Bytes(seed), make([]byte, 32)) || strings.Trim(string(key.Expanded()), "\x00") != "" {
		t.Error("the secret is still there")
	}
}
