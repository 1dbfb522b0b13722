package keystore

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"onionbalancer/descriptor"
	"onionbalancer/internal/durable"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/strictmodes"
	"onionbalancer/keystore/token"
)

// naming says what the signing key of a period is called on a token.
type naming func(descriptor.Period) token.Object

// salted names keys by a hash under a salt that is not on the token. Labels and
// IDs can be read without the PIN, off the index of many a smart card even those
// of private keys, and onion addresses are few enough to try them all: so a name
// may hold nothing that can be computed from the address.
func salted(salt []byte, of descriptor.Address) naming {
	return func(p descriptor.Period) token.Object {
		h := hmac.New(sha256.New, salt)
		fmt.Fprintf(h, "%s %s", of, p)
		id := h.Sum(nil)[:16]
		return token.Object{Label: "signing " + hex.EncodeToString(id), ID: id}
	}
}

// unsalted names keys as earlier versions did. Those that are left are used and
// destroyed like others; none is made.
func unsalted(of descriptor.Address) naming {
	service := sha256.Sum256(of[:])
	prefix := "balancer descriptor-signing " + hex.EncodeToString(service[:8]) + " "
	return func(p descriptor.Period) token.Object {
		id := sha256.Sum256([]byte(of.String() + " " + p.String()))
		return token.Object{Label: prefix + p.String(), ID: id[:16]}
	}
}

// SaltFile is the file, in a state directory or in that of an offline key, of
// the salt of the names that keys have on tokens. When it is lost, the keys on
// the token are too: they stay there, and are not found any more.
const SaltFile = "token-names.salt"

const saltSize = 32

// readSalt reads the salt of dir; fs.ErrNotExist is wrapped if there is none.
func readSalt(dir string) ([]byte, error) {
	path := filepath.Join(dir, SaltFile)
	f, _, err := openfile.Secret(path)
	if err == nil {
		defer f.Close()
		err = strictmodes.Current().Secret(path, f)
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	salt, err := io.ReadAll(io.LimitReader(f, saltSize+1))
	if err == nil && len(salt) != saltSize {
		err = fmt.Errorf("%d bytes, want %d: take the file from a backup, or remove it, and the keys on the token as well", len(salt), saltSize)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return salt, nil
}

// makeSalt reads the salt of dir, and makes one if there is none.
func makeSalt(dir string) ([]byte, error) {
	salt, err := readSalt(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return salt, err
	}
	salt = make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails
	err = writeSalt(dir, salt)
	if errors.Is(err, fs.ErrExist) {
		return readSalt(dir) // another process was faster
	}
	if err != nil {
		return nil, fmt.Errorf("making the salt of the names of signing keys: %w", err)
	}
	return salt, nil
}

// writeSalt writes a file that belongs to the owner of dir, also if root does:
// the balancer has to read it.
func writeSalt(dir string, salt []byte) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, SaltFile)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		err = f.Chown(int(stat.Uid), int(stat.Gid))
	}
	if err == nil {
		_, err = f.Write(salt)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return durable.SyncDir(dir)
}
