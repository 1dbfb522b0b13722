package pin

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"onionbalancer/internal/locked"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/strictmodes"
)

func readCredential(source string) (*locked.Buffer, error) {
	path, err := openfile.Resolve(source)
	if err != nil {
		return nil, err
	}
	return readFile(path)
}

// readFile reads a file that nobody but this process's user and root can use.
func readFile(path string) (*locked.Buffer, error) {
	f, _, err := openfile.Secret(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := strictmodes.Current().Secret(path, f); err != nil {
		return nil, err
	}
	b := locked.New(room)
	n, err := io.ReadFull(f, b.Bytes())
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		b.Wipe()
		return nil, err
	}
	return trim(b, n)
}

// isCredential tells whether path is in systemd's directory of credentials.
func isCredential(path string) bool {
	dir := os.Getenv(openfile.CredentialsDirectory)
	return filepath.IsAbs(dir) && strings.HasPrefix(filepath.Clean(path), filepath.Clean(dir)+"/")
}
