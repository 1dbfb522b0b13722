package pin

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"onionbalancer/internal/locked"
	"onionbalancer/internal/openfile"
)

// credentials is the variable by which systemd tells a service where its
// credentials are (systemd.exec(5), LoadCredential).
const credentials = "CREDENTIALS_DIRECTORY"

func readCredential(name string) (*locked.Buffer, error) {
	dir := os.Getenv(credentials)
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("%s is not set: systemd sets it for a unit with LoadCredential=%s:PATH", credentials, name)
	}
	return readFile(filepath.Join(dir, name))
}

// readFile reads a file that nobody but its owner and root can use.
func readFile(path string) (*locked.Buffer, error) {
	f, info, err := openfile.Secret(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := checkPrivate(info, isCredential(path), os.Geteuid()); err != nil {
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
	dir := os.Getenv(credentials)
	return filepath.IsAbs(dir) && strings.HasPrefix(filepath.Clean(path), filepath.Clean(dir)+"/")
}

// checkPrivate refuses a file that others than user me and root can use. systemd
// leaves its credentials to root, and lets the service's user read them by an
// access list, which the mode shows as the group's right.
func checkPrivate(info fs.FileInfo, credential bool, me int) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("the file system does not say whose file it is")
	}
	forbidden := fs.FileMode(0o077)
	if credential && stat.Uid == 0 {
		forbidden = 0o037
	}
	if info.Mode().Perm()&forbidden != 0 {
		return fmt.Errorf("others than its owner can use the file (mode %04o): run chmod 600 on it", info.Mode().Perm())
	}
	if stat.Uid != 0 && int(stat.Uid) != me {
		return fmt.Errorf("the file belongs to user %d, who can replace it, and this program runs as user %d: run chown %d on it", stat.Uid, me, me)
	}
	return nil
}
