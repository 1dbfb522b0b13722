package torprocess

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// maxSocketPath is how long the path of a unix socket may be, in bytes: the
// kernel's 108 less the zero at the end.
const maxSocketPath = 107

// socketPrefix begins the names of control sockets.
const socketPrefix = "control."

// files are the paths that tor and we agree on, all absolute.
type files struct {
	dir, data, torrc, defaults, cookie string

	socket     string // another one for each Process: a tor of before removes its own late
	socketDir  string // made for the socket alone; "" when it is in dir
	socketLink string // remembers socketDir, should we be killed
	lock       *os.File
}

// prepare makes the directories, claims them, and writes torrc.
func prepare(ctx context.Context, cfg Config) (*files, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if cfg.Dir == "" {
		err = errors.New("no directory given")
	}
	if err != nil {
		return nil, fmt.Errorf("finding tor's directory: %w", err)
	}
	f := &files{
		dir:        dir,
		data:       filepath.Join(dir, "data"),
		torrc:      filepath.Join(dir, "torrc"),
		defaults:   filepath.Join(dir, "torrc-defaults"),
		cookie:     filepath.Join(dir, "cookie"),
		socketLink: filepath.Join(dir, "control.dir"),
	}
	for _, d := range []string{f.dir, f.data} {
		if err := makePrivate(d); err != nil {
			return nil, err
		}
	}
	if f.lock, err = f.claim(ctx, cfg.times.stop); err != nil {
		return nil, err
	}
	f.removeLeftovers()
	if err := f.placeSocket(); err != nil {
		f.release()
		return nil, err
	}
	if err := f.write(cfg); err != nil {
		f.release()
		return nil, err
	}
	return f, nil
}

// makePrivate makes a directory, and closes one that is there: tor refuses a
// control socket where others could reach it.
func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making tor's directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("closing tor's directory to others: %w", err)
	}
	return nil
}

// removeLeftovers removes the sockets of those who had no time to do it.
func (f *files) removeLeftovers() {
	dirs := []string{f.dir}
	if old, err := os.Readlink(f.socketLink); err == nil {
		dirs = append(dirs, old)
	}
	for _, dir := range dirs {
		sockets, _ := filepath.Glob(filepath.Join(dir, socketPrefix+"*"))
		for _, socket := range sockets {
			if info, err := os.Lstat(socket); err == nil && info.Mode()&fs.ModeSocket != 0 {
				_ = os.Remove(socket)
			}
		}
	}
	if len(dirs) > 1 {
		_ = os.Remove(dirs[1]) // only if it is empty now
		_ = os.Remove(f.socketLink)
	}
}

// placeSocket finds a place that is short enough for the socket.
func (f *files) placeSocket() error {
	var random [4]byte
	if _, err := rand.Read(random[:]); err != nil {
		return fmt.Errorf("naming tor's control socket: %w", err)
	}
	name := socketPrefix + hex.EncodeToString(random[:])
	if f.socket = filepath.Join(f.dir, name); len(f.socket) <= maxSocketPath {
		return nil
	}
	dir, err := os.MkdirTemp("", "balancer-tor-") // 0700
	if err != nil {
		return fmt.Errorf("making a directory for tor's control socket: %w", err)
	}
	f.socketDir, f.socket = dir, filepath.Join(dir, name)
	if len(f.socket) > maxSocketPath {
		return fmt.Errorf("placing tor's control socket: %s is too long for a socket too: set TMPDIR to a short path", f.socket)
	}
	if err := os.Symlink(dir, f.socketLink); err != nil {
		return fmt.Errorf("placing tor's control socket: %w", err)
	}
	return nil
}

// release takes away what does not belong to tor's lasting state, and lets
// others have the directory.
func (f *files) release() {
	_ = os.Remove(f.socket)
	if f.socketDir != "" {
		_ = os.Remove(f.socketDir)
		_ = os.Remove(f.socketLink)
	}
	_ = f.lock.Close()
}
