package keystore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/strictmodes"
)

// maxKeyFile is far above the size of any form of key.
const maxKeyFile = 16 << 10 // 16 KiB

// keyFile returns the absolute path of the key file that path means: itself,
// or tor's or Arti's file in it.
func keyFile(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("opening key %q: %w", path, err)
	}
	info, err := os.Stat(abs)
	if errors.Is(err, os.ErrPermission) {
		return "", fmt.Errorf("opening key %q: %w: %w", abs, errors.Unwrap(err), strictmodes.Current().Denied(abs))
	}
	if err != nil {
		return "", fmt.Errorf("opening key: %w", err)
	}
	if !info.IsDir() {
		if IsSealed(abs) {
			return "", sealedAlone(abs)
		}
		return abs, nil
	}
	inside, arti := filepath.Join(abs, torSecretFile), filepath.Join(abs, artiSecretFile)
	_, noTor := os.Stat(inside)
	_, noArti := os.Stat(arti)
	switch {
	case noTor == nil && noArti == nil:
		return "", fmt.Errorf("opening key %q: there are two keys in this directory, %s and %s: name the file that is meant", abs, torSecretFile, artiSecretFile)
	case noArti == nil:
		return arti, nil
	case errors.Is(noTor, os.ErrNotExist):
		return "", fmt.Errorf("opening key %q: there is no %s in this directory; name the key file itself%s", abs, torSecretFile, keysIn(abs))
	}
	return inside, nil
}

// maxLook is in how many files of a directory keysIn looks for keys.
const maxLook = 64

// keysIn lists the files of a directory that hold keys, for a message.
func keysIn(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	var keys []string
	for _, entry := range entries[:min(len(entries), maxLook)] {
		path := filepath.Join(dir, entry.Name())
		if IsSealed(path) || withIdentity(path, func(*descriptor.IdentityKey, Form) error { return nil }) == nil {
			keys = append(keys, strconv.Quote(entry.Name()))
		}
	}
	if len(keys) == 0 {
		return ""
	}
	return ": " + strings.Join(keys, " or ")
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
func readIdentity(path string) (key *descriptor.IdentityKey, form Form, err error) {
	raw, exposed, err := readSecret(path)
	if err != nil {
		return nil, "", fmt.Errorf("opening key %q: %w", path, err)
	}
	defer raw.Wipe()
	locked.Do(func() { key, form, err = parse(raw.Bytes(), path) })
	// A file that is no key needs no other mode, but another name in the
	// configuration.
	if err == nil && exposed != nil {
		key.Wipe()
		err = exposed
	}
	if err != nil {
		return nil, "", fmt.Errorf("opening key %q: %w", path, err)
	}
	return key, form, nil
}

// readSecret reads a key file into locked memory. The caller wipes the bytes.
// exposed is why others than this program's user can use the file, if they can.
func readSecret(path string) (raw *locked.Buffer, exposed, err error) {
	f, info, err := openfile.Secret(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if info.Size() > maxKeyFile {
		return nil, nil, fmt.Errorf("%d bytes are too many for a key, is it the right file?", info.Size())
	}
	raw = locked.New(int(info.Size()))
	if _, err := io.ReadFull(f, raw.Bytes()); err != nil {
		raw.Wipe()
		return nil, nil, err
	}
	return raw, strictmodes.Current().Secret(path, f), nil
}
