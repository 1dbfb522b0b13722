// Package openfile opens files that an operator named, which may be anything.
package openfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"onionbalancer/internal/strictmodes"
)

// Regular opens a regular file for reading. Symbolic links are followed, as
// administrators use them to put files in place; the info is of the file that
// was opened. Errors are *fs.PathError.
func Regular(path string) (*os.File, fs.FileInfo, error) {
	// Not blocking, or opening a named pipe would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("not a regular file but %s", info.Mode().Type())}
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// Secret is Regular for a file that should be this process's alone, which the
// caller has strictmodes.User.Secret look at. Errors leave out the path, which
// the caller tells; of a file that may not be opened, they say what fixes it.
func Secret(path string) (*os.File, fs.FileInfo, error) {
	f, info, err := Regular(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil, fmt.Errorf("%w: %w", errors.Unwrap(err), strictmodes.Current().Denied(path))
	}
	if err != nil {
		return nil, nil, errors.Unwrap(err)
	}
	return f, info, nil
}

// CredentialsDirectory is the variable by which systemd tells a service where its
// credentials are (systemd.exec(5), LoadCredential).
const CredentialsDirectory = "CREDENTIALS_DIRECTORY"

// credentialPrefix marks a reference to a credential of systemd's.
const credentialPrefix = "credential:"

// IsCredential reports whether ref, the path of a secret in a configuration, is
// "credential:NAME" instead, and whether NAME can be the name of one. A file
// that is called so is written ./credential:NAME.
func IsCredential(ref string) (bool, error) {
	name, ok := strings.CutPrefix(ref, credentialPrefix)
	if !ok {
		return false, nil
	}
	if name == "" || name == "." || name == ".." || strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r < ' ' || r == 0x7f }) {
		return true, errors.New("a credential's name is not empty and has no slash")
	}
	return true, nil
}

// Resolve returns the path of the secret that ref means: the file that systemd
// made of a credential, or ref itself.
func Resolve(ref string) (string, error) {
	is, err := IsCredential(ref)
	if !is || err != nil {
		return ref, err
	}
	name := strings.TrimPrefix(ref, credentialPrefix)
	dir := os.Getenv(CredentialsDirectory)
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("%s is not set: systemd sets it for a unit with LoadCredential=%s:PATH", CredentialsDirectory, name)
	}
	return filepath.Join(dir, name), nil
}
