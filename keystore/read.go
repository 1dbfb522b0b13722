package keystore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/shell"
)

// maxKeyFile is far above the size of any form of key.
const maxKeyFile = 16 << 10 // 16 KiB

// keyFile returns the absolute path of the key file that path means: itself,
// or tor's file in it.
func keyFile(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("opening key %q: %w", path, err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return "", fmt.Errorf("opening key: %w", err)
	}
	if !info.IsDir() {
		if IsSealed(abs) {
			return "", sealedAlone(abs)
		}
		return abs, nil
	}
	inside := filepath.Join(abs, torSecretFile)
	if _, err := os.Stat(inside); errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("opening key %q: there is no %s in this directory; name the key file itself", abs, torSecretFile)
	}
	return inside, nil
}

// withIdentity reads the key file at path, hands the key to use, and wipes it.
func withIdentity(path string, use func(*descriptor.IdentityKey, Form) error) error {
	key, form, err := readIdentity(path)
	if err != nil {
		return err
	}
	defer locked.CollectSoon()
	defer key.Wipe()
	if err := use(key, form); err != nil {
		return fmt.Errorf("using key %q: %w", path, err)
	}
	return nil
}

// readIdentity reads the key file at path. The caller wipes the key.
func readIdentity(path string) (*descriptor.IdentityKey, Form, error) {
	raw, err := readSecret(path)
	if err != nil {
		return nil, "", fmt.Errorf("opening key %q: %w", path, err)
	}
	defer raw.Wipe()
	var key *descriptor.IdentityKey
	var form Form
	locked.Do(func() { key, form, err = parse(raw.Bytes()) })
	if err != nil {
		return nil, "", fmt.Errorf("opening key %q: %w", path, err)
	}
	return key, form, nil
}

// parse tells the form of a key file by its first bytes.
func parse(raw []byte) (*descriptor.IdentityKey, Form, error) {
	switch {
	case len(raw) == 0:
		return nil, "", errors.New("the file is empty")
	case bytes.HasPrefix(raw, []byte(torPublicTag)):
		return nil, "", fmt.Errorf("this is the public half of a key; the secret half is in %s", torSecretFile)
	case bytes.HasPrefix(raw, []byte(torFamily)):
		key, err := parseTor(raw)
		return key, FormTor, err
	case bytes.Contains(raw, []byte(pemBegin)):
		key, err := parsePEM(raw)
		return key, FormPEM, err
	case isHostname(raw):
		return nil, "", fmt.Errorf("this is an onion address, not a key; the key is in %s beside it", torSecretFile)
	}
	return nil, "", errors.New("no form of key that is known; " + understood)
}

// readSecret reads a file that only its owner can read, into locked memory. The
// caller wipes the bytes.
func readSecret(path string) (*locked.Buffer, error) {
	f, info, err := openfile.Secret(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := checkPrivate(path, info, os.Geteuid()); err != nil {
		return nil, err
	}
	if info.Size() > maxKeyFile {
		return nil, fmt.Errorf("%d bytes are too many for a key, is it the right file?", info.Size())
	}
	raw := locked.New(int(info.Size()))
	if _, err := io.ReadFull(f, raw.Bytes()); err != nil {
		raw.Wipe()
		return nil, err
	}
	return raw, nil
}

// checkPrivate refuses a file that someone else than user me can read or owns.
// Root may own any file and read anybody's, a tor's for one.
func checkPrivate(path string, info os.FileInfo, me int) error {
	if others := info.Mode().Perm() & 0o077; others != 0 {
		return fmt.Errorf("others than its owner can use the file (mode %04o): run: chmod 600 %s", info.Mode().Perm(), shell.Quote(path))
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	if me != 0 && stat.Uid != 0 && int(stat.Uid) != me {
		return fmt.Errorf("the file belongs to user %d, who can read and replace it, and this program runs as user %d: run as root: chown %d %s",
			stat.Uid, me, me, shell.Quote(path))
	}
	return nil
}
